"""The one list of columns, which text, Markdown, CSV and page share."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tfprune.compare import words
from tfprune.compare.rows import Level, Row, Spread, spread
from tfprune.runs.metric import Metric
from tfprune.runs.paper import BASELINE, PaperRow

OURS, PAPER, AGAINST = "ours", "the paper", "against it"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value in words.

    Attributes:
        text: The value; `words.NOTHING` where there is none.
        spread: The standard deviation over seeds; `""` for a single seed.
        note: What the page adds in small letters.
        good: Whether the value is within the target of the study; `None` where there is no target.
    """

    text: str
    spread: str = ""
    note: str = ""
    good: bool | None = None

    def __str__(self) -> str:
        return f"{self.text} ± {self.spread}" if self.spread else self.text


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        name: The column's own name, of which `in_csv` makes that in CSV.
        title: The title in the other views; `""` for the name of the metric.
        value: The figure of a row: one of ours, or of the paper in the group `PAPER`.
        group: Whose figures the column has.
        cell: Makes the words of a figure, or of the mean over seeds; takes the figure and its row.
        note: Makes the words of `Cell.note` from a row.
        has_spread: Whether the spread over seeds is shown, in the unit of the metric.
        of_metric: Whether its name in CSV has the metric and its unit.
        in_summary: Whether a table of last rounds alone has the column.
        shown: Whether tables of these rounds have the column, if one has a figure.
    """

    name: str
    title: str
    value: Callable[[Any], float | None]
    group: str = OURS
    cell: Callable[[float, Any], str] = lambda figure, row: words.number(figure)
    note: Callable[[Row], str] = lambda row: ""
    has_spread: bool = False
    of_metric: bool = False
    in_summary: bool = True
    shown: Callable[[Sequence[Level]], bool] = lambda levels: True

    def heading(self, metric: Metric) -> str:
        """Returns the title in a table of rounds that are judged by a metric."""
        return self.title or words.metric_title(metric)

    def in_csv(self, metric: Metric) -> str:
        """Returns the name in CSV, for rounds that are judged by a metric."""
        return csv_name(metric, self.name) if self.of_metric else self.name

    def of(self, level: Level) -> Spread | None:
        """Returns the mean over the seeds of a round; `None` where no seed has a figure."""
        if self is GAIN:
            return level.gain
        return spread(self.value(row) for row in self._sources(level))

    def in_words(self, level: Level) -> Cell:
        """Returns the cell of a round."""
        figure = self.of(level)
        if figure is None:
            return Cell(words.NOTHING)
        source = next(row for row in self._sources(level) if self.value(row) is not None)
        return Cell(
            text=self.cell(figure.mean, source),
            spread=self._deviation(figure, source),
            note=self.note(source),
            good=level.within if self is EXCESS else None,
        )

    def _deviation(self, figure: Spread, source: Any) -> str:
        if not self.has_spread or figure.deviation is None:
            return ""
        return words.figure(figure.deviation, source.result.metric, digits=2)

    def _sources(self, level: Level) -> Sequence[Row | PaperRow]:
        return [level.paper] * (level.paper is not None) if self.group == PAPER else level.rows


def csv_name(metric: Metric, moment: str) -> str:
    """Returns the name in CSV of a metric's value: `accuracy_after_pruning_percent`, `mae_at_end`."""
    if not metric.in_percent:
        return f"{metric.name}_{moment}"
    if moment == "drop":
        return "drop_percent_points"
    return f"{metric.name}_percent" if moment == "at_end" else f"{metric.name}_{moment}_percent"


def columns_of(levels: Sequence[Level], summary: bool = False) -> list[Column]:
    """Returns the columns of a table of rounds: those that have a figure in it."""
    possible = [column for column in COLUMNS if column.in_summary or not summary]
    return [column for column in possible if any(map(column.of, levels)) and column.shown(levels)]


def groups_of(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Returns the groups' titles and how many columns each has; none where all are ours."""
    groups = dict.fromkeys(column.group for column in columns)
    if list(groups) == [OURS]:
        return []
    return [(group, sum(column.group == group for column in columns)) for group in groups]


def _is_missed(level: Level) -> bool:
    """Returns whether a round has not reached the sparsity that it was asked, to four decimals."""
    asked, reached = level.target_sparsity, level.spread(lambda row: row.result.sparsity)
    return asked is not None and reached is not None and abs(asked - reached.mean) >= 5e-5


def _of_metric(figure: float, row: Row) -> str:
    return words.figure(figure, row.result.metric)


def _sparsity(figure: float, row: Row) -> str:
    return words.number(figure, 4) if figure else "0"


def _size(figure: float, row: Row, unit: str) -> str:
    """Returns `533 k of 1.33 M`."""
    whole, text = getattr(row.result.whole, unit), words.amount(figure)
    return f"{text} of {words.amount(whole)}" if row.result.is_cut else text


def _times_fewer(row: Row, unit: str) -> str:
    if not row.result.is_cut:
        return ""
    return f"{words.times(1 / row.result.size.share_of(row.result.whole, unit))} fewer"


GAIN = Column(
    "gain_percent_points",
    "gain",
    lambda row: row.result.metric_at_end,
    cell=lambda figure, row: words.number(figure, signed=True),
    has_spread=True,
    in_summary=False,
)
"""By how much the accuracy exceeds the one of the section that the experiment stands beside."""

EXCESS = Column(
    "excess_drop_percent_points",
    "drop is",
    lambda row: row.excess_drop_percent_points,
    AGAINST,
    lambda figure, row: words.excess(figure),
)

COLUMNS = (
    Column(
        "at_end", "", lambda row: row.result.metric_at_end, cell=_of_metric, has_spread=True, of_metric=True
    ),
    Column(
        "drop",
        "drop",
        lambda row: None if row.is_dense else row.drop,
        cell=lambda figure, row: words.figure(figure, row.result.metric, digits=3),
        has_spread=True,
        of_metric=True,
    ),
    GAIN,
    Column(
        "sparsity_asked",
        "asked",
        lambda row: row.result.target_sparsity,
        cell=_sparsity,
        shown=lambda levels: any(map(_is_missed, levels)),
    ),
    Column("sparsity", "sparsity", lambda row: row.result.sparsity, cell=_sparsity),
    Column(
        "after_pruning",
        "pruned",
        lambda row: row.result.metric_after_pruning,
        cell=_of_metric,
        has_spread=True,
        of_metric=True,
        in_summary=False,
    ),
    *(
        Column(
            unit,
            title,
            lambda row, unit=unit: getattr(row.result.size, unit, None),
            cell=lambda figure, row, unit=unit: _size(figure, row, unit),
            note=lambda row, unit=unit: _times_fewer(row, unit),
            shown=lambda levels: any(level.is_cut for level in levels),
        )
        for unit, title in (("parameters", "parameters"), ("macs", "MACs"))
    ),
    Column(
        "file_bytes",
        "file",
        lambda row: row.file and row.file.raw_bytes,
        cell=lambda figure, row: words.size(round(figure)),
        note=lambda row: words.times(row.file.times_smaller) + " smaller" if row.file.times_smaller else "",
    ),
    Column(
        "latency_ms",
        "latency",
        lambda row: row.latency and row.latency.median_ms,
        cell=lambda figure, row: words.milliseconds(figure),
        note=lambda row: (
            words.times(row.latency.times_fastest_dense) + " faster"
            if row.latency.times_fastest_dense
            else ""
        ),
    ),
    Column("paper_accuracy_percent", "accuracy", lambda paper: paper.accuracy_percent, PAPER),
    Column(
        "paper_drop_percent_points",
        "drop",
        lambda paper: None if paper.experiment.section == BASELINE else paper.drop_percent_points,
        PAPER,
    ),
    Column(
        "paper_sparsity",
        "sparsity",
        lambda paper: paper.sparsity,
        PAPER,
        lambda figure, paper: words.number(figure, 3) if figure else "0",
        in_summary=False,
    ),
    Column(
        "paper_accuracy_after_pruning_percent",
        "pruned",
        lambda paper: paper.accuracy_after_pruning_percent,
        PAPER,
        lambda figure, paper: "chance" if paper.after_pruning_is_chance else words.number(figure),
        in_summary=False,
    ),
    Column(
        "difference_percent_points",
        "accuracy",
        lambda row: row.difference_percent_points,
        AGAINST,
        lambda figure, row: words.number(figure, signed=True),
        has_spread=True,
    ),
    EXCESS,
)
"""Every column of figures, from left to right: what a network costs and what it saves, then the paper's."""
