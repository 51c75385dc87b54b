"""Numbers, shares, times and counts in words: one way to write each, in terminal, figures, pages and notes."""

from __future__ import annotations

import html
import math
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import TextIO

PLAIN = 6  # digits before the point of a number that is written without an exponent, at most


def count(n: float, noun: str) -> str:
    """So many of something, in the singular for one.

    >>> count(1, "epoch"), count(2.5, "epochs"), count(1234, "update"), count(2, "loss"), count(3, "policy")
    ('1 epoch', '2.5 epochs', '1,234 updates', '2 losses', '3 policies')
    """
    plural = noun.endswith("s") and not noun.endswith("ss")
    one = noun[:-1] if plural else noun
    many = (
        noun if plural else noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith("ss") else "s")
    )
    whole = float(n).is_integer()
    return f"{int(n):,} {one if n == 1 else many}" if whole else f"{n:.12g} {many}"


def number(value: float, digits: int = 4) -> str:
    """A number with so many significant digits and, where it is below 1e-4 or from 1e6 on, a short exponent.

    >>> number(0.12346), number(1234567), number(0.00002), number(2.0), number(float("nan"))
    ('0.1235', '1.235e6', '2e-5', '2', 'nan')
    >>> number(3067.2, 3), number(-186.0, 2)
    ('3070', '-190')
    """
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    if not exponent:
        return mantissa
    return f"{float(f'{value:.{digits}g}'):.0f}" if 0 < int(exponent) < PLAIN else f"{mantissa}e{int(exponent)}"


def rate(value: float) -> str:
    """So many a second, as a whole number where that is enough.

    >>> rate(12345.6), rate(3.14159)
    ('12,346', '3.14')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(value: float, digits: int = 2) -> str:
    """A share in percent, with so many digits after the point.

    >>> percent(0.98049), percent(0.05, 0)
    ('98.05 %', '5 %')
    """
    return f"{100 * value:.{digits}f} %"


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(0.9), duration(59.26), duration(90), duration(300), duration(7300)
    ('0.9 s', '59.3 s', '1 min 30 s', '5 min', '2 h 01 min')
    """
    if not math.isfinite(seconds):
        return f"{seconds} s"
    if seconds < 59.95:
        return f"{seconds:.2g} s" if seconds < 1 else f"{round(seconds, 1):g} s"
    units, whole = ("min", "s"), round(seconds)
    if whole >= 3600:
        units, whole = ("h", "min"), whole // 60
    return f"{whole // 60} {units[0]}" + (f" {whole % 60:02d} {units[1]}" if whole % 60 else "")


def short_duration(seconds: float) -> str:
    """Seconds with three digits, in the unit that suits them.

    >>> short_duration(0.0123), short_duration(4.2e-5), short_duration(2.5), short_duration(0)
    ('12.3 ms', '42 µs', '2.5 s', '0 s')
    """
    if not 0 < seconds < 0.9995:
        return duration(seconds) if seconds else "0 s"
    factor, unit = (1e3, "ms") if seconds >= 0.9995e-3 else (1e6, "µs")
    return f"{number(seconds * factor, 3)} {unit}"


def size(n: float) -> str:
    """So many bytes in words, by powers of 1000.

    >>> size(512), size(3_040_000), size(25e9)
    ('512 bytes', '3.04 MB', '25 GB')
    """
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= factor:
            return f"{number(n / factor, 3)} {unit}"
    return count(n, "byte")


def measure(name: str, value: float) -> str:
    """A value of the metric `name`: accuracies in percent, all else as a number.

    >>> measure("test_accuracy", 0.98049), measure("loss", 0.15427)
    ('98.05 %', '0.1543')
    """
    return percent(value) if name.endswith("accuracy") else number(value)


def bounds(low: float | None, high: float | None, digits: int = 4) -> str:
    """The ends of an interval, None for an open one.

    >>> bounds(1.04, 1.75), bounds(1.04, None), bounds(None, 1.75), bounds(None, None)
    ('1.04 to 1.75', 'from 1.04', 'up to 1.75', 'open')
    """
    if low is None and high is None:
        return "open"
    if low is None or high is None:
        return f"from {number(low, digits)}" if low is not None else f"up to {number(high or 0.0, digits)}"
    return f"{number(low, digits)} to {number(high, digits)}"


def listed(words: Iterable[str], last: str = "and", most: int = 20) -> str:
    """Words in a sentence, the first `most` of them and how many more there are.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"], "or"), listed("abcd", most=2)
    ('a', 'a and b', 'a, b or c', 'a, b and 2 more')
    >>> listed(map(str, range(23)))[-13:]
    '19 and 3 more'
    """
    words = list(words)
    if len(words) > most:
        words, last = [*words[:most], f"{len(words) - most} more"], "and"
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def fitted(cells: list[list[str]], width: int, least: Sequence[str]) -> list[list[str]]:
    """A table, headings first, within `width`: without some of the columns in `least`, and with shorter names.

    >>> fitted([["run", "data", "test"], ["runs/digits-1", "digits", "98 %"]], 21, ["data"])
    [['run', 'test'], ['runs/digits-1', '98 %']]
    >>> fitted([["run", "test"], ["runs/digits-1", "98 %"]], 16, [])
    [['run', 'test'], ['…igits-1', '98 %']]
    """
    columns = list(zip(*cells, strict=True))

    def excess() -> int:
        return sum(max(map(len, column)) + 2 for column in columns) - width

    for name in least:
        if excess() > 0:
            columns = [column for column in columns if column[0] != name]
    if (over := excess()) > 0:
        longest = max(len(columns[0][0]), 8, max(map(len, columns[0])) - over)
        columns[0] = tuple(cell if len(cell) <= longest else f"…{cell[1 - longest :]}" for cell in columns[0])
    return [list(row) for row in zip(*columns, strict=True)]


def folded(words: str, stream: TextIO) -> str:
    """Words in lines that fit the terminal which `stream` is, broken between words; as they are for a file or a pipe.

    Commands, which are to be copied, stay whole.
    """
    if not stream.isatty():
        return words
    width = max(24, shutil.get_terminal_size().columns)
    lines = words.splitlines()
    return "\n".join(
        line if line.startswith("To go on:")
        else textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in lines
    )  # fmt: skip


def in_markdown(text: str) -> str:
    r"""Text that Markdown shows as it is, on one line, in a cell of a table too.

    >>> print(in_markdown("a|b <i>\n`one_cycle` _"))
    a\|b &lt;i\> \`one_cycle\` \_
    """
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]|~#>]|_(?![^\W_])|(?<![^\W_])_)", r"\\\1", text)


def code_in_markdown(text: str) -> str:
    r"""Text on one line as code in Markdown, beyond a table; as plain text where it has backticks itself.

    >>> print(code_in_markdown("people_1.csv"), code_in_markdown("a`b"))
    `people_1.csv` a\`b
    """
    return in_markdown(text) if "`" in text else f"`{' '.join(text.split())}`"


def html_table(rows: Iterable[Sequence[object]], head: Sequence[object] = (), title: str = "") -> str:
    """A table for a notebook, each cell as text; the first cell of a row is its name.

    >>> html_table([("peak", 0.2), ("answer", "a < b")])
    '<table><tr><th>peak</th><td>0.2</td></tr><tr><th>answer</th><td>a &lt; b</td></tr></table>'
    """

    def cells(tag: str, values: Sequence[object]) -> str:
        return "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values)

    lines = [cells("th", head)] if head else []
    lines += [cells("th", row[:1]) + cells("td", row[1:]) for row in rows]
    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    return f"<table>{caption}{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
