"""`summarize`: how sparse a model is, layer by layer, what that saves, and what was left out and why."""

import os
import textwrap
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.network import kinds as registry
from tfprune.network.graph import inner_layers
from tfprune.network.macs import kernel_uses, total
from tfprune.sparsity.apply import pruned_layers
from tfprune.sparsity.wrapper import PruneLowMagnitude

_HEADER = ("layer", "variable", "shape", "parameters", "nonzeros", "sparsity", "MACs", "sparse MACs")
_TEXT_COLUMNS = 3


@dataclass(frozen=True)
class VariableSummary:
    """One prunable variable.

    Attributes:
        layer: Name of its layer.
        variable: Name of the variable in the layer, `query/kernel` for one of a layer in it.
        shape: Its shape.
        parameters: Number of its elements.
        nonzeros: Number of them that are not zero.
        pruned: Whether it has a mask.
        macs: Multiply-accumulates with it for one example if nothing is skipped; None where unknown.
        sparse_macs: Those with its nonzeros, `macs * nonzeros / parameters`; None where unknown.
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
        """Fraction of zeros, in [0, 1]."""
        return 1.0 - self.nonzeros / self.parameters


@dataclass(frozen=True)
class Summary:
    """What `summarize` found.

    Attributes:
        variables: The prunable variables, wrapped or not.
        left_out: Layer name -> why it is not pruned, for layers that have weights; `layer/variable` for one
            variable of a pruned layer.
        all_parameters: Number of the model's trainable parameters.
        all_nonzeros: Number of them that are not zero, removed weights counted as zero.
        all_macs: Multiply-accumulates for one example with all kernels, prunable or not, if nothing is
            skipped; None if those of one kernel are unknown.
        all_sparse_macs: Those with nonzeros.
    """

    variables: tuple[VariableSummary, ...]
    left_out: dict[str, str]
    all_parameters: int
    all_nonzeros: int
    all_macs: int | None = None
    all_sparse_macs: int | None = None

    @property
    def counted(self) -> tuple[VariableSummary, ...]:
        """The pruned variables; all prunable ones if none has a mask."""
        return tuple(v for v in self.variables if v.pruned) or self.variables

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in the pruned variables; in all prunable ones if none has a mask."""
        parameters = sum(v.parameters for v in self.counted)
        return 1.0 - sum(v.nonzeros for v in self.counted) / parameters if parameters else 0.0

    @property
    def sparsity_all_parameters(self) -> float:
        """Fraction of zeros in all trainable parameters."""
        return 1.0 - self.all_nonzeros / self.all_parameters if self.all_parameters else 0.0

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates for one example with the variables that `sparsity` is of; None if unknown."""
        return total([v.macs for v in self.counted])

    @property
    def sparse_macs(self) -> int | None:
        """Those with nonzeros."""
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
        }

    def to_markdown(self) -> str:
        """Returns a Markdown table, one row a variable."""
        rows = [f"| {' | '.join(cells)} |" for cells in [_HEADER, *self._cells()]]
        rows.insert(1, "|---|---|---|" + "---:|" * (len(_HEADER) - _TEXT_COLUMNS))
        return "\n".join(rows)

    def plot(self, path: str | os.PathLike) -> None:
        """Draws each variable's parameters before and after, and its sparsity; needs matplotlib.

        Args:
            path: File to write; its ending says the format: `.png`, `.svg` or `.pdf`.

        Raises:
            ValueError: On another ending, or if there are no prunable variables.
        """
        from tfprune.sparsity.picture import save_picture

        save_picture(self, path)

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
        for why in dict.fromkeys(self.left_out.values()):
            names = ", ".join(name for name, reason in self.left_out.items() if reason == why)
            lines += textwrap.wrap(f"not pruned, {why}: {names}", width=110, subsequent_indent="  ")
        return "\n".join(lines)

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
    """Counts the zeros of a model's prunable variables, of all its parameters, and what they would save.

    Works on a wrapped model, on a stripped one and on one that was never pruned. Variables shared by
    several layers count once, their multiply-accumulates (MACs) once a call.

    MACs are for one example, with kernels alone: `macs` if nothing is skipped, `sparse_macs` if every zero
    were. Biases, normalisation and products without a kernel (attention's of queries and keys) are not
    counted. Where they depend on a size that is unknown, such as an image size or a number of time steps
    of None, MACs are None, and `-` in the tables; `tfprune.network.macs.kernel_uses` has the details.

    Args:
        model: A built model or layer.
        input_shape: Shape, list of shapes or dictionary of them, with the batch size, as for `model.build`;
            for MACs where the model leaves sizes open. Default: the model's own.

    Returns:
        A `Summary`; print it, or use `to_dict`, `to_markdown` or `plot`.

    Raises:
        ValueError: If the model is not built.
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
        masks = wrapper.masks if wrapper else []
        for i, variable in enumerate(registry.prunable_variables(layer)):
            if id(variable) in nonzeros_of:
                continue
            stays = _nonzero(variable)
            if wrapper:
                stays &= np.asarray(ops.convert_to_numpy(masks[i]))
            nonzeros = nonzeros_of[id(variable)] = int(np.count_nonzero(stays))
            times = uses_of.get(id(variable))
            variables.append(
                VariableSummary(
                    layer.name,
                    _name_within(layer, variable),
                    tuple(variable.shape),
                    stays.size,
                    nonzeros,
                    wrapper is not None,
                    macs=None if times is None else times * stays.size,
                    sparse_macs=None if times is None else times * nonzeros,
                )
            )

    def visit(layer: keras.layers.Layer) -> None:
        if isinstance(layer, PruneLowMagnitude):
            count(layer.layer, layer)
            left_out.update(registry.left_alone(layer.layer))
        elif isinstance(layer, keras.Model):
            for child in layer.layers:
                visit(child)
        elif pruned_layers(layer):  # A layer that wraps some of the layers inside it.
            for child in inner_layers(layer):
                visit(child)
        elif registry.prunable_variables(layer):
            count(layer, None)
            left_out.setdefault(layer.name, "not wrapped")
        elif layer.weights:
            why = next(iter(registry.left_alone(layer).values()), "no prunable variables")
            left_out.setdefault(layer.name, why)

    visit(model)
    for variable in [*model.trainable_variables, *(use.variable for use in uses)]:
        if id(variable) not in nonzeros_of:
            nonzeros_of[id(variable)] = int(np.count_nonzero(_nonzero(variable)))
    trainable = {id(v): v for v in model.trainable_variables}
    return Summary(
        tuple(variables),
        left_out,
        all_parameters=sum(int(np.prod(v.shape)) for v in trainable.values()),
        all_nonzeros=sum(nonzeros_of[key] for key in trainable),
        all_macs=total([use.macs for use in uses]),
        all_sparse_macs=total(
            [None if times is None else times * nonzeros_of[key] for key, times in uses_of.items()]
        ),
    )


def _name_within(layer: keras.layers.Layer, variable: keras.Variable) -> str:
    """`kernel`, or for a layer in a layer `query/kernel`."""
    path = variable.path.split("/")
    if layer.name not in path[:-1]:
        return variable.name
    start = len(path) - path[::-1].index(layer.name, 1)
    return "/".join(path[start:])


def _nonzero(variable: keras.Variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), np.float32) != 0


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return value if isinstance(value, str) else f"{value:,}"
