"""A search as a picture: the sparsity of each layer beside those of the starts, and the way to it."""

from typing import Any

from tfprune.pictures import new_figure, short_name

_SEARCHED = "#0072b2"
_STARTS = {"uniform": "0.55", "erk": "#009e73", "lamp": "#d55e00", "global": "#cc79a7", "errors": "#e69f00"}
_ROW_INCHES, _FRAME_INCHES, _FEWEST = 0.2, 1.5, 9
# Starts whose divergence is as many times the best one's or more would leave no room for the rest.
_FAR = 2.0
_LONGEST_NAME = 36


def draw(result: Any) -> Any:
    """Draws a `SearchResult`: one row a layer on the left, the divergence by the generation on the right.

    Densities stand on a logarithmic scale, because at a high sparsity it is they that differ.

    Returns:
        A figure 1,100 pixels wide, as tall as its rows need. It belongs to no pyplot state.
    """
    layers = result.layers
    figure = new_figure(11, _FRAME_INCHES + _ROW_INCHES * max(len(layers), _FEWEST))
    shares, way = figure.subplots(1, 2, width_ratios=(3, 2))
    places = range(len(layers))
    for start in result.starts:
        densities = [100 * (1 - start.sparsities[layer.name]) for layer in layers]
        shares.plot(densities, places, color=_STARTS[start.name], lw=1.2, label=start.name)
    densities = [100 * (1 - layer.sparsity) for layer in layers]
    shares.plot(densities, places, "o-", color=_SEARCHED, lw=2, ms=4, label="searched")
    shares.set_xscale("log")
    shares.set_xlabel("weights that stay, %", fontsize=9)
    shares.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    shares.xaxis.set_minor_formatter("")
    shares.set_yticks(places, [short_name(layer.name, _LONGEST_NAME) for layer in layers], fontsize=8)
    shares.set_ylim(max(len(layers), 2) - 0.4, -0.6)  # The first layer on top.
    shares.tick_params(axis="y", length=0)
    goes = {"weights": "weights", "macs": "multiply-accumulates", "latency": "time"}[result.budget]
    shares.set_title(f"{100 * result.reached:.4g} % of the {goes} go", loc="left", fontsize=9.5)
    far = [start for start in result.starts if start.divergence > _FAR * result.history[0]]
    for start in result.starts:
        if start not in far:
            way.axhline(start.divergence, color=_STARTS[start.name], lw=1.2, ls="--")
    for place, start in enumerate(far):
        way.text(
            0.98,
            0.98 - 0.04 * place,
            f"{start.name} {start.divergence:.3g} ↑",
            color=_STARTS[start.name],
            fontsize=8.5,
            ha="right",
            va="top",
            transform=way.transAxes,
        )
    way.plot(range(len(result.history)), result.history, color=_SEARCHED, lw=2)
    way.set_xlabel("generation", fontsize=9)
    near = [start.divergence for start in result.starts if start not in far]
    way.set_ylim(0, 1.15 * max(result.history[0], *near))
    way.set_title(
        f"divergence from the dense network: {result.history[0]:.4g} → {result.divergence:.4g}",
        loc="left",
        fontsize=9.5,
    )
    for axes in (shares, way):
        axes.grid(color="0.92", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", labelsize=8)
    way.tick_params(axis="y", labelsize=8)
    figure.legend(
        *shares.get_legend_handles_labels(), loc="outside lower left", ncols=6, fontsize=8.5, frameon=False
    )
    return figure
