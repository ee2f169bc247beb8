"""A plan as a picture: how wide each part of the network is before and after, and what it costs."""

from collections.abc import Sequence
from typing import Any

from tfprune.extras import extra
from tfprune.pictures import new_figure, short_count, short_name
from tfprune.structured.costs import PlannedGroup, Size

_BEFORE, _AFTER, _FIXED = "#c6d9e8", "#0072b2", "0.55"
_COSTS = {"parameters": "#e69f00", "macs": "#d55e00"}
_WORDS = {"parameters": "parameters", "macs": "MACs"}
_ROW_INCHES, _FRAME_INCHES = 0.25, 1.25
_BAR, _FEWEST = 0.74, 3
_LONGEST_NAME = 36


def draw(rows: Sequence[PlannedGroup], whole: Size, left: Size) -> Any:
    """Draws one row for each group of channels of a plan, given the sizes of the network before and after.

    On the left a bar is as wide as the group has channels, and dark as far as they stay: the outline of the
    network before and after. Groups that are fixed are grey. To the right of it stand the parameters and the
    multiply-accumulates of each group; where these are unknown, the parameters alone. All scales are linear.

    Returns:
        A figure 1,100 pixels wide, as tall as its rows need. It belongs to no pyplot state.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("The model has no layer that makes channels: there is nothing to draw.")
    figure = new_figure(11, _FRAME_INCHES + _ROW_INCHES * max(len(rows), _FEWEST))
    units = [unit for unit in _COSTS if getattr(whole, unit) is not None]
    panels = figure.subplots(1, 1 + len(units), sharey=True, width_ratios=(3.2, *[2] * len(units)))
    _draw_widths(panels[0], rows)
    channels, kept = sum(row.channels for row in rows), sum(row.kept for row in rows)
    title = f"channels: {channels:,} → {kept:,}"
    if whole.seconds is not None:
        title += f"; {1e3 * whole.seconds:.3g} → {1e3 * left.seconds:.3g} ms"
    panels[0].set_title(title, loc="left", fontsize=9.5)
    for panel, unit in zip(panels[1:], units, strict=True):
        _draw_costs(panel, rows, unit)
        before, after = getattr(whole, unit), getattr(left, unit)
        share = f", {100 * after / before:.0f} %" if before else ""
        title = f"{_WORDS[unit]}: {short_count(before)} → {short_count(after)}{share}"
        panel.set_title(title, loc="left", fontsize=9.5)
    for panel in panels:
        panel.set_ylim(max(len(rows), _FEWEST) - 0.4, -0.6)  # The inputs on top.
        panel.tick_params(axis="y", length=0)
        panel.tick_params(axis="x", labelsize=8)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(rows)), [_name(row) for row in rows], fontsize=8)
    _draw_legend(figure, rows)
    return figure


def _draw_widths(panel: Any, rows: Sequence[PlannedGroup]) -> None:
    widest = max(row.channels for row in rows)
    for place, row in enumerate(rows):
        color = _FIXED if row.fixed else _AFTER
        panel.barh(place, row.channels, _BAR, left=-row.channels / 2, color=_BEFORE)
        panel.barh(place, row.kept, _BAR, left=-row.kept / 2, color=color)
        text = f"{row.channels:,}" if row.kept == row.channels else f"{row.kept:,} of {row.channels:,}"
        panel.text(row.channels / 2 + 0.015 * widest, place, text, va="center", fontsize=7.5)
    panel.set_xlim(-0.52 * widest, 0.78 * widest)  # Room for the widest bar's text.
    panel.set_xticks([])
    panel.spines["bottom"].set_visible(False)


def _draw_costs(panel: Any, rows: Sequence[PlannedGroup], unit: str) -> None:
    with extra("plot"):
        from matplotlib.ticker import EngFormatter, MaxNLocator

    before = [getattr(row.before, unit) for row in rows]
    after = [getattr(row.after, unit) for row in rows]
    places = range(len(rows))
    panel.barh(places, before, _BAR, color=_COSTS[unit], alpha=0.25)
    panel.barh(places, after, _BAR, color=_COSTS[unit])
    for place, (whole, left) in enumerate(zip(before, after, strict=True)):
        text = short_count(whole) if whole == left else f"{short_count(left)} of {short_count(whole)}"
        panel.text(whole, place, f" {text}", va="center", fontsize=7.5)
    panel.set_xlim(0, 1.55 * max(*before, 1))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.grid(axis="x", color="0.92", lw=0.8)


def _draw_legend(figure: Any, rows: Sequence[PlannedGroup]) -> None:
    with extra("plot"):
        from matplotlib.patches import Patch

    entries = [Patch(color=_BEFORE, label="before"), Patch(color=_AFTER, label="after")]
    if any(row.fixed for row in rows):
        entries.append(Patch(color=_FIXED, label="fixed"))
    figure.legend(handles=entries, loc="outside lower left", ncols=3, fontsize=8.5, frameon=False)


def _name(row: PlannedGroup) -> str:
    """Returns the first layer's name, and how many more there are."""
    more = f" +{len(row.layers) - 1}" if len(row.layers) > 1 else ""
    return short_name(row.layers[0], _LONGEST_NAME - len(more)) + more
