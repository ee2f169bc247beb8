"""`summarize`: the zeros of a model, layer by layer, the work they save, dead channels, what is left out."""

import os
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.dead import Dead, LayerChannels
from tfprune.channels.groups import Traced
from tfprune.extras import extra
from tfprune.network import kinds
from tfprune.network.graph import computed_graph, inner_layers
from tfprune.network.macs import kernel_uses, total
from tfprune.pictures import new_figure, short_count, short_name, write_picture
from tfprune.sparsity.apply import pruned_layers
from tfprune.sparsity.wrapper import PruneLowMagnitude

_HEADER = ("layer", "variable", "shape", "parameters", "nonzeros", "sparsity", "MACs", "sparse MACs")
_TEXT_COLUMNS = 3
# Of the picture.
_LEFT_COLOR, _REMOVED_COLOR, _SPARSITY_COLOR = "#0072b2", "#c6d9e8", "#d55e00"
_ROW_INCHES, _FRAME_INCHES = 0.24, 1.2
_LONGEST_NAME = 40


@dataclass(frozen=True)
class VariableSummary:
    """The counts of one prunable variable.

    Attributes:
        layer: The name of the variable's layer.
        variable: The name of the variable in the layer; `query/kernel` for a variable of an inner layer.
        shape: The variable's shape.
        parameters: The number of elements.
        nonzeros: The number of elements that are not zero.
        pruned: Whether the variable has a mask.
        macs: The multiply-accumulates for one example if no zero is skipped; None where unknown.
        sparse_macs: The multiply-accumulates with elements that are not zero,
            `macs * nonzeros / parameters`; None where unknown.
    """

    layer: str
    variable: str
    shape: tuple[int, ...]
    parameters: int
    nonzeros: int
    pruned: bool
    macs: int | None = None
    sparse_macs: int | None = None

    @property
    def sparsity(self) -> float:
        """Returns the fraction of zeros, in [0, 1]."""
        return 1.0 - self.nonzeros / self.parameters


@dataclass(frozen=True)
class Summary:
    """The counts of a model, as `summarize` returns them. `print` shows them as a table.

    Attributes:
        variables: The prunable variables, wrapped or not.
        left_out: Name -> the reason why it is not pruned. Names are those of layers that have weights, and
            `layer/variable` for a single variable of a pruned layer.
        all_parameters: The number of the model's trainable parameters.
        all_nonzeros: The number of trainable parameters that are not zero; removed weights count as zero.
        all_macs: The multiply-accumulates of all kernels, prunable or not, for one example, if no zero is
            skipped; None if those of one kernel are unknown.
        all_sparse_macs: The multiply-accumulates of all kernels with weights that are not zero.
        channels: The layers that make channels, with the number of channels that are dead: they change no
            output, and `tfprune.structured.shrink` cuts them. None of a model that computes no graph, whose
            channels cannot be followed.
    """

    variables: tuple[VariableSummary, ...]
    left_out: dict[str, str]
    all_parameters: int
    all_nonzeros: int
    all_macs: int | None = None
    all_sparse_macs: int | None = None
    channels: tuple[LayerChannels, ...] | None = None

    @property
    def counted(self) -> tuple[VariableSummary, ...]:
        """Returns the variables that `sparsity` is of: the pruned ones, or all prunable ones if none is."""
        return tuple(v for v in self.variables if v.pruned) or self.variables

    @property
    def sparsity(self) -> float:
        """Returns the fraction of zeros in the pruned variables, or in all prunable ones if none is."""
        parameters = sum(v.parameters for v in self.counted)
        return 1.0 - sum(v.nonzeros for v in self.counted) / parameters if parameters else 0.0

    @property
    def sparsity_all_parameters(self) -> float:
        """Returns the fraction of zeros in all trainable parameters."""
        return 1.0 - self.all_nonzeros / self.all_parameters if self.all_parameters else 0.0

    @property
    def macs(self) -> int | None:
        """Returns the multiply-accumulates of `counted` for one example; None if unknown."""
        return total([v.macs for v in self.counted])

    @property
    def sparse_macs(self) -> int | None:
        """Returns the multiply-accumulates of `counted` with weights that are not zero; None if unknown."""
        return total([v.sparse_macs for v in self.counted])

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain types, ready for JSON."""
        return {
            "sparsity": self.sparsity,
            "sparsity_all_parameters": self.sparsity_all_parameters,
            "all_parameters": self.all_parameters,
            "all_nonzeros": self.all_nonzeros,
            "macs": self.macs,
            "sparse_macs": self.sparse_macs,
            "all_macs": self.all_macs,
            "all_sparse_macs": self.all_sparse_macs,
            "variables": [{**asdict(v), "sparsity": v.sparsity} for v in self.variables],
            "left_out": dict(self.left_out),
            "channels": None if self.channels is None else [asdict(one) for one in self.channels],
        }

    def to_markdown(self) -> str:
        """Returns a Markdown table, one row a variable, and below it a paragraph on dead channels, if any."""
        rows = [f"| {' | '.join(cells)} |" for cells in [_HEADER, *self._cells()]]
        rows.insert(1, "|---|---|---|" + "---:|" * (len(_HEADER) - _TEXT_COLUMNS))
        return "\n".join(rows) + "".join(f"\n\n{line}" for line in self._dead())

    def plot(self, path: str | os.PathLike) -> None:
        """Writes a picture of each variable's parameters, those that are not zero, and its sparsity.

        The file is written whole or not at all.

        Args:
            path: The file to write; its ending says the format: `.png`, `.svg` or `.pdf`.

        Raises:
            ValueError: On another ending, or if there are no prunable variables.
        """
        write_picture(path, lambda: draw(self))

    def __str__(self) -> str:
        rows = [list(_HEADER), *self._cells()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [
                cell.ljust(width) if i < _TEXT_COLUMNS else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells))
        for line in self._dead():
            lines += textwrap.wrap(line, width=110, subsequent_indent="  ")
        for why in dict.fromkeys(self.left_out.values()):
            names = ", ".join(name for name, reason in self.left_out.items() if reason == why)
            lines += textwrap.wrap(f"not pruned, {why}: {names}", width=110, subsequent_indent="  ")
        return "\n".join(lines)

    def _dead(self) -> list[str]:
        """Returns the line on dead channels; none without any."""
        dead = [one for one in self.channels or () if one.dead]
        if not dead:
            return []
        total = sum(one.channels for one in self.channels)
        names = ", ".join(f"{one.layer} ({one.dead:,} of {one.channels:,})" for one in dead)
        return [f"{sum(one.dead for one in dead):,} of {total:,} channels change no output: {names}"]

    def _cells(self) -> list[list[str]]:
        rows = [
            (v.layer, v.variable, "x".join(map(str, v.shape)))
            + (v.parameters, v.nonzeros, v.sparsity, v.macs, v.sparse_macs)
            for v in self.counted
        ]
        parameters, nonzeros = sum(v.parameters for v in self.counted), sum(v.nonzeros for v in self.counted)
        rows.append(("pruned", "", "", parameters, nonzeros, self.sparsity, self.macs, self.sparse_macs))
        rows.append(
            ("all trainable", "", "", self.all_parameters, self.all_nonzeros)
            + (self.sparsity_all_parameters, self.all_macs, self.all_sparse_macs)
        )
        return [[_cell(value) for value in row] for row in rows]


def summarize(model: keras.layers.Layer, input_shape: Any = None) -> Summary:
    """Counts the zeros of a model, variable by variable, the arithmetic that they would save, dead channels.

    The model may be wrapped, stripped, or never pruned. A variable that several layers share counts once,
    and its multiply-accumulates (MACs) once a call.

    MACs are for one example, with kernels alone: `macs` if no zero is skipped, `sparse_macs` if every zero
    is. Biases, normalisation and products without a kernel (of attention's queries and keys) are not
    counted. MACs are None, and `-` in the tables, where they depend on a size that is unknown, such as an
    image size or a number of time steps of None; `tfprune.network.macs.kernel_uses` has the details.

    Channels are counted in functional and Sequential models. Those made constant by zeros are found by a call
    of the model on one example.

    Args:
        model: A built model or layer.
        input_shape: A shape, a list of shapes or a dictionary of them, with the batch size, as for
            `model.build`, for the MACs of a model that leaves sizes open. Default: the model's own.

    Returns:
        A `Summary`; print it, or use `to_dict`, `to_markdown` or `plot`.

    Raises:
        ValueError: If `model` is no layer, or is not built.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"`model` must be a Keras 3 model or layer. Received: model={model!r}")
    if not model.built:
        raise ValueError(f"The model must be built before it can be counted. Received: {model!r}")
    uses = kernel_uses(model, input_shape)
    uses_of = {id(use.variable): use.uses for use in uses}
    variables: list[VariableSummary] = []
    left_out: dict[str, str] = {}
    nonzeros_of: dict[int, int] = {}

    def count(layer: keras.layers.Layer, wrapper: PruneLowMagnitude | None) -> None:
        masks = {id(kernel.variable): mask for kernel, mask in wrapper.pruned} if wrapper else {}
        paths = kinds.paths(layer)
        for kernel in kinds.prunable(layer):
            variable, mask = kernel.variable, masks.get(id(kernel.variable))
            path = paths[id(variable)][-1]
            if wrapper and mask is None:
                left_out.setdefault(path, "not selected")
            if id(variable) in nonzeros_of:
                continue
            stays = _nonzero(variable)
            if mask is not None:
                stays &= np.asarray(ops.convert_to_numpy(mask))
            nonzeros = nonzeros_of[id(variable)] = int(np.count_nonzero(stays))
            times = uses_of.get(id(variable))
            variables.append(
                VariableSummary(
                    layer.name,
                    path.removeprefix(f"{layer.name}/"),
                    tuple(variable.shape),
                    stays.size,
                    nonzeros,
                    mask is not None,
                    macs=None if times is None else times * stays.size,
                    sparse_macs=None if times is None else times * nonzeros,
                )
            )

    def visit(layer: keras.layers.Layer) -> None:
        if isinstance(layer, PruneLowMagnitude):
            count(layer.layer, layer)
            left_out.update(kinds.left_alone(layer.layer))
        elif isinstance(layer, keras.Model):
            for child in layer.layers:
                visit(child)
        elif pruned_layers(layer):  # A layer that wraps some of the layers inside it.
            for child in inner_layers(layer):
                visit(child)
        elif kinds.prunable_variables(layer):
            count(layer, None)
            left_out.setdefault(layer.name, "not wrapped")
        elif layer.weights:
            why = next(iter(kinds.left_alone(layer).values()), "no prunable variables")
            left_out.setdefault(layer.name, why)

    visit(model)
    # What masks are learned by is no parameter of the network: it goes with the wrappers.
    learned = {id(each.parameter) for layer in pruned_layers(model) for each in layer.learned if each}
    own = [variable for variable in model.trainable_variables if id(variable) not in learned]
    for variable in [*own, *(use.variable for use in uses)]:
        if id(variable) not in nonzeros_of:
            nonzeros_of[id(variable)] = int(np.count_nonzero(_nonzero(variable)))
    trainable = {id(v): v for v in own}
    return Summary(
        tuple(variables),
        left_out,
        all_parameters=sum(int(np.prod(v.shape)) for v in trainable.values()),
        all_nonzeros=sum(nonzeros_of[key] for key in trainable),
        all_macs=total([use.macs for use in uses]),
        all_sparse_macs=total(
            [None if times is None else times * nonzeros_of[key] for key, times in uses_of.items()]
        ),
        channels=None if computed_graph(model) is None else tuple(Dead(Traced(model)).layers),
    )


def _nonzero(variable: keras.Variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), np.float32) != 0


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return value if isinstance(value, str) else f"{value:,}"


def draw(summary: Summary) -> Any:
    """Draws one row for each variable that the summary's sparsity is of.

    A bar on the left is as long as the variable has parameters, and dark as far as they are not zero; the
    scale is linear, and one for all. A bar on the right is the sparsity, from 0 to 100 %; a dashed line marks
    the sparsity of all variables together.

    Returns:
        A figure 1,000 pixels wide, as tall as its rows need. It belongs to no pyplot state.

    Raises:
        ValueError: If there are no prunable variables.
    """
    rows = summary.counted
    if not rows:
        raise ValueError("The model has no prunable variables: there is nothing to draw.")
    height = _FRAME_INCHES + _ROW_INCHES * max(len(rows), 2)
    figure = new_figure(10, height)
    with extra("plot"):
        from matplotlib.ticker import EngFormatter, MaxNLocator

    sizes, shares = figure.subplots(1, 2, sharey=True, width_ratios=(5, 2))
    places = range(len(rows))

    parameters = [row.parameters for row in rows]
    nonzeros = [row.nonzeros for row in rows]
    sizes.barh(places, parameters, 0.7, color=_REMOVED_COLOR, label="dense")
    sizes.barh(places, nonzeros, 0.7, color=_LEFT_COLOR, label="not zero")
    for place, row in zip(places, rows, strict=True):
        text = f" {short_count(row.nonzeros)} of {short_count(row.parameters)}"
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
        axes.grid(axis="x", color="0.92", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="x", labelsize=8)
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


def _names(rows: Sequence[VariableSummary]) -> list[str]:
    """Returns the rows' names: the layer's, with the variable's where a layer has several."""
    of_layer = [row.layer for row in rows]
    names = [row.layer if of_layer.count(row.layer) == 1 else f"{row.layer}/{row.variable}" for row in rows]
    return [short_name(name, _LONGEST_NAME) for name in names]
