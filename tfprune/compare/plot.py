"""Accuracy over sparsity, ours and the paper's, as a picture."""

import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from tfprune.compare.layout import dataset_title, describe_setting
from tfprune.compare.paper import BASELINE_SECTION, PAPER_ROWS, PaperRow
from tfprune.compare.table import ComparisonRow

_SPARSITY_TICKS = (0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_PAPER_COLOR = "0.55"
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3fbf", "#8c564b")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_PANEL_INCHES = 6.2
_MIN_SPAN_PERCENT = 10  # a narrower axis would make a mountain of a test image


def plot_accuracy(rows: Sequence[ComparisonRow]) -> Figure:
    """Draws accuracy over sparsity, a panel a dataset.

    A panel has the accuracies after fine-tuning above, on an axis as wide as they need, and those
    right after pruning below, from 0 to 100. The x axis is the density, `1 - sparsity`, on a
    logarithmic scale, labelled with the sparsity. An iterative run is a line with a marker a
    round; dashed lines are the dense networks. The paper's results are grey, with the marker of
    our run of the same section; runs that are not in the paper's setting carry a star.

    Args:
        rows: From `tfprune.compare.table.compare`, at least one.

    Returns:
        A figure 1,000 pixels wide. It belongs to no pyplot state.
    """
    datasets = list(dict.fromkeys(row.result.dataset for row in rows))
    figure = Figure(figsize=(10, _PANEL_INCHES * len(datasets)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subfigures(len(datasets), 1, squeeze=False)[:, 0]
    for panel, dataset in zip(panels, datasets, strict=True):
        _draw_panel(panel, dataset, [row for row in rows if row.result.dataset == dataset])
    return figure


def _draw_panel(panel: SubFigure, dataset: str, rows: Sequence[ComparisonRow]) -> None:
    tuned, pruned = panel.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    paper = [row for row in PAPER_ROWS if row.dataset == dataset]
    # One marker a section with pruned networks, shared by ours and the paper's.
    sections = dict.fromkeys(row.section for row in paper if row.sparsity > 0)
    markers = dict(zip(sections, _MARKERS, strict=False))
    other_markers = itertools.cycle([m for m in _MARKERS if m not in markers.values()] or _MARKERS)
    colors = itertools.cycle(_COLORS)

    paper_handles = []
    if paper:
        paper_handles.append(
            _draw_dense(tuned, paper[0].baseline_accuracy_percent, _PAPER_COLOR, "paper, baseline")
        )
    for section, marker in markers.items():
        published = [row for row in paper if row.section == section]
        paper_handles.append(_draw_section(tuned, pruned, published, marker))

    handles = []
    for experiment in dict.fromkeys(row.experiment for row in rows):
        color = next(colors)
        own = [row for row in rows if row.experiment == experiment]
        result = own[0].result
        label = _label(own[0], bool(paper))
        if result.regime == "dense" and not result.sparsity:
            if result.accuracy_percent is not None:
                handles.append(_draw_dense(tuned, result.accuracy_percent, color, label))
        else:
            marker = markers.get(result.paper_section) or next(other_markers)
            handles.append(_draw_run(tuned, pruned, own, color, marker, label))

    tuned.set_title(_title(dataset, rows, bool(paper)), loc="left", fontsize=10)
    tuned.legend(
        handles=handles + paper_handles,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.02),
        fontsize=8.5,
        frameon=False,
    )
    densities = [1 - row.sparsity for row in paper]
    densities += [1 - row.result.sparsity for row in rows if row.result.sparsity is not None]
    _label_axes(tuned, pruned, min([0.5, *(density for density in densities if density > 0)]))


def _draw_dense(axes: Axes, accuracy_percent: float, color: str, label: str) -> Line2D:
    # The dense networks of a panel lie close together: the paper's is the thinner one.
    width = 1.0 if color == _PAPER_COLOR else 1.5
    # The line's own data limits do not count in autoscaling unless a point of it is drawn.
    axes.plot(1, accuracy_percent, alpha=0)
    return axes.axhline(accuracy_percent, color=color, lw=width, ls="--", label=label, zorder=1)


def _draw_section(tuned: Axes, pruned: Axes, rows: Sequence[PaperRow], marker: str) -> Line2D:
    density = [1 - row.sparsity for row in rows]
    style = {"color": _PAPER_COLOR, "marker": marker, "ls": "-" if len(rows) > 1 else "", "lw": 1}
    label = f"paper, {rows[0].section}"
    # Small and in front, to be seen on our marker where both agree.
    (line,) = tuned.plot(
        density,
        [row.accuracy_percent for row in rows],
        ms=5.5,
        mec="white",
        mew=0.5,
        zorder=5,
        label=label,
        **style,
    )
    if rows[0].accuracy_after_pruning_percent is not None:
        after_pruning = [row.accuracy_after_pruning_percent for row in rows]
        pruned.plot(density, after_pruning, ms=5, mfc="none", zorder=5, **style)
    return line


def _draw_run(
    tuned: Axes,
    pruned: Axes,
    rows: Sequence[ComparisonRow],
    color: str,
    marker: str,
    label: str,
) -> Line2D:
    rows = [row for row in rows if row.result.sparsity is not None and row.result.sparsity < 1]
    rounds = [row for row in rows if not row.is_start]
    done = [row for row in rounds if row.result.accuracy_percent is not None]
    several = len(rounds) > 1
    style = {"color": color, "marker": marker, "ls": "-" if several else "", "lw": 1.6, "ms": 9}

    start = [row for row in rows if row.is_start and row.start_accuracy_percent is not None]
    if several and start and done:
        # The line of an iterative run begins at the network that it started from.
        density = [1 - row.result.sparsity for row in (start[0], done[0])]
        accuracy = [start[0].start_accuracy_percent, done[0].result.accuracy_percent]
        tuned.plot(density, accuracy, color=color, lw=1.6, zorder=3)
    (line,) = tuned.plot(
        [1 - row.result.sparsity for row in done],
        [row.result.accuracy_percent for row in done],
        mec="white",
        mew=0.8,
        zorder=4,
        label=label,
        **style,
    )
    measured = [row for row in rounds if row.result.accuracy_after_pruning_percent is not None]
    pruned.plot(
        [1 - row.result.sparsity for row in measured],
        [row.result.accuracy_after_pruning_percent for row in measured],
        mfc="none",
        zorder=4,
        **style,
    )
    return line


def _label(row: ComparisonRow, has_paper: bool) -> str:
    section = row.result.paper_section
    if not row.in_paper_setting:
        return f"{row.experiment} *" if has_paper else row.experiment
    return row.experiment if section == BASELINE_SECTION else f"{row.experiment} ({section})"


def _title(dataset: str, rows: Sequence[ComparisonRow], has_paper: bool) -> str:
    title = dataset_title(dataset)
    others = [row for row in rows if not row.in_paper_setting]
    if not others:
        return f"{title}, the paper's setting"
    settings = list(dict.fromkeys(describe_setting(row.result) for row in others))
    setting = settings[0] if len(settings) == 1 else f"{len(settings)} settings, see the table"
    return f"{title}\n* not the paper's setting: {setting}" if has_paper else f"{title}\n{setting}"


def _label_axes(tuned: Axes, pruned: Axes, least_density: float) -> None:
    right = least_density / 1.15
    pruned.set_xscale("log")
    pruned.set_xlim(1.15, right)
    ticks = [sparsity for sparsity in _SPARSITY_TICKS if 1 - sparsity >= right]
    pruned.set_xticks([1 - sparsity for sparsity in ticks], [f"{tick:g}" for tick in ticks])
    pruned.set_xlabel("sparsity of the pruned kernels (scale: logarithm of the share left)")
    low, high = tuned.get_ylim()
    low = min(low, high - _MIN_SPAN_PERCENT)
    high += 0.06 * (high - low)  # Room for the topmost markers, however close the points lie.
    tuned.set_ylim(max(low, -2), min(high, 101.5))
    tuned.set_ylabel("after fine-tuning, %")
    pruned.set_ylim(-4, 104)
    pruned.set_ylabel("right after pruning, %")
    for axes in (tuned, pruned):
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(color="0.92", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
