"""`prune_with_data`: pruning by what a few unlabelled images make the layers do, without training."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import keras
import numpy as np
from keras import layers as keras_layers
from keras import ops

from tfprune.arguments import one_of, progress, true_or_false
from tfprune.network import optimizers
from tfprune.network.calibration import Moments, inputs_of
from tfprune.network.gram import Product
from tfprune.network.graph import all_layers
from tfprune.network.replay import Stop, replay
from tfprune.network.wrapping import unwrapped
from tfprune.sparsity.apply import assign_mask
from tfprune.sparsity.choice import Selection, check_names, first_match
from tfprune.sparsity.error_curves import by_errors
from tfprune.sparsity.layer_problems import Meter, Target, targets_of, why_by_magnitude
from tfprune.sparsity.masks import erk_sparsities
from tfprune.sparsity.patterns import Groups, Pattern
from tfprune.sparsity.reconstruction import CHOICES
from tfprune.sparsity.rule import Rule
from tfprune.sparsity.schedules import check_sparsity
from tfprune.text import text_table

METHODS = tuple(CHOICES)
ALLOCATIONS = ("uniform", "erk", "global")
_BATCH = 128


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
        error_after: The same with the weights as they are left: corrected, or their outputs' variance brought
            back.
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
        header = ["layer", "weights", "sparsity", "error", "repaired", ""]
        return "\n".join(text_table(header, rows))


def prune_with_data(
    model: keras.layers.Layer,
    target_sparsity: float | Mapping[str, float],
    images: Any,
    *,
    method: str = "reconstruct",
    allocation: str | None = None,
    correct: bool | None = None,
    variance: bool | None = None,
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
        variance: Whether the weights of each output are multiplied by what brings its variance on the images
            back to that of the dense model, as far as the one still correlates with the other
            (after arXiv:2605.21426); the bias keeps the mean, and without a bias it is the mean square. What
            goes straight into a BatchNorm is left to that. Default: where weights are not corrected.
        batch_norm: Whether the moving statistics of BatchNorm follow: the mean by as much, and the variance
            by the factor, as those of its inputs change on the images.
        pattern: For a model that is not wrapped: the groups in which weights go, such as `MOfN(2, 4)`.
            Default: single weights.
        layers: For a model that is not wrapped: the layers to prune, as for `prune_low_magnitude`.
        spare: Likewise: those to leave as they are.
        verbose: 1: a line of progress. 2: one at the end. 0: none. Default: 1 where standard output is a
            terminal, else 0.

    Returns:
        The errors of the layers.

    Raises:
        ValueError: On an argument out of range, on images that are fewer than two, not finite or do not fit
            the model, on a layer that is not called when the model is. The model is as it was then.
    """
    one_of("method", method, METHODS)
    corrects = method not in ("wanda", "magnitude")
    if correct is not None:
        corrects = true_or_false("correct", correct, "True, False or None")
    restores = (
        not corrects if variance is None else true_or_false("variance", variance, "True, False or None")
    )
    batch_norm = true_or_false("batch_norm", batch_norm)
    shown = int(sys.stdout.isatty()) if verbose is None else progress(verbose)
    targets = targets_of(model, pattern, layers, spare)
    allocation = _checked_allocation(targets, target_sparsity, allocation)
    sparsities = _shared_out(targets, target_sparsity, allocation)
    batches = inputs_of(model, images, _BATCH)
    if allocation == "global":
        sparsities = by_errors(model, targets, float(target_sparsity), batches, shown)
    run = _Run(model, targets, sparsities, method, corrects, restores, batch_norm, len(batches), shown)
    with _kept_on_failure(model):
        replay(model, batches, run.watched, run.visit, unwrapped)
    return DataReport(tuple(run.reports))


# The scope that a model is wrapped with -> the allocation; None: of a model that is not wrapped.
_SCOPES = {"layer": "uniform", "erk": "erk", "global": "global", None: "global"}


def _checked_allocation(
    targets: list[Target], sparsity: float | Mapping[str, float], allocation: str | None
) -> str | None:
    """Returns the allocation; None where a mapping has it.

    Raises:
        ValueError: If it is none, or there are two.
    """
    if isinstance(sparsity, Mapping):
        if allocation is not None:
            raise ValueError(
                "`allocation` must be None with a mapping, which says how sparsity is shared out. "
                f"Received: allocation={allocation!r}"
            )
        return None
    fixed = [one.pattern for one in targets if not isinstance(one.pattern, Groups)]
    if allocation is None:
        scopes = {one.scope for one in targets}
        if len(scopes) > 1:
            raise ValueError(
                "`allocation` must be given for layers that are wrapped with several scopes. "
                f"Received: allocation=None, and the scopes {sorted(scopes)}"
            )
        allocation = "uniform" if fixed else _SCOPES[scopes.pop()]
    if allocation not in ALLOCATIONS:
        raise ValueError(
            f"`allocation` must be one of {', '.join(ALLOCATIONS)}, or `target_sparsity` a mapping. "
            f"Received: allocation={allocation!r}"
        )
    if fixed and allocation != "uniform":
        raise ValueError(
            f"With {fixed[0]} every layer has the same share of zeros: `allocation` must be 'uniform'. "
            f"Received: allocation={allocation!r}"
        )
    return allocation


def _shared_out(
    targets: list[Target], sparsity: float | Mapping[str, float], allocation: str | None
) -> list[float | None]:
    """Returns the sparsity of each kernel, but for "global"; None for one that stays as it is.

    Raises:
        ValueError: On a sparsity out of range, or that a pattern cannot reach.
    """
    if isinstance(sparsity, Mapping):
        each = {name: check_sparsity(f"target_sparsity[{name!r}]", value) for name, value in sparsity.items()}
        of = first_match("target_sparsity", each)
        check_names("target_sparsity", each, [path for one in targets for path in one.paths], "a layer")
        shares = [of(*one.paths) for one in targets]
    else:
        sparsity = check_sparsity("target_sparsity", sparsity)
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
        targets: list[Target],
        sparsities: list[float | None],
        method: str,
        correct: bool,
        variance: bool,
        batch_norm: bool,
        batches: int,
        verbose: int,
    ) -> None:
        self.reports: list[LayerReport] = []
        self._method, self._correct, self._variance = method, correct, variance
        self._optimizer = getattr(model, "optimizer", None)
        self._norms = {
            id(part): part
            for part in all_layers(model)
            if batch_norm and isinstance(part, keras_layers.BatchNormalization)
        }
        pruned = [one for one, share in zip(targets, sparsities, strict=True) if share is not None]
        self._meter = Meter(model, pruned, batches)
        self._sparsities = {id(one): share for one, share in zip(targets, sparsities, strict=True)}
        self._progress = keras.utils.Progbar(len(pruned), verbose=verbose, unit_name="kernel")

    @property
    def watched(self) -> list[keras.layers.Layer]:
        """The layers to stop at."""
        found = {id(layer): layer for layer in self._meter.layers}
        return list({**found, **self._norms}.values())

    def visit(self, stop: Stop) -> None:
        """Prunes the kernels of a layer, or lets a BatchNorm follow."""
        if id(stop.layer) in self._norms:
            _follow(stop)
            return
        for target, product in self._meter.stops[id(stop.layer)][1]:
            self._prune(stop, target, product, self._sparsities[id(target)])
            self._progress.add(1)

    def _prune(self, stop: Stop, target: Target, product: Product | None, share: float) -> None:
        if product is None:
            values = target.values()
            mask = target.pattern.select(np.abs(values), target.present(), share)
            self._write(target, mask, values)
            self._report(target, mask, None, None, why_by_magnitude(target))
            return
        measured = self._meter.measure(stop, target, product)
        problem = measured.problem
        mask, weights, bias = measured.pruned(self._method, self._correct, self._variance, share)
        self._write(target, product.values(mask), product.values(weights.astype(np.float32)))
        if bias is not None:
            target.kernel.layer.bias.assign(bias)
        as_they_were = problem.error(np.where(mask, problem.weights, 0))
        self._report(target, product.values(mask), as_they_were, problem.error(weights))

    def _write(self, target: Target, mask: np.ndarray, values: np.ndarray) -> None:
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
        target: Target,
        mask: np.ndarray,
        before: float | None,
        after: float | None,
        note: str = "",
    ) -> None:
        sparsity = 1 - np.count_nonzero(mask) / mask.size
        self.reports.append(LayerReport(target.name, mask.size, sparsity, before, after, note))


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
