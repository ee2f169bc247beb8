"""Every picture of a comparison, drawn once by matplotlib: as SVG for the page and as PNG.

The page colours an SVG by the variables of its stylesheet, so that a picture follows the light or dark mode
of its reader. A PNG has the light colours.
"""

import dataclasses
import functools
import html
import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import resources

from tfprune.compare import words
from tfprune.compare.artifacts import Epoch
from tfprune.compare.rows import Experiment, Row, Spread
from tfprune.extras import extra
from tfprune.runs.metric import ACCURACY, Metric
from tfprune.runs.paper import BASELINE, SECTIONS, PaperRow, paper_rows

with extra("experiments"):
    import markupsafe
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

_LOSS = Metric("loss", in_percent=False, higher_is_better=False)
_OF_KERNELS, _OF_ALL = "sparsity of the pruned kernels", "share of the weights removed"
_SPARSITY_TICKS = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_LEAST_SHARE = 1e-4  # The bottom of the axis of the share of weights left.
_SERIES = 8
_SHAPES = {"one_shot": "o", "iterative": "s", "gradual": "^", "sparse": "D", "genetic": "v"}
_TRANSFER_SHAPE = "P"
_SIGNS = {"o": "●○", "s": "■□", "^": "▲△", "D": "◆◇", "v": "▼▽", "P": "✚✚"}


@dataclasses.dataclass(frozen=True)
class Mark:
    """The look of an experiment in every picture.

    Attributes:
        color: The name of a colour of the stylesheet.
        shape: Matplotlib's marker; `""` for a dense network, which is a dashed line.
        hollow: Whether the colour is used for the second time.
    """

    color: str
    shape: str
    hollow: bool = False

    @property
    def sign(self) -> str:
        """A character like the marker."""
        return _SIGNS[self.shape][self.hollow] if self.shape else ""


def make_marks(experiments: Sequence[Experiment]) -> dict[str, Mark]:
    """Returns a mark for each experiment, by name: colours go round within a picture."""
    marks, used = {}, dict.fromkeys((e.judged for e in experiments), 0)
    for experiment in experiments:
        index = used[experiment.judged]
        used[experiment.judged] += 1
        shape = "" if experiment.first.is_dense else _shape(experiment.regime)
        marks[experiment.name] = Mark(f"s{index % _SERIES}", shape, index >= _SERIES)
    return marks


def _shape(regime: str) -> str:
    return _SHAPES.get(regime, _TRANSFER_SHAPE)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        title: In bold letters above.
        caption: Behind the title.
        svg: The drawing.
        drawn: The experiments in it, for a legend of its own; empty where none is needed.
        code: The name of an experiment behind the title.
    """

    title: str
    caption: str
    svg: markupsafe.Markup
    drawn: tuple[Experiment, ...] = ()
    code: str = ""


@functools.cache
def colors() -> dict[str, str]:
    """Returns the colours of the stylesheet's light mode by name."""
    sheet = resources.files("tfprune.compare.page").joinpath("page.css").read_text(encoding="utf-8")
    light = sheet.partition("@media")[0]
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light))


def limits(values: Iterable[float], least_room: float = 1.0) -> tuple[float, float]:
    """Returns the ends of an axis that its values fill: at least a third of it, and all but a tenth of most.

    Args:
        values: What is drawn, at least one.
        least_room: What the axis spans at the least, where that leaves a third of it to the values.
    """
    values = list(values)
    least, most = min(values), max(values)
    span = most - least
    room = max(1.2 * span, min(3 * span, least_room)) if span else least_room
    middle = (least + most) / 2
    return middle - room / 2, middle + room / 2


def _fit_axis(axes: Axes, values: Sequence[float], metric: Metric) -> None:
    """Sets the ends and the labels of the axis of a metric, or of differences of it."""
    if metric.in_percent:
        # Less than a point over the whole axis would make a mountain of a test image.
        axes.set_ylim(limits(values))
        return
    axes.set_ylim(limits(values, 0.1 * max(map(abs, values)) or 1.0))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value + 0.0:.3g}".replace("-", "−")))


# --- What is drawn ---


def draw_accuracy(axes: Axes, experiments: Sequence[Experiment], marks: dict[str, Mark]) -> bool:
    """Draws the metric after training over sparsity; returns whether there was any.

    The experiments of a picture have one metric.

    The paper's accuracies stand beside ours where one of the experiments is a reproduction.
    """
    paper = _published(experiments) if any(e.in_paper_setting for e in experiments) else []
    return _over_sparsity(
        axes,
        experiments,
        marks,
        lambda row: row.result.metric_at_end,
        paper,
        lambda row: row.accuracy_percent,
        experiments[0].metric.unit,
    )


def draw_drop(axes: Axes, experiments: Sequence[Experiment], marks: dict[str, Mark]) -> bool:
    """Draws the drop from the own dense network over sparsity, 0 above; returns whether there was any."""
    if not any(row.drop is not None and not row.is_dense for e in experiments for row in e.rows):
        return False
    drawn = _over_sparsity(
        axes,
        experiments,
        marks,
        lambda row: row.drop,
        _published(experiments),
        lambda row: row.drop_percent_points,
        "points" if experiments[0].metric.in_percent else "",
    )
    axes.yaxis.set_inverted(True)
    return drawn


def draw_right_after_pruning(axes: Axes, experiments: Sequence[Experiment], marks: dict[str, Mark]) -> bool:
    """Draws the metric right after pruning over sparsity; returns whether there was any."""
    return _over_sparsity(
        axes,
        experiments,
        marks,
        lambda row: row.result.metric_after_pruning,
        [],
        lambda row: 0.0,
        experiments[0].metric.unit,
    )


def _published(experiments: Sequence[Experiment]) -> list[PaperRow]:
    """Returns the paper's rows of the sections that are among the experiments, those beside a section too."""
    named = {(e.section or e.beside, e.dataset) for e in experiments}
    datasets = dict.fromkeys(e.dataset for e in experiments)
    return [row for d in datasets for s in SECTIONS if (s, d) in named for row in paper_rows(s, d)]


def _over_sparsity(
    axes: Axes,
    experiments: Sequence[Experiment],
    marks: dict[str, Mark],
    ours: Callable[[Row], float | None],
    paper: Sequence[PaperRow],
    theirs: Callable[[PaperRow], float],
    unit: str,
) -> bool:
    drawn = {e.name: list(_levels(e, ours)) for e in experiments}
    values = [theirs(row) for row in paper]
    for _, value in itertools.chain(*drawn.values()):
        values += [value.mean - (value.deviation or 0), value.mean + (value.deviation or 0)]
    if not any(drawn.values()):
        return False
    shares = [1 - row.sparsity for row in paper] + [1 - s for levels in drawn.values() for s, _ in levels]
    metric = experiments[0].metric
    cut = any(row.result.is_cut for e in experiments for row in e.rows)
    _sparsity_axis(axes, min(0.5, *shares), _OF_ALL if cut else _OF_KERNELS)
    _fit_axis(axes, values, metric)
    for section in dict.fromkeys(row.experiment.section for row in paper):
        own = [row for row in paper if row.experiment.section == section]
        points = [(1 - row.sparsity, theirs(row)) for row in own]
        if section == BASELINE:
            axes.axhline(points[0][1], color=colors()["grey"], lw=1, ls=(0, (6, 4)), zorder=1)
            continue
        axes.plot(*zip(*points, strict=True), color=colors()["grey"], lw=1.2, zorder=2)
        for row, point in zip(own, points, strict=True):
            told = f"the paper, {section}, sparsity {row.sparsity:g}: {words.number(theirs(row))} {unit}"
            _mark(axes, *point, Mark("grey", _shape(row.experiment.regime), True), 5, told)
    for experiment in experiments:
        levels, mark = drawn[experiment.name], marks[experiment.name]
        if levels and not mark.shape:
            axes.axhline(levels[0][1].mean, color=colors()[mark.color], lw=1.6, ls=(0, (6, 4)), zorder=1)
        elif levels:
            _line(axes, [(1 - sparsity, value.mean) for sparsity, value in levels], mark)
            what = _OF_ALL if experiment.last.is_cut else "sparsity"
            for sparsity, value in levels:
                told = f"{experiment.name}, {what} {sparsity:.4g}: {_told(value, metric)} {unit}".strip()
                _mark(axes, 1 - sparsity, value.mean, mark, 7, told, value.deviation)
    _label_sections(axes, paper, theirs)
    return True


def _levels(experiment: Experiment, value: Callable[[Row], float | None]) -> Iterable[tuple[float, Spread]]:
    for level in experiment.levels:
        sparsity, found = level.spread(lambda row: row.result.removed), level.spread(value)
        if sparsity is not None and found is not None and sparsity.mean < 1:
            yield sparsity.mean, found


def _sparsity_axis(axes: Axes, least_share: float, label: str) -> None:
    axes.set_xscale("log")
    axes.set_xlim(1.15, least_share / 1.15)
    ticks = [sparsity for sparsity in _SPARSITY_TICKS if 1 - sparsity >= least_share / 1.15]
    axes.set_xticks([1 - sparsity for sparsity in ticks], [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label, loc="right")


def _label_sections(axes: Axes, paper: Sequence[PaperRow], theirs: Callable[[PaperRow], float]) -> None:
    """Writes the sections' numbers beside their last marks, apart from each other."""
    ends = {row.experiment.section: row for row in paper if row.experiment.section != BASELINE}
    for side, align in ((-7, "right"), (7, "left")):
        own = [row for row in ends.values() if (row.experiment.regime == "iterative") == (side > 0)]
        for place in dict.fromkeys(row.sparsity for row in own):
            column = [row for row in own if row.sparsity == place]
            points = [(1 - row.sparsity, theirs(row)) for row in column]
            heights = [axes.transData.transform(point)[1] for point in points]
            apart = keep_apart(heights, 11 * axes.get_figure().dpi / 72)
            for row, point, height, moved in zip(column, points, heights, apart, strict=True):
                axes.annotate(
                    row.experiment.section,
                    point,
                    (side, (moved - height) * 72 / axes.get_figure().dpi),
                    textcoords="offset points",
                    ha=align,
                    va="center",
                    fontsize="small",
                    color=colors()["soft"],
                    gid="section",
                )


def keep_apart(positions: Sequence[float], gap: float) -> list[float]:
    """Returns positions moved as little as needed to lie `gap` apart."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    blocks: list[tuple[float, int]] = []  # Centre and number of members, merged while they overlap.
    for index in order:
        blocks.append((positions[index], 1))
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < gap * (blocks[-1][1] + blocks[-2][1]) / 2:
            (below, many), (above, few) = blocks[-2:]
            blocks[-2:] = [((below * many + above * few) / (many + few), many + few)]
    moved = [centre + gap * (i - (n - 1) / 2) for centre, n in blocks for i in range(n)]
    return [place for _, place in sorted(zip(order, moved, strict=True))]


def _draw_steps(axes: Axes, experiments: Sequence[Experiment], marks: dict[str, Mark]) -> None:
    """Draws the metric before each pruning step, right after it and after training."""
    first, values = experiments[0], []
    metric = first.metric
    for experiment in experiments:
        for steps, mark in (
            (_paper_steps(experiment), Mark("grey", marks[experiment.name].shape)),
            (_our_steps(experiment), None),
        ):
            size, whose = (4, "the paper") if mark else (6, experiment.name)
            mark = mark or marks[experiment.name]
            _line(axes, [(step.at, step.value.mean) for step in steps], mark)
            for step in steps:
                told = f"{whose}, {step.stage}: {_told(step.value, metric)} {metric.unit}".strip()
                shown = dataclasses.replace(mark, hollow=mark.hollow or step.stage == _PRUNED)
                _mark(axes, step.at, step.value.mean, shown, size, told, step.value.deviation)
                values.append(step.value.mean)
    _fit_axis(axes, values, metric)
    if first.regime != "iterative":
        axes.set_xticks([0, 0.5, 1], ["start", "pruned", "trained"])
        return
    asked = {level.number: level.target_sparsity for level in first.levels}
    asked |= {number: row.sparsity for number, row in first.paper_by_round.items() if not asked.get(number)}
    names = {number: f"{level:.3g}" for number, level in asked.items() if level}
    names |= {one.number: f"{one.target_left:.3g} left" for one in first.levels if one.target_left}
    ticks = [(0, "start"), *sorted(names.items())]
    axes.set_xticks(*zip(*ticks, strict=True))


_PRUNED = "right after pruning"


@dataclasses.dataclass(frozen=True)
class _Step:
    """A value of the metric at a place between rounds: round 2 is pruned at 1.5 and trained at 2."""

    at: float
    value: Spread
    stage: str


def _our_steps(experiment: Experiment) -> list[_Step]:
    steps = []
    for level in experiment.levels:
        if not steps:
            before = level.spread(lambda row: row.result.metric_before)
            start = experiment.level(0).spread(lambda row: row.start_value)
            steps.append((0.0, before or start, "before"))
        pruned = level.spread(lambda row: row.result.metric_after_pruning)
        steps += [
            (level.number - 0.5, pruned, _PRUNED),
            (float(level.number), level.at_end, "after training"),
        ]
    return [_Step(*step) for step in steps if step[1] is not None]


def _paper_steps(experiment: Experiment) -> list[_Step]:
    steps = []
    for number, row in experiment.paper_by_round.items():
        if not steps:
            start = row.experiment.start
            before = paper_rows(start.section, start.dataset)[-1 if start.round is None else start.round - 1]
            steps.append((0.0, before.accuracy_percent, "before"))
        steps.append((number - 0.5, row.accuracy_after_pruning_percent, _PRUNED))
        steps.append((float(number), row.accuracy_percent, "after training"))
    return [_Step(at, Spread(value, None, 1), stage) for at, value, stage in steps if value is not None]


def _draw_layers(axes: Axes, densities: dict[str, dict[str, float]], marks: dict[str, Mark]) -> None:
    """Draws the share of weights left in each layer, on a logarithmic axis."""
    names = list(dict.fromkeys(name for own in densities.values() for name in own))
    least = max(min(share for own in densities.values() for share in own.values()), _LEAST_SHARE)
    axes.set_yscale("log")
    axes.set_ylim(0.8 * least, 1.25)
    powers = range(math.ceil(math.log10(least) - 0.1), 1)
    axes.set_yticks([10.0**power for power in powers], [f"{100 * 10.0**power:g} %" for power in powers])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(-0.7, len(names) - 0.3)
    for experiment, own in densities.items():
        mark = marks[experiment]
        at = {name: (index, max(own[name], least)) for index, name in enumerate(names) if name in own}
        chain = [point for name, point in at.items() if "shortcut" not in name]
        beside = [point for name, point in at.items() if "shortcut" in name]
        # A shortcut is beside the chain of layers, not in it.
        _line(axes, chain, mark)
        for points, hollow in ((chain, False), (beside, True)):
            _mark(
                axes, *zip(*points, strict=True), dataclasses.replace(mark, hollow=hollow), 4
            ) if points else None
    stages = [re.match(r"stage\d+|[a-z]*", name)[0].replace("stage", "stage ") for name in names]
    ticks, labels = [], []
    for stage, span in itertools.groupby(range(len(names)), key=lambda index: stages[index]):
        span = list(span)
        axes.axvline(span[0] - 0.5, color=colors()["hair"], lw=1, zorder=0) if span[0] else None
        if len(span) * 28 > len(stage) * len(names) / 2:  # Where its name has room.
            ticks.append((span[0] + span[-1]) / 2)
            labels.append(stage)
    axes.set_xticks(ticks, labels)
    axes.grid(visible=False, axis="x")


def _draw_curves(
    parts: Sequence[Axes], runs: Sequence[Sequence[Epoch]], ends: Sequence[int], mark: Mark, metric: Metric
) -> None:
    """Draws the metric above, the loss below, over the epochs: a line a seed, dashed uprights between rounds.

    A run that is judged by its loss has one part.
    """
    figures = (
        (lambda epoch: epoch.metric, lambda epoch: epoch.test_metric, metric),
        (lambda epoch: epoch.loss, lambda epoch: epoch.test_loss, _LOSS),
    )
    for axes, (training, test, of) in zip(parts, figures[-len(parts) :], strict=True):
        values = [found for run in runs for epoch in run for found in (training(epoch), test(epoch))]
        values = [value for value in values if value is not None]
        _fit_axis(axes, values, of) if values else None
        axes.set_xlim(0, max(map(len, runs)))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        for end in ends:
            axes.axvline(end, color=colors()["rule"], lw=1, ls=(0, (2, 2)))
        for run in runs:
            _line(axes, _points(run, training), mark, lw=1.2)
            points = _points(run, test)
            _line(axes, points, mark, lw=1.2, ls=(0, (3, 2.5)))
            if 0 < len(points) <= 12:
                _mark(axes, *zip(*points, strict=True), Mark(mark.color, "o", True), 4)


def _points(run: Sequence[Epoch], value: Callable[[Epoch], float | None]) -> list[tuple[float, float]]:
    return [(number, value(epoch)) for number, epoch in enumerate(run, start=1) if value(epoch) is not None]


def _line(
    axes: Axes, points: Sequence[tuple[float, float]], mark: Mark, lw: float = 1.8, ls: object = "-"
) -> None:
    if len(points) > 1:
        grey = mark.color == "grey"
        style = {
            "color": colors()[mark.color],
            "lw": 1.2 if grey else lw,
            "ls": (0, (2, 3)) if mark.hollow else ls,
        }
        axes.plot(*zip(*points, strict=True), zorder=2 if grey else 3, **style)


def _mark(
    axes: Axes, x: object, y: object, mark: Mark, size: float, told: str = "", deviation: float | None = None
) -> None:
    color, back = colors()[mark.color], colors()["paper"]
    if deviation:
        axes.plot([x, x], [y - deviation, y + deviation], color=color, lw=1.3, zorder=3)
    axes.plot(
        x,
        y,
        ls="",
        marker=mark.shape or "o",
        ms=size * 1.3 if mark.shape == _TRANSFER_SHAPE else size,
        mfc=back if mark.hollow else color,
        mec=color if mark.hollow else back,
        mew=1.4 if mark.hollow else 0.8,
        clip_on=False,
        zorder=5 if mark.color == "grey" else 4,
        gid=f"told:{told}" if told else None,
    )


def _told(value: Spread, metric: Metric) -> str:
    mean = words.figure(value.mean, metric)
    if value.deviation is None:
        return mean
    return f"{mean} ± {words.figure(value.deviation, metric, digits=2)} ({value.count} seeds)"


def _captions(metric: Metric) -> tuple[str, str, str]:
    """Returns what is drawn after training, as a drop and right after pruning."""
    percent, points = (", %", ", points") if metric.in_percent else ("", "")
    if not metric.higher_is_better:
        percent += ", lower is better"
    drop = f"drop from the own dense network{points}"
    if not metric.higher_is_better:
        drop = f"drop: worse than the own dense network by{points}"
    return f"after training{percent}", drop, f"right after pruning{percent}"


# --- Pictures of the page ---


def accuracy_pictures(experiments: Sequence[Experiment], marks: dict[str, Mark]) -> list[Picture]:
    """Returns metric and drop over sparsity of one dataset's experiments; those that there is data for."""
    title, metric = words.dataset_title(experiments[0].dataset), experiments[0].metric
    after_training, drop, _ = _captions(metric)
    name = words.sentence(words.metric_title(metric))
    pictures = []
    for caption, draw in (
        (f"{name} {after_training}", draw_accuracy),
        (words.sentence(drop), draw_drop),
    ):
        figure, (axes,) = _figure(420, 300)
        if draw(axes, experiments, marks):
            described = [
                f"{e.name} {_told(e.last.at_end, metric)}" for e in experiments if e.last and e.last.at_end
            ]
            words_ = f"{title}: {caption}, over sparsity. {name}: {'; '.join(described)}"
            pictures.append(Picture(title, caption, _svg(figure, words_)))
    return pictures


def step_pictures(experiments: Sequence[Experiment], marks: dict[str, Mark]) -> list[Picture]:
    """Returns the metric through the steps of pruning: the one-shot runs of a dataset together."""
    groups: dict[tuple[str, Metric, str], list[Experiment]] = {}
    for experiment in experiments:
        if any(row.result.metric_after_pruning is not None for row in experiment.rows):
            single = experiment.regime != "iterative"
            groups.setdefault((*experiment.judged, "" if single else experiment.name), []).append(experiment)
    pictures = []
    for (dataset, metric, name), own in groups.items():
        figure, (axes,) = _figure(300, 172)
        _draw_steps(axes, own, marks)
        title = f"{words.dataset_title(dataset)} {own[0].section if name else ''}".strip()
        judged = words.metric_title(metric)
        names = words.in_words(e.name for e in own)
        svg = _svg(figure, f"{title}: {judged} through the steps of pruning of {names}")
        caption = "" if name else "one-shot"
        if metric != ACCURACY:
            caption = ", ".join(filter(None, [judged, caption])) + " "
        drawn = () if name else tuple(own)
        pictures.append(Picture(title, caption, svg, drawn, name))
    return pictures


def layer_densities(experiment: Experiment) -> dict[str, float]:
    """Returns the share of weights left in each layer after the last finished round, mean over the seeds."""
    shares: dict[str, list[float]] = {}
    for row in experiment.last.rows if experiment.last else ():
        for layer in row.result.layers:
            if layer.weights:
                shares.setdefault(layer.layer, []).append(1 - layer.zeros / layer.weights)
    if all(share == 1 for values in shares.values() for share in values):
        return {}  # A dense network: every layer keeps everything.
    return {name: sum(values) / len(values) for name, values in shares.items()}


def layer_pictures(experiments: Sequence[Experiment], marks: dict[str, Mark]) -> list[Picture]:
    """Returns the share of weights left in each layer: experiments of one dataset and level together."""
    groups: dict[tuple[str, str], list[Experiment]] = {}
    for experiment in experiments:
        if experiment.last is not None and layer_densities(experiment):
            sparsity = experiment.last.spread(lambda row: row.result.sparsity).mean
            groups.setdefault((experiment.dataset, f"{sparsity:.3g}"), []).append(experiment)
    pictures = []
    for (dataset, level), own in groups.items():
        figure, (axes,) = _figure(420, 240)
        _draw_layers(axes, {e.name: layer_densities(e) for e in own}, marks)
        title = f"{words.dataset_title(dataset)}, {level}"
        caption = "Weights left in each layer, in the network’s order"
        pictures.append(Picture(title, caption, _svg(figure, f"{title}: {caption}"), tuple(own)))
    return pictures


def curve_picture(
    experiment: Experiment, histories: Sequence[Sequence[Sequence[Epoch]]], mark: Mark
) -> Picture | None:
    """Returns metric and loss over the epochs of all rounds; None without an epoch.

    Args:
        experiment: Whose.
        histories: Of every seed, of every round, the epochs.
        mark: Its mark.
    """
    runs = [list(itertools.chain(*seed)) for seed in histories]
    runs = [run for run in runs if any(epoch.loss is not None for epoch in run)]
    if not runs:
        return None
    longest = max(histories, key=lambda seed: sum(map(len, seed)))
    ends = list(itertools.accumulate(map(len, longest)))[:-1]
    metric = experiment.metric
    figures = ["loss"] if metric.name == _LOSS.name else [words.metric_title(metric), "loss"]
    figure, parts = _figure(300, 200, len(figures))
    _draw_curves(parts, runs, [end for end in ends if end], mark, metric)
    for axes in parts[:-1]:
        axes.set_xticklabels([])
    words_ = f"{experiment.name}: {words.in_words(figures)} over {max(map(len, runs))} epochs"
    caption = "" if metric == ACCURACY else f"{words.sentence(figures[0])} "
    return Picture("", caption, _svg(figure, words_), code=experiment.name)


def _figure(width: int, height: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Returns a figure of so many pixels with axes below each other."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    margins = {"left": 38 / width, "right": 1 - 32 / width, "top": 1 - 8 / height}
    bottom = (34 if height > 250 else 20) / height
    grid = figure.add_gridspec(rows, 1, bottom=bottom, hspace=0.16, **margins)
    axes = [figure.add_subplot(grid[row]) for row in range(rows)]
    for one in axes:
        _style(one, 11 if width > 350 else 10)
    return figure, axes


def _style(axes: Axes, fontsize: float) -> None:
    axes.grid(color=colors()["hair"], lw=1)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(colors()["grey"])
    axes.tick_params(length=0, labelsize=fontsize, labelcolor=colors()["soft"])
    axes.xaxis.label.set(color=colors()["soft"], fontsize=fontsize)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def _svg(figure: Figure, described: str) -> markupsafe.Markup:
    """Returns a figure as an SVG element that takes its colours and its font from the page."""
    figure.patch.set_visible(False)
    FigureCanvasSVG(figure)
    stream = io.StringIO()
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "tfprune", "axes.unicode_minus": True}
    ):
        figure.savefig(
            stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<metadata>.*?</metadata>\s*|<defs>\s*<style.*?</style>\s*</defs>\s*|<!--.*?-->\s*",
        "",
        svg,
        flags=re.S,
    )
    box = re.search(r'viewBox="[^"]*"', svg)[0]
    svg = re.sub(r"<svg[^>]*>", f'<svg {box} role="img" aria-label="{html.escape(described)}">', svg, count=1)
    svg = re.sub(r"""<g id=(["'])told:(.*?)\1>""", r"<g><title>\2</title>", svg)
    svg = re.sub(r'<g id="section">', '<g class="section">', svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    for name, color in colors().items():
        svg = svg.replace(color, f"var(--{name})")
    return markupsafe.Markup(re.sub(r">\s+<", "><", svg.strip()))


# --- The PNG ---


def accuracy_png(experiments: Sequence[Experiment]) -> bytes:
    """Returns metric, drop and metric right after pruning over sparsity as a PNG 1,000 pixels wide."""
    stream = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):  # A name with dollar signs is a name.
        plot_accuracy(experiments).savefig(stream, format="png")
    return stream.getvalue()


def plot_accuracy(experiments: Sequence[Experiment]) -> Figure:
    """Returns the figure of `accuracy_png`: three pictures and a legend for each dataset and metric."""
    marks = make_marks(experiments)
    judged = list(dict.fromkeys(e.judged for e in experiments))
    figure = Figure(figsize=(10, 6.2 * len(judged)), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subfigures(len(judged), 1, squeeze=False)[:, 0]
    for panel, (dataset, metric) in zip(panels, judged, strict=True):
        own = [e for e in experiments if e.judged == (dataset, metric)]
        captions = _captions(metric)
        if metric != ACCURACY:
            captions = (f"{words.metric_title(metric)} {captions[0]}", *captions[1:])
        panel.suptitle(_panel_title(dataset, own), x=0.06, ha="left", fontsize=10)
        grid = panel.add_gridspec(
            2, 2, left=0.06, right=0.96, bottom=0.08, top=0.84, hspace=0.42, wspace=0.16
        )
        parts = (
            (grid[0, 0], captions[0], draw_accuracy),
            (grid[0, 1], captions[1], draw_drop),
            (grid[1, 0], captions[2], draw_right_after_pruning),
        )
        for place, title, draw in parts:
            axes = panel.add_subplot(place)
            _style(axes, 9)
            if draw(axes, own, marks):
                axes.set_title(title, loc="left", fontsize=9.5)
            else:
                axes.remove()
        handles = [_handle(e, marks[e.name]) for e in own]
        if _published(own):
            grey = {"color": colors()["grey"], "marker": "s", "mfc": "white", "ms": 5, "lw": 1}
            handles.append(Line2D([], [], label="the paper, with the section's number", **grey))
        panel.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.53, 0.45),
            fontsize=8.5 if len(handles) <= 15 else 8.5 * 15 / len(handles),
            frameon=False,
        )
    return figure


def _handle(experiment: Experiment, mark: Mark) -> Line2D:
    color = colors()[mark.color]
    star = " *" if experiment.section and not experiment.in_paper_setting else ""
    section = f" ({experiment.section})" if experiment.section not in ("", BASELINE) else ""
    style = (
        {"ls": (0, (6, 4)), "lw": 1.6}
        if not mark.shape
        else {"ls": "-" if len(experiment.levels) > 1 else ""}
    )
    face = {"mfc": "white" if mark.hollow else color, "mec": color if mark.hollow else "white"}
    return Line2D(
        [],
        [],
        color=color,
        marker=mark.shape or None,
        ms=7,
        label=f"{experiment.name}{section}{star}",
        **style,
        **face,
    )


def _panel_title(dataset: str, experiments: Sequence[Experiment]) -> str:
    title, name = words.dataset_title(dataset), any(e.section for e in experiments)
    others = [e for e in experiments if not e.in_paper_setting]
    if not others:
        return f"{title}, the paper's setting"
    settings = list(dict.fromkeys(words.network(e.first.result) for e in others))
    setting = settings[0] if len(settings) == 1 else f"{len(settings)} settings, see the table"
    return f"{title}\n* not the paper's setting: {setting}" if name else f"{title}\n{setting}"
