"""Pictures of accuracies: over sparsity, and through the steps of pruning."""

import dataclasses
from collections.abc import Callable, Sequence

from tfprune.compare import svg
from tfprune.compare.layout import dataset_title
from tfprune.compare.page_html import code, escape, mean_text
from tfprune.compare.page_marks import Mark, is_baseline, legend, shape_of
from tfprune.compare.paper import BASELINE_SECTION, PAPER_ROWS, PaperRow, paper_rows
from tfprune.compare.seeds import Experiment, Spread
from tfprune.compare.table import ComparisonRow

_LEAST_SPAN = 10  # A narrower axis would make a mountain of a test image.
_LABEL_GAP = 11


def figure(caption: str, drawing: str) -> str:
    """A drawing with a caption of HTML above."""
    return f"<figure><figcaption>{caption}</figcaption>{drawing}</figure>"


def plot_accuracy(dataset: str, experiments: Sequence[Experiment], marks: dict[str, Mark]) -> str:
    """Accuracy over sparsity, beside the change from each one's own dense network.

    Args:
        dataset: Of which dataset.
        experiments: Its experiments.
        marks: From `make_marks`.

    Returns:
        HTML of two figures; the second is left out where no dense network is known.
    """
    paper = [row for row in PAPER_ROWS if row.dataset == dataset]
    name = dataset_title(dataset)
    accuracy = _Panel(
        f"{name}: accuracy after fine-tuning over sparsity",
        lambda row: row.result.accuracy_percent,
        lambda row: row.accuracy_percent,
        "%",
    )
    figures = [
        figure(
            f"<b>{escape(name)}</b> Accuracy after fine-tuning, %", accuracy.draw(experiments, paper, marks)
        )
    ]
    change = _Panel(
        f"{name}: change of accuracy from the own dense network over sparsity",
        lambda row: None if row.drop_percent_points is None else -row.drop_percent_points,
        lambda row: -row.drop_percent_points,
        "points",
    )
    if any(row.drop_percent_points is not None for e in experiments for row in e.rows if not row.is_start):
        caption = f"<b>{escape(name)}</b> Change from the own dense network, points"
        figures.append(figure(caption, change.draw(experiments, paper, marks)))
    return "".join(figures)


class _Panel:
    """Values over sparsity: ours in colour, the paper's grey."""

    def __init__(
        self,
        title: str,
        ours: Callable[[ComparisonRow], float | None],
        papers: Callable[[PaperRow], float],
        unit: str,
    ):
        self.title, self.ours, self.papers, self.unit = title, ours, papers, unit

    def draw(
        self, experiments: Sequence[Experiment], paper: Sequence[PaperRow], marks: dict[str, Mark]
    ) -> str:
        levels = {e.name: self._levels(e) for e in experiments}
        values = [self.papers(row) for row in paper]
        for _, value in (level for of_one in levels.values() for level in of_one):
            values += [value.mean - (value.deviation or 0), value.mean + (value.deviation or 0)]
        if not values:
            return ""
        span = max(max(values) - min(values), _LEAST_SPAN)
        y = svg.Axis(max(values) - 1.06 * span, max(values) + 0.06 * span, 272, 10)
        densities = [1 - row.sparsity for row in paper]
        densities += [1 - sparsity for of_one in levels.values() for sparsity, _ in of_one]
        x, ticks = svg.sparsity_axis(min([0.5, *(d for d in densities if d > 0)]), 36, 388)
        parts = svg.frame(x, y, ticks, svg.round_ticks(y.low, y.high))
        parts.append(svg.text(x.end, 303, "sparsity of the pruned kernels", "label", "end"))
        lines, labels = self._draw_paper(paper, x, y)
        parts += lines
        for experiment in experiments:
            parts += self._draw_run(experiment, levels[experiment.name], marks[experiment.name], x, y)
        parts += labels
        described = [
            f"{e.name}: {mean_text(levels[e.name][-1][1])} at {levels[e.name][-1][0]:.4g}"
            for e in experiments
            if levels[e.name]
        ]
        return svg.picture(420, 308, f"{self.title}. {'; '.join(described)}.", parts)

    def _levels(self, experiment: Experiment) -> list[tuple[float, Spread]]:
        levels = []
        for level in experiment.rounds:
            sparsity, value = level.spread(lambda row: row.result.sparsity), level.spread(self.ours)
            if sparsity is not None and value is not None and sparsity.mean < 1:
                levels.append((sparsity.mean, value))
        return levels

    def _draw_paper(self, rows: Sequence[PaperRow], x: svg.Axis, y: svg.Axis) -> tuple[list[str], list[str]]:
        """The lines, which go below ours, and the small marks with the sections' numbers, which go above."""
        parts, marks, labels, ends = [], [], [], []
        for section in dict.fromkeys(row.section for row in rows):
            own = [row for row in rows if row.section == section]
            points = [(x(1 - row.sparsity), y(self.papers(row))) for row in own]
            if is_baseline(own[0]):
                parts.append(svg.segment(x.start, points[0][1], x.end, points[0][1], "dense paper"))
                continue
            parts.append(svg.line(points, "paper"))
            for row, point in zip(own, points, strict=True):
                where = f"paper, {section}, sparsity {row.sparsity:g}: {self.papers(row):g} {self.unit}"
                marks.append(svg.marker(*point, shape_of(row), "paper hollow", where.replace("-", "−"), 3.6))
            ends.append((section, *points[-1], len(own) == 1))
        # A single mark has its label on the left, a line on the right; labels must not cover each other.
        for side, anchor in ((-8, "end"), (7, "start")):
            its = [end for end in ends if end[3] == (anchor == "end")]
            for place in dict.fromkeys(round(end[1] / 30) for end in its):
                column = [end for end in its if round(end[1] / 30) == place]
                heights = svg.apart([end[2] for end in column], _LABEL_GAP, 14, 266)
                for (section, at, *_), height in zip(column, heights, strict=True):
                    labels.append(svg.text(at + side, height + 3.5, section, "section", anchor))
        return parts, marks + labels

    def _draw_run(
        self,
        experiment: Experiment,
        levels: Sequence[tuple[float, Spread]],
        mark: Mark,
        x: svg.Axis,
        y: svg.Axis,
    ) -> list[str]:
        if not levels:
            return []
        points = [(x(1 - sparsity), y(value.mean)) for sparsity, value in levels]
        if is_baseline(experiment.first.result):
            return [svg.segment(x.start, points[0][1], x.end, points[0][1], f"dense {mark.color}")]
        parts = [svg.line(points, mark.color)]
        for (sparsity, value), (px, py) in zip(levels, points, strict=True):
            if value.deviation:
                ends = (y(value.mean - value.deviation), y(value.mean + value.deviation))
                parts.append(svg.error_bar(px, *ends, mark.color))
            seeds = f" ({value.count} seeds)" if value.count > 1 else ""
            title = f"{experiment.name}, sparsity {sparsity:.4g}: {mean_text(value)} {self.unit}{seeds}"
            parts.append(svg.marker(px, py, mark.shape, mark.color, title))
        return parts


def plot_steps(experiments: Sequence[Experiment], marks: dict[str, Mark]) -> list[str]:
    """The accuracy before each pruning step, right after it and after fine-tuning.

    Args:
        experiments: One without such a measurement is left out.
        marks: From `make_marks`.

    Returns:
        HTML of figures: one for the one-shot experiments of a dataset, one for each of the others.
    """
    groups: dict[tuple[str, str], list[Experiment]] = {}
    for experiment in experiments:
        if any(row.result.accuracy_after_pruning_percent is not None for row in experiment.rows):
            single = experiment.first.result.regime != "iterative"
            key = (experiment.dataset, "" if single else experiment.name)
            groups.setdefault(key, []).append(experiment)
    return [_steps_figure(dataset, own, marks) for (dataset, _), own in groups.items()]


def _steps_figure(dataset: str, experiments: Sequence[Experiment], marks: dict[str, Mark]) -> str:
    several = experiments[0].first.result.regime != "iterative"
    x_labels, last = _step_labels(experiments[0]) if not several else (_ONE_SHOT_LABELS, 1)
    x, y = svg.Axis(0, last, 34, 270 if several else 288), svg.Axis(0, 100, 152, 8)
    parts = svg.frame(x, y, x_labels, (0, 25, 50, 75, 100))
    for experiment in experiments:
        steps = _paper_steps(experiment)
        parts.append(svg.line([(x(step.at), y(step.value.mean)) for step in steps], "paper"))
        parts += [
            _step_mark(step, x, y, marks[experiment.name].shape, "paper", "the paper") for step in steps
        ]
    described = []
    for experiment in experiments:
        mark, steps = marks[experiment.name], _our_steps(experiment)
        parts.append(svg.line([(x(step.at), y(step.value.mean)) for step in steps], mark.color))
        for step in steps:
            if step.value.deviation:
                ends = (step.value.mean - step.value.deviation, step.value.mean + step.value.deviation)
                parts.append(svg.error_bar(x(step.at), y(ends[0]), y(ends[1]), mark.color))
            parts.append(_step_mark(step, x, y, mark.shape, mark.color, experiment.name))
        listing = ", ".join(f"{mean_text(step.value)} {_STAGES[step.stage]}" for step in steps)
        described.append(f"{experiment.name}: {listing}")
    words = f"Accuracy through the steps of pruning. {'; '.join(described)}"
    sections = "" if several else f" {experiments[0].section}"
    title = f"<b>{escape(dataset_title(dataset))}{escape(sections)}</b>"
    drawing = svg.picture(300, 172, words, parts)
    if several:
        return figure(f"{title} one-shot", drawing + legend(experiments, marks, paper=False, kinds=False))
    return figure(f"{title} {code(experiments[0].name)}", drawing)


_ONE_SHOT_LABELS = ((0, "start"), (0.5, "pruned"), (1, "fine-tuned"))


@dataclasses.dataclass(frozen=True)
class _Step:
    """An accuracy at a place between rounds: round 2 is pruned at 1.5 and fine-tuned at 2."""

    at: float
    value: Spread
    stage: str


def _step_labels(experiment: Experiment) -> tuple[list[tuple[float, str]], int]:
    """The sparsity of each round; rounds that are announced have room too."""
    asked = {level.number: level.target_sparsity for level in experiment.rounds}
    if _as_many_rounds(experiment):
        published = {row.round: row.sparsity for row in paper_rows(experiment.section, experiment.dataset)}
        asked = {number: asked.get(number) or level for number, level in published.items()}
    last = max([1, *asked])
    labels = [(number, f"{level:.3f}".rstrip("0")) for number, level in sorted(asked.items()) if level]
    return [(0, "start"), *labels], last


def _as_many_rounds(experiment: Experiment) -> bool:
    """Whether the paper's rounds can stand beside ours, number by number."""
    rows = paper_rows(experiment.section, experiment.dataset) if experiment.section else ()
    announced = experiment.first.result.rounds or len(experiment.rounds)
    return bool(rows) and rows[0].round > 0 and len(rows) == announced


def _step_mark(step: _Step, x: svg.Axis, y: svg.Axis, shape: str, color: str, whose: str) -> str:
    title = f"{whose}, {_STAGES[step.stage]}: {mean_text(step.value)} %"
    kind = f"{color} hollow" if step.stage == "pruned" else color
    radius = 2.8 if color == "paper" else 3.6
    return svg.marker(x(step.at), y(step.value.mean), shape, kind, title, radius)


_STAGES = {"start": "before", "pruned": "right after pruning", "tuned": "after fine-tuning"}


def _our_steps(experiment: Experiment) -> list[_Step]:
    steps = []
    for level in experiment.rounds:
        if not steps:
            before = level.spread(lambda row: row.result.accuracy_before_percent)
            before = before or experiment.round(0).spread(lambda row: row.start_accuracy_percent)
            steps.append(_Step(0.0, before, "start"))
        pruned = level.spread(lambda row: row.result.accuracy_after_pruning_percent)
        tuned = level.spread(lambda row: row.result.accuracy_percent)
        steps += [_Step(level.number - 0.5, pruned, "pruned"), _Step(float(level.number), tuned, "tuned")]
    return [step for step in steps if step.value is not None]


def _paper_steps(experiment: Experiment) -> list[_Step]:
    if not _as_many_rounds(experiment):
        return []
    rows = paper_rows(experiment.section, experiment.dataset)
    found = [(0.0, _paper_start(rows[0]), "start")]
    for row in rows:
        found.append((row.round - 0.5, row.accuracy_after_pruning_percent, "pruned"))
        found.append((float(row.round), row.accuracy_percent, "tuned"))
    return [_Step(at, Spread(value, None, 1), stage) for at, value, stage in found if value is not None]


def _paper_start(row: PaperRow) -> float:
    """The paper's accuracy of the network that a section starts from."""
    if row.starts_from == BASELINE_SECTION:
        return row.baseline_accuracy_percent
    start = [r for r in PAPER_ROWS if r.section == row.starts_from and r.dataset == row.dataset]
    number = row.starts_from_round or start[-1].round
    return next(r.accuracy_percent for r in start if r.round == number)
