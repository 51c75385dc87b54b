"""The command that exports."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from ..text import listed
from .options import Flag, Json
from .printing import print_json


def export(
    run: Path,
    *,
    to: str | None = None,
    out: Path | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
    dataset: str | None = None,
    push: str | None = None,
    public: Flag = False,
    json: Json = False,
) -> None:
    """Export the model of a run for other programs, and check that it predicts the same there.

    Parameters
    ----------
    run
        Folder of a finished run of "onecycle train", or of a learner's fit(out=...); with --push also one that was
        exported before, which is uploaded as it is.
    to
        onnx: a file for onnxruntime and other engines. torch-export: a file for torch alone. folder: weights, record,
        labels and a model card, for other people and the Hugging Face hub. Default: onnx, or folder with --push.
    out
        The file or the folder. Default: model.onnx or model.pt2 in the folder of the run, or exports/RUN.
    licence
        Of the weights, for the model card, such as mit.
    data_licence
        Of the data, for the model card.
    dataset
        OWNER/NAME of the data on the hub, for the model card.
    push
        Upload the folder to the hub as OWNER/NAME, private, with the token of "hf auth login" or HF_TOKEN.
    public
        With --push, let all see it.
    """
    from ..deployment.api import export as write
    from ..deployment.folder import is_exported
    from ..deployment.hub import check_name, library, push_to_hub

    if public and push is None:
        raise ConfigError("--public is for --push OWNER/NAME: give both, or leave it out")
    if push is not None:
        check_name("--push", push)
        library()
        if to not in (None, "folder"):
            raise ConfigError(f"--push uploads a folder: give --to folder, or leave it out; received {to}")
    said, folder = {}, run
    if push is None or not is_exported(run):
        exported = write(
            run, to or ("onnx" if push is None else "folder"), out, verbose=not json,
            licence=licence, data_licence=data_licence, dataset=dataset, repo=push,
        )  # fmt: skip
        said, folder = exported.to_dict(), exported.path
        if not json:
            print(exported.line())
    else:
        options = {"--out": out, "--licence": licence, "--data-licence": data_licence, "--dataset": dataset}
        if given := [name for name, value in options.items() if value is not None]:
            raise ConfigError(f"{run} is exported already and is uploaded as it is: leave out {listed(given)}")
    if push is not None:
        said["address"] = push_to_hub(folder, push, private=not public)
        if not json:
            print(f"uploaded: {said['address']} ({'public' if public else 'private'})")
    if json:
        print_json(said)
