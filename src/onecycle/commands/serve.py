"""The command that answers over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .options import Whole, value


def serve(
    run: Path,
    *,
    host: str = "127.0.0.1",
    port: Whole = 8000,
    max_bytes: Annotated[Whole, Parameter(name=["--max-bytes"])] = 16_000_000,
    timeout: str = "30s",
    allow_host: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    device: str | None = None,
) -> None:
    """Answer over HTTP, and on a page to try by hand, by the model of a run.

    POST /predict takes images, rows of a table, texts or arrays, GET /model says what the model is. Ctrl-C stops it.

    Parameters
    ----------
    run
        Folder of a run of "onecycle train", or of a learner's fit(out=...).
    host
        Address to listen at: 0.0.0.0 for all interfaces of this machine.
    port
        0 for one that is free.
    max_bytes
        Of a request, at most.
    timeout
        For reading a request, for its turn and for computing it, such as 30s.
    allow_host
        A name by which it is called beside localhost, addresses and the name of this machine.
    device
        To predict on: cpu, cuda, cuda:1 or mps.
    """
    from ..deployment.server import serve
    from ..deployment.service import Limits
    from ..records.progress import notes
    from ..training.options import checked_timeout, seconds_of

    seconds = seconds_of(checked_timeout(value(timeout)))

    serve(
        run, host=host, port=port, limits=Limits(max_bytes, seconds), hosts=allow_host, device=device,
        note=lambda line: notes([line]),
    )  # fmt: skip
