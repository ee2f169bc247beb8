"""Pictures of what is inside a run: sparsity per layer, training curves, and latencies."""

import math
import re
from collections.abc import Callable, Sequence

from tfprune.compare import svg
from tfprune.compare.artifacts import Epoch, Latency
from tfprune.compare.layout import dataset_title
from tfprune.compare.page_html import Head, code, details, escape, number, table
from tfprune.compare.page_marks import Mark, legend
from tfprune.compare.page_plots import figure
from tfprune.compare.seeds import Experiment

_LEAST_SHARE = 1e-4  # The bottom of the axis of the share of weights left.


def layer_densities(experiment: Experiment) -> dict[str, float]:
    """The share of weights left in each layer after the last finished round, mean over the seeds."""
    level = experiment.last
    shares: dict[str, list[float]] = {}
    for row in level.rows if level else ():
        for layer in row.result.layers:
            if layer.weights:
                shares.setdefault(layer.layer, []).append(1 - layer.zeros / layer.weights)
    if all(share == 1 for values in shares.values() for share in values):
        return {}  # A dense network: every layer keeps everything.
    return {name: sum(values) / len(values) for name, values in shares.items()}


def plot_layers(experiments: Sequence[Experiment], marks: dict[str, Mark]) -> list[str]:
    """The share of weights left in each layer, experiments of one dataset and level in one picture.

    Args:
        experiments: Those without recorded layers are left out.
        marks: From `make_marks`.

    Returns:
        HTML of the figures.
    """
    groups: dict[tuple[str, float], list[Experiment]] = {}
    for experiment in experiments:
        if experiment.last is not None and layer_densities(experiment):
            sparsity = experiment.last.spread(lambda row: row.result.sparsity)
            groups.setdefault((experiment.dataset, round(sparsity.mean, 3) if sparsity else -1), []).append(
                experiment
            )
    return [_layers_figure(dataset, level, own, marks) for (dataset, level), own in sorted(groups.items())]


def _layers_figure(
    dataset: str, level: float, experiments: Sequence[Experiment], marks: dict[str, Mark]
) -> str:
    densities = {e.name: layer_densities(e) for e in experiments}
    names = list(dict.fromkeys(name for own in densities.values() for name in own))
    least = min(share for own in densities.values() for share in own.values())
    low = 10 ** math.floor(math.log10(max(least, _LEAST_SHARE)))
    x = svg.Axis(-0.7, len(names) - 0.3, 44, 412)
    y = svg.Axis(low, 1, 222, 10, logarithmic=True)
    parts = []
    for power in range(round(math.log10(low)), 1):
        share = 10.0**power
        parts.append(svg.segment(x.start, y(share), x.end, y(share), "grid"))
        parts.append(svg.text(x.start - 6, y(share) + 3.5, f"{100 * share:g} %", "tick", "end"))
    parts += _stages(names, x, y)
    for experiment in experiments:
        mark, own = marks[experiment.name], densities[experiment.name]
        at = {name: (x(index), y(max(own[name], low))) for index, name in enumerate(names) if name in own}
        # A shortcut is beside the chain of layers, not in it.
        parts.append(svg.line([at[name] for name in at if "shortcut" not in name], mark.color))
        for name, point in at.items():
            title = f"{experiment.name}, {name}: {_share(own[name])} of the weights left"
            kind = mark.hollow if "shortcut" in name else mark.color
            parts.append(svg.marker(*point, mark.shape, kind, title, 2.8))
    words = f"{dataset_title(dataset)}, sparsity {level:g}: share of weights left in each layer"
    title = f"<b>{escape(dataset_title(dataset))}, {level:g}</b>"
    caption = f"{title} Weights left in each layer, in the network’s order"
    heads = [Head("Layer", kind="text"), *(Head(code(name)) for name in densities)]
    rows = [
        [
            f"<code>{escape(name)}</code>",
            *(number(1 - own[name], 4) if name in own else number(None) for own in densities.values()),
        ]
        for name in names
    ]
    listing = details("Sparsity of every layer", table("", heads, rows))
    return figure(caption, svg.picture(420, 246, words, parts) + legend(experiments, marks, False) + listing)


def _stages(names: Sequence[str], x: svg.Axis, y: svg.Axis) -> list[str]:
    """Rules between the stages of the network, and their names."""
    stages = [re.match(r"(stage\d+|[a-z]+)", name) for name in names]
    stages = [match[1] if match else "" for match in stages]
    parts, first = [], 0
    for index in range(1, len(names) + 1):
        if index == len(names) or stages[index] != stages[first]:
            if first:
                parts.append(svg.segment(x(first - 0.5), y.start, x(first - 0.5), y.end, "grid"))
            label = stages[first].replace("stage", "stage ")
            if x(index - 0.5) - x(first - 0.5) > 5.5 * len(label):
                parts.append(svg.text(x((first + index - 1) / 2), y.start + 15, label, "tick", "middle"))
            first = index
    parts.append(svg.segment(x.start, y.start, x.end, y.start, "axis"))
    return parts


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


def plot_curves(experiment: Experiment, histories: Sequence[Sequence[Sequence[Epoch]]], mark: Mark) -> str:
    """Accuracy and loss over the epochs of all rounds; one line a seed.

    Args:
        experiment: Whose.
        histories: Of every seed, of every round, the epochs.
        mark: Its mark.

    Returns:
        HTML of a figure; empty without any epoch.
    """
    runs = [[epoch for round_ in seed for epoch in round_] for seed in histories]
    longest = max(map(len, runs), default=0)
    losses = [
        loss for run in runs for epoch in run for loss in (epoch.loss, epoch.test_loss) if loss is not None
    ]
    if not longest or not losses:
        return ""
    x = svg.Axis(0, max(longest, 1), 34, 288)
    accuracy, loss = svg.Axis(0, 100, 108, 8), svg.Axis(0, max(losses) * 1.05, 190, 126)
    ticks = [(tick, f"{tick:g}") for tick in svg.round_ticks(0, longest) if tick == int(tick)]
    parts = svg.frame(x, accuracy, [], (0, 50, 100)) + svg.frame(
        x, loss, ticks, svg.round_ticks(0, loss.high, 2)
    )
    at = 0
    for number_of_epochs in [len(round_) for round_ in max(histories, key=lambda seed: sum(map(len, seed)))][
        :-1
    ]:
        at += number_of_epochs
        if at:
            parts.append(svg.segment(x(at), loss.start, x(at), accuracy.end, "boundary"))
    curves = (
        (accuracy, lambda epoch: epoch.accuracy_percent, lambda epoch: epoch.test_accuracy_percent),
        (loss, lambda epoch: epoch.loss, lambda epoch: epoch.test_loss),
    )
    for run in runs:
        for y, training, test in curves:
            parts.append(svg.line(_points(run, training, x, y), f"thin {mark.color}"))
            points = _points(run, test, x, y)
            parts.append(svg.line(points, f"thin dotted {mark.color}"))
            if len(points) <= 12:
                parts += [svg.marker(*point, "circle", mark.hollow, radius=2.4) for point in points]
    words = f"{experiment.name}: accuracy and loss over {longest} epochs"
    return figure(f"<b>{escape(experiment.name)}</b>", svg.picture(300, 210, words, parts))


def _points(
    run: Sequence[Epoch], value: Callable[[Epoch], float | None], x: svg.Axis, y: svg.Axis
) -> list[tuple[float, float]]:
    values = [(index, value(epoch)) for index, epoch in enumerate(run, start=1)]
    return [(x(index), y(amount)) for index, amount in values if amount is not None]


def plot_latencies(latencies: Sequence[Latency], titled: str) -> list[str]:
    """Bars of median latency with the quartiles, a picture for each count of threads and batch size.

    Args:
        latencies: Of one experiment.
        titled: Its name.

    Returns:
        HTML of the figures.
    """
    settings = dict.fromkeys((latency.threads, latency.batch_size) for latency in latencies)
    figures = []
    for threads, batch_size in settings:
        rows = [row for row in latencies if (row.threads, row.batch_size) == (threads, batch_size)]
        rows.sort(key=lambda row: row.median_ms)
        x = svg.Axis(0, max(row.upper_ms for row in rows) * 1.02, 112, 250)
        height = 20 * len(rows) + 8
        parts = [svg.segment(x.start, 0, x.start, height - 4, "axis")]
        for index, row in enumerate(rows):
            middle = 14 + 20 * index
            parts.append(svg.text(x.start - 6, middle + 3.5, row.contender, "tick name", "end"))
            parts.append(svg.rectangle(x.start, middle - 6, x(row.median_ms) - x.start, 12, "bar"))
            parts.append(svg.segment(x(row.lower_ms), middle, x(row.upper_ms), middle, "error ink"))
            parts.append(svg.text(x(row.upper_ms) + 5, middle + 3.5, f"{row.median_ms:.3g} ms", "tick"))
        plural = "s" if threads > 1 else ""
        setting = f"{threads} thread{plural}, batch {batch_size}"
        listing = "; ".join(f"{row.contender} {row.median_ms:.3g} ms" for row in rows)
        words = f"{titled}, latency a call with {setting}: {listing}"
        figures.append(figure(f"<b>{escape(setting)}</b>", svg.picture(300, height, words, parts)))
    return figures
