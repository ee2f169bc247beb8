"""Everything that the page shows, as data: `page.html.j2` puts it into words and HTML."""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Sequence

from tfprune.compare import figures, words
from tfprune.compare.artifacts import (
    Artifact,
    Latency,
    read_export,
    read_flags,
    read_history,
    read_latencies,
    read_machine,
)
from tfprune.compare.columns import Column, columns_of, groups_of
from tfprune.compare.figures import Mark, Picture
from tfprune.compare.rows import Experiment, Level, Spread, gain_over
from tfprune.errors import UserError
from tfprune.runs.folder import Run, RunFolder
from tfprune.runs.metric import ACCURACY, Metric
from tfprune.runs.paper import SECTIONS, Difference, PaperRow, paper_rows
from tfprune.runs.result import RoundResult
from tfprune.text import duration

STATES = ("finished", "running", "waiting", "failed")

_DUELS = (
    # dataset, iterative section, one-shot section of the same sparsity
    ("cifar10", "4.3.3", "4.3.1"),
    ("cifar100", "4.3.5", "4.3.4"),
    ("cifar100", "4.3.6", "4.3.4"),
)


@dataclasses.dataclass(frozen=True)
class Progress:
    """A line of a study's progress."""

    label: str
    state: str
    text: str


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a table of rounds; `experiment` is None for a section of the paper that was not run.

    Attributes:
        label: What the line is called.
        section: The section's number, in front of the label.
        note: Small letters below the label.
        level: The round.
        experiment: Whose round.
    """

    label: str
    section: str
    note: str
    level: Level
    experiment: Experiment | None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of rounds that are judged by one metric, with the columns that have a figure in it."""

    lines: Sequence[Line]
    metric: Metric = ACCURACY
    summary: bool = False

    @functools.cached_property
    def columns(self) -> list[Column]:
        """The columns of figures."""
        return columns_of([line.level for line in self.lines], self.summary)

    @functools.cached_property
    def groups(self) -> list[tuple[str, int]]:
        """The groups of columns."""
        return groups_of(self.columns)

    def starts_group(self, column: Column) -> bool:
        """Returns whether a column is the first of its group, which a thin rule sets apart."""
        first = next(other for other in self.columns if other.group == column.group)
        return column is first


@dataclasses.dataclass(frozen=True)
class Rounds:
    """The experiments of a section, or those without a counterpart: every round."""

    section: str
    title: str
    experiments: Sequence[Experiment]
    table: Table

    @property
    def networks(self) -> dict[str, list[Experiment]]:
        """The experiments outside the paper by what was trained on what."""
        networks: dict[str, list[Experiment]] = {}
        for experiment in self.experiments:
            if not experiment.section:
                networks.setdefault(words.network(experiment.first.result), []).append(experiment)
        return networks

    @property
    def repeated(self) -> list[Experiment]:
        """The experiments with several seeds."""
        return [e for e in self.experiments if len(e.runs) > 1]


@dataclasses.dataclass(frozen=True)
class Worst:
    """The study's target: how many rounds are within it, and the one farthest from it."""

    good: int
    total: int
    experiment: Experiment
    level: Level


@dataclasses.dataclass(frozen=True)
class Duel:
    """Iterative pruning against one-shot pruning at the same sparsity.

    Attributes:
        dataset: On which dataset.
        iterative: Its section.
        one_shot: Its section.
        papers: The paper's last rows of the two.
        challenger: Our iterative experiment; None if there is none.
        reference: Our one-shot experiment; None if there is none.
        ambiguous: Whether the names must be told.
        state: "absent", "unfinished", "unequal" levels, or "decided".
        gain: By how much iterative is above.
        wins: In how many seeds iterative is above.
    """

    dataset: str
    iterative: str
    one_shot: str
    papers: tuple[PaperRow, PaperRow]
    challenger: Experiment | None = None
    reference: Experiment | None = None
    ambiguous: bool = False
    state: str = "absent"
    gain: Spread | None = None
    wins: int = 0


@dataclasses.dataclass(frozen=True)
class RunLine:
    """A run's speed and machine; an empty text where nothing was measured."""

    run: Run
    done: int
    total: int
    training: str
    images_per_second: str
    data_wait: str
    backend: str
    hardware: str
    flags: str | None


@dataclasses.dataclass(frozen=True)
class View:
    """The page. A part without content is empty and left out."""

    experiments: Sequence[Experiment]
    runs: Sequence[Run]
    progress: Sequence[Progress] | None
    refresh_seconds: int | None
    facts: Sequence[str]
    common: Sequence[tuple[Difference, Sequence[object]]]
    worst: Worst | None
    duels: Sequence[Duel]
    gains: Sequence[tuple[str, str, Sequence[tuple[Experiment, Spread]]]]
    summaries: Sequence[Table]
    accuracy: Sequence[tuple[Sequence[Picture], Sequence[Experiment]]]
    steps: Sequence[Picture]
    rounds: Sequence[Rounds]
    layers: Sequence[Picture]
    curves: Sequence[Picture]
    sizes: Sequence[tuple[Run, Sequence[Artifact]]]
    latencies: Sequence[tuple[Run, str, Sequence[Latency]]]
    run_lines: Sequence[RunLine]
    versions: Sequence[tuple[str, Sequence[str]]]
    marks: dict[str, Mark]

    @property
    def of_paper(self) -> bool:
        """Whether anything has a counterpart in the paper."""
        return any(e.section for e in self.experiments) or any(
            line.level.paper for table in self.summaries for line in table.lines
        )

    @property
    def metrics(self) -> list[Metric]:
        """The metrics by which the experiments are judged."""
        found = dict.fromkeys(e.metric for e in self.experiments)
        return sorted(found, key=lambda metric: metric != ACCURACY)

    @property
    def metric_title(self) -> str:
        """The name of the metric; `metric` where there are several."""
        return words.metric_title(self.metrics[0]) if len(self.metrics) == 1 else "metric"

    @property
    def noun(self) -> str:
        """The word for examples."""
        return words.examples(result for run in self.runs for result in run.rounds)

    @property
    def is_cut(self) -> bool:
        """Whether channels were cut from a network."""
        return any(row.result.is_cut for e in self.experiments for row in e.rows)

    @property
    def has_seeds(self) -> bool:
        """Whether an experiment has several seeds."""
        return any(len(e.runs) > 1 for e in self.experiments)

    @property
    def datasets(self) -> list[str]:
        """The datasets, as written in headings."""
        return list(dict.fromkeys(words.dataset_title(e.dataset) for e in self.experiments))

    @property
    def largest_bytes(self) -> int:
        """The length of the bars of sizes."""
        return max(artifact.raw_bytes for _, own in self.sizes for artifact in own)

    @property
    def slowest_ms(self) -> float:
        """The length of the bars of latencies, an image: one scale for all."""
        return max(row.upper_ms / row.batch_size for _, _, own in self.latencies for row in own)

    def recipe(self, experiment: Experiment) -> str:
        """Returns how an experiment was pruned and trained."""
        return words.recipe(experiment, self.experiments)

    def further(self, experiment: Experiment) -> list[Difference]:
        """Returns an experiment's differences from the paper that not all share and that are its own."""
        common = [(found.setting, found.ours) for found, _ in self.common]
        own = [found for found in experiment.first.differences if not found.inherited]
        return [found for found in own if (found.setting, found.ours) not in common]

    def layer_table(self, picture: Picture) -> list[tuple[str, list[float | None]]]:
        """Returns the sparsity of every layer in the experiments of a picture."""
        densities = [figures.layer_densities(e) for e in picture.drawn]
        names = dict.fromkeys(name for own in densities for name in own)
        return [(n, [1 - own[n] if n in own else None for own in densities]) for n in names]


def make_view(
    experiments: Sequence[Experiment],
    runs: Sequence[Run],
    progress: Sequence[Progress] | None = None,
    refresh_seconds: int | None = None,
) -> View:
    """Returns what the page shows.

    Args:
        experiments: From `tfprune.compare.rows.compare`.
        runs: All runs, those without a finished round too.
        progress: A running study's lines.
        refresh_seconds: How often the page reloads itself.
    """
    # Every table has the runs in the order of the experiments; those that have only begun come last.
    ordered = [run for e in experiments for run in e.runs]
    ordered += [run for run in runs if not run.rounds]
    marks = figures.make_marks(experiments)
    judged = dict.fromkeys(e.judged for e in experiments)
    together = [[e for e in experiments if e.judged == one] for one in judged]
    pictured = [(figures.accuracy_pictures(own, marks), own) for own in together]
    curves = [figures.curve_picture(e, _histories(e), marks[e.name]) for e in experiments]
    return View(
        experiments=experiments,
        runs=ordered,
        progress=progress,
        refresh_seconds=refresh_seconds,
        facts=_facts(experiments, ordered),
        common=_common(experiments),
        worst=_worst(experiments),
        duels=[duel for found in _DUELS for duel in _duels(experiments, *found)],
        gains=_gains(experiments),
        summaries=_summaries(experiments, ordered),
        accuracy=[(pictures, own) for pictures, own in pictured if pictures],
        steps=figures.step_pictures(experiments, marks),
        rounds=_rounds(experiments),
        layers=figures.layer_pictures(experiments, marks),
        curves=[picture for picture in curves if picture],
        sizes=[(run, read_export(run)) for run in ordered if read_export(run)],
        latencies=[(run, read_machine(run), read_latencies(run)) for run in ordered if read_latencies(run)],
        run_lines=[_run_line(run) for run in ordered],
        versions=_versions(ordered),
        marks=marks,
    )


def _histories(experiment: Experiment) -> list[list]:
    return [
        [read_history(run, result.round, result.metric) for result in run.rounds] for run in experiment.runs
    ]


def _facts(experiments: Sequence[Experiment], runs: Sequence[Run]) -> list[str]:
    facts = [f"Made {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"]
    if experiments:
        facts.append(words.count(len(experiments), "experiment"))
        finished = sum(not row.is_start for e in experiments for row in e.rows)
        total = sum(len(e.levels) * len(e.runs) for e in experiments)
        rounds = words.count(total, "round")
        facts.append(rounds if finished == total else f"{finished} of {rounds} finished")
        seeds = sorted({seed for e in experiments for seed in e.seeds})
        facts.append(f"{words.count(len(seeds), 'seed')} ({', '.join(map(str, seeds))})")
        seconds = sum(result.train_seconds for run in runs for result in run.rounds)
        if seconds:
            facts.append(f"{duration(seconds)} of training")
    return facts


def _common(experiments: Sequence[Experiment]) -> list[tuple[Difference, list[object]]]:
    """Returns the differences that all experiments of the paper share, and the paper's values."""
    others = [e for e in experiments if e.section and not e.in_paper_setting]
    found: dict[tuple, dict[str, Difference]] = {}
    for experiment in others:
        for difference in experiment.first.differences:
            if not difference.inherited:
                key = difference.setting, words.value(difference.ours)
                found.setdefault(key, {})[experiment.name] = difference
    common = []
    for by_name in found.values():
        if len(by_name) == len(others):
            papers = dict.fromkeys(words.value(difference.paper) for difference in by_name.values())
            common.append((next(iter(by_name.values())), list(papers)))
    return common


def _worst(experiments: Sequence[Experiment]) -> Worst | None:
    cells = [(e, level) for e in experiments for level in e.levels if level.excess]
    if not cells:
        return None
    worst = max(cells, key=lambda cell: cell[1].excess.mean)
    return Worst(sum(level.within for _, level in cells), len(cells), *worst)


def _duels(experiments: Sequence[Experiment], dataset: str, iterative: str, one_shot: str) -> list[Duel]:
    """Returns iterative against one-shot at the same sparsity, for pairs of the same scope."""
    ours, others = (
        [e for e in experiments if (e.dataset, e.section) == (dataset, section)]
        for section in (iterative, one_shot)
    )
    papers = paper_rows(iterative, dataset)[-1], paper_rows(one_shot, dataset)[-1]
    ambiguous = len(ours) > 1 or len(others) > 1
    duels = []
    for challenger in ours:
        for reference in others:
            if challenger.first.result.config.scope == reference.first.result.config.scope:
                pair = Duel(dataset, iterative, one_shot, papers, challenger, reference, ambiguous)
                duels.append(_decided(pair))
    if (ours or others) and not duels:
        duels.append(Duel(dataset, iterative, one_shot, papers, *ours[:1] or [None], *others[:1] or [None]))
    return duels


def _decided(duel: Duel) -> Duel:
    last, other = duel.challenger.last, duel.reference.last
    if not all(e.last and e.last.number == e.first.result.rounds for e in (duel.challenger, duel.reference)):
        return dataclasses.replace(duel, state="unfinished")
    levels = [None if one.target_sparsity is None else round(one.target_sparsity, 4) for one in (last, other)]
    if levels[0] != levels[1]:
        return dataclasses.replace(duel, state="unequal")
    theirs = {row.result.config.seed: row.result.metric_at_end for row in other.rows}
    pairs = [(row.result.metric_at_end, theirs.get(row.result.config.seed)) for row in last.rows]
    wins = sum(None not in pair and pair[0] > pair[1] for pair in pairs)
    return dataclasses.replace(duel, state="decided", gain=gain_over(last, other), wins=wins)


def _gains(experiments: Sequence[Experiment]) -> list[tuple[str, str, list[tuple[Experiment, Spread]]]]:
    """Returns for each section the experiments beside it that compare, from the largest gain down."""
    found: dict[tuple[str, str], list[tuple[Experiment, Spread]]] = {}
    for experiment in experiments:
        if experiment.last and experiment.last.gain:
            gains = found.setdefault((experiment.beside, experiment.dataset), [])
            gains.append((experiment, experiment.last.gain))
    return [(*key, sorted(gains, key=lambda pair: -pair[1].mean)) for key, gains in found.items()]


def _summaries(experiments: Sequence[Experiment], runs: Sequence[Run]) -> list[Table]:
    """Returns a table for each metric, accuracy first."""
    metrics = sorted({e.metric for e in experiments} - {ACCURACY}, key=lambda metric: metric.name)
    tables = [_summary([e for e in experiments if e.metric == ACCURACY], runs)]
    for metric in metrics:
        own = [e for e in experiments if e.metric == metric]
        tables.append(Table([_summary_line(e, experiments) for e in own], metric, summary=True))
    return [table for table in tables if table.lines]


def _summary(experiments: Sequence[Experiment], runs: Sequence[Run]) -> Table:
    """Returns the last round of every experiment, and the sections of a studied dataset that were not run."""
    started = _started(runs)
    datasets = dict.fromkeys([e.dataset for e in experiments] + [dataset for _, dataset in started])
    studied = {e.dataset for e in experiments if e.section} | {dataset for _, dataset in started}
    lines = []
    for dataset in datasets:
        own = [e for e in experiments if e.dataset == dataset]
        for section in (*SECTIONS, ""):
            here = [e for e in own if e.place == section]
            published = paper_rows(section, dataset)
            if published and dataset in studied and not any(e.section == section for e in own):
                note = "no round finished yet" if (section, dataset) in started else "not run"
                level = Level(published[-1].round, (), 1, published[-1])
                title = words.section_title(section, dataset)
                lines.append(Line(title, words.section_label(section), note, level, None))
            lines += [_summary_line(e, experiments) for e in here]
    return Table(lines, summary=True)


def _summary_line(experiment: Experiment, experiments: Sequence[Experiment]) -> Line:
    section = experiment.section
    title = words.section_title(section, experiment.dataset)
    if not paper_rows(section, experiment.dataset):
        title = f"{words.dataset_title(experiment.dataset)}, {words.recipe(experiment, experiments)}"
    note = "" if experiment.finished else _progress(experiment)
    level = experiment.last or experiment.levels[-1]
    return Line(title, words.section_label(section), note, level, experiment)


def _progress(experiment: Experiment) -> str:
    last, total, seeds = experiment.last, experiment.announced_rounds, len(experiment.runs)
    parts = []
    if seeds > 1:
        parts.append(f"{sum(run.finished for run in experiment.runs)} of {seeds} seeds finished")
    if last is None:
        parts.append("no round finished yet")
    else:
        of = f" of {words.count(len(last.rows), 'seed')}" if seeds > 1 else ""
        after = f" after round {last.number} of {total}" if total > 1 else ""
        parts.append(f"figures{of}{after}")
    return "; ".join(parts)


def _started(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Returns section and dataset of the runs that have begun but have no result yet, from their flags."""
    started = []
    for run in runs:
        if not run.rounds:
            try:
                config = RunFolder(run.folder).read_config()
            except UserError:  # It has only just begun.
                continue
            if config.paper_section:
                started.append((config.paper_section, config.dataset))
    return started


def _rounds(experiments: Sequence[Experiment]) -> list[Rounds]:
    """Returns the experiments by dataset and section, those beside a section with it."""
    groups: dict[tuple[str, str, Metric], list[Experiment]] = {}
    named = {(e.section, e.dataset) for e in experiments}
    for experiment in experiments:
        place = experiment.place if (experiment.place, experiment.dataset) in named else ""
        known = bool(paper_rows(place, experiment.dataset)) and experiment.metric == ACCURACY
        groups.setdefault((place if known else "", *experiment.judged), []).append(experiment)
    found = []
    for (section, dataset, metric), own in sorted(groups.items(), key=lambda item: not item[0][0]):
        lines = [
            Line(words.round_title(e, level.number), "", "", level, e) for e in own for level in e.levels
        ]
        title = words.section_title(section, dataset)
        found.append(Rounds(section, title, own, Table(lines, metric)))
    return found


def _run_line(run: Run) -> RunLine:
    trained = [result for result in run.rounds if result.epochs]
    done = [result for result in run.rounds if result.round or result.config.regime == "dense"]
    total = run.rounds[0].config.training_rounds if run.rounds else 0
    seconds = sum(result.train_seconds for result in trained)
    return RunLine(
        run=run,
        done=len(done),
        total=total,
        training=duration(seconds) if seconds else "",
        images_per_second=_mean(trained, lambda result: result.images_per_second, "{:,.0f}"),
        data_wait=_mean(trained, lambda result: result.data_wait_percent, "{:.1f} %"),
        backend=backend_in_words(run.rounds),
        hardware=hardware_in_words(run.rounds[-1]) if run.rounds else "",
        flags=read_flags(run),
    )


def _mean(results: Sequence[RoundResult], value: Callable[[RoundResult], float | None], form: str) -> str:
    """Returns the mean over rounds, each counted as long as it trained."""
    known = [(value(result), result.train_seconds) for result in results if value(result) is not None]
    weight = sum(seconds for _, seconds in known)
    return form.format(sum(amount * seconds for amount, seconds in known) / weight) if weight else ""


def backend_in_words(results: Sequence[RoundResult]) -> str:
    """Returns `tensorflow`, or `tensorflow, trained by sparse` where another engine than Keras trained."""
    if not results:
        return ""
    engines = dict.fromkeys(name for result in results for name in result.training_engines)
    backend = results[-1].backend
    return f"{backend}, trained by {words.in_words(engines)}" if engines.keys() - {"keras"} else backend


def hardware_in_words(result: RoundResult) -> str:
    """Returns `A processor, 2 cores, 24 GiB; NVIDIA H200`; empty if it was not recorded."""
    hardware = result.hardware
    facts = [str(hardware["processor"])] if hardware.get("processor") else []
    if hardware.get("cores"):
        facts.append(f"{hardware['cores']} cores")
    if isinstance(hardware.get("memory_gib"), int | float):
        facts.append(f"{hardware['memory_gib']:.0f} GiB")
    devices = hardware.get("devices")
    names = [str(name) for name in devices] if isinstance(devices, list) and devices != ["cpu"] else []
    parts = [", ".join(facts), ", ".join(dict.fromkeys(names))]
    if result.device_count > 1:
        parts[1] = ", ".join(filter(None, [parts[1], f"batches shared by {result.device_count} devices"]))
    return "; ".join(filter(None, parts))


def _versions(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    groups: dict[str, dict[str, None]] = {}
    for run in runs:
        for result in run.rounds:
            versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
            groups.setdefault(versions or "not recorded", {})[run.experiment] = None
    return [(text, list(names)) for text, names in groups.items()]
