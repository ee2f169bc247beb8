"""Rounds of runs beside the paper's rows, and runs that differ in their seed alone as one experiment."""

import dataclasses
import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tfprune.compare.artifacts import Artifact, Latency, read_export, read_latencies
from tfprune.runs.config import REGIMES
from tfprune.runs.folder import Run, list_experiments, read_run
from tfprune.runs.metric import ACCURACY, Metric
from tfprune.runs.paper import (
    BASELINE,
    BASELINE_ACCURACY_PERCENT,
    SECTIONS,
    Difference,
    PaperRow,
    match_paper_row,
    paper_rows,
)
from tfprune.runs.result import RoundResult

TOLERANCE_POINTS = 1.0
"""By how much our drop may exceed the paper's and still count as the paper's: the target of the study."""

_LEVEL_TOLERANCE = 0.1  # Levels whose shares of weights left differ by no more than a tenth are the same.


@dataclasses.dataclass(frozen=True)
class Row:
    """One finished round of one run, with the paper's row where there is one.

    Attributes:
        run: The run.
        result: What the round wrote.
        paper: The paper's row of the run's section at the same level, on the same dataset and in
            the same regime; `None` if there is none.
        differences: In what the run's settings are not the paper's.
        in_paper_setting: The run names a section of the paper and mirrors its setting in full.
            Only then is a row a reproduction of `paper`; otherwise `paper` is for orientation.
        baseline_experiment: The dense network that this run descends from, if it is at hand.
        baseline_value: Its metric, which is that of this run too.
        file: The smallest exported file of the round; `None` if it was not exported.
        latency: The fastest runtime of the exported round with the fewest threads and the smallest batch
            that were measured; `None` if it was not benchmarked.
    """

    run: Run
    result: RoundResult
    paper: PaperRow | None
    differences: tuple[Difference, ...]
    in_paper_setting: bool
    baseline_experiment: str | None
    baseline_value: float | None
    file: Artifact | None
    latency: Latency | None

    @property
    def experiment(self) -> str:
        """The name of the run folder."""
        return self.run.experiment

    @property
    def is_start(self) -> bool:
        """Whether the round only evaluated the network that a pruning run starts from."""
        return self.result.round == 0 and self.result.config.regime != "dense"

    @property
    def is_dense(self) -> bool:
        """Whether the network is dense: the sparse transfer trains like a dense one and is not."""
        return self.result.is_dense

    @property
    def start_value(self) -> float | None:
        """The metric of the network before the round did anything."""
        before = self.result.metric_before
        return self.result.metric_at_end if self.is_start and before is None else before

    @property
    def difference_percent_points(self) -> float | None:
        """Our accuracy less the paper's; `None` unless the row is a reproduction of the paper's.

        For another setting the difference would measure the setting.
        """
        if not self.in_paper_setting or self.paper is None:
            return None
        return self.result.metric_at_end - self.paper.accuracy_percent

    @property
    def drop(self) -> float | None:
        """By how much the metric is worse than the dense network's; negative where it is better."""
        if self.baseline_value is None:
            return None
        return self.result.metric.loss(self.baseline_value, self.result.metric_at_end)

    @property
    def excess_drop_percent_points(self) -> float | None:
        """By how much our drop is larger than the paper's; `None` for a dense network, which has none."""
        if self.paper is None or self.drop is None or self.is_dense:
            return None
        return self.drop - self.paper.drop_percent_points


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
class Level:
    """A round of an experiment: a line of every table.

    Attributes:
        number: The round's number.
        rows: The round's row for every seed that has finished it; none where none has.
        seeds: How many runs the experiment has.
        paper: The paper's row; known for an unfinished round too, where the run has as many rounds as the
            paper.
        gain: By how many points the accuracy exceeds the one of the section that the experiment stands
            beside; `None` for an experiment of the paper and where the levels differ.
    """

    number: int
    rows: tuple[Row, ...]
    seeds: int = 1
    paper: PaperRow | None = None
    gain: Spread | None = None

    def spread(self, value: Callable[[Row], float | None]) -> Spread | None:
        """Returns the mean and spread over the seeds of a value of the rows."""
        return spread(value(row) for row in self.rows)

    @property
    def at_end(self) -> Spread | None:
        """The metric after training."""
        return self.spread(lambda row: row.result.metric_at_end)

    @property
    def excess(self) -> Spread | None:
        """By how much our drop is larger than the paper's, in percentage points."""
        return self.spread(lambda row: row.excess_drop_percent_points)

    @property
    def within(self) -> bool | None:
        """Whether our mean drop is at most `TOLERANCE_POINTS` larger than the paper's; `None` if unknown."""
        return None if self.excess is None else self.excess.mean <= TOLERANCE_POINTS + 1e-9

    @property
    def target_sparsity(self) -> float | None:
        """The level asked; what a dense network has, which asks for none."""
        if not self.rows:
            return None
        result = self.rows[0].result
        return result.sparsity if result.config.regime == "dense" else result.target_sparsity

    @property
    def is_cut(self) -> bool:
        """Whether channels were cut."""
        return any(row.result.is_cut for row in self.rows)

    @property
    def target_left(self) -> float | None:
        """The share of the whole network asked; None where no channels are cut."""
        return self.rows[0].result.target_left if self.rows else None


def gain_over(ours: Level, theirs: Level) -> Spread | None:
    """Returns by how many percentage points a round's accuracy exceeds another's.

    Args:
        ours: A round of a run that is judged by its accuracy.
        theirs: The round that it is compared with, of such a run too.

    Returns:
        Mean and spread of the differences within equal seeds; without a common seed, the difference of the
        means; `None` where an accuracy is missing.
    """
    by_seed = {row.result.config.seed: row.result.metric_at_end for row in theirs.rows}
    pairs = spread(
        row.result.metric_at_end - by_seed[row.result.config.seed]
        for row in ours.rows
        if by_seed.get(row.result.config.seed) is not None
    )
    if pairs is not None:
        return pairs
    means = [level.at_end for level in (ours, theirs)]
    return None if None in means else Spread(means[0].mean - means[1].mean, None, 1)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The runs of one experiment, which differ in their seed alone.

    Attributes:
        name: Without `_seedN`.
        runs: One a seed, in order of the seeds.
        rows: Their finished rounds, the starting round 0 included.
        beside: For an experiment without a section of the paper: the section of the same dataset and
            sparsity that is among the experiments; `""` if none is.
        reference: That section's experiment on the same network and data.
    """

    name: str
    runs: tuple[Run, ...]
    rows: tuple[Row, ...]
    beside: str = ""
    reference: "Experiment | None" = None

    @property
    def first(self) -> Row:
        """A row to read the settings from."""
        return self.rows[0]

    @property
    def dataset(self) -> str:
        """The dataset that the runs were trained on."""
        return self.first.result.config.dataset

    @property
    def metric(self) -> Metric:
        """By what the runs are judged."""
        return self.first.result.metric

    @property
    def judged(self) -> tuple[str, Metric]:
        """The dataset and the metric: figures of experiments that share both stand on one axis."""
        return self.dataset, self.metric

    @property
    def regime(self) -> str:
        """The runs' way of pruning."""
        return self.first.result.config.regime

    @property
    def section(self) -> str:
        """The section of the paper that the runs name, `""` for none."""
        return _section(self.first.result)

    @property
    def place(self) -> str:
        """The section that the experiment stands with in every view; `""` for none."""
        return BASELINE if self.first.is_dense else self.section or self.beside

    @property
    def in_paper_setting(self) -> bool:
        """Whether the experiment reproduces its section."""
        return self.first.in_paper_setting

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(run.rounds[0].config.seed for run in self.runs)

    @property
    def finished(self) -> bool:
        """Whether every round of every seed has a result."""
        return all(run.finished for run in self.runs)

    @property
    def announced_rounds(self) -> int:
        """Number of rounds that the runs have when they are finished, the start not counted."""
        return self.first.result.config.training_rounds

    @property
    def levels(self) -> tuple[Level, ...]:
        """The rounds without the start of a pruning run, those that no seed has finished included."""
        first = 0 if self.regime == "dense" else 1
        numbers = {row.result.round for row in self.rows}
        numbers |= {number for run in self.runs for number in run.unfinished_rounds}
        return tuple(self.level(number) for number in sorted(numbers) if number >= first)

    def level(self, number: int, run: Run | None = None) -> Level:
        """Returns one round, over all seeds or of one run."""
        rows = tuple(row for row in self.rows if row.result.round == number and run in (None, row.run))
        paper = rows[0].paper if rows else self.paper_by_round.get(number)
        level = Level(number, rows, 1 if run else len(self.runs), paper)
        theirs = self.reference.last if self.reference else None
        if not rows or theirs is None or not _same_level(level.target_sparsity, theirs.target_sparsity):
            return level
        return dataclasses.replace(level, gain=gain_over(level, theirs))

    @property
    def last(self) -> Level | None:
        """The last round that a seed has finished; `None` if only the start is."""
        return next((level for level in reversed(self.levels) if level.rows), None)

    @property
    def paper_by_round(self) -> dict[int, PaperRow]:
        """The section's rows by round, where the paper prunes in as many rounds; empty otherwise."""
        rows = paper_rows(self.section, self.dataset)
        if not rows or rows[0].round == 0 or self.announced_rounds != len(rows):
            return {}
        return {row.round: row for row in rows}


def compare(runs: Sequence[Run], ancestors: Sequence[Run] = ()) -> list[Experiment]:
    """Puts the finished rounds of runs beside the paper's rows, and repetitions over seeds together.

    `NAME_seedN` is a repetition of `NAME` if it was made with seed N, all other settings and the metric are
    those of the other repetitions, it started from repetitions of one network, and no other of them has that
    seed.

    Args:
        runs: What to compare.
        ancestors: Further runs in which to look for the dense networks that `runs` started from;
            see `read_ancestors`.

    Returns:
        The experiments that have a finished round: by dataset and metric, then in the paper's order of
        sections, those beside a section behind it; then by regime and name. Every view has them in this
        order.

    Raises:
        UserError: If a record of an export or a benchmark is damaged.
    """
    known = {run.experiment: run for run in (*ancestors, *runs)}
    rows = _add_dense_peers([row for run in runs for row in _run_rows(run, known)])
    experiments = _group_seeds(rows)
    beside = {e.name: _comparable_section(e, experiments) for e in experiments}
    placed = []
    for experiment in experiments:
        section = beside[experiment.name]
        own = [e for e in experiments if section and (e.section, e.dataset) == (section, experiment.dataset)]
        placed.append(dataclasses.replace(experiment, beside=section, reference=_reference(experiment, own)))
    return sorted(placed, key=_order)


def read_ancestors(output_dir: str | Path, runs: Sequence[Run]) -> list[Run]:
    """Reads the runs that `runs` descend from and that are not among them.

    Args:
        output_dir: Where the run folders are.
        runs: Runs that were read from it.

    Returns:
        The ancestors present in `output_dir`; one that is not there is left out.

    Raises:
        UserError: As `read_runs`, where a `result.json` is not valid.
    """
    present = set(list_experiments(output_dir))
    seen = {run.experiment for run in runs}
    ancestors = []
    waiting = list(runs)
    while waiting:
        parent = _parent(waiting.pop())
        if parent in present and parent not in seen:
            seen.add(parent)
            run = read_run(Path(output_dir) / parent)
            ancestors.append(run)
            waiting.append(run)
    return ancestors


def _run_rows(run: Run, known: dict[str, Run]) -> list[Row]:
    # A run is one thing: a round in another setting takes the whole run out of the paper's.
    differences: list[Difference] = []
    for result in run.rounds:
        differences += [found for found in result.differences if found not in differences]
    exported = run.rounds[-1].round if run.finished else None
    rows = []
    for result in run.rounds:
        section = _section(result)
        baseline = _baseline(run, result, known)
        files = read_export(run) if result.round == exported else []
        latencies = read_latencies(run) if result.round == exported else []
        rows.append(
            Row(
                run=run,
                result=result,
                paper=_paper_row(result) if section else None,
                differences=tuple(differences),
                in_paper_setting=bool(section) and not differences,
                baseline_experiment=baseline[0] if baseline else None,
                baseline_value=baseline[1] if baseline else None,
                file=min(files, key=lambda file: file.raw_bytes, default=None),
                latency=min(latencies, key=lambda x: (x.threads, x.batch_size, x.median_ms), default=None),
            )
        )
    return rows


def _section(result: RoundResult) -> str:
    """Returns the section of the paper that a run names; `""` where it has no accuracy to set beside it."""
    return result.config.paper_section if result.metric == ACCURACY else ""


def _paper_row(result: RoundResult) -> PaperRow | None:
    config = result.config
    if config.prune == "channels" or result.is_cut:
        return None  # The paper cuts no channels.
    if config.regime == "dense":
        # Dense training asks for no sparsity: it has the one of the masks it started with, if any.
        level = result.sparsity or 0.0
    elif result.round == 0:
        return None
    else:
        level = result.target_sparsity if result.target_sparsity is not None else result.sparsity
    if level is None or level >= 1:
        return None
    return match_paper_row(config.paper_section, config.dataset, config.regime, level)


def _parent(run: Run) -> str | None:
    """Returns the experiment that a run started from: `EXPERIMENT` of `EXPERIMENT[/round_KK]`."""
    if not run.rounds or not run.rounds[0].config.init_from:
        return None
    return re.sub(r"/round_\d+$", "", run.rounds[0].config.init_from)


def _baseline(run: Run, result: RoundResult, known: dict[str, Run]) -> tuple[str, float] | None:
    """Returns name and metric of the nearest dense ancestor that was judged alike, on the same test data."""
    seen = set()
    ancestor: Run | None = run
    while ancestor is not None and ancestor.experiment not in seen:
        seen.add(ancestor.experiment)
        for other in ancestor.rounds:
            # A sparse transfer trains in the dense regime too, but its network is not dense.
            if (
                other.is_dense
                and other.config.dataset == result.config.dataset
                and other.test_examples == result.test_examples
                and other.metric == result.metric
            ):
                return ancestor.experiment, other.metric_at_end
        ancestor = known.get(_parent(ancestor) or "")
    return None


def _add_dense_peers(rows: Sequence[Row]) -> list[Row]:
    """Gives rows that descend from no dense network of their dataset the one trained beside them.

    The sparse transfer starts from another dataset's network, so its drop is from the dense network of
    its own dataset, of the same model, images and seed, where that is among the rows.
    """
    peers = {
        (*network_and_data(row.result), row.result.config.seed): row
        for row in rows
        if _section(row.result) == BASELINE and row.is_dense
    }
    filled = []
    for row in rows:
        peer = peers.get((*network_and_data(row.result), row.result.config.seed))
        if peer is not None and row.baseline_value is None:
            row = dataclasses.replace(
                row,
                baseline_experiment=peer.experiment,
                baseline_value=peer.result.metric_at_end,
            )
        filled.append(row)
    return filled


def network_and_data(result: RoundResult) -> tuple:
    """Returns what two networks must share for their figures to compare: metric, model, data, counts."""
    c = result.config
    data = c.dataset, c.image_size, result.train_examples, result.test_examples
    return result.metric, c.model, c.width, c.stem, *data


def _group_seeds(rows: Sequence[Row]) -> list[Experiment]:
    own: dict[str, list[Row]] = {}
    for row in rows:
        own.setdefault(row.experiment, []).append(row)
    groups: dict[tuple, dict[int, str]] = {}
    for name, its_rows in own.items():
        result = its_rows[0].result
        config, identity = result.config, result.config.identity()
        # Repetitions started and learned from repetitions, and are judged alike.
        same = [identity, result.ancestry, dataclasses.asdict(result.metric)]
        key = (identity["experiment"], json.dumps(same, sort_keys=True))
        if config.seed in groups.get(key, {}):
            key = (name, "alone")
        groups.setdefault(key, {})[config.seed] = name
    # Where the settings of same-named runs differ, every run keeps its own name.
    bases = [base for base, _ in groups]
    experiments = []
    for (base, _), members in groups.items():
        names = [members[seed] for seed in sorted(members)]
        joined = tuple(row for member in names for row in own[member])
        name = base if bases.count(base) == 1 else names[0]
        experiments.append(Experiment(name, tuple(own[member][0].run for member in names), joined))
    return experiments


def _comparable_section(experiment: Experiment, experiments: Sequence[Experiment]) -> str:
    """Returns the section of the same dataset and final level for an experiment outside the paper.

    Among several sections, one of the same regime comes first, then a one-shot one.
    """
    level = experiment.first.result.config.target_sparsity
    if experiment.section or not level or experiment.metric != ACCURACY:
        return ""
    candidates = []
    for section in {e.section for e in experiments if e.section and e.dataset == experiment.dataset}:
        rows = paper_rows(section, experiment.dataset)
        if rows and rows[-1].experiment.regime != "dense" and _same_level(level, rows[-1].sparsity_asked):
            regime = rows[-1].experiment.regime
            candidates.append((regime != experiment.regime, regime != "one_shot", section))
    return min(candidates)[2] if candidates else ""


def _same_level(ours: float | None, theirs: float | None) -> bool:
    return None not in (ours, theirs) and abs(ours - theirs) <= _LEVEL_TOLERANCE * (1 - theirs)


def _reference(experiment: Experiment, section: Sequence[Experiment]) -> Experiment | None:
    """Returns the section's experiment on the same network and data, of the same scope if there is one."""
    result = experiment.first.result
    same = [e for e in section if network_and_data(e.first.result) == network_and_data(result)]
    return min(same, key=lambda e: e.first.result.config.scope != result.config.scope, default=None)


def _order(experiment: Experiment) -> tuple:
    datasets, sections = list(BASELINE_ACCURACY_PERCENT), ["", *SECTIONS]
    return (
        datasets.index(experiment.dataset) if experiment.dataset in datasets else len(datasets),
        experiment.dataset,
        experiment.metric != ACCURACY,
        experiment.metric.name,
        sections.index(experiment.place) or len(sections),
        not experiment.section,
        REGIMES.index(experiment.regime),
        experiment.name,
    )
