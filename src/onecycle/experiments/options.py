"""Where the runs of a comparison are made, and how many at once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from dataclasses import dataclass, fields

from ..checks import share, whole
from ..errors import ConfigError
from ..jobs.places import check_address
from ..training.options import option


@dataclass(frozen=True, kw_only=True)
class Placement:
    """In this process, in `jobs` processes, or on a Ray cluster.

    On Ray a run gets `cpus` CPUs, as many threads, and the share `gpus` of a GPU; None is a whole one, where the
    cluster has GPUs and the run may use one.

    Raises:
        ConfigError: a value that cannot be used, or two that contradict each other.
    """

    jobs: int = option(1, "Processes that make runs side by side, and divide the threads between them.", "Where")
    on: str | None = option(
        None, "ray: the Ray cluster that runs here, else a new one; or the address of one, ray://HOST:10001.", "Where"
    )
    cpus: int | None = option(None, "On Ray, CPUs of a run, and its threads; default 1.", "Where")
    gpus: float | None = option(
        None, "On Ray, share of a GPU of a run, such as 0.25; default a whole one, where there are any.", "Where"
    )
    storage: str | None = option(
        None,
        "On Ray, where runs keep checkpoints, to go on from when a node dies: a folder that all nodes share, s3://, "
        "gs://; default none, and such a run starts anew.",
        "Where",
    )

    def __post_init__(self) -> None:
        _check_jobs(self.jobs)
        if self.on is None:
            for name in ("cpus", "gpus", "storage"):
                if getattr(self, name) is not None:
                    raise ConfigError(f'{name} is for runs on Ray: give on="ray" too')
            return
        if self.jobs != 1:
            raise ConfigError(
                f"on Ray, cpus and gpus decide how many runs are made at once: leave out jobs ({self.jobs!r})"
            )
        check_address(self.on)
        if self.cpus is not None:
            whole("cpus", self.cpus, what="the number of CPUs of a run on Ray")
        if self.gpus is not None:
            share("gpus", self.gpus, of="a GPU", one=True)

    def in_shell(self) -> list[str]:
        """The options of a command that say the same.

        >>> Placement(jobs=2).in_shell()
        ['--jobs', '2']
        """
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def _check_jobs(jobs: int) -> None:
    """Validate `jobs`; several processes import the script that starts them, so it must be importable."""
    whole("jobs", jobs, what="the number of processes")
    script = getattr(sys.modules["__main__"], "__file__", None)
    if jobs > 1 and script is not None and not os.path.exists(script):
        raise ConfigError(
            "the processes of jobs import the script, and this one is in no file: save it, or leave out jobs"
        )
    if jobs > 1 and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            "the processes of jobs import the script, and this one compares when it is imported: write the call under "
            "if __name__ == '__main__':"
        )


HERE = Placement()
