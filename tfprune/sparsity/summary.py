"""`summarize`: how sparse a model is, layer by layer, and what was left out and why."""

import textwrap
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.sparsity import registry
from tfprune.sparsity.apply import pruned_layers
from tfprune.sparsity.wrapper import PruneLowMagnitude


@dataclass(frozen=True)
class VariableSummary:
    """One prunable variable.

    Attributes:
        layer: Name of its layer.
        variable: Name of the variable in the layer.
        shape: Its shape.
        parameters: Number of its elements.
        nonzeros: Number of them that are not zero.
        pruned: Whether it has a mask.
    """

    layer: str
    variable: str
    shape: tuple[int, ...]
    parameters: int
    nonzeros: int
    pruned: bool

    @property
    def sparsity(self) -> float:
        """Fraction of zeros, in [0, 1]."""
        return 1.0 - self.nonzeros / self.parameters


@dataclass(frozen=True)
class Summary:
    """What `summarize` found.

    Attributes:
        variables: The prunable variables, wrapped or not.
        left_out: Layer name -> why it is not pruned, for layers that have weights.
        all_parameters: Number of the model's trainable parameters.
        all_nonzeros: Number of them that are not zero, removed weights counted as zero.
    """

    variables: tuple[VariableSummary, ...]
    left_out: dict[str, str]
    all_parameters: int
    all_nonzeros: int

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in the pruned variables; in all prunable ones if none has a mask."""
        pruned = [v for v in self.variables if v.pruned] or self.variables
        total = sum(v.parameters for v in pruned)
        return 1.0 - sum(v.nonzeros for v in pruned) / total if total else 0.0

    @property
    def sparsity_all_parameters(self) -> float:
        """Fraction of zeros in all trainable parameters."""
        return 1.0 - self.all_nonzeros / self.all_parameters if self.all_parameters else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain types, ready for JSON."""
        return {
            "sparsity": self.sparsity,
            "sparsity_all_parameters": self.sparsity_all_parameters,
            "all_parameters": self.all_parameters,
            "all_nonzeros": self.all_nonzeros,
            "variables": [{**asdict(v), "sparsity": v.sparsity} for v in self.variables],
            "left_out": dict(self.left_out),
        }

    def to_markdown(self) -> str:
        """Returns a Markdown table, one row a variable."""
        header = ["layer", "variable", "shape", "parameters", "nonzeros", "sparsity"]
        rows = [f"| {' | '.join(cells)} |" for cells in [header, *self._cells()]]
        rows.insert(1, "|---|---|---|---:|---:|---:|")
        return "\n".join(rows)

    def __str__(self) -> str:
        rows = [
            ["layer", "variable", "shape", "parameters", "nonzeros", "sparsity"],
            *self._cells(),
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = []
        for row in rows:
            left = [cell.ljust(w) for cell, w in zip(row[:3], widths[:3], strict=True)]
            right = [cell.rjust(w) for cell, w in zip(row[3:], widths[3:], strict=True)]
            lines.append("  ".join(left + right))
        for why in dict.fromkeys(self.left_out.values()):
            names = ", ".join(name for name, reason in self.left_out.items() if reason == why)
            lines += textwrap.wrap(f"not pruned, {why}: {names}", width=110, subsequent_indent="  ")
        return "\n".join(lines)

    def _cells(self) -> list[list[str]]:
        pruned = [v for v in self.variables if v.pruned] or list(self.variables)
        cells = [
            [
                v.layer,
                v.variable,
                "x".join(map(str, v.shape)),
                f"{v.parameters:,}",
                f"{v.nonzeros:,}",
                f"{v.sparsity:.4f}",
            ]
            for v in pruned
        ]
        total, nonzeros = sum(v.parameters for v in pruned), sum(v.nonzeros for v in pruned)
        cells.append(["pruned", "", "", f"{total:,}", f"{nonzeros:,}", f"{self.sparsity:.4f}"])
        cells.append(
            ["all trainable", "", "", f"{self.all_parameters:,}", f"{self.all_nonzeros:,}"]
            + [f"{self.sparsity_all_parameters:.4f}"]
        )
        return cells


def summarize(model: keras.layers.Layer) -> Summary:
    """Counts the zeros of a model's prunable variables, and of all its trainable parameters.

    Works on a wrapped model, on a stripped one and on one that was never pruned. Variables shared by
    several layers count once.

    Args:
        model: A built model or layer.

    Returns:
        A `Summary`; print it, or use `to_dict` or `to_markdown`.

    Raises:
        ValueError: If the model is not built.
    """
    if not model.built:
        raise ValueError(f"The model must be built before it can be counted. Received: {model!r}")
    variables: list[VariableSummary] = []
    left_out: dict[str, str] = {}
    nonzeros_of: dict[int, int] = {}

    def count(layer: keras.layers.Layer, wrapper: PruneLowMagnitude | None) -> None:
        masks = wrapper.masks if wrapper else []
        for i, variable in enumerate(registry.prunable_variables(layer)):
            if id(variable) in nonzeros_of:
                continue
            stays = np.asarray(ops.convert_to_numpy(variable), np.float32) != 0
            if wrapper:
                stays &= np.asarray(ops.convert_to_numpy(masks[i]))
            nonzeros_of[id(variable)] = int(np.count_nonzero(stays))
            variables.append(
                VariableSummary(
                    layer.name,
                    variable.name,
                    tuple(variable.shape),
                    stays.size,
                    nonzeros_of[id(variable)],
                    wrapper is not None,
                )
            )

    def visit(layer: keras.layers.Layer) -> None:
        if isinstance(layer, PruneLowMagnitude):
            count(layer.layer, layer)
        elif isinstance(layer, keras.Model):
            for child in layer.layers:
                visit(child)
        elif pruned_layers(layer):  # A layer that wraps some of the layers inside it.
            for child in layer._layers:
                visit(child)
        elif registry.prunable_variables(layer):
            count(layer, None)
            left_out.setdefault(layer.name, "not wrapped")
        elif layer.weights:
            left_out.setdefault(layer.name, "no prunable variables")

    visit(model)
    trainable = {id(v): v for v in model.trainable_variables}
    all_nonzeros = sum(
        nonzeros_of[key]
        if key in nonzeros_of
        else int(np.count_nonzero(np.asarray(ops.convert_to_numpy(v), np.float32)))
        for key, v in trainable.items()
    )
    all_parameters = sum(int(np.prod(v.shape)) for v in trainable.values())
    return Summary(tuple(variables), left_out, all_parameters, all_nonzeros)
