"""Where ranks meet, also those that are started anew beside a store that remembers the ones before."""

from __future__ import annotations

import re

import torch.distributed as dist
from ranks_makers import on_ranks, run

CODE = """
import os, time
time.sleep(0.5 * int(os.environ["RANK"]))  # so that the main rank finds what there is of the others
from onecycle.training.ranks import Ranks
result(Ranks.join("gloo", {timeout}).gather("{start}"))
"""


def launcher() -> tuple[dist.TCPStore, dict[str, str]]:
    """A store as that of torchrun, which outlives the ranks, and how they are told of it."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return store, {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}


def test_ranks_that_are_started_anew_do_not_wait_for_those_that_are_gone():
    store, env = launcher()
    for start in ("first", "second", "third"):
        assert on_ranks(CODE.format(start=start, timeout=30), 3, env=env) == [[start] * 3] * 3
    assert store.num_keys() > 0


def test_a_rank_that_does_not_come_is_named():
    _, env = launcher()
    code = "from onecycle.training.ranks import Ranks; Ranks.join('gloo', 1)"
    (end,) = run(["-c", code], 1, env={**env, "WORLD_SIZE": "3"})
    assert end.returncode == 1
    said = r"rank 0 of 3 did not meet the others at 127.0.0.1:\d+ within 1 s: rank 1 and rank 2 did not come\. Look"
    assert re.search(said, end.stderr), end.stderr


def test_it_takes_torch_distributed_only_where_there_are_ranks_to_meet():
    hidden = "import sys; sys.modules['torch.distributed.rendezvous'] = None; import onecycle.training.meeting"
    assert (
        run(["-c", f"import sys; sys.modules.pop('onecycle.training.meeting', None); {hidden}"], 1)[0].returncode == 0
    )


def test_an_address_where_nobody_is_is_named():
    code = "from onecycle.training.ranks import Ranks; Ranks.join('gloo', 1)"
    for env in ({"RANK": "0", "WORLD_SIZE": "2"}, {"RANK": "1", "WORLD_SIZE": "2"}):
        (end,) = run(["-c", code], 1, env=env)
        assert end.returncode == 1
        said = rf"ConfigError: rank {env['RANK']} of 2 did not meet the others at 127.0.0.1:\d+ within 1 s: .*all 2"
        assert re.search(said, end.stderr), end.stderr
