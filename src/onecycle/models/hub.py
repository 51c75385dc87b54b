"""Models on the Hugging Face hub and in folders laid out like it: found on this machine, or fetched."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import ConfigError, MissingDependency

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CONFIG = "config.json"
SMALL = ("*.json", "*.txt", "*.model")  # what there is beside weights: configuration, tokenizer, image processor
SAFE, PICKLED = ("model.safetensors", "model-*.safetensors"), ("pytorch_model.bin", "pytorch_model-*.bin")
ABSENT = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "URLError", "ConnectError", "Timeout"}


def folder_of(name: str, *, weights: bool = False) -> Path:
    """The folder with the files of a model: `name` is one, or OWNER/NAME of the hub, at @REVISION where that is given.

    What is in the hub's cache on this machine is taken; what is not is fetched, the weights too where they are asked
    for.

    Raises:
        ConfigError: no such folder or model, or it lacks files and they cannot be fetched.
        MissingDependency: huggingface_hub is needed and not installed.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        _check_files(path, f"hf:{name}", weights)
        return path
    repository, _, revision = name.partition("@")
    if path.exists() or not REPOSITORY.fullmatch(repository):
        raise ConfigError(
            f"model 'hf:{name}': no such folder ({path.absolute()}), and no OWNER/NAME of the hub. Give the folder "
            f"with {CONFIG} and model.safetensors, or such a name"
        )
    return _snapshot(repository, revision or None, weights)


def revision_of(folder: Path) -> str | None:
    """The revision of a folder in the hub's cache; None of any other.

    >>> revision_of(Path("hub/models--a--b/snapshots/0123"))
    '0123'
    """
    return folder.name if folder.parent.name == "snapshots" else None


def absent(error: BaseException, bring: str) -> str | None:
    """Where weights that cannot be fetched were sought, and that `bring` brings them; None for any other error."""
    names = {cls.__name__ for one in _chain(error) for cls in type(one).__mro__}
    if not names & ABSENT:
        return None
    return f"not on this machine, and cannot be fetched: looked in {_places()}. Where there is a network: {bring}"


def _snapshot(repository: str, revision: str | None, weights: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"model hf:{repository} needs the package huggingface_hub: pip install 'onecycle[hf]' ({error})"
        ) from error
    named = repository if revision is None else f"{repository}@{revision}"

    def fetched(patterns: Sequence[str], local: bool) -> Path:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(patterns), local_files_only=local)
        )

    try:
        try:
            here = fetched(SMALL, local=True)
            _check_files(here, named, weights)
            return here
        except (OSError, ConfigError):  # none here, or not all of it
            pass
        found = fetched((*SMALL, *SAFE) if weights else SMALL, local=False)
        if weights and not _any(found, SAFE):
            found = fetched((*SMALL, *PICKLED), local=False)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        said = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"model 'hf:{named}' is not on the hub, or it is private or gated, and needs hf auth login: {said}"
        ) from error
    except Exception as error:  # of the network, whatever it is
        said = absent(error, f"hf download {repository}" + (f" --revision {revision}" if revision else ""))
        raise ConfigError(
            f"model 'hf:{named}' is {said or f'not to be fetched: {type(error).__name__}: {error}'}; "
            "or give a folder with its files, hf:FOLDER"
        ) from error
    try:
        _check_files(found, f"hf:{named}", weights)
    except ConfigError as error:  # offline, where some of its files are here
        bring = f"hf download {repository}"
        raise ConfigError(f"{error}: looked in {_places()}. Where there is a network: {bring}") from error
    return found


def _check_files(folder: Path, name: str, weights: bool) -> None:
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"model {name!r} has no {CONFIG} in {folder.absolute()}, where a model of transformers has one"
        )
    if weights and not _any(folder, (*SAFE, *PICKLED)):
        raise ConfigError(f"model {name!r} has no weights in {folder.absolute()}, no model.safetensors")


def _any(folder: Path, patterns: Sequence[str]) -> bool:
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def _places() -> str:
    """Where weights are sought, and what says so."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or home / "huggingface") / "hub"
    torch = Path(os.environ.get("TORCH_HOME") or home / "torch") / "hub" / "checkpoints"
    offline = "; HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
    return f"{hub} (by HF_HUB_CACHE, HF_HOME) and {torch} (by TORCH_HOME){offline}"


def in_words(error: BaseException) -> str:
    """The kind of an error and what it says."""
    return f"{type(error).__name__}: {error}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__
