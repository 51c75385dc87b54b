"""The data of a comparison that were made in Python: kept in its folder, where each run finds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from ..records.files import COMPARISON, sync_folder

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]

DATA = "data.npz"


def path_in(folder: Path) -> str:
    """Where the data lie, for runs that are made in another process."""
    return str((folder / DATA).resolve())


def differing(arrays: Arrays | None, folder: Path) -> list[str]:
    """In what other data are kept in the folder."""
    from ..data import npz as stored  # with numpy

    return [] if arrays is None else stored.differing(arrays, folder / DATA)


@contextmanager
def kept(arrays: Arrays | None, folder: Path) -> Iterator[None]:
    """Within the block the arrays are in the folder, and afterwards too if a comparison has begun there.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    if arrays is None or COMPARISON.exists(folder):
        yield
        return
    fresh = not folder.exists()
    try:
        _write(arrays, folder / DATA)
    except OSError as error:
        raise CheckpointError(f"cannot write the data to {folder}: {error}. Give another folder") from error
    try:
        yield
    finally:
        if not COMPARISON.exists(folder):
            (folder / DATA).unlink()
            if fresh:
                folder.rmdir()


def _write(arrays: Mapping[str, Any], path: Path) -> None:
    """In one step: a reader finds all of it or nothing."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".writing-{DATA}")
    np.savez(beside, **arrays)
    beside.replace(path)
    sync_folder(path.parent)
