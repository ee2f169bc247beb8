"""The result of a search: the sparsity of each layer, and how it compares with where it started."""

import os
from dataclasses import asdict, dataclass
from typing import Any

from tfprune.pictures import short_count, write_picture
from tfprune.sparsity.search.picture import draw
from tfprune.text import text_table

_COSTS = ("before", "after")
_UNITS = {"weights": "weights", "macs": "MACs", "latency": "ms"}


@dataclass(frozen=True)
class SearchedLayer:
    """One layer, or one kernel of a layer with several, in an allocation.

    Attributes:
        name: The layer's name, or the kernel's path in it.
        weights: The number of its weights.
        removed: Those that are to be removed.
        before: What it costs with all weights, in the unit of the budget: weights, multiply-accumulates for
            one example, or milliseconds.
        after: What it costs without the removed ones.
    """

    name: str
    weights: int
    removed: int
    before: float
    after: float

    @property
    def sparsity(self) -> float:
        """Returns the share of its weights that is to be removed."""
        return self.removed / self.weights


@dataclass(frozen=True)
class Start:
    """An allocation that the search started from.

    Attributes:
        name: "uniform", "erk", "lamp", "global" or "errors".
        divergence: Its divergence on all images.
        sparsities: Name of a layer -> the share of its weights.
    """

    name: str
    divergence: float
    sparsities: dict[str, float]


@dataclass(frozen=True)
class SearchResult:
    """The best allocation that `search_sparsities` found; `print` shows it as a table.

    Attributes:
        budget: "weights", "macs" or "latency".
        target: The share of the budget's whole that was to go.
        layers: The layers, in the order of the model.
        divergence: That of the best allocation, on all images.
        kind: What a divergence is: "probabilities", "logits" or "squared".
        starts: The allocations that the search started from.
        history: The least divergence after each generation, that of the starts first.
        rest: The cost of everything but the layers; 0 but for times.
        milliseconds: The time of a call with one example in the sparse runtime, of the dense network and of
            the pruned one, measured by turns; None for another budget.
    """

    budget: str
    target: float
    layers: tuple[SearchedLayer, ...]
    divergence: float
    kind: str
    starts: tuple[Start, ...]
    history: tuple[float, ...]
    rest: float = 0.0
    milliseconds: tuple[float, float] | None = None

    @property
    def sparsities(self) -> dict[str, float]:
        """Returns the sparsity of each layer, as `prune_to` takes it."""
        return {layer.name: layer.sparsity for layer in self.layers}

    @property
    def reached(self) -> float:
        """Returns the share of the budget's whole that goes."""
        before, after = (self.rest + sum(getattr(layer, name) for layer in self.layers) for name in _COSTS)
        return 1.0 - after / before

    @property
    def sparsity(self) -> float:
        """Returns the share of all weights together that goes, whatever the budget."""
        return sum(layer.removed for layer in self.layers) / sum(layer.weights for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain types, ready for JSON."""
        return {
            "budget": self.budget,
            "target": self.target,
            "reached": self.reached,
            "sparsity": self.sparsity,
            "sparsities": self.sparsities,
            "divergence": self.divergence,
            "kind": self.kind,
            "layers": [{**asdict(layer), "sparsity": layer.sparsity} for layer in self.layers],
            "starts": [asdict(start) for start in self.starts],
            "history": list(self.history),
            "rest": self.rest,
            "milliseconds": None if self.milliseconds is None else list(self.milliseconds),
        }

    def plot(self, path: str | os.PathLike) -> None:
        """Writes a picture: the sparsity of each layer beside those of the starts, and the way to it.

        The file is written whole or not at all.

        Args:
            path: The file to write; its ending says the format: `.png`, `.svg` or `.pdf`.

        Raises:
            ValueError: On another ending.
        """
        write_picture(path, lambda: draw(self))

    def __str__(self) -> str:
        names = [start.name for start in self.starts]
        rows = [
            [layer.name, f"{layer.weights:,}", f"{layer.removed:,}", f"{layer.sparsity:.4f}"]
            + [f"{start.sparsities[layer.name]:.4f}" for start in self.starts]
            + [self._cost(layer.before), self._cost(layer.after)]
            for layer in self.layers
        ]
        weights, removed = (
            sum(getattr(layer, name) for layer in self.layers) for name in ("weights", "removed")
        )
        costs = (sum(getattr(layer, name) for layer in self.layers) for name in _COSTS)
        of_all = [
            sum(start.sparsities[layer.name] * layer.weights for layer in self.layers) / weights
            for start in self.starts
        ]
        rows.append(
            ["all", f"{weights:,}", f"{removed:,}", f"{self.sparsity:.4f}"]
            + [f"{share:.4f}" for share in of_all]
            + list(map(self._cost, costs))
        )
        divergences = [self.divergence, *(start.divergence for start in self.starts)]
        rows.append(["divergence", "", "", *(f"{value:.4g}" for value in divergences), "", ""])
        header = ["layer", "weights", "removed", "searched", *names, _UNITS[self.budget], "after"]
        lines = text_table(header, rows)
        if self.milliseconds is not None:
            before, after = self.milliseconds
            lines.append(
                f"the whole network in the sparse runtime: {before:.3g} ms dense, {after:.3g} ms pruned"
            )
        return "\n".join(lines)

    def _cost(self, cost: float) -> str:
        return f"{cost:.4g}" if self.budget == "latency" else short_count(round(cost))
