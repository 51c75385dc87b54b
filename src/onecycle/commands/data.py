"""The command that looks at data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from .options import Flag, Json, Whole, source
from .printing import print_json, print_table


def data(
    data: Annotated[str | None, source("Without it, the known data sets are listed.")] = None,
    *,
    target: str | None = None,
    out: Path | None = None,
    seed: Whole = 0,
    skip_damaged: Flag = False,
    json: Json = False,
) -> None:
    """List the known data sets, or look at one: where it was found, size, classes and a contact sheet of samples.

    Parameters
    ----------
    target
        Of a table: the column to be predicted from the others.
    out
        File of the contact sheet. Default: NAME-samples.png.
    seed
        Of the cut into training and validation data.
    skip_damaged
        Leave out images that do not decode, with a note.
    """
    from ..data import NAMES, contact_sheet, describe, find, load

    if data is None:
        known = [{"name": name, "what": describe(name), "found": find(name)} for name in NAMES]
        if json:
            print_json({"data": known})
        else:
            print_table(["name", "what", "found"], [[k["name"], k["what"], k["found"] or "not yet"] for k in known])
        return
    loaded = load(data, seed=seed, target=target, skip_damaged=skip_damaged)
    splits = {"train": loaded.train, "valid": loaded.valid, "test": loaded.test}
    facts = {"name": loaded.name, "kind": loaded.kind, "origin": loaded.origin, "shape": loaded.input_shape}
    facts |= {name: len(split) for name, split in splits.items() if split}
    samples = None
    if loaded.kind == "image":
        samples = str(contact_sheet(loaded, out or Path(f"{loaded.name.replace('/', '-')}-samples.png")))
    if json:
        print_json({**facts, "classes": loaded.classes, "notes": loaded.notes, "samples": samples})
        return
    classes = f"{len(loaded.classes)}: {', '.join(map(printable, loaded.classes))}" if loaded.classes else "none"
    lines = [[key, value] for key, value in facts.items()] + [["classes", classes]]
    lines += [["note", note] for note in loaded.notes] + ([["samples", f"drawn in {samples}"]] if samples else [])
    print_table(["", ""], lines)


def printable(name: str) -> str:
    """A class's name as it can be printed in a line: white space shown, everything else as it is."""
    return name if name.isprintable() and name.strip() else repr(name)
