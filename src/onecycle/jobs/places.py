"""Where a training is made that one process does not make by itself."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import whole
from ..errors import ConfigError
from ..training.launched import world_asked
from ..training.options import option


@dataclass(frozen=True, kw_only=True)
class RanksOnRay:
    """A training by `ranks` processes of a Ray cluster, each with `cpus` CPUs, and a GPU where the cluster has some.

    Without a `storage` the folder of the run is where all nodes have it under the same path.

    Raises:
        ConfigError: a value that cannot be used, or one without `on`.

    >>> RanksOnRay(on="ray", ranks=8).in_shell()
    ['--on', 'ray', '--ranks', '8']
    """

    on: str | None = option(
        None, "ray: the Ray cluster that runs here, else a new one; or the address of one, ray://HOST:10001.", "Where"
    )
    ranks: int | None = option(
        None, "On Ray, processes that train together, each with a GPU where there are any; default 1.", "Where"
    )
    cpus: int | None = option(None, "On Ray, CPUs of a rank, and its threads; default 1.", "Where")
    storage: str | None = option(
        None,
        "On Ray, where the run is kept with its checkpoints while it is made: s3://, gs://, or a folder that all nodes "
        "share; default none, and all nodes share the folder of the run.",
        "Where",
    )

    def __post_init__(self) -> None:
        if self.on is None:
            for name in ("ranks", "cpus", "storage"):
                if getattr(self, name) is not None:
                    other = ""
                    if name == "ranks":
                        other = f"; without Ray: torchrun --nproc-per-node={self.ranks} -m onecycle train ..."
                    raise ConfigError(f'{name} is for a training on Ray: give on="ray" (--on ray) too{other}')
            return
        check_address(self.on)
        for name in ("ranks", "cpus"):
            if getattr(self, name) is not None:
                whole(
                    name,
                    getattr(self, name),
                    what={"ranks": "the number of processes on Ray", "cpus": "the number of CPUs of a rank on Ray"}[
                        name
                    ],
                )
        if world_asked() > 1:
            raise ConfigError("on Ray, Ray starts the ranks: start it without a launcher such as torchrun")

    def in_shell(self) -> list[str]:
        """The options of a command that say the same."""
        return [word for name, value in vars(self).items() if value is not None for word in (f"--{name}", str(value))]


def check_address(on: str) -> None:
    """Validate `on`, the address of a cluster.

    Raises:
        ConfigError: it is none.
    """
    host, _, port = on.removeprefix("ray://").rpartition(":") if isinstance(on, str) else ("", "", "")
    if on != "ray" and not (isinstance(on, str) and on.startswith("ray://") and host and port.isdigit()):
        raise ConfigError(f"on is ray, or the address of a cluster such as ray://127.0.0.1:10001; received {on!r}")
