"""Checkpoints: written beside, fsynced, renamed; verified when read; never unpickled with code in them.

A checkpoint is a folder ``step-XXXXXXXX`` with ``state.pt`` (tensors and plain data) and ``manifest.json`` (schema,
step, size and SHA-256 of the former). It appears under its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from .. import text
from ..errors import CheckpointError
from ..training.sharded import Weights, has_shards, in_shards_of
from ..training.state import all_or_nothing
from .files import CHECKPOINT, TRIAL, sync_file, sync_folder

# What torch and pickle raise where something cannot be written.
UNWRITTEN = (OSError, RuntimeError, ValueError, TypeError, AttributeError, KeyError, pickle.PicklingError)

KEPT = 2  # checkpoints that stay


def save(state: Mapping[str, Any], folder: str | Path, step: int, *, keep: int = KEPT) -> Path:
    """Write `state` as the checkpoint of `step` into `folder`, and remove all but the last `keep` up to it.

    Checkpoints beyond `step` are removed too: a run that goes on from an earlier one has left them behind.

    Raises:
        CheckpointError: the disk is full or not writable; the checkpoints before are untouched.
    """
    folder = Path(folder)
    final = path_of(folder, step)
    beside = folder / f".writing-{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*-step-*"):  # of a process that was killed here
            shutil.rmtree(leftover)
        beside.mkdir()
        CHECKPOINT.write(beside, {"step": step, **_write_state(state, beside / "state.pt")})
        if final.exists():
            remove(final)
        beside.rename(final)
        sync_folder(folder)
        _tidy(folder, final, keep)
    except (*UNWRITTEN, CheckpointError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        # torch hides what the system said behind a complaint of its own
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise CheckpointError(
            f"cannot write the checkpoint {final}: {reason}. Free some space or give another folder; what was saved "
            "before is intact"
        ) from error
    return final


def path_of(folder: str | Path, step: int) -> Path:
    """Where `save` puts the checkpoint of `step`."""
    return Path(folder) / f"step-{step:08d}"


def try_out(
    state: Mapping[str, Any], model: nn.Module | Weights, folder: Path, *, growth: int = 0, keep: int = KEPT
) -> str | None:
    """Write into `folder` what a run writes there, a checkpoint and weights; read it back, and remove it.

    So a disk that cannot be written or is full by now, and a state that cannot be saved, are met before the first
    update. The folder is made if need be, with those above it; after an error all is as it was. A checkpoint is larger
    by `growth` bytes later, and `keep` of them stay while one more is written: the note that is returned says where the
    disk has no room for these.

    Raises:
        CheckpointError: what cannot be written, or not be read back; no room for one checkpoint and the weights.
    """
    with _trial(folder) as place:
        try:
            place.mkdir(parents=True)
            free = _free(place)
            _write_state(state, place / "state.pt")
            _read_state(place / "state.pt", mmap=True)
            _read_back(model, save_weights(model, place / "model.safetensors"))
            sizes = {path.name: path.stat().st_size for path in place.iterdir()}
        except (*UNWRITTEN, CheckpointError) as error:
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            said = str(reason).partition(". Give a path")[0].replace(f"{place}/", "")
            raise CheckpointError(
                f"what a run writes cannot be written to {folder} and read back: {said}. Free some space, give a "
                "folder that can be written, or let the state of model and optimizer be tensors and plain data"
            ) from error
        return _without_room(folder, free, sizes.pop("state.pt"), sum(sizes.values()), growth, keep)


@contextmanager
def _trial(folder: Path) -> Iterator[Path]:
    """A place in `folder` that is removed afterwards; after an error so is what was made of the folders above it."""
    place, made = folder / TRIAL, [path for path in (folder, *folder.parents) if not path.exists()]
    shutil.rmtree(place, ignore_errors=True)
    try:
        yield place
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise
    shutil.rmtree(place, ignore_errors=True)


def growth(optimizer: Optimizer) -> int:
    """About how many bytes of state an optimizer makes in its first update: momentum or moments for each parameter.

    >>> weight = nn.Parameter(torch.zeros(1000))
    >>> growth(torch.optim.AdamW([weight])), growth(torch.optim.SGD([weight], momentum=0.9))
    (8000, 4000)
    """
    total = 0
    for group in optimizer.param_groups:
        by_momentum = "momentum" in group and "betas" not in group
        copies = bool(group["momentum"]) + ("alpha" in group) if by_momentum else 2
        fresh = (p for p in group["params"] if p.requires_grad and not is_lazy(p) and not optimizer.state.get(p))
        total += copies * sum(p.nbytes for p in fresh)
    return total


def _free(folder: Path) -> int | None:
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return None


def _without_room(folder: Path, free: int | None, trial: int, weights: int, growth: int, keep: int) -> str | None:
    """The note on a disk without room for the checkpoints that stay beside each other; None where there is room.

    A system that has none `free` though the trial was written does not know it.

    Raises:
        CheckpointError: there is none for one checkpoint and the weights.
    """
    one = trial + growth
    needed = max((keep + 1) * one, keep * one + weights)
    if free is None or not trial + weights <= free < needed:
        return None
    if free < one + weights:
        raise CheckpointError(
            f"{folder} has {text.size(free)} of free space, and one checkpoint and the weights will take about "
            f"{text.size(one + weights)}: free some space, or give a folder on another disk"
        )
    return (
        f"{folder}: {text.size(free)} of free space, and its checkpoints will take about {text.size(needed)}, {keep} "
        f"of {text.size(one)} and one more while that is written: free some space, or the run may end there"
    )


def _write_state(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Write a file and bring it to the disk; its `fingerprint`, which is read back while the disk is waited for."""
    with path.open("wb") as file, ThreadPoolExecutor(1) as beside:
        torch.save(dict(state), file)
        file.flush()
        on_disk = beside.submit(sync_file, file)
        written = fingerprint(path)
        on_disk.result()
    return written


def _read_state(path: Path, *, mmap: bool = False) -> Any:
    """What is saved at `path`, on the CPU; with `mmap` its tensors stay there, and need no memory."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.parent} holds pickled code and is refused: only tensors and plain data are read from a checkpoint. "
            "Nothing of it was run"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path.parent} cannot be read: {error}") from error


def _read_back(model: nn.Module | Weights, path: Path) -> None:
    """Raise a CheckpointError where the weights in `path` are not those of the model."""
    from safetensors import SafetensorError, safe_open

    state = {_plain(name): value for name, value in model.state_dict().items()}
    try:
        extra = torch.load(_extra(path), weights_only=True) if _extra(path).exists() else {}
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (it is no mapping)
                written, value = file.get_tensor(name), state.get(name)  # one at a time: there may be no memory for all
                same = not isinstance(value, Tensor) or (written.shape, written.dtype) == (value.shape, value.dtype)
                if not (same or name in extra):
                    raise CheckpointError(f"{name} is {written.dtype} {list(written.shape)} when it is read back")
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"the weights in {path} cannot be read back: {error}") from error


def load(path: str | Path) -> dict[str, Any]:
    """Read one checkpoint folder, on the CPU.

    Raises:
        CheckpointError: missing, damaged, of another program or a newer version, or holding pickled code.
    """
    path = Path(path)
    manifest = CHECKPOINT.read(path)
    if fingerprint(path / "state.pt") != {key: manifest.get(key) for key in ("bytes", "sha256")}:
        raise CheckpointError(f"{path} is damaged: state.pt is not what its manifest says")
    state = _read_state(path / "state.pt")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not the state of a run")
    return state


def latest(folder: str | Path) -> dict[str, Any] | None:
    """The newest good checkpoint in `folder`; None where there is none. A damaged one is named in a warning.

    Raises:
        CheckpointError: there are some and none of them is good.
    """
    bad: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            saved = load(path)
        except CheckpointError as error:
            bad.append(str(error))
            continue
        for message in bad:
            warnings.warn(f"{message}. Going on from {path.name}, which is good", stacklevel=2)
        return saved
    if bad:
        raise CheckpointError(
            f"no checkpoint in {folder} can be used: {'; '.join(bad)}. Restore one, or remove that folder to begin the "
            "run anew"
        )
    return None


def checkpoints(folder: str | Path) -> list[Path]:
    """The finished checkpoints in `folder`, oldest first."""
    return sorted(Path(folder).glob("step-*"), key=lambda path: (len(path.name), path.name))


def save_weights(model: nn.Module | Weights, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write the model's weights as safetensors, in one step; `metadata` are words about them in the same file.

    What else its state has (`get_extra_state`) is written beside, as ``NAME.extra.pt``.

    Raises:
        CheckpointError: the disk is full or not writable; what was there stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    path = Path(path)
    beside = path.with_name(f".writing-{path.name}")
    extra = {name: value for name, value in model.state_dict().items() if not isinstance(value, Tensor)}
    try:
        save_model(_PlainState(model), str(beside), dict(metadata or {}))  # type: ignore[arg-type]
        if extra:
            torch.save(extra, beside.with_suffix(".extra"))
            beside.with_suffix(".extra").replace(_extra(path))
        beside.replace(path)
    except (*UNWRITTEN, SafetensorError) as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {error}. Give a path that can be written") from error
    return path


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Read weights that `save_weights` wrote; all of them or, where they do not fit, none.

    Raises:
        CheckpointError: no such file, a damaged one, or weights of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        raise CheckpointError(
            f"cannot load {path} into this model: it has lazy layers, which have no shape before the first batch. Call "
            "the model on one"
        )
    extra = _extra(Path(path))
    try:
        with all_or_nothing(model):
            if has_shards(model):
                _load_sharded(model, path)
            else:
                load_model(_PlainState(model), str(path))  # type: ignore[arg-type]
            if extra.exists():
                model.load_state_dict(torch.load(extra, map_location="cpu", weights_only=True), strict=False)
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"cannot load {path} into this model: {error}") from error


def _load_sharded(model: nn.Module, path: str | Path) -> None:
    """Read weights into a model in shards, tensor by tensor: all ranks read the file.

    Raises:
        RuntimeError: it holds others.
    """
    from safetensors import safe_open

    now = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    tied = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}  # one of them is in the file
    with safe_open(str(path), framework="pt") as file:
        names = {_plain(name): name for name in now}
        known = [name for name in file.keys() if name in names]  # noqa: SIM118  (it is no mapping)
        held = {tied.get(names[name], name) for name in known}
        missing = [plain for plain, name in names.items() if plain not in known and tied.get(name) not in held]
        if missing or len(known) < len(list(file.keys())):
            odd = missing or [name for name in file.keys() if name not in names]  # noqa: SIM118
            raise RuntimeError(f"{'no ' if missing else ''}{text.listed(odd, most=4)} in it")
        for name in known:
            value, like = file.get_tensor(name), now[names[name]]
            if value.shape != like.shape:
                raise RuntimeError(f"{name} of {list(value.shape)}, and here it is {list(like.shape)}")
            with torch.no_grad():
                like.copy_(in_shards_of(like, value))


def read_metadata(path: str | Path) -> dict[str, str]:
    """The words that `save_weights` wrote about the weights in a file; none where there are none.

    Raises:
        CheckpointError: no such file, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot load {path} into this model: {error}") from error


def _extra(path: Path) -> Path:
    return path.with_suffix(".extra.pt")


class _PlainState:
    """A model's tensors under the names that they have without `torch.compile`, as safetensors takes a model."""

    def __init__(self, model: nn.Module | Weights):
        self._model: Any = model

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors; what else the state has is left out."""
        state = self._model.state_dict()
        return {_plain(name): value for name, value in state.items() if isinstance(value, Tensor)}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = False) -> tuple[list[str], list[str]]:
        """Load tensors; the names that are missing, and those that are not expected."""
        named = {_plain(name): name for name in self._model.state_dict()}
        self._model.load_state_dict(
            {named[name]: value for name, value in state.items() if name in named}, strict=False
        )
        return [name for name in self.state_dict() if name not in state], [name for name in state if name not in named]


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")


def check_readable(state: Mapping[str, Any]) -> None:
    """Check that what a checkpoint of `state` would hold beside tensors is plain data, which is read back.

    Raises:
        CheckpointError: it is something else; the message says where.
    """

    def visit(value: Any, where: str) -> None:
        if isinstance(value, Mapping):
            for key, part in value.items():
                visit(part, f"{where}[{key!r}]")
        elif isinstance(value, list | tuple):
            for i, part in enumerate(value):
                visit(part, f"{where}[{i}]")
        elif not isinstance(value, Tensor | int | float | str | bool | bytes | None):
            file = io.BytesIO()
            try:
                torch.save(value, file)
                file.seek(0)
                torch.load(file, weights_only=True)
            except Exception as error:
                raise CheckpointError(
                    f"{where} is a {type(value).__name__}, which a checkpoint cannot hold: only tensors, numbers, "
                    "words, lists and dictionaries are read back. Let get_extra_state (or the optimizer's settings) "
                    "give such"
                ) from error

    for name, value in state.items():
        visit(value, name)


def _tidy(folder: Path, last: Path, keep: int) -> None:
    found = checkpoints(folder)
    end = found.index(last) + 1
    for path in (*found[: max(0, end - keep)], *found[end:]):
        remove(path)


def remove(path: Path) -> None:
    """Out of sight first, so that a reader never meets half a checkpoint."""
    gone = path.with_name(f".removing-{path.name}")
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def fingerprint(path: Path) -> dict[str, Any]:
    """The size of a file in ``bytes``, and its ``sha256``.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"bytes": file.tell(), "sha256": digest}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
