"""Repetitions of an experiment with other seeds, and the mean and spread over them."""

import dataclasses
import re
import statistics
from collections.abc import Callable, Iterable, Sequence

from tfprune.compare.layout import describe_pruning, describe_setting, describe_training
from tfprune.compare.paper import BASELINE_SECTION
from tfprune.compare.results import Run
from tfprune.compare.table import ComparisonRow

_SUFFIX = re.compile(r"(?P<name>.+)_seed(?P<seed>\d+)")


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of a few values.

    Attributes:
        mean: Their mean.
        deviation: `sqrt(sum((x - mean) ** 2) / (n - 1))`; `None` for a single value.
        count: How many there are, `n`.
    """

    mean: float
    deviation: float | None
    count: int


def spread(values: Iterable[float | None]) -> Spread | None:
    """Returns the mean and spread of the values that are not `None`; `None` if there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Spread(statistics.fmean(known), deviation, len(known))


@dataclasses.dataclass(frozen=True)
class SeedRound:
    """A round of an experiment: its row for every seed that has finished it, none where none has."""

    number: int
    rows: tuple[ComparisonRow, ...]

    def spread(self, value: Callable[[ComparisonRow], float | None]) -> Spread | None:
        """Mean and spread over the seeds of a value of the rows."""
        return spread(value(row) for row in self.rows)

    @property
    def target_sparsity(self) -> float | None:
        """The level asked; what a dense network has, which asks for none."""
        if not self.rows:
            return None
        result = self.rows[0].result
        return result.sparsity if result.regime == "dense" else result.target_sparsity


def gain_over(ours: SeedRound, theirs: SeedRound) -> Spread | None:
    """By how many percentage points a round's accuracy exceeds another's.

    Args:
        ours: A round.
        theirs: The round that it is compared with.

    Returns:
        Mean and spread of the differences within equal seeds; without a common seed, the difference of the
        means; `None` where an accuracy is missing.
    """
    by_seed = {row.result.seed: row.result.accuracy_percent for row in theirs.rows}
    pairs = spread(
        row.result.accuracy_percent - by_seed[row.result.seed]
        for row in ours.rows
        if row.result.accuracy_percent is not None and by_seed.get(row.result.seed) is not None
    )
    if pairs is not None:
        return pairs
    means = [level.spread(lambda row: row.result.accuracy_percent) for level in (ours, theirs)]
    return None if None in means else Spread(means[0].mean - means[1].mean, None, 1)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The runs of one experiment, which differ in their seed alone.

    Attributes:
        name: Without `_seedN`.
        runs: One a seed, in order of the seeds.
        rows: Their finished rounds, the starting round 0 included.
    """

    name: str
    runs: tuple[Run, ...]
    rows: tuple[ComparisonRow, ...]

    @property
    def first(self) -> ComparisonRow:
        """A row to read the settings from."""
        return self.rows[0]

    @property
    def dataset(self) -> str:
        """The dataset that it was trained on."""
        return self.first.result.dataset

    @property
    def section(self) -> str:
        """The section of the paper that it names, `""` for none."""
        return self.first.result.paper_section

    @property
    def in_paper_setting(self) -> bool:
        """Whether it reproduces its section."""
        return self.first.in_paper_setting

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were recorded."""
        seeds = (run.rounds[0].seed for run in self.runs if run.rounds)
        return tuple(seed for seed in seeds if seed is not None)

    @property
    def finished(self) -> bool:
        """Whether every round of every seed has a result."""
        return all(run.finished for run in self.runs)

    @property
    def rounds(self) -> tuple[SeedRound, ...]:
        """Its rounds without the start of a pruning run, those that no seed has finished included."""
        first = 0 if self.first.result.regime == "dense" else 1
        numbers = {row.result.round for row in self.rows}
        numbers |= {number for run in self.runs for number in run.unfinished_rounds}
        return tuple(self.round(number) for number in sorted(numbers) if number >= first)

    def round(self, number: int) -> SeedRound:
        """The rows of one round."""
        return SeedRound(number, tuple(row for row in self.rows if row.result.round == number))

    @property
    def last(self) -> SeedRound | None:
        """The last round that a seed has finished; `None` if only the start is."""
        return next((level for level in reversed(self.rounds) if level.rows), None)


def group_seeds(rows: Sequence[ComparisonRow], runs: Sequence[Run]) -> list[Experiment]:
    """Puts the repetitions of experiments together.

    `NAME_seedN` is a repetition of `NAME` if its results say seed N, all their recorded settings are
    those of the other repetitions, and no other of them has that seed.

    Args:
        rows: From `tfprune.compare.table.compare`.
        runs: The same runs.

    Returns:
        The experiments that have a finished round, in the order of their first rows.
    """
    by_name = {run.experiment: run for run in runs}
    own: dict[str, list[ComparisonRow]] = {}
    for row in rows:
        own.setdefault(row.experiment, []).append(row)
    groups: dict[tuple, dict[int | None, str]] = {}
    for experiment, its_rows in own.items():
        base, seed = _base_and_seed(its_rows[0])
        members = groups.setdefault((base, *_settings(its_rows[0])), {})
        if seed in members:
            members = groups.setdefault((experiment, "alone"), {})
        members[seed] = experiment
    # Where the settings of same-named runs differ, every run keeps its own name.
    bases = [key[0] for key in groups]
    experiments = []
    for (base, *_), members in groups.items():
        names = [members[seed] for seed in sorted(members, key=lambda seed: -1 if seed is None else seed)]
        name = base if bases.count(base) == 1 else names[0]
        joined = tuple(row for member in names for row in own[member])
        experiments.append(Experiment(name, tuple(by_name[member] for member in names), joined))
    return experiments


def add_dense_peers(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Gives rows that descend from no dense network of their dataset the one trained beside them.

    The sparse transfer starts from another dataset's network, so its drop is from the dense network of
    its own dataset, of the same model, images and seed, where that is among the rows.

    Args:
        rows: From `tfprune.compare.table.compare`.

    Returns:
        The rows, those without a baseline replaced where there is a peer.
    """
    peers = {
        _network(row): row
        for row in rows
        if row.result.paper_section == BASELINE_SECTION
        and row.result.regime == "dense"
        and not row.result.sparsity
        and row.result.accuracy_percent is not None
    }
    filled = []
    for row in rows:
        peer = peers.get(_network(row)) if row.baseline_accuracy_percent is None else None
        if peer is not None:
            row = dataclasses.replace(
                row,
                baseline_experiment=peer.experiment,
                baseline_accuracy_percent=peer.result.accuracy_percent,
            )
        filled.append(row)
    return filled


def _network(row: ComparisonRow) -> tuple:
    return row.result.dataset, describe_setting(row.result), row.result.seed


def _base_and_seed(row: ComparisonRow) -> tuple[str, int | None]:
    seed = row.result.seed
    match = _SUFFIX.fullmatch(row.experiment)
    if match and seed is not None and int(match["seed"]) == seed:
        return match["name"], seed
    return row.experiment, seed


def _settings(row: ComparisonRow) -> tuple:
    """What repetitions must share. Names of the runs they learned from have the seed in them: left out."""
    result = row.result
    teacher = result.distill_from and result.distill_from.replace(f"_seed{result.seed}", "")
    return (
        result.dataset,
        result.regime,
        result.rounds,
        result.paper_section,
        result.scope,
        describe_setting(result),
        describe_pruning(result),
        describe_training(dataclasses.replace(result, distill_from=teacher)),
        *(text for text in row.differences if not text.startswith(("init_from=", "distill_from="))),
    )
