"""A summary as a picture: what is left of each kernel."""

import os
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

_ENDINGS = (".png", ".svg", ".pdf")
_LEFT_COLOR, _REMOVED_COLOR, _SPARSITY_COLOR = "#0072b2", "#c6d9e8", "#d55e00"
_ROW_INCHES, _FRAME_INCHES = 0.24, 1.2
_LONGEST_NAME = 40


def save_picture(summary: Any, path: str | os.PathLike) -> None:
    """Writes the picture of `draw_summary` to a file, whole or not at all.

    Args:
        summary: From `tfprune.sparsity.summarize`.
        path: File to write; its ending says the format: `.png`, `.svg` or `.pdf`.

    Raises:
        ValueError: On another ending, or if there are no prunable variables.
    """
    path = Path(path)
    if path.suffix.lower() not in _ENDINGS:
        raise ValueError(f"`path` must end in {', '.join(_ENDINGS)}. Received: path={str(path)!r}")
    figure = draw_summary(summary)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format=path.suffix[1:].lower())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def draw_summary(summary: Any) -> Figure:
    """Draws one row for each variable that the summary's sparsity is of.

    On the left a bar as long as the variable has parameters, dark as far as they are not zero, on one linear
    scale for all; on the right the sparsity, from 0 to 100 %, with that of all of them as a dashed line.

    Args:
        summary: From `tfprune.sparsity.summarize`.

    Returns:
        A figure 1,000 pixels wide, as tall as it has rows. It belongs to no pyplot state.

    Raises:
        ValueError: If there are no prunable variables.
    """
    rows = summary.counted
    if not rows:
        raise ValueError("The model has no prunable variables: there is nothing to draw.")
    height = _FRAME_INCHES + _ROW_INCHES * max(len(rows), 2)
    figure = Figure(figsize=(10, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    sizes, shares = figure.subplots(1, 2, sharey=True, width_ratios=(5, 2))
    places = range(len(rows))

    parameters = [row.parameters for row in rows]
    nonzeros = [row.nonzeros for row in rows]
    sizes.barh(places, parameters, 0.7, color=_REMOVED_COLOR, label="dense")
    sizes.barh(places, nonzeros, 0.7, color=_LEFT_COLOR, label="not zero")
    for place, row in zip(places, rows, strict=True):
        text = f" {_short(row.nonzeros)} of {_short(row.parameters)}"
        sizes.text(row.parameters, place, text, va="center", fontsize=7.5)
    sizes.set_xlim(0, 1.24 * max(parameters))  # Room for the longest bar's text.
    sizes.set_xlabel("parameters", fontsize=9)
    sizes.xaxis.set_major_formatter(EngFormatter(sep=""))
    sizes.xaxis.set_major_locator(MaxNLocator(6))
    sizes.set_yticks(places, _names(rows), fontsize=8)
    sizes.set_ylim(len(rows) - 0.4, -0.6)  # The first layer on top.
    sizes.tick_params(axis="y", length=0)

    percents = [100 * row.sparsity for row in rows]
    shares.barh(places, percents, 0.7, color=_SPARSITY_COLOR)
    shares.axvline(100 * summary.sparsity, color="0.25", lw=1, ls="--")
    for place, percent in zip(places, percents, strict=True):
        text = f"{percent:.2f}" if 99 <= percent < 100 else f"{percent:.1f}"
        shares.text(102, place, text, va="center", fontsize=7.5)
    shares.set_xlim(0, 116)  # Room for the texts.
    shares.set_xticks(range(0, 101, 20))
    shares.set_xlabel(f"zeros, % (all of them: {100 * summary.sparsity:.1f})", fontsize=9)
    shares.tick_params(axis="y", length=0)

    for axes in (sizes, shares):
        _quiet(axes)
    left, dense = sum(nonzeros), sum(parameters)
    kind = "pruned" if any(row.pruned for row in rows) else "prunable"
    sizes.set_title(
        f"{left:,} of {dense:,} {kind} parameters are not zero",
        loc="left",
        fontsize=10,
    )
    figure.legend(
        *sizes.get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8.5, frameon=False
    )
    return figure


def _quiet(axes: Axes) -> None:
    axes.grid(axis="x", color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)


def _names(rows: Any) -> list[str]:
    """The layers' names, with the variable's where a layer has several, with a number where two are alike."""
    of_layer = [row.layer for row in rows]
    names = [row.layer if of_layer.count(row.layer) == 1 else f"{row.layer}/{row.variable}" for row in rows]
    return [name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}" for name in names]


def _short(count: int) -> str:
    """1234567 -> 1.23 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)
