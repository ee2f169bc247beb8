"""A measurement as a picture: latency relative to the fastest dense network, sizes and memory."""

from collections.abc import Sequence
from typing import Any

from tfprune.benchmark.contenders import OURS_NAME
from tfprune.benchmark.report import setting_title
from tfprune.export.formats import all_files
from tfprune.extras import extra

with extra("plot"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

_OURS = "#0072b2"
_COLORS = {"dense": "0.62", "sparse": "#d55e00", "int8": "#cc79a7"}
_KINDS = {
    "sparse": "another sparse file or runtime",
    "int8": "dense int8",
    "dense": "dense float",
}
_GZIP_TICK = {"marker": "|", "ms": 9, "mew": 1.8, "color": "0.1", "ls": "none"}
_DENSE_LINE = {"color": "0.25", "lw": 1, "ls": "--"}
_BAR_INCHES = 0.27
_FRAME_INCHES = 0.95
_TITLE_INCHES = 0.42
_COLUMNS = 2
_LEAST_SPAN = 1.5
_TEXT_SHARE = 0.36
_MARGIN_SHARE = 0.05


def plot_benchmark(record: dict[str, Any], title: str) -> Figure:
    """Draws a panel for each setting, one for file sizes and one for memory, and a legend.

    All scales are logarithmic. Bars of latency start at 1, the fastest dense network: to the left is
    faster, to the right slower.

    Args:
        record: The return value of `tfprune.benchmark.measure.measure`.
        title: A name of the network.

    Returns:
        A figure 1,200 pixels wide. It belongs to no pyplot state.
    """
    settings = [setting for setting in record["latency"] if setting["fastest_dense"]]
    panels = len(settings) + 1 + bool(record["memory"])
    lines = -(-panels // _COLUMNS)
    bars = max(len(record["contenders"]), len(record["sizes"]["artifacts"])) + 1
    height = lines * (bars * _BAR_INCHES + _FRAME_INCHES) + 0.7
    figure = Figure(figsize=(12, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    # The third line is the legend's place.
    figure.suptitle(f"{title}\n{record['machine']['processor']}\n", fontsize=11, x=0.01, ha="left")
    axes = list(figure.subplots(lines, _COLUMNS, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.remove()
    for panel, setting in zip(axes, settings, strict=False):
        _draw_setting(panel, record, setting)
    _draw_sizes(axes[len(settings)], record["sizes"])
    if record["memory"]:
        _draw_memory(axes[len(settings) + 1], record)
    _draw_legend(figure, record)
    return figure


def _draw_legend(figure: Figure, record: dict[str, Any]) -> None:
    """Draws the colours' meaning above the panels, as far as the colours are used."""
    artifacts = record["sizes"]["artifacts"]
    names = {row["name"]: row["kind"] for row in record["contenders"]}
    files = {size["name"]: _file_color(size["name"]) for size in artifacts}
    used = {*files.values(), *(_color(name, kind) for name, kind in names.items())}
    entries: list[Patch | Line2D] = [Patch(color=_OURS, label="tfprune (sparse)")] if _OURS in used else []
    entries += [
        Patch(color=_COLORS[kind], label=text) for kind, text in _KINDS.items() if _COLORS[kind] in used
    ]
    if artifacts:
        entries.append(Line2D([], [], label="gzipped", **_GZIP_TICK))
        entries.append(Line2D([], [], label="the dense float32 weights", **_DENSE_LINE))
    figure.legend(
        handles=entries,
        loc="upper left",
        bbox_to_anchor=(0.005, 1 - _TITLE_INCHES / figure.get_figheight()),
        borderaxespad=0,
        ncols=len(entries),
        frameon=False,
        fontsize=9,
    )


def _draw_setting(axes: Axes, record: dict[str, Any], setting: dict[str, Any]) -> None:
    about = {row["name"]: row for row in record["contenders"]}
    rows = [row for row in setting["rows"] if not row["failure"] and row["to_fastest_dense"]]
    values = [1 / row["to_fastest_dense"]["median"] for row in rows]
    texts = [
        f"{_short(row['milliseconds']['median'])} ms, {row['to_fastest_dense']['median']:.2f}x"
        for row in rows
    ]
    titles = [about[row["name"]]["title"] for row in rows]
    colors = [_color(row["name"], about[row["name"]]["kind"]) for row in rows]
    _draw_bars(axes, titles, values, texts, colors, 1.0)
    axes.axvline(1, color="0.25", lw=1)
    axes.set_title(f"Latency, {setting_title(setting)}", loc="left", fontsize=10)
    fastest = about[setting["fastest_dense"]]["title"]
    axes.set_xlabel(f"time relative to {fastest}'s, the fastest dense", fontsize=9)


def _draw_sizes(axes: Axes, sizes: dict[str, Any]) -> None:
    artifacts = sizes["artifacts"]
    values = [size["raw"] / 1e6 for size in artifacts]
    texts = [f"{_short(size['raw'] / 1e6)} MB, gzip {_short(size['gzip'] / 1e6)} MB" for size in artifacts]
    colors = [_file_color(size["name"]) for size in artifacts]
    dense = sizes["dense_weights_bytes"] / 1e6
    _draw_bars(axes, [size["name"] for size in artifacts], values, texts, colors, None)
    for position, size in enumerate(artifacts):
        axes.plot([size["gzip"] / 1e6], [position], **_GZIP_TICK)
    axes.axvline(dense, **_DENSE_LINE)
    axes.set_title("File size", loc="left", fontsize=10)
    axes.set_xlabel("MB", fontsize=9)


def _draw_memory(axes: Axes, record: dict[str, Any]) -> None:
    about = {row["name"]: row for row in record["contenders"]}
    rows = [row for row in record["memory"]["rows"] if not row["failure"] and row["above_baseline_bytes"] > 0]
    values = [row["above_baseline_bytes"] / 1e6 for row in rows]
    titles = [about[row["name"]]["title"] for row in rows]
    colors = [_color(row["name"], about[row["name"]]["kind"]) for row in rows]
    _draw_bars(axes, titles, values, [f"{_short(value)} MB" for value in values], colors, None)
    axes.set_title("Peak memory above Python with NumPy, one example, 1 thread", loc="left", fontsize=10)
    axes.set_xlabel("MB", fontsize=9)


def _draw_bars(
    axes: Axes,
    titles: Sequence[str],
    values: Sequence[float],
    texts: Sequence[str],
    colors: Sequence[str],
    start: float | None,
) -> None:
    """Draws horizontal bars on a logarithmic scale, from `start` or from the left edge."""
    if not values:
        axes.text(0.5, 0.5, "nothing was measured", ha="center", transform=axes.transAxes)
        return
    axes.set_xscale("log")
    ends = [*values, start or values[0]]
    low, high = min(ends), max(max(ends), _LEAST_SPAN * min(ends))
    # The texts take a share of the axis, whatever its range.
    span = (high / low) ** (1 / (1 - _TEXT_SHARE - _MARGIN_SHARE))
    left, right = low / span**_MARGIN_SHARE, high * span**_TEXT_SHARE
    origin = left if start is None else start
    axes.set_xlim(left, right)
    for position, (value, text, color) in enumerate(zip(values, texts, colors, strict=True)):
        axes.barh(position, value - origin, left=origin, color=color, height=0.72, zorder=2)
        axes.annotate(
            text,
            (max(value, origin), position),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
    axes.set_yticks(range(len(titles)), titles, fontsize=8.5)
    axes.set_ylim(len(titles) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="0.92", lw=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _color(name: str, kind: str) -> str:
    return _OURS if name == OURS_NAME else _COLORS[kind]


def _file_color(name: str) -> str:
    """Returns the colour of an exported file; one that is not timed is as dense as its weights."""
    timings = {file.name: file.timing for file in all_files()}
    timing = timings.get(name)
    return _color(timing.name, timing.kind) if timing else _COLORS["dense"]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
