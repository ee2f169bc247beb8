"""What the tables of a comparison hold: their sections, columns and notes."""

import dataclasses
from collections.abc import Callable, Sequence

from tfprune.compare.results import RoundResult, Run
from tfprune.compare.table import ComparisonRow

PAPER_SETTING_TITLE = "The paper's setting"
OTHER_SETTING_TITLE = (
    "Other settings: not a reproduction (the paper's figures, at its own settings, for orientation)"
)
NO_SECTION_TITLE = "Runs without a counterpart in the paper"

_LEGEND = (
    "Accuracies are top-1 on the test images, in percent; drops and differences are percentage "
    "points. Sparsity is that of the pruned kernels. A drop is from each one's own dense network."
)
_DATASET_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the tables.

    Attributes:
        group: Title over several columns; `""` for a column that stands alone.
        title: Title of the column, below the group's.
        cell: Makes the text of a row.
        of_paper: Left out where no run has a section of the paper.
        only_reproduction: Left out where the runs are not in the paper's setting.
    """

    group: str
    title: str
    cell: Callable[[ComparisonRow], str]
    of_paper: bool = False
    only_reproduction: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """One table: its title, columns and rows, and what settings its experiments had.

    Attributes:
        title: What kind of runs it holds.
        columns: From left to right.
        rows: From top to bottom.
        settings: Pairs of experiments and their setting in words; empty for the paper's.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[ComparisonRow, ...]
    settings: tuple[tuple[str, str], ...]


def dataset_title(dataset: str) -> str:
    """A dataset's name as written in headings."""
    return _DATASET_TITLES.get(dataset, dataset)


def describe_setting(result: RoundResult) -> str:
    """What was trained on what: `"resnet34, width 16, ..., 10,000 of 50,000 training images"`."""
    facts = []
    if result.model:
        facts.append(result.model)
    if result.width is not None:
        facts.append(f"width {result.width}")
    if result.stem:
        facts.append(f"{result.stem} stem")
    if result.image_size is not None:
        facts.append(f"{result.image_size}x{result.image_size}")
    for split, name in (("train", "training"), ("test", "test")):
        used = getattr(result, f"{split}_examples")
        available = getattr(result, f"{split}_examples_available")
        if used is not None:
            of = f" of {available:,}" if available is not None and available != used else ""
            facts.append(f"{used:,}{of} {name} images")
    return ", ".join(facts) or "settings not recorded"


def describe_pruning(result: RoundResult) -> str:
    """How it was pruned, as far as not by magnitude, weight by weight, with tfprune; mostly empty."""
    facts = []
    if result.regime == "dense":
        return ""
    if result.regime == "sparse":
        facts.append("sparse from the start" + (f" ({result.regrowth})" if result.regrowth else ""))
    if result.scope == "erk":
        facts.append("scope erk")
    if result.score not in (None, "magnitude"):
        facts.append(f"score {result.score}")
    if result.granularity == "channel":
        facts.append("whole channels")
    if result.block_size not in (None, (1, 1)):
        facts.append(f"blocks of {'x'.join(map(str, result.block_size))} ({result.block_pooling_type})")
    if result.sparsity_m_by_n:
        facts.append(f"{' of '.join(map(str, result.sparsity_m_by_n))} weights zero")
    if result.layer_sparsity:
        facts.append(f"layer sparsity {' '.join(result.layer_sparsity)}")
    if result.spare_ends:
        facts.append("ends spared")
    if result.pruning_engine not in (None, "tfprune"):
        facts.append(f"pruned by {result.pruning_engine}")
    return ", ".join(facts)


def describe_training(result: RoundResult) -> str:
    """How it was trained, as far as not by the labels alone in steps of the rate; mostly empty."""
    facts = []
    if result.lr_schedule not in (None, "step"):
        facts.append(f"{result.lr_schedule} learning rate")
    if result.warmup_epochs:
        epochs = "epoch" if result.warmup_epochs == 1 else "epochs"
        facts.append(f"warm-up of {result.warmup_epochs:g} {epochs}")
    if result.distill_from:
        numbers = [
            f"{name} {value:g}"
            for name, value in (
                ("weight", result.distill_weight),
                ("temperature", result.distill_temperature),
            )
            if value is not None
        ]
        facts.append(
            f"distilled from {result.distill_from}" + (f" ({', '.join(numbers)})" if numbers else "")
        )
    if result.batchnorm_after_pruning not in (None, "keep"):
        facts.append(f"BatchNorm after pruning: {result.batchnorm_after_pruning}")
    return ", ".join(facts)


def split_sections(rows: Sequence[ComparisonRow]) -> list[Section]:
    """Splits rows into a table of reproductions, one of other settings and one of other runs.

    The starting round 0 of pruning runs is left out.

    Args:
        rows: From `tfprune.compare.table.compare`.

    Returns:
        The tables that have rows.
    """
    rows = [row for row in rows if not row.is_start]
    reproduction = tuple(row for row in rows if row.in_paper_setting)
    others = [row for row in rows if not row.in_paper_setting]
    in_section = tuple(row for row in others if row.result.paper_section)
    without = tuple(row for row in others if not row.result.paper_section)
    own = tuple(column for column in COLUMNS if not column.of_paper)
    beside = tuple(column for column in COLUMNS if not column.only_reproduction)
    sections = (
        Section(PAPER_SETTING_TITLE, COLUMNS, reproduction, ()),
        Section(OTHER_SETTING_TITLE, beside, in_section, _settings(in_section)),
        Section(NO_SECTION_TITLE, own, without, _settings(without)),
    )
    return [section for section in sections if section.rows]


def _settings(rows: Sequence[ComparisonRow]) -> tuple[tuple[str, str], ...]:
    """(experiments, their setting): experiments of the same setting share an entry."""
    experiments: dict[str, list[str]] = {}
    for row in rows:
        text = setting_text(row)
        names = experiments.setdefault(text, [])
        if row.experiment not in names:
            names.append(row.experiment)
    return tuple((", ".join(names), text) for text, names in experiments.items())


def setting_text(row: ComparisonRow) -> str:
    """A run's setting in words, with what sets it apart from the paper's."""
    describe = (describe_setting, describe_pruning, describe_training)
    text = ", ".join(filter(None, (part(row.result) for part in describe)))
    if row.in_paper_setting or not row.result.paper_section:
        return text
    text = f"not the paper's setting: {text}"
    if row.differences:
        text += f"; differs in {', '.join(row.differences)}"
    return text


def notes_on(rows: Sequence[ComparisonRow], runs: Sequence[Run]) -> list[str]:
    """What to read below the tables: the units, and which rounds are unfinished."""
    notes = [_LEGEND]
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


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _signed(value: float | None) -> str:
    # Adding 0.0 turns -0.0 into 0.0, which is printed without a minus.
    return "-" if value is None else f"{round(value, 1) + 0.0:+.1f}"


def _drop(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 1) + 0.0:.1f}"


def _paper_after_pruning(row: ComparisonRow) -> str:
    if row.paper is None:
        return "-"
    if row.paper.after_pruning_is_chance:
        return "chance"
    return _number(row.paper.accuracy_after_pruning_percent, 1)


def _round(row: ComparisonRow) -> str:
    result = row.result
    many = result.rounds is not None and result.rounds > 1 and result.regime != "dense"
    return f"{result.round}/{result.rounds}" if many else str(result.round)


COLUMNS = (
    Column("", "section", lambda row: row.result.paper_section, of_paper=True),
    Column("", "dataset", lambda row: dataset_title(row.result.dataset)),
    Column("", "experiment", lambda row: row.experiment),
    Column("", "round", _round),
    Column("sparsity", "asked", lambda row: _number(row.result.target_sparsity, 4)),
    Column("sparsity", "reached", lambda row: _number(row.result.sparsity, 4)),
    Column(
        "sparsity",
        "paper",
        lambda row: _number(row.paper.sparsity if row.paper else None, 3),
        of_paper=True,
    ),
    Column("after pruning", "ours", lambda row: _number(row.result.accuracy_after_pruning_percent, 1)),
    Column("after pruning", "paper", _paper_after_pruning, of_paper=True),
    Column("fine-tuned", "ours", lambda row: _number(row.result.accuracy_percent, 1)),
    Column(
        "fine-tuned",
        "paper",
        lambda row: _number(row.paper.accuracy_percent if row.paper else None, 1),
        of_paper=True,
    ),
    Column(
        "fine-tuned",
        "diff",
        lambda row: _signed(row.difference_percent_points),
        of_paper=True,
        only_reproduction=True,
    ),
    Column("drop", "ours", lambda row: _drop(row.drop_percent_points)),
    Column("drop", "paper", lambda row: _drop(row.paper_drop_percent_points), of_paper=True),
)
