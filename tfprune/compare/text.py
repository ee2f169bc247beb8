"""A comparison as text for the terminal, as Markdown and as CSV."""

import csv
import dataclasses
import io
import itertools
import textwrap
from collections.abc import Callable, Sequence

from tfprune.compare import words
from tfprune.compare.columns import COLUMNS, Column, columns_of, csv_name, groups_of
from tfprune.compare.rows import Experiment, Level, Row
from tfprune.runs.folder import Run
from tfprune.runs.metric import Metric
from tfprune.text import csv_cell, printable

TEXT_WIDTH = 120

PAPER_SETTING_TITLE = "The paper's setting"
OTHER_SETTING_TITLE = (
    "Other settings: not a reproduction (the paper's figures, at its own settings, for orientation)"
)
NO_SECTION_TITLE = "Runs without a counterpart in the paper"
ALONE_TITLE = "Runs"

_SPARSITY = " Sparsity is that of the pruned kernels."
_FILES = (
    " The file is the smallest that was exported, the latency that of the fastest runtime, with the fewest "
    "threads and images a call that were measured."
)


@dataclasses.dataclass(frozen=True)
class Line:
    """A round of one run: a line of the tables."""

    experiment: Experiment
    run: Run
    level: Level

    @property
    def row(self) -> Row:
        """The round's row."""
        return self.level.rows[0]


_NAMES: tuple[tuple[str, Callable[[Line], str]], ...] = (
    ("section", lambda line: line.experiment.section),
    ("experiment", lambda line: line.run.experiment),
    ("round", lambda line: words.round_title(line.experiment, line.level.number)),
)
"""The columns that say which round a line is: title and text."""


@dataclasses.dataclass(frozen=True)
class Table:
    """One table: its title, the metric of its lines, these, and what settings its experiments had."""

    title: str
    metric: Metric
    lines: tuple[Line, ...]
    settings: tuple[tuple[str, str], ...]

    @property
    def names(self) -> list[tuple[str, Callable[[Line], str]]]:
        """The columns on the left that have a text."""
        return [name for name in _NAMES if any(map(name[1], self.lines))]

    @property
    def columns(self) -> list[Column]:
        """The columns of figures."""
        return columns_of([line.level for line in self.lines])


def lines_of(experiments: Sequence[Experiment]) -> list[Line]:
    """Returns every finished round of every run, seed after seed, the start of a pruning run not counted."""
    return [
        Line(experiment, run, experiment.level(row.result.round, run))
        for experiment in experiments
        for run in experiment.runs
        for row in experiment.rows
        if row.run is run and not row.is_start
    ]


def tables_of(experiments: Sequence[Experiment]) -> list[Table]:
    """Splits the experiments into reproductions, other settings, and runs without a section of the paper.

    Each dataset, and each metric, has tables of its own.

    Args:
        experiments: From `tfprune.compare.rows.compare`.

    Returns:
        The tables that have lines.
    """
    alone = not any(e.section for e in experiments)
    kinds = {
        PAPER_SETTING_TITLE: [e for e in experiments if e.in_paper_setting],
        OTHER_SETTING_TITLE: [e for e in experiments if e.section and not e.in_paper_setting],
        ALONE_TITLE if alone else NO_SECTION_TITLE: [e for e in experiments if not e.section],
    }
    tables = []
    for title, of_kind in kinds.items():
        for dataset, metric in dict.fromkeys(e.judged for e in of_kind):
            own = [e for e in of_kind if e.judged == (dataset, metric)]
            settings: dict[str, list[str]] = {}
            for experiment in own if title != PAPER_SETTING_TITLE else ():
                settings.setdefault(words.setting(experiment, experiments), []).append(experiment.name)
            listed = tuple((", ".join(names), text) for text, names in settings.items())
            title_ = f"{words.dataset_title(dataset)}. {title}"
            tables.append(Table(title_, metric, tuple(lines_of(own)), listed))
    return [table for table in tables if table.lines]


def notes_on(experiments: Sequence[Experiment], runs: Sequence[Run]) -> list[str]:
    """Returns what to read below the tables: the units, and which rounds are unfinished."""
    rows = [row for experiment in experiments for row in experiment.rows]
    notes = [words.metrics_explained(dict.fromkeys(e.metric for e in experiments)) + _SPARSITY]
    if any(row.result.is_cut for row in rows):
        notes[0] += words.SIZES_EXPLAINED
    if any(row.file or row.latency for row in rows):
        notes[0] += _FILES
    if any(row.paper is not None and row.paper.after_pruning_is_chance for row in rows):
        notes[0] += ' "Chance" is as published: 10 on CIFAR-10, 1 on CIFAR-100.'
    unfinished = [
        f"{run.experiment} (round {', '.join(map(str, run.unfinished_rounds))})"
        for run in runs
        if not run.finished
    ]
    if unfinished:
        notes.append(f"Unfinished: {'; '.join(unfinished)}.")
    return notes


def to_text(experiments: Sequence[Experiment], runs: Sequence[Run]) -> str:
    """Returns tables for a terminal of 120 columns.

    Runs in the paper's setting, in other settings, and without a section of the paper stand in
    three tables. The starting round 0 of pruning runs is left out.

    Args:
        experiments: From `tfprune.compare.rows.compare`.
        runs: All runs, for what is unfinished.

    Returns:
        Lines, the last without a line feed.
    """
    parts = []
    for table in tables_of(experiments):
        lines = [table.title, "", *_text_table(table)]
        if table.settings:
            lines.append("")
        for names, setting in table.settings:
            lines += _wrap(f"{names}: {setting}")
        parts.append(lines)
    parts += [_wrap(note, indent="") for note in notes_on(experiments, runs)]
    # Names and settings are what somebody wrote into a file.
    return "\n\n".join("\n".join(map(printable, lines)) for lines in parts)


def to_markdown(experiments: Sequence[Experiment], runs: Sequence[Run]) -> str:
    """Returns the tables of `to_text` as Markdown; takes the same arguments."""
    parts = []
    for table in tables_of(experiments):
        grouped = bool(groups_of(table.columns))
        heads = [title for title, _ in table.names]
        titles = [column.heading(table.metric) for column in table.columns]
        groups = [f"{column.group}: " if grouped else "" for column in table.columns]
        heads += [group + title for group, title in zip(groups, titles, strict=True)]
        lines = [_markdown_row(words.sentence(head) for head in heads)]
        lines.append(_markdown_row(["---"] * len(table.names) + ["---:"] * len(table.columns)))
        lines += [_markdown_row(_cells(table, line)) for line in table.lines]
        parts += [f"## {_markdown(table.title)}", "\n".join(lines)]
        if table.settings:
            settings = [(_markdown(names), _markdown(text)) for names, text in table.settings]
            parts.append("\n".join(f"- `{names}`: {text}" for names, text in settings))
    return "\n\n".join([*parts, *map(_markdown, notes_on(experiments, runs))]) + "\n"


def _cells(table: Table, line: Line) -> list[str]:
    figures = [str(column.in_words(line.level)) for column in table.columns]
    # A terminal may not have the signs that the page has.
    figures = [text.replace("−", "-").replace(words.NOTHING, "-") for text in figures]
    return [name(line).replace(words.NOTHING, "-") for _, name in table.names] + figures


def _text_table(table: Table) -> list[str]:
    titles = [title for title, _ in table.names] + [column.heading(table.metric) for column in table.columns]
    cells = [_cells(table, line) for line in table.lines]
    widths = [max(map(len, texts)) for texts in zip(titles, *cells, strict=True)]
    left, name = len(table.names), titles.index("experiment")
    groups, start = [], left
    for group, columns in groups_of(table.columns):
        groups.append((group, range(start, start + columns)))
        start += columns
        # A group's title stands over its columns, which are widened to hold it.
        missing = len(group) - sum(widths[i] + 2 for i in groups[-1][1]) + 2
        widths[groups[-1][1][0]] += max(missing, 0)
    narrow = sum(widths) - widths[name] + len("experiment")
    gap = " " * (2 if narrow + 2 * (len(widths) - 1) <= TEXT_WIDTH else 1)
    width = sum(widths) + len(gap) * (len(widths) - 1)
    widths[name] = max(widths[name] - max(width - TEXT_WIDTH, 0), len("experiment"))

    def row(texts: Sequence[str]) -> str:
        pairs = list(zip(texts, widths, strict=True))
        aligned = [text.ljust(width) for text, width in pairs[:left]]
        return gap.join(aligned + [text.rjust(width) for text, width in pairs[left:]]).rstrip()

    lines = []
    if groups:
        heads = [" " * width for width in widths[:left]]
        for group, span in groups:
            room = sum(widths[i] for i in span) + len(gap) * (len(span) - 1)
            heads.append(f" {group} ".center(room, "-") if len(group) + 2 < room else group.center(room))
        lines.append(gap.join(heads).rstrip())
    lines += [row(titles), row(["-" * width for width in widths])]
    # The rounds of a run follow each other: its name stands once, broken over them where it is too
    # long for its column.
    for experiment, block in itertools.groupby(cells, key=lambda texts: texts[name]):
        pieces = _break_name(experiment, widths[name])
        for index, texts in enumerate(block):
            before = texts[:name] if index == 0 else [""] * name
            lines.append(row([*before, pieces.pop(0) if pieces else "", *texts[name + 1 :]]))
        lines += [row([*[""] * name, piece, *[""] * (len(widths) - name - 1)]) for piece in pieces]
    return lines


def _break_name(name: str, width: int) -> list[str]:
    """Breaks a name after underscores or hyphens, or anywhere where it has none in reach."""
    pieces = []
    while len(name) > width:
        cut = max(name.rfind("_", 0, width), name.rfind("-", 0, width)) + 1 or width
        pieces.append(name[:cut])
        name = name[cut:]
    return [*pieces, name]


def _wrap(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(
        text, TEXT_WIDTH, initial_indent=indent, subsequent_indent=indent * 2, break_on_hyphens=False
    )


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_markdown, cells)) + " |"


def _markdown(text: str) -> str:
    """Returns a text as one line that begins no tag and ends no cell."""
    return printable(text).replace("<", "&lt;").replace("|", r"\|")


def to_csv(experiments: Sequence[Experiment]) -> str:
    """Returns every finished round, the start of a pruning run too, with every column and every setting.

    Args:
        experiments: From `tfprune.compare.rows.compare`.

    Returns:
        CSV with a header line; a cell is empty where there is no value.
    """
    metrics = list(dict.fromkeys(row.result.metric for e in experiments for row in e.rows))
    table = [
        _csv_row(
            experiment,
            experiment.level(row.result.round, row.run),
            words.setting(experiment, experiments),
            metrics,
        )
        for experiment in experiments
        for run in experiment.runs
        for row in experiment.rows
        if row.run is run
    ]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return stream.getvalue()


# Of a result besides its columns, its config, and what is no single value.
_MEASURED = (
    "sparsity_all_parameters train_examples train_examples_available test_examples "
    "test_examples_available epochs steps train_seconds images_per_second data_wait_percent backend "
    "training_engines engine_speedup engine_reason"
).split()


def _csv_row(
    experiment: Experiment, level: Level, setting: str, metrics: Sequence[Metric]
) -> dict[str, object]:
    (row,) = level.rows
    own = row.result.metric
    paper = level.paper
    settings = {
        field.name: getattr(row.result.config, field.name) for field in dataclasses.fields(row.result.config)
    }
    # Each metric has columns of its own, empty in the rows of another.
    figures = {column.in_csv(metric): None for column in COLUMNS for metric in metrics}
    figures |= {column.in_csv(own): column.of(level) for column in COLUMNS}
    before = {csv_name(metric, "before"): None for metric in metrics}
    baselines = {f"baseline_{csv_name(metric, 'at_end')}": None for metric in metrics}
    values = {
        "paper_section": experiment.section,
        "dataset": experiment.dataset,
        "experiment": row.experiment,
        "round": row.result.round,
        "in_paper_setting": row.in_paper_setting,
        "setting": setting,
        "metric": own.name,
        # Without the last digits of a subtraction in binary, such as 1.7999999999999972.
        **{name: figure and round(figure.mean, 9) + 0.0 for name, figure in figures.items()},
        "baseline_experiment": row.baseline_experiment,
        **baselines,
        f"baseline_{csv_name(own, 'at_end')}": row.baseline_value,
        "paper_sparsity_by_rule": paper and round(paper.sparsity_asked, 9),
        "paper_after_pruning_is_chance": paper and paper.after_pruning_is_chance,
        "paper_baseline_accuracy_percent": paper and paper.baseline_accuracy_percent,
    }
    values |= {name: text for name, text in settings.items() if name not in values}
    for name in _MEASURED:
        # The settings `train_examples`, `epochs`, ... are what was asked: what was done replaces them.
        values[name] = getattr(row.result, name)
    for unit in ("parameters", "macs"):
        values[f"{unit}_before"] = getattr(row.result.whole, unit, None)
    values["channels_asked"] = row.result.target_left
    values |= before | {csv_name(own, "before"): row.result.metric_before}
    values["versions"] = " ".join(
        f"{name}={version}" for name, version in sorted(row.result.versions.items())
    )
    cells = {name: words.value(cell) if isinstance(cell, tuple) else cell for name, cell in values.items()}
    return {name: csv_cell(cell) for name, cell in cells.items()}
