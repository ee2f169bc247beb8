"""The kernels that are pruned with data, and the least squares of each, as images give them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as keras_layers
from keras import ops

from tfprune.network import kinds
from tfprune.network.gram import Gram, Product, product_of
from tfprune.network.graph import Graph, chains, functional
from tfprune.network.replay import Stop
from tfprune.network.wrapping import check_fixed, unwrapped
from tfprune.sparsity.apply import parts_of, pruned_layers
from tfprune.sparsity.choice import Choice, Selection, check_names, names_in
from tfprune.sparsity.masks import all_finite
from tfprune.sparsity.patterns import Pattern, Weights, from_arguments
from tfprune.sparsity.prune import layers_of
from tfprune.sparsity.reconstruction import Problem, Select, make_problem, solve
from tfprune.sparsity.rule import Rule
from tfprune.sparsity.variance import variance_factors

# The weights of a kernel that least squares are made of, at most: some 80 bytes each are in memory.
_MOST_WEIGHTS = 2**25
# Rows of a layer's inputs that are looked at, at most, and for each input at least.
_ROWS, _ROWS_AN_INPUT = 2**14, 16


@dataclass(frozen=True)
class Target:
    """A kernel that is to be pruned.

    Attributes:
        kernel: The kernel.
        outermost: The layer of the model that has it.
        pattern: The groups in which its weights go.
        paths: The names that it can be chosen by.
        mask: Its mask's variable; None where it is not wrapped.
        scope: The scope that it was wrapped with; None where it is not wrapped.
    """

    kernel: kinds.Kernel
    outermost: keras.layers.Layer
    pattern: Pattern
    paths: tuple[str, ...]
    mask: keras.Variable | None
    scope: str | None

    @property
    def name(self) -> str:
        """The path of the kernel's layer, and its own name where the layer has several."""
        several = len(kinds.kernels(self.kernel.layer)) > 1
        return self.paths[-1] if several else self.paths[-2]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kernel."""
        return tuple(self.kernel.variable.shape)

    def values(self) -> np.ndarray:
        """Returns its weights, float32.

        Raises:
            ValueError: If one is not finite.
        """
        values = np.asarray(ops.convert_to_numpy(self.kernel.variable), np.float32)
        if not all_finite(values):
            raise ValueError(f"Weights must be finite. Received: NaN or infinity in {self.name}")
        return values

    def present(self) -> np.ndarray:
        """Returns the weights that are there: booleans of the kernel's shape."""
        if self.mask is not None:
            return np.array(ops.convert_to_numpy(self.mask), bool)
        there = ops.convert_to_numpy(self.kernel.variable) != 0
        return there if there.any() else np.ones_like(there)


def targets_of(
    model: keras.layers.Layer, pattern: Pattern | None, layers: Selection, spare: Selection
) -> list[Target]:
    """Returns the kernels to prune: those with masks, or else those that are selected.

    Raises:
        ValueError: If there are none, if arguments for the one kind are given with the other, or if `spare`
            matches nothing.
    """
    wrappers = pruned_layers(model)
    check_fixed(model)
    if wrappers:
        if pattern is not None or layers is not None or spare is not None:
            raise ValueError(
                "`pattern`, `layers` and `spare` must be None for a model that is wrapped: it says itself "
                f"what is pruned. Received: pattern={pattern!r}, layers={layers!r}, spare={spare!r}"
            )
        return [
            Target(
                next(k for k in part.layer.pruned if k.kernel.variable is part.variable).kernel,
                *(part.layer.layer, part.pattern, part.paths, part.mask, part.rule.scope),
            )
            for part in parts_of(wrappers)
        ]
    choose, pattern = Choice(layers, spare, None), from_arguments(pattern=pattern)
    Rule(None, pattern)
    found: dict[int, Target] = {}
    own = layers_of(model)
    if isinstance(spare, str):
        check_names(
            "spare", [spare], [name for layer in own for name in names_in(layer)], "a layer or a kernel"
        )
    for layer in own:
        for chosen in choose(layer) if kinds.may_be_prunable(layer) else ():
            kernel = chosen.place.kernel
            if kernel is None:
                if isinstance(model, keras.Model) and not model.built:
                    raise ValueError(f"`model` must be built. Received: model={model!r}")
                continue
            fitted = pattern.fit(kernel, f"layer {layer.name!r}", "magnitude")
            found.setdefault(
                id(kernel.variable), Target(kernel, layer, fitted, chosen.place.names, None, None)
            )
    if not found:
        raise ValueError(
            "Nothing to prune: no layer selected has a kernel or an embedding table. "
            f"Received: layers={layers!r}, model={model!r}"
        )
    return list(found.values())


@dataclass(frozen=True)
class Measured:
    """A kernel with the least squares that images gave it.

    Attributes:
        target: The kernel.
        product: It as matrices.
        problem: The least squares.
        present: The weights that are there, `[groups, inputs, outputs]`.
        means: The mean of its rows and of what it gave, `[groups, inputs]` and `[groups, outputs]`.
        rows: The number of rows.
        normalized: Whether a BatchNorm alone takes the outputs.
    """

    target: Target
    product: Product
    problem: Problem
    present: np.ndarray
    means: tuple[np.ndarray, np.ndarray]
    rows: int
    normalized: bool

    @property
    def select(self) -> Select:
        """The selection by the kernel's pattern."""
        return _select(self.target, self.product)

    def pruned(
        self, method: str, correct: bool, variance: bool, sparsity: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Returns the mask, the weights and the bias of the kernel at a sparsity.

        Args:
            method, correct, sparsity: As for `solve`.
            variance: Whether the outputs' variance is brought back, where no BatchNorm behind them does it.

        Returns:
            Two arrays `[groups, inputs, outputs]`, and the bias with which the mean of the outputs stays, or
            None: it stays itself.
        """
        mask, weights = solve(self.problem, method, correct, sparsity, self.present, self.select)
        restored = variance and not self.normalized
        if restored:
            weights = weights * variance_factors(self.problem, weights, self.rows)[:, None]
        return mask, weights, self._bias_for(weights) if correct or restored else None

    def _bias_for(self, weights: np.ndarray) -> np.ndarray | None:
        if self.product.bias is None:
            return None
        given, wanted = self.means
        added = self.product.bias(wanted - (given[:, None] @ weights)[:, 0])
        return ops.convert_to_numpy(self.target.kernel.layer.bias) + added


class Meter:
    """The layers to stop at in a replay, and what is measured there.

    Args:
        model: The model.
        targets: Its kernels to prune.
        batches: The number of batches of the replay.
        rows_an_input: Rows of a layer's inputs that are looked at for each input, where these are many.
    """

    def __init__(
        self,
        model: keras.layers.Layer,
        targets: list[Target],
        batches: int,
        rows_an_input: int = _ROWS_AN_INPUT,
    ) -> None:
        self._batches, self._rows_an_input = batches, rows_an_input
        self._normalized = _normalized(model)
        # id of the layer to stop at -> it, and the kernels whose inputs are seen there.
        self.stops: dict[int, tuple[keras.layers.Layer, list[tuple[Target, Product | None]]]] = {}
        for target in targets:
            product = None if _is_huge(target) else product_of(target.kernel, _holder(target))
            source = target.outermost if product is None else product.source
            self.stops.setdefault(id(source), (source, []))[1].append((target, product))

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers to stop at."""
        return [layer for layer, _ in self.stops.values()]

    def measure(self, stop: Stop, target: Target, product: Product) -> Measured:
        """Returns the least squares of a kernel at the stop of its layer.

        Raises:
            ValueError: If weights or what the images give are not finite.
        """
        matrices = product.matrices(target.values())
        norm = self._normalized.get(id(target.outermost))
        rows = max(_ROWS, self._rows_an_input * product.shape[1])
        gram = Gram(product, -(-rows // self._batches))
        for now, was in stop.inputs():
            gram.add(now, was, matrices)
        if not all(np.isfinite(mean).all() for mean in gram.means):
            raise ValueError(
                "`images` must give finite values. "
                f"Received: images that give others at layer {target.name!r}"
            )
        # A bias, or a BatchNorm, takes up the mean.
        centred = product.bias is not None or norm is not None
        problem = make_problem(*gram.sums(centred), matrices, gram.samples, _importance(product, norm))
        present = product.matrices(target.present())
        return Measured(target, product, problem, present, gram.means, gram.samples, norm is not None)


def _is_huge(target: Target) -> bool:
    return math.prod(target.shape) > _MOST_WEIGHTS


def why_by_magnitude(target: Target) -> str:
    """Returns why a kernel has no least squares, for a report."""
    if _is_huge(target):
        return f"by magnitude: more than {_MOST_WEIGHTS:,} weights"
    return "by magnitude: its inputs cannot be seen"


def _importance(product: Product, norm: Any) -> np.ndarray | None:
    """Returns the weight of each output's squared error behind its BatchNorm; None without one."""
    if norm is None:
        return None
    gamma = 1.0 if norm.gamma is None else ops.convert_to_numpy(norm.gamma)
    variance = np.asarray(ops.convert_to_numpy(norm.moving_variance), np.float64)
    scale = gamma**2 / (variance + norm.epsilon)
    groups, _, outputs = product.shape
    if scale.size == groups * outputs:
        return scale.reshape(groups, outputs)
    return np.tile(scale, (groups, 1)) if scale.size == outputs else None


def _select(target: Target, product: Product) -> Callable[[np.ndarray, np.ndarray, float], np.ndarray]:
    def select(scores: np.ndarray, mask: np.ndarray, sparsity: float) -> np.ndarray:
        of_kernel = product.values(np.asarray(scores, np.float32))
        return product.matrices(target.pattern.select(of_kernel, product.values(mask), sparsity))

    select.is_free = isinstance(target.pattern, Weights)
    return select


def _holder(target: Target) -> keras.layers.Layer | None:
    """Returns the `TimeDistributed` that calls a kernel's layer."""
    way = chains(target.outermost)[id(target.kernel.layer)]
    holders = [layer for layer in way if isinstance(layer, keras_layers.TimeDistributed)]
    return holders[-1] if holders and holders[-1].layer is target.kernel.layer else None


def _normalized(model: keras.layers.Layer) -> dict[int, keras.layers.Layer]:
    """Returns the BatchNorm that alone takes the outputs of a layer: id of the layer -> BatchNorm."""
    graph = functional(model)
    if graph is None:
        return {}
    found = {}
    walked = Graph(graph, unwrapped)
    made = {id(operation) for operation in walked.outputs}
    for operation in walked.operations:
        takers = walked.consumers(operation)
        linear = getattr(operation, "activation", None) in (None, keras.activations.linear)
        if len(takers) == 1 and linear and id(operation) not in made:
            (norm,) = takers
            if isinstance(norm, keras_layers.BatchNormalization):
                found[id(operation)] = norm
    return found
