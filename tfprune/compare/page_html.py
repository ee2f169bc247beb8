"""Pieces of HTML: escaped text, numbers with their spread, and tables."""

import dataclasses
import html
import itertools
import math
import re
from collections.abc import Sequence

from tfprune.compare.seeds import Spread

_TAG = re.compile("<[^>]*>")

NOTHING = '<span class="none">–</span>'
"""What a cell without a value shows."""


def escape(text: object) -> str:
    """Text for an element or an attribute."""
    return html.escape(str(text), quote=True)


def code(text: object) -> str:
    """A name, with places where it may break."""
    return f"<code>{escape(text).replace('_', '_<wbr>')}</code>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of HTML."""
    return f'<p class="{kind}">{text}</p>' if kind else f"<p>{text}</p>"


def details(summary: str, body: str) -> str:
    """A body that opens with a click; both are HTML."""
    return f"<details><summary>{summary}</summary>{body}</details>"


def number(value: float | None, decimals: int = 1, signed: bool = False) -> str:
    """A number with a true minus sign."""
    if value is None:
        return NOTHING
    # Adding 0.0 turns -0.0 into 0.0, which is printed without a minus.
    rounded = round(value, decimals) + 0.0
    sign = "+" if signed and rounded > 0 else ""
    return f"{sign}{rounded:.{decimals}f}".replace("-", "−")


def mean(value: Spread | None, signed: bool = False) -> str:
    """`62.1 ± 0.4`, or without the spread where there is a single value."""
    if value is None:
        return NOTHING
    text = number(value.mean, signed=signed)
    if value.deviation is None:
        return text
    return f'<span class="whole">{text}<span class="spread"> ± {value.deviation:.1f}</span></span>'


def mean_text(value: Spread) -> str:
    """The same as plain text, for titles in pictures."""
    text = number(value.mean)
    return text if value.deviation is None else f"{text} ± {value.deviation:.1f}"


def count(amount: int, noun: str) -> str:
    """`1 round`, `2 rounds`."""
    return f"{amount:,} {noun if amount == 1 else noun + 's'}"


def in_words(values: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(values[:-1]), *values[-1:]]))


def size(number_of_bytes: int | None) -> str:
    """`5.36 MB` of 10^6 bytes, `194 kB`."""
    if number_of_bytes is None:
        return NOTHING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number_of_bytes >= 0.9995 * factor:
            amount = number_of_bytes / factor
            return f"{amount:.{max(0, 2 - int(math.log10(max(amount, 1))))}f} {unit}"
    return f"{number_of_bytes} B"


@dataclasses.dataclass(frozen=True)
class Head:
    """A column of a table: the group that it stands in (`""` for none), its title and its class.

    The class is `text` (left-aligned) or `""` (a number).
    """

    title: str
    group: str = ""
    kind: str = ""


def table(
    caption: str, heads: Sequence[Head], rows: Sequence[Sequence[str]], classes: Sequence[str] = ()
) -> str:
    """A table in a box of its own, which scrolls sideways where the page is too narrow.

    Args:
        caption: HTML above the table.
        heads: The columns.
        rows: HTML of the cells; the first cell of a row is its heading.
        classes: One class a row, or none at all.

    Returns:
        HTML.
    """
    classes = classes or [""] * len(rows)
    lines = [f'<p class="caption">{caption}</p>'] if caption else []
    label = escape(html.unescape(_TAG.sub("", caption))) or "table"
    lines.append(f'<div class="table" tabindex="0" role="group" aria-label="{label}"><table><thead>')
    if any(head.group for head in heads):
        lines += ["<tr>", *_group_heads(heads), "</tr><tr>"]
        lines += [_head(head) for head in heads if head.group]
    else:
        lines += ["<tr>", *map(_head, heads)]
    lines.append("</tr></thead><tbody>")
    starts = _group_starts(heads)
    for cells, kind in zip(rows, classes, strict=True):
        lines.append(f'<tr class="{kind}">' if kind else "<tr>")
        for index, (cell, head) in enumerate(zip(cells, heads, strict=True)):
            names = " ".join(filter(None, [head.kind, "first" if index in starts else ""]))
            kinds = f' class="{names}"' if names else ""
            lines.append(f'<th scope="row"{kinds}>{cell}</th>' if index == 0 else f"<td{kinds}>{cell}</td>")
        lines.append("</tr>")
    lines.append("</tbody></table></div>")
    return "".join(lines)


def _group_starts(heads: Sequence[Head]) -> set[int]:
    """The first columns of groups, which a thin rule sets apart."""
    return {
        index
        for index, head in enumerate(heads)
        if index and (head.group or heads[index - 1].group) and head.group != heads[index - 1].group
    }


def _group_heads(heads: Sequence[Head]) -> list[str]:
    cells = []
    starts = _group_starts(heads)
    indices = range(len(heads))
    for group, span in itertools.groupby(indices, key=lambda index: heads[index].group or index):
        span = list(span)
        first = " first" if span[0] in starts else ""
        if isinstance(group, str):
            cells.append(f'<th class="group{first}" colspan="{len(span)}" scope="colgroup">{group}</th>')
        else:
            head = heads[span[0]]
            cells.append(f'<th class="{head.kind}{first}" rowspan="2" scope="col">{head.title}</th>')
    return cells


def _head(head: Head) -> str:
    return f'<th class="{head.kind}" scope="col">{head.title}</th>'
