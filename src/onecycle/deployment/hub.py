"""Folders of models on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, ExportError, MissingDependency, OneCycleError
from .folder import is_exported

NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
UNREACHED = {"ConnectionError", "TransportError", "Timeout"}  # errors of Python, of httpx and of requests
OFFLINE = "OfflineModeIsEnabled"  # as was asked for, and a ConnectionError too


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    endpoint: str | None = None,
    message: str = "A model trained with onecycle",
) -> str:
    """Upload an exported folder to the Hugging Face hub, as one commit, and return its address there.

    The token is that of ``hf auth login`` or of the variable ``HF_TOKEN``; none is taken as an argument, kept or shown.

    Args:
        folder: that `export` wrote with ``to="folder"``.
        repo_id: OWNER/NAME, made if it is not there.
        private: whether only its owner may see it.
        endpoint: of another hub; None: ``HF_ENDPOINT``, or huggingface.co.
        message: of the commit.

    Raises:
        CheckpointError: no exported folder.
        ConfigError: a name that is none, or a repository that is public where a private one is asked for.
        ExportError: the hub cannot be reached, or refuses.
        MissingDependency: huggingface_hub is not installed.
    """
    folder = Path(folder)
    check_name("repo_id", repo_id)
    if not is_exported(folder):
        raise CheckpointError(f'{folder} is no exported folder: make one, export(run, "folder") (--to folder)')
    api = library().HfApi(endpoint=endpoint, library_name="onecycle")
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.repo_info(repo_id).private:
            raise ConfigError(
                f"{repo_id} is there and is public: give private=False (--public) if all may see this model, or "
                "another name. Nothing was uploaded"
            )
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, ignore_patterns=[".*"])
        return f"{api.endpoint}/{repo_id}"
    except OneCycleError:
        raise
    except Exception as error:  # of the client, of the library below it, or of the network
        again = f"onecycle export {folder} --push {repo_id}{'' if private else ' --public'} tries again"
        raise ExportError(f"cannot upload {folder} to {repo_id}: {_in_words(error, api.endpoint)}. {again}") from error


def check_name(name: str, repo_id: Any) -> str:
    """The argument `name`, of a repository.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(repo_id, str) or not NAME.fullmatch(repo_id):
        raise ConfigError(f"{name} is OWNER/NAME, as on the hub; received {repo_id!r}")
    return repo_id


def library() -> Any:
    """The package huggingface_hub.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingDependency('The hub needs huggingface_hub. Install it: pip install "onecycle[hub]"') from error
    return huggingface_hub


def _in_words(error: Exception, endpoint: str) -> str:
    """Why the hub did not take it, and how to mend it."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "it does not know who you are: hf auth login, or HF_TOKEN with a token that may write"
    if status == 403:
        return "this token may not write there: give a name of your own, or a token that may write"
    errors: list[BaseException] = [error]
    while (cause := errors[-1].__cause__) is not None:
        errors.append(cause)
    said = [str(getattr(one, "server_message", None) or one).strip().partition("\n")[0].rstrip(".") for one in errors]
    words = "; ".join(dict.fromkeys(filter(None, said))) or type(error).__name__
    kinds = {kind.__name__ for one in errors for kind in type(one).__mro__}
    if kinds & UNREACHED and OFFLINE not in kinds:
        return f"the hub at {endpoint} cannot be reached ({words}): check the network, or HF_ENDPOINT"
    return words
