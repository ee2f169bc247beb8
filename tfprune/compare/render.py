"""A comparison as text for the terminal and as Markdown."""

import itertools
import textwrap
from collections.abc import Sequence

from tfprune.compare.layout import Section, notes_on, split_sections
from tfprune.compare.results import Run
from tfprune.compare.table import ComparisonRow

TEXT_WIDTH = 120

_GAP = "  "
_LEFT = ("section", "dataset", "experiment")


def to_text(rows: Sequence[ComparisonRow], runs: Sequence[Run]) -> str:
    """Tables for a terminal of 120 columns.

    Runs in the paper's setting, in other settings, and without a section of the paper stand in
    three tables; only the first has differences from the paper. The starting round 0 of pruning
    runs is left out.

    Args:
        rows: From `tfprune.compare.table.compare`.
        runs: The same runs, for what is unfinished.

    Returns:
        Lines, the last without a line feed.
    """
    parts = []
    for section in split_sections(rows):
        lines = [section.title, "", *_text_table(section)]
        if section.settings:
            lines.append("")
        for experiments, setting in section.settings:
            lines += _wrap(f"{experiments}: {setting}")
        parts.append("\n".join(lines))
    parts += ["\n".join(_wrap(note, indent="")) for note in notes_on(rows, runs)]
    return "\n\n".join(parts)


def to_markdown(rows: Sequence[ComparisonRow], runs: Sequence[Run]) -> str:
    """The tables of `to_text` as Markdown; same arguments."""
    parts = []
    for section in split_sections(rows):
        heads = [f"{column.group} {column.title}".strip() for column in section.columns]
        heads = [head[:1].upper() + head[1:] for head in heads]
        aligns = ["---" if column.title in _LEFT else "---:" for column in section.columns]
        lines = [_markdown_row(heads), _markdown_row(aligns)]
        for row in section.rows:
            lines.append(_markdown_row([column.cell(row) for column in section.columns]))
        parts += [f"## {section.title}", "\n".join(lines)]
        if section.settings:
            parts.append("\n".join(f"- `{names}`: {text}" for names, text in section.settings))
    return "\n\n".join([*parts, *notes_on(rows, runs)]) + "\n"


def _text_table(section: Section) -> list[str]:
    titles = [column.title for column in section.columns]
    cells = [[column.cell(row) for column in section.columns] for row in section.rows]
    widths = [max(map(len, texts)) for texts in zip(titles, *cells, strict=True)]
    spans = _group_spans(section)
    for group, indices in spans:
        # A group's title stands over its columns, which are widened to hold it.
        widths[indices[0]] += max(len(group) - _span_width(widths, indices), 0)
    name = titles.index("experiment")
    widths[name] = max(widths[name] - max(_line_width(widths) - TEXT_WIDTH, 0), len("experiment"))

    heads = [_group_head(group, _span_width(widths, indices)) for group, indices in spans]
    lines = [_GAP.join(heads).rstrip(), _text_row(titles, titles, widths)]
    lines.append(_GAP.join("-" * width for width in widths))
    # The rounds of an experiment follow each other: its name stands once, broken over them where
    # it is too long for its column.
    for experiment, block in itertools.groupby(cells, key=lambda texts: texts[name]):
        pieces = _break_name(experiment, widths[name])
        for number, texts in enumerate(block):
            before = texts[:name] if number == 0 else [""] * name
            piece = pieces.pop(0) if pieces else ""
            lines.append(_text_row([*before, piece, *texts[name + 1 :]], titles, widths))
        indent = " " * sum(width + len(_GAP) for width in widths[:name])
        lines += [indent + piece for piece in pieces]
    return lines


def _group_spans(section: Section) -> list[tuple[str, list[int]]]:
    """Groups and the indices of their columns; a column without a group is its own."""
    indices = range(len(section.columns))
    grouped = itertools.groupby(indices, key=lambda i: section.columns[i].group or i)
    return [(key if isinstance(key, str) else "", list(span)) for key, span in grouped]


def _span_width(widths: Sequence[int], indices: Sequence[int]) -> int:
    return _line_width([widths[index] for index in indices])


def _line_width(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _group_head(group: str, width: int) -> str:
    dashed = group and len(group) + 2 < width
    return f" {group} ".center(width, "-") if dashed else group.center(width)


def _break_name(name: str, width: int) -> list[str]:
    """Breaks a name after underscores or hyphens, or anywhere where it has none in reach."""
    pieces = []
    while len(name) > width:
        cut = max(name.rfind("_", 0, width), name.rfind("-", 0, width)) + 1 or width
        pieces.append(name[:cut])
        name = name[cut:]
    return [*pieces, name]


def _text_row(texts: Sequence[str], titles: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        text.ljust(width) if title in _LEFT else text.rjust(width)
        for text, title, width in zip(texts, titles, widths, strict=True)
    ]
    return "  ".join(aligned).rstrip()


def _wrap(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(
        text,
        TEXT_WIDTH,
        initial_indent=indent,
        subsequent_indent=indent * 2,
        break_on_hyphens=False,
    )


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
