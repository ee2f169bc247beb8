"""`prune_with_data`: pruning by what a few unlabelled images make the layers do, without training."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import keras
import numpy as np
from keras import layers as keras_layers
from keras import ops

from tfprune.network import kinds, optimizers
from tfprune.network.calibration import Moments, inputs_of
from tfprune.network.gram import Gram, Product, product_of
from tfprune.network.graph import Graph, all_layers, chains, functional
from tfprune.network.replay import Stop, replay
from tfprune.sparsity.apply import assign_mask, parts_of, pruned_layers
from tfprune.sparsity.choice import Choice, Selection, check_names, first_match
from tfprune.sparsity.masks import erk_sparsities
from tfprune.sparsity.patterns import WEIGHTS, Pattern, Weights
from tfprune.sparsity.prune import layers_of
from tfprune.sparsity.reconstruction import CHOICES, OBC_INPUTS, Problem, make_problem, refit
from tfprune.sparsity.rule import Rule
from tfprune.sparsity.schedules import check_sparsity
from tfprune.sparsity.wrapper import unwrapped
from tfprune.text import text_table

METHODS = tuple(CHOICES)
ALLOCATIONS = ("uniform", "erk")
_BATCH = 64
# Rows of a layer's inputs that are looked at, at most, and for each input at least.
_ROWS, _ROWS_AN_INPUT = 2**16, 16


@dataclass(frozen=True)
class LayerReport:
    """The errors of a kernel that was pruned.

    Attributes:
        name: The path of the kernel, or of its layer where that has no other.
        size: The number of its weights.
        sparsity: The share of them that is zero.
        error_before: The mean squared error of the layer's outputs, as a share of their mean square (around
            the mean, where a bias or a BatchNorm takes it up), with the weights that stay as they were; None
            where what it takes cannot be seen.
        error_after: The same with the weights corrected.
        note: Why it was pruned by magnitude, and not as asked for; empty if it was.
    """

    name: str
    size: int
    sparsity: float
    error_before: float | None
    error_after: float | None
    note: str = ""


@dataclass(frozen=True)
class DataReport:
    """The errors of all kernels that `prune_with_data` pruned; printed as a table.

    Attributes:
        layers: One for each kernel, in the order in which they were pruned.
    """

    layers: tuple[LayerReport, ...]

    @property
    def sparsity(self) -> float:
        """The share of all these weights that is zero."""
        zeros = sum(layer.sparsity * layer.size for layer in self.layers)
        return zeros / sum(layer.size for layer in self.layers)

    def __str__(self) -> str:
        def percent(share: float | None) -> str:
            return "" if share is None else f"{100 * share:.2f} %"

        rows = [
            [
                one.name,
                f"{one.size:,}",
                f"{one.sparsity:.4f}",
                percent(one.error_before),
                percent(one.error_after),
                one.note,
            ]
            for one in self.layers
        ]
        total = f"{sum(one.size for one in self.layers):,}"
        rows.append(["all", total, f"{self.sparsity:.4f}", "", "", ""])
        header = ["layer", "weights", "sparsity", "error", "corrected", ""]
        return "\n".join(text_table(header, rows))


def prune_with_data(
    model: keras.layers.Layer,
    target_sparsity: float | Mapping[str, float],
    images: Any,
    *,
    method: str = "reconstruct",
    allocation: str | None = None,
    correct: bool | None = None,
    batch_norm: bool = True,
    pattern: Pattern | None = None,
    layers: Selection = None,
    spare: Selection = None,
    verbose: int | None = None,
) -> DataReport:
    """Prunes a model at once by a few unlabelled images, and corrects the weights that stay.

    Layer by layer, in the order of their calls, each is given what the pruned ones before it make of the
    images. Of its weights those go without which the others can do best what the layer did in the dense
    model, and these are set to do it best: a least squares fit for each output. No label is needed, and no
    gradient; from a thousandth of the training images on the fit is good.

    ```python
    report = prune_with_data(model, 0.8, images)  # 512 images, say
    print(report)
    ```

    The model is changed in place: removed weights are exactly zero. Where its layers are wrapped
    (`prune_low_magnitude`) their masks, patterns and scopes count, and the masks change, so that training
    keeps the zeros. Weights of a model that is not wrapped that are zero already stay zero;
    `prune_low_magnitude(model, None, keep_zeros=True)` makes masks of the zeros. Masks only shrink.

    Kernels whose inputs cannot be seen (tables, recurrent cells, layers of custom classes that say what may
    be pruned) are pruned by magnitude, as the report notes.

    Args:
        model: A built model: functional, Sequential or of a class of its own, nested or not.
        target_sparsity: The fraction of the prunable weights to remove, in [0, 1); or a mapping from regular
            expressions to fractions: the first that matches a layer's whole name, or the path of a layer or a
            kernel inside it, counts, and what none matches stays as it is.
        images: Inputs of the model: an array, the model's structure of them, or an iterable of batches of
            either, or of tuples `(inputs, ...)` as for `fit`; at least two examples.
        method: How the weights that stay are chosen. "reconstruct": by alternating directions and exchanges
            (arXiv:2401.02938). "sparsegpt": by columns (arXiv:2301.00774). "obc": one at a time
            (arXiv:2208.11580), for layers of up to 640 inputs of an output; larger ones are chosen as by
            "reconstruct". "wanda" (arXiv:2306.11695) and "magnitude": by these scores.
        allocation: How the sparsity is shared out. "uniform": each kernel reaches it. "erk": all together,
            small ones with less (arXiv:1911.11134). Default: the scope that the layers are wrapped with, else
            "uniform".
        correct: Whether the weights that stay are corrected. Default: not for "wanda" and "magnitude".
        batch_norm: Whether the moving statistics of BatchNorm follow: the mean by as much, and the variance
            by the factor, as those of its inputs change on the images.
        pattern: For a model that is not wrapped: the groups in which weights go, such as `MOfN(2, 4)`.
            Default: single weights.
        layers: For a model that is not wrapped: the layers to prune, as for `prune_low_magnitude`.
        spare: Likewise: those to leave as they are.
        verbose: 1: a line of progress. 0: none. Default: 1 where standard output is a terminal.

    Returns:
        The errors of the layers.

    Raises:
        ValueError: On an argument out of range, on images that are fewer than two, not finite or do not fit
            the model, on a layer that is not called when the model is. The model is as it was then.
    """
    if method not in CHOICES:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}. Received: method={method!r}")
    correct = method not in ("wanda", "magnitude") if correct is None else correct
    targets = _targets(model, pattern, layers, spare)
    sparsities = _shared_out(targets, target_sparsity, allocation)
    batches = inputs_of(model, images, _BATCH)
    run = _Run(model, targets, sparsities, method, correct, batch_norm, verbose)
    with _kept_on_failure(model):
        replay(model, batches, run.watched(), run.visit, unwrapped)
        run.finish()
    return DataReport(tuple(run.reports))


@dataclass(frozen=True)
class _Target:
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

    def present(self) -> np.ndarray:
        """Returns the weights that are there: booleans of the kernel's shape."""
        if self.mask is not None:
            return np.array(ops.convert_to_numpy(self.mask), bool)
        there = ops.convert_to_numpy(self.kernel.variable) != 0
        return there if there.any() else np.ones_like(there)


def _targets(
    model: keras.layers.Layer, pattern: Pattern | None, layers: Selection, spare: Selection
) -> list[_Target]:
    """Returns the kernels to prune: those with masks, or else those that are selected.

    Raises:
        ValueError: If there are none, or arguments for the one kind are given with the other.
    """
    wrappers = pruned_layers(model)
    if wrappers:
        if pattern is not None or layers is not None or spare is not None:
            raise ValueError(
                "`pattern`, `layers` and `spare` must be None for a model that is wrapped: it says itself "
                f"what is pruned. Received: pattern={pattern!r}, layers={layers!r}, spare={spare!r}"
            )
        return [
            _Target(
                next(k for k in part.layer.pruned if k.kernel.variable is part.variable).kernel,
                *(part.layer.layer, part.pattern, part.paths, part.mask, part.rule.scope),
            )
            for part in parts_of(wrappers)
        ]
    choose, pattern = Choice(layers, spare, None), pattern or WEIGHTS
    Rule(None, pattern)
    found: dict[int, _Target] = {}
    for layer in layers_of(model):
        for chosen in choose(layer) if kinds.may_be_prunable(layer) else ():
            kernel = chosen.place.kernel
            if kernel is None:
                if isinstance(model, keras.Model) and not model.built:
                    raise ValueError(f"`model` must be built. Received: model={model!r}")
                continue
            fitted = pattern.fit(kernel, f"layer {layer.name!r}", "magnitude")
            found.setdefault(
                id(kernel.variable), _Target(kernel, layer, fitted, chosen.place.names, None, None)
            )
    if not found:
        raise ValueError(
            "Nothing to prune: no layer selected has a kernel or an embedding table. "
            f"Received: layers={layers!r}, model={model!r}"
        )
    return list(found.values())


# The scope that a model is wrapped with -> the allocation; of a model that is not wrapped.
_SCOPES = {"layer": "uniform", None: "uniform"}


def _shared_out(
    targets: list[_Target], sparsity: float | Mapping[str, float], allocation: str | None
) -> list[float | None]:
    """Returns the sparsity of each kernel; None for one that stays as it is.

    Raises:
        ValueError: On a sparsity out of range, or that a pattern cannot reach.
    """
    if isinstance(sparsity, Mapping):
        if allocation is not None:
            raise ValueError(
                "`allocation` must be None with a mapping, which says how sparsity is shared out. "
                f"Received: allocation={allocation!r}"
            )
        each = {name: check_sparsity(f"target_sparsity[{name!r}]", value) for name, value in sparsity.items()}
        of = first_match("target_sparsity", each)
        check_names("target_sparsity", each, [path for one in targets for path in one.paths], "a layer")
        shares = [of(*one.paths) for one in targets]
    else:
        sparsity = check_sparsity("target_sparsity", sparsity)
        if allocation is None:
            scopes = {one.scope for one in targets}
            scope = scopes.pop() if len(scopes) == 1 else "several scopes"
            allocation = _SCOPES.get(scope, scope)
        if allocation not in ALLOCATIONS:
            raise ValueError(
                f"`allocation` must be one of {', '.join(ALLOCATIONS)}, or `target_sparsity` a mapping. "
                f"Received: allocation={allocation!r}"
            )
        shares = [sparsity] * len(targets)
        if allocation == "erk":
            shares = erk_sparsities([one.shape for one in targets], sparsity)
    for one, share in zip(targets, shares, strict=True):
        if share is not None:
            Rule(None, one.pattern).check_sparsity(share)
    return shares


class _kept_on_failure:  # noqa: N801
    """Brings all variables of a model, and of its optimizer, back to what they were if the block fails."""

    def __init__(self, model: keras.layers.Layer) -> None:
        optimizer = getattr(model, "optimizer", None)
        variables = {id(v): v for v in [*model.variables, *(optimizer.variables if optimizer else ())]}
        self._before = [(v, np.array(ops.convert_to_numpy(v))) for v in variables.values()]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None:
            for variable, value in self._before:
                variable.assign(value)


class _Run:
    """The pruning of each layer when it is stopped at."""

    def __init__(
        self,
        model: keras.layers.Layer,
        targets: list[_Target],
        sparsities: list[float | None],
        method: str,
        correct: bool,
        batch_norm: bool,
        verbose: int | None,
    ) -> None:
        self.reports: list[LayerReport] = []
        self._model, self._method, self._correct = model, method, correct
        self._optimizer = getattr(model, "optimizer", None)
        self._norms = {
            id(part): part
            for part in all_layers(model)
            if batch_norm and isinstance(part, keras_layers.BatchNormalization)
        }
        self._normalized = _normalized(model)
        # id of the layer to stop at -> the kernels whose inputs are seen there.
        self._stops: dict[int, tuple[keras.layers.Layer, list[tuple[_Target, Product | None, float]]]] = {}
        for target, share in zip(targets, sparsities, strict=True):
            if share is None:
                continue
            product = product_of(target.kernel, _holder(target))
            source = target.outermost if product is None else product.source
            self._stops.setdefault(id(source), (source, []))[1].append((target, product, share))
        if verbose is None:
            verbose = int(sys.stdout.isatty())
        count = sum(len(those) for _, those in self._stops.values())
        self._progress = keras.utils.Progbar(count, verbose=verbose, unit_name="layer")

    def watched(self) -> list[keras.layers.Layer]:
        """Returns the layers to stop at."""
        sources = [source for source, _ in self._stops.values()]
        return [*sources, *(norm for norm in self._norms.values() if id(norm) not in self._stops)]

    def visit(self, stop: Stop) -> None:
        """Prunes the kernels of a layer, or lets a BatchNorm follow."""
        if id(stop.layer) in self._norms:
            _follow(stop)
            return
        for target, product, share in self._stops[id(stop.layer)][1]:
            self._prune(stop, target, product, share)
            self._progress.add(1)

    def finish(self) -> None:
        """Ends the line of progress."""
        self._progress.update(self._progress.target, finalize=True)

    def _prune(self, stop: Stop, target: _Target, product: Product | None, share: float) -> None:
        values = np.asarray(ops.convert_to_numpy(target.kernel.variable), np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"Weights must be finite. Received: NaN or infinity in {target.name}")
        present = target.present()
        if product is None:
            mask = target.pattern.select(np.abs(values), present, share)
            self._write(target, mask, values)
            self._report(target, mask, None, None, "by magnitude: its inputs cannot be seen")
            return
        normalized = self._normalized.get(id(target.outermost))
        gram = self._gram(stop, target, product, product.matrices(values))
        centred = product.bias is not None or normalized is not None
        problem = make_problem(
            *gram.sums(centred), product.matrices(values), gram.samples, self._importance(product, normalized)
        )
        mask, weights = solve(
            problem, self._method, self._correct, share, product.matrices(present), _select(target, product)
        )
        kept = np.where(mask, problem.weights, 0)
        self._write(target, product.values(mask), product.values(weights.astype(np.float32)))
        if product.bias is not None:
            given, wanted = gram.means
            added = product.bias(wanted - (given[:, None] @ weights)[:, 0])
            bias = target.kernel.layer.bias
            bias.assign(ops.convert_to_numpy(bias) + added)
        self._report(target, product.values(mask), problem.error(kept), problem.error(weights))

    def _gram(self, stop: Stop, target: _Target, product: Product, matrices: np.ndarray) -> Gram:
        """Returns what is measured of a layer's inputs, checked."""
        gram = Gram(product, max(_ROWS, _ROWS_AN_INPUT * product.shape[1]))
        for now, was in stop.inputs():
            gram.add(now, was, matrices)
        if not all(np.isfinite(mean).all() for mean in gram.means):
            raise ValueError(
                "`images` must give finite values. "
                f"Received: images that give others at layer {target.name!r}"
            )
        return gram

    def _importance(self, product: Product, norm: Any) -> np.ndarray | None:
        """Returns what a squared error of each output counts behind its BatchNorm; None without one."""
        if norm is None or product.bias is not None and norm.gamma is None:
            return None
        gamma = 1.0 if norm.gamma is None else ops.convert_to_numpy(norm.gamma)
        variance = np.asarray(ops.convert_to_numpy(norm.moving_variance), np.float64)
        scale = gamma**2 / (variance + norm.epsilon)
        groups, _, outputs = product.shape
        return scale.reshape(groups, outputs) if scale.size == groups * outputs else None

    def _write(self, target: _Target, mask: np.ndarray, values: np.ndarray) -> None:
        variable = target.kernel.variable
        variable.assign(np.where(mask, values, 0))
        slots = optimizers.slots(self._optimizer, variable)
        if target.mask is not None:
            assign_mask(target.mask, mask, variable, slots)
        else:
            for slot in slots:
                slot.assign(np.where(mask, ops.convert_to_numpy(slot), 0))

    def _report(
        self,
        target: _Target,
        mask: np.ndarray,
        before: float | None,
        after: float | None,
        note: str = "",
    ) -> None:
        sparsity = 1 - np.count_nonzero(mask) / mask.size
        self.reports.append(LayerReport(target.name, mask.size, sparsity, before, after, note))


def solve(
    problem: Problem,
    method: str,
    correct: bool,
    sparsity: float,
    present: np.ndarray,
    select: Callable[[np.ndarray, np.ndarray, float], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mask and the weights of a layer at a sparsity.

    Args:
        problem: The layer.
        method: One of `METHODS`.
        correct: Whether the weights that stay are corrected.
        sparsity: The share of the weights to remove.
        present: Those that are there, `[groups, inputs, outputs]`.
        select: A function `(scores, mask, sparsity)` to a mask.
    """
    if method == "obc" and present.shape[1] > OBC_INPUTS:
        method = "reconstruct"
    mask = CHOICES[method](problem, present, sparsity, select)
    if correct and not (mask.all() and problem.error(problem.weights) == 0):
        return mask, refit(problem, mask)
    return mask, np.where(mask, problem.weights, 0)


def _select(target: _Target, product: Product) -> Callable[[np.ndarray, np.ndarray, float], np.ndarray]:
    def select(scores: np.ndarray, mask: np.ndarray, sparsity: float) -> np.ndarray:
        of_kernel = product.values(np.asarray(scores, np.float32))
        return product.matrices(target.pattern.select(of_kernel, product.values(mask), sparsity))

    select.is_free = isinstance(target.pattern, Weights)
    return select


def _holder(target: _Target) -> keras.layers.Layer | None:
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


def _follow(stop: Stop) -> None:
    """Changes the statistics of a BatchNorm as those of its inputs have changed."""
    norm, now, was = stop.layer, [], []
    for given, before in stop.inputs():
        if given is before:
            continue
        now.append(_moments(given, norm.axis))
        was.append(_moments(before, norm.axis))
    if not now:
        return
    now, was = reduce(Moments.merged, now), reduce(Moments.merged, was)
    varies = (was.variance > 0) & (now.variance > 0)
    ratio = np.divide(now.variance, was.variance, out=np.ones_like(was.variance), where=varies)
    # What the images' mean lies off the moving one, in deviations, stays so.
    off = was.mean - ops.convert_to_numpy(norm.moving_mean)
    norm.moving_mean.assign(now.mean - np.sqrt(ratio) * off)
    norm.moving_variance.assign(ops.convert_to_numpy(norm.moving_variance) * ratio)


def _moments(tensor: Any, axis: int) -> Moments:
    array = np.moveaxis(np.asarray(ops.convert_to_numpy(tensor)), axis, -1)
    array = array.reshape(-1, array.shape[-1]).astype(np.float64)
    return Moments(len(array), array.mean(0), array.var(0))
