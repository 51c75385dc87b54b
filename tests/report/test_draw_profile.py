"""A profile in characters, as tables and figures, and on a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from page_makers import HOSTILE, ORIGIN

from onecycle.commands.report import draw
from onecycle.errors import CheckpointError
from onecycle.records.read import read
from onecycle.report.content import profile_changes, profile_facts, profile_sentence, summary, title
from onecycle.report.draw_profile import aligned, draw_profile, profile_figure, profile_text
from onecycle.report.page import html, markdown
from onecycle.report.spec import Plots
from onecycle.report.tables import profile_parts_table, profile_table

PARTS = {"data": 0.001, "forward": 0.004, "backward": 0.003, "optimizer": 0.0015, "ours": 0.0005}
SETTING = {
    "batch_size": 64, "precision": "fp32", "threads": 2, "workers": None, "channels_last": True, "compile": False,
}  # fmt: skip


def timed(seconds: float = 0.01, failed: str | None = None, **setting) -> dict:
    made = {**SETTING, **setting}
    if failed:
        return {"setting": made, "failed": failed}
    return {
        "setting": made, "updates": 100, "samples": made["batch_size"], "seconds": seconds, "low": 0.9 * seconds,
        "high": 1.5 * seconds, "parts": PARTS, "start": 0.0, "rate": made["batch_size"] / seconds, "memory": 3e8,
        "warm": 0.1, "failed": None, "shares": {name: 100 * part for name, part in PARTS.items()},
    }  # fmt: skip


def profiled(**fields) -> dict:
    others = [
        timed(0.005, precision="bf16"),
        timed(threads=1),
        timed(0.018, batch_size=128),
        timed(failed="no", batch_size=512),
    ]
    change = [{"words": "--precision bf16", "gain": 2.0, "sentence": "--precision bf16: 2 times", "changes": {}}]
    return {
        "title": "small-cnn on digits, muon", "present": timed(), "others": others, "change": change,
        "largest": {"batch_size": 5000, "how": "estimated", "bytes_per_sample": 1e6, "free": 8e9},
        "left_out": ["torch.compile: not asked for"], "notes": ["a note"], "device": "cpu",
        "support": {"bf16": "AMX", "fp16": None},
        "cores": 2, "updates_per_epoch": 20, "budget": 60.0, "seconds": 58.0,
    } | fields  # fmt: skip


def write_profile(folder: Path, **fields) -> Path:
    folder.mkdir(parents=True)
    record = {
        "schema": 1,
        **ORIGIN,
        "config": {"model": "mlp", "data": "digits"},
        "command": ["onecycle", "profile"],
        "notes": [],
    }
    (folder / "profile.json").write_text(json.dumps({**record, "result": profiled(**fields)}))
    return folder


def test_what_is_said():
    result = profiled()
    assert profile_sentence(result) == (
        "An update takes 10 ms (9 ms to 15 ms in the middle 80 % of 100 updates): 6,400 samples a second, an epoch in "
        "0.2 s."
    )
    assert profile_facts(result) == [
        "Memory: at most 300 MB in this process, the data among it.",
        "The largest batch that fits: about 5,000 samples (1 MB a sample, 8 GB free).",
        "bf16: computed by AMX.",
        "fp16: no hardware for it here, it is emulated.",
    ]
    assert profile_changes(result) == ["--precision bf16: 2 times."]
    assert profile_changes(profiled(change=[])) == ["Nothing that was tried here makes it clearly faster."]
    lost = profiled(present=timed(failed="out of memory"), change=[])
    assert (
        profile_sentence(lost) == "As it is, it could not be measured: out of memory." and profile_changes(lost) == []
    )


def test_tables():
    parts, settings = profile_parts_table(profiled()), profile_table(profiled())
    assert [[cell.text for cell in row] for row in parts.rows][:2] == [
        ["data", "1 ms", "10 %"],
        ["forward", "4 ms", "40 %"],
    ]
    assert [row[0].text for row in settings.rows] == [
        "batch 64, fp32, 2 threads", "bf16", "1 thread", "batch 128", "batch 512: no",
    ]  # fmt: skip
    assert [row[4].text for row in settings.rows] == ["1.00", "2.00", "1.00", "1.11", "-"]


@pytest.mark.parametrize("width", [24, 40, 60, 80, 200])
@pytest.mark.parametrize("ascii", [False, True])
def test_no_line_is_wider_than_the_terminal(width, ascii):
    lines = profile_text(profiled(), width, ascii=ascii)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "forward" in text
    assert ascii or width == 24 or "█" in text
    assert not (ascii and "█" in text)


def test_bars_are_as_long_as_the_shares():
    lines = profile_text(profiled(), 80, ascii=True)
    bars = {line.split()[0]: line.count("#") for line in lines if line.startswith(tuple(PARTS))}
    assert bars == {"data": 8, "forward": 32, "backward": 24, "optimizer": 12, "ours": 4}


def test_narrow_tables_lose_what_matters_least():
    table = profile_table(profiled())
    assert "memory" in aligned(table, 100)[0] and "memory" not in aligned(table, 70)[0]
    assert "samples/s" in aligned(table, 45)[0]


def test_figures():
    plots = Plots()
    drawn = draw_profile(plots, profiled())
    (bars,), (curve,) = ([plots.figures[i] for i in drawn[name]] for name in ("bars", "figures"))
    assert bars.series[0].mode == "bars" and bars.series[0].x == list(PARTS)
    assert [line.x for line in curve.series] == [[64, 128]]  # of bf16 one size alone is no curve
    low, high = curve.series[0].low, curve.series[0].high
    assert all(a < y < b for a, y, b in zip(low, curve.series[0].y, high, strict=True))
    plots, more = Plots(), [timed(0.005, precision="bf16"), timed(0.008, precision="bf16", batch_size=128)]
    keys = draw_profile(plots, profiled(others=[timed(0.018, batch_size=128), *more]))["keys"]
    assert [plots.keys[key].label for key in keys] == ["fp32", "bf16"]
    failed = draw_profile(Plots(), profiled(present=timed(failed="out of memory"), others=[]))
    assert failed == {"bars": [], "keys": [], "figures": []}


def test_the_figure_for_print():
    pytest.importorskip("matplotlib")
    panels = profile_figure(profiled()).axes
    assert [panel.get_title(loc="left") for panel in panels] == [
        "Where an update's time goes",
        "Samples a second by batch size",
    ]
    assert [round(bar.get_height(), 3) for bar in panels[0].patches] == [0.1, 0.4, 0.3, 0.15, 0.05]


def test_the_page_of_a_profile(tmp_path):
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    records = read([write_profile(tmp_path / "a", title=HOSTILE)])
    text = html(records, plotly="")
    assert HOSTILE not in text and text.count("<section") == 3
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    assert [figure["title"] for figure in data["figures"]] == [
        "Where an update's time goes",
        "Samples a second by batch size",
    ]
    assert title(records) == "Profile: mlp on digits"
    assert summary(records, [])[0].startswith(f"{HOSTILE}: An update takes 10 ms")
    assert "An update takes 10 ms" in markdown([tmp_path / "a"])


def test_drawn_anew(tmp_path):
    pytest.importorskip("matplotlib")
    folder = write_profile(tmp_path / "a")
    assert draw(folder, "svg") == [folder / "profile.svg"] and (folder / "profile.svg").stat().st_size > 1000


def test_a_damaged_profile(tmp_path):
    with pytest.raises(CheckpointError, match="is damaged: it has no present"):
        read([write_profile(tmp_path / "a", present={})])
