"""The page's full tables: every round of every experiment, section by section."""

import dataclasses
from collections.abc import Callable, Sequence

from tfprune.compare.layout import describe_setting
from tfprune.compare.page_html import (
    NOTHING,
    Head,
    code,
    count,
    details,
    escape,
    in_words,
    mean,
    number,
    paragraph,
    table,
)
from tfprune.compare.page_marks import is_baseline
from tfprune.compare.page_text import (
    describe_difference,
    describe_recipe,
    own_differences,
    section_rows,
)
from tfprune.compare.page_verdict import cell_of, verdict
from tfprune.compare.paper import PaperRow
from tfprune.compare.seeds import Experiment, SeedRound, Spread
from tfprune.compare.table import ComparisonRow

_AMOUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its head, and the HTML of a cell from the experiment, its round and the paper's row."""

    head: Head
    cell: Callable[[Experiment, SeedRound, PaperRow | None], str]
    of_paper: bool = False


def experiment_table(experiment: Experiment, common: Sequence[str]) -> str:
    """Every round of an experiment beside the paper's, and what sets it apart from the paper's setting.

    Args:
        experiment: Its section may be `""`.
        common: Differences that all experiments share, which are not repeated.

    Returns:
        HTML.
    """
    columns = table_columns([experiment])
    paper = _unmatched_paper_rows(experiment)
    rows, classes = [], []
    for level in experiment.rounds:
        papers = level.rows[0].paper if level.rows else paper.get(level.number)
        rows.append([column.cell(experiment, level, papers) for column in columns])
        classes.append("" if level.rows else "pending")
    caption = (
        f"{code(experiment.name)}: {escape(describe_recipe(experiment.first.result))}{_seeds(experiment)}"
    )
    parts = [table(caption, [column.head for column in columns], rows, classes)]
    parts.append(_remarks(experiment, common))
    if len(experiment.runs) > 1:
        parts.append(each_seed([experiment]))
    return "".join(parts)


def _seeds(experiment: Experiment) -> str:
    seeds = experiment.seeds
    if len(seeds) < 2:
        return f"; seed {seeds[0]}" if seeds else ""
    amount = _AMOUNTS[len(seeds)] if len(seeds) < len(_AMOUNTS) else str(len(seeds))
    return f"; mean ± sample standard deviation over {amount} seeds ({', '.join(map(str, seeds))})"


def _remarks(experiment: Experiment, common: Sequence[str]) -> str:
    """What sets the experiment apart from the paper's section, below its table."""
    if not experiment.section:
        return paragraph(f"Setting: {escape(describe_setting(experiment.first.result))}.", "note")
    if experiment.in_paper_setting:
        return paragraph("In the paper’s setting.", "note")
    own = own_differences(experiment, common)
    inherited = any(", itself with " in text for text in experiment.first.differences)
    parts = []
    if own:
        shared = "Differs further in " if common else "Differs from the paper’s setting in "
        parts.append(shared + "; ".join(map(describe_difference, own)) + ".")
    if inherited and not own and not common:
        start = experiment.first.result.init_from or "its start"
        parts.append(f"The network that it starts from, {code(start)}, is not in the paper’s setting.")
    return paragraph(" ".join(parts), "note") if parts else ""


def _unmatched_paper_rows(experiment: Experiment) -> dict[int, PaperRow]:
    """The paper's rows for rounds that have no result yet, where the run has as many rounds as the paper."""
    rows = section_rows(experiment.section, experiment.dataset)
    announced = experiment.first.result.rounds
    if not rows or rows[0].round == 0 or announced != len(rows):
        return {}
    return {row.round: row for row in rows}


def table_columns(experiments: Sequence[Experiment], of_paper: bool | None = None) -> list[Column]:
    """The columns that the experiments have something for; the paper's too where they have a section."""
    rows = [row for e in experiments for row in e.rows]
    if of_paper is None:
        of_paper = any(e.section for e in experiments)
    baseline = all(is_baseline(e.first.result) for e in experiments)
    pruned = any(row.result.accuracy_after_pruning_percent is not None for row in rows)
    pruned |= of_paper and any(row.paper and row.paper.accuracy_after_pruning_percent for row in rows)
    uneven = any(len(level.rows) < len(e.runs) for e in experiments for level in e.rounds)
    seeds = uneven and any(len(e.runs) > 1 for e in experiments)
    columns = [Column(Head("Round"), lambda e, level, paper: round_title(e, level))]
    if not baseline:
        columns += [*_SPARSITY]
    if pruned:
        columns += _AFTER_PRUNING
    columns += _TUNED
    if of_paper and any(e.in_paper_setting for e in experiments):
        columns.append(_DIFFERENCE)
    if not baseline:
        columns += _DROP
    if seeds:
        columns.append(Column(Head("Seeds"), lambda e, level, paper: f"{len(level.rows)} of {len(e.runs)}"))
    return columns if of_paper else [_alone(column) for column in columns if not column.of_paper]


def _alone(column: Column) -> Column:
    """Ours needs no head below the group's where the paper's does not stand beside it."""
    if column.head.title != "ours":
        return column
    return dataclasses.replace(column, head=Head(column.head.group))


def round_title(experiment: Experiment, level: SeedRound) -> str:
    """`2 of 6`, or `last epoch` of dense training."""
    result = experiment.first.result
    if result.regime == "dense":
        text = "last epoch"
    else:
        text = (
            f"{level.number} of {result.rounds}" if result.rounds and result.rounds > 1 else str(level.number)
        )
    return text


def _ours(value: Callable[[ComparisonRow], float | None], signed: bool = False):
    return lambda e, level, paper: mean(level.spread(value), signed)


def _papers(value: Callable[[PaperRow], float | None], decimals: int = 1):
    return lambda e, level, paper: number(value(paper), decimals) if paper else NOTHING


def _paper_after_pruning(e: Experiment, level: SeedRound, paper: PaperRow | None) -> str:
    if paper is None:
        return NOTHING
    return "chance" if paper.after_pruning_is_chance else number(paper.accuracy_after_pruning_percent)


def _sparsity(value: Spread | None) -> str:
    return number(value.mean if value else None, 4)


_SPARSITY = (
    Column(Head("asked", "Sparsity"), lambda e, level, paper: number(level.target_sparsity, 4)),
    Column(
        Head("reached", "Sparsity"),
        lambda e, level, paper: _sparsity(level.spread(lambda row: row.result.sparsity)),
    ),
    Column(Head("paper", "Sparsity"), _papers(lambda row: row.sparsity, 3), of_paper=True),
)
_AFTER_PRUNING = (
    Column(
        Head("ours", "Right after pruning, %"), _ours(lambda row: row.result.accuracy_after_pruning_percent)
    ),
    Column(Head("paper", "Right after pruning, %"), _paper_after_pruning, of_paper=True),
)
_TUNED_GROUP = "After training, %"
_TUNED = (
    Column(
        Head("ours", _TUNED_GROUP),
        lambda e, level, paper: (
            f"<strong>{mean(level.spread(lambda row: row.result.accuracy_percent))}</strong>"
            if level.rows
            else "not finished"
        ),
    ),
    Column(Head("paper", _TUNED_GROUP), _papers(lambda row: row.accuracy_percent), of_paper=True),
)
_DIFFERENCE = Column(
    Head("difference", _TUNED_GROUP),
    _ours(lambda row: row.difference_percent_points, signed=True),
    of_paper=True,
)
_DROP_GROUP = "Drop from own dense, points"
_DROP = (
    Column(Head("ours", _DROP_GROUP), _ours(lambda row: row.drop_percent_points)),
    Column(Head("paper", _DROP_GROUP), _papers(lambda row: row.drop_percent_points), of_paper=True),
    Column(
        Head("ours is", _DROP_GROUP, "text"),
        lambda e, level, paper: verdict(cell_of(e, level) if level.rows else None),
        of_paper=True,
    ),
)


def each_seed(experiments: Sequence[Experiment]) -> str:
    """Accuracies after training of every seed, with two decimals."""
    parts = []
    for experiment in experiments:
        levels = [level for level in experiment.rounds if level.rows]
        heads = [Head("Run", kind="text"), Head("Seed")]
        heads += [Head(f"round {level.number}" if level.number else "accuracy, %") for level in levels]
        rows = []
        for run in experiment.runs:
            values = {
                row.result.round: row.result.accuracy_percent
                for row in experiment.rows
                if row.experiment == run.experiment
            }
            seed = run.rounds[0].seed if run.rounds else None
            cells = [number(values.get(level.number), 2) for level in levels]
            rows.append([code(run.experiment), NOTHING if seed is None else str(seed), *cells])
        parts.append(table("", heads, rows))
    names = (
        in_words([code(e.name) for e in experiments])
        if len(experiments) > 1
        else count(len(experiments[0].runs), "seed")
    )
    return details(f"Accuracy of each seed: {names}", "".join(parts))
