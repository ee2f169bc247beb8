"""The errors of layers over how much of them is pruned, and a sparsity shared out by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.network.gram import Product
from tfprune.network.replay import Stop, replay
from tfprune.network.wrapping import unwrapped
from tfprune.sparsity.layer_problems import Meter, Target
from tfprune.sparsity.patterns import WEIGHTS
from tfprune.sparsity.reconstruction import Problem, Select, along, conjugate_gradients
from tfprune.sparsity.selection import kept_count

# The shares of a kernel's weights that are tried, each three quarters of the one before it.
_DENSITIES = tuple(0.75**step for step in range(1, 19))
# The outputs that a curve is measured with, at most, and rows for each input. The iterations in which weights
# are corrected, which are nearly right: an error of 0.3 is then 0.001 too large.
_OUTPUTS, _ROWS_AN_INPUT, _ITERATIONS = 64, 8, 4


@dataclass(frozen=True)
class Curve:
    """The error of a layer over the number of its weights that stay.

    Attributes:
        kept: Numbers of weights, rising, from 0 to all.
        errors: The mean squared errors of the layer's outputs with them, shares of their mean square.
    """

    kept: np.ndarray
    errors: np.ndarray

    def hull(self) -> "Curve":
        """Returns the largest convex curve that lies nowhere above this one."""
        points: list[tuple[float, float]] = []
        for point in zip(self.kept, self.errors, strict=True):
            while len(points) > 1 and _is_above(points[-1], points[-2], point):
                points.pop()
            points.append(point)
        kept, errors = zip(*points, strict=True)
        return Curve(np.array(kept), np.array(errors))


def _is_above(middle: tuple[float, float], start: tuple[float, float], end: tuple[float, float]) -> bool:
    """Returns whether a point is not below the line between two others."""
    share = (middle[0] - start[0]) / (end[0] - start[0])
    return middle[1] >= start[1] + share * (end[1] - start[1])


def by_errors(
    model: keras.layers.Layer,
    targets: Sequence[Target],
    sparsity: float,
    batches: Sequence[Any],
    verbose: int,
) -> list[float]:
    """Returns the sparsity of each kernel at which the sum of the layers' errors is smallest.

    The errors are those of each layer alone, in the dense model, with the weights that stay corrected, as
    shares of its output: so they are comparable. A kernel whose inputs cannot be seen has the share that all
    have together.

    Args:
        model: A built model, which is not changed.
        targets: The kernels.
        sparsity: Of all of them together.
        batches: Inputs, as for `replay`.
        verbose: 1: a line of progress.
    """
    meter = Meter(model, list(targets), len(batches), _ROWS_AN_INPUT)
    curves: dict[int, Curve] = {}
    progress = keras.utils.Progbar(len(targets), verbose=verbose, unit_name="kernel")

    def visit(stop: Stop) -> None:
        for target, product in meter.stops[id(stop.layer)][1]:
            if product is not None:
                curves[id(target)] = _curve(meter, stop, target, product)
            progress.add(1)

    replay(model, batches, meter.layers, visit, unwrapped)
    sizes = [int(np.prod(one.shape)) for one in targets]
    return share_out([curves.get(id(one)) for one in targets], sizes, sparsity)


def _curve(meter: Meter, stop: Stop, target: Target, product: Product) -> Curve:
    measured = meter.measure(stop, target, product)
    problem, there, select = _some_outputs(measured.problem, measured.present, measured.select)
    size, present = there.size, int(np.count_nonzero(there))
    kept, errors = [present], [0.0]
    tried = [
        1 - share
        for share in _DENSITIES
        if present > kept_count(size, 1 - share) >= min(there.shape[2], size // 2)
    ]
    for mask, start in along(problem, there, tried, select):
        kept.append(int(np.count_nonzero(mask)))
        weights = conjugate_gradients(problem, mask, start, _ITERATIONS)
        errors.append(problem.error(weights.astype(np.float32)))
    kept.append(0)
    errors.append(1.0)
    # Of all outputs what those that were looked at have.
    whole = np.count_nonzero(measured.present)
    kept = [round(whole * number / max(present, 1)) for number in kept]
    kept, errors = zip(*dict(zip(kept, errors, strict=True)).items(), strict=True)
    return Curve(np.array(kept[::-1], float), np.maximum.accumulate(errors)[::-1])


def _some_outputs(
    problem: Problem, present: np.ndarray, select: Select
) -> tuple[Problem, np.ndarray, Select]:
    """Returns a layer of few of the outputs, evenly spread, where single weights go."""
    outputs = present.shape[2]
    if outputs <= _OUTPUTS or not getattr(select, "is_free", False):
        return problem, present, select
    places = np.linspace(0, outputs - 1, _OUTPUTS).round().astype(int)
    if not present[:, :, places].any():
        return problem, present, select
    return problem.of_outputs(places), present[:, :, places], WEIGHTS.select


def share_out(curves: Sequence[Curve | None], sizes: Sequence[int], sparsity: float) -> list[float]:
    """Returns sparsities that keep the sum of errors smallest, by the steepest parts of their hulls first.

    Args:
        curves: One a kernel; None for one that has the share of all together.
        sizes: The numbers of weights.
        sparsity: Of all kernels together.
    """
    measured = [number for number, curve in enumerate(curves) if curve is not None]
    others = sum(kept_count(size, sparsity) for size, curve in zip(sizes, curves, strict=True) if not curve)
    kept = {number: 1.0 for number in measured}  # At least one weight of each.
    budget = max(kept_count(sum(sizes), sparsity) - others - len(measured), 0)
    parts = []
    for number in measured:
        hull = curves[number].hull()
        widths, falls = np.diff(hull.kept), -np.diff(hull.errors)
        slopes = falls / widths
        widths[0] -= 1  # The weight that stays anyway.
        parts += [(slope, number, width) for slope, width in zip(slopes, widths, strict=True)]
    for _, number, width in sorted(parts, key=lambda part: -part[0]):
        taken = min(width, budget)
        kept[number] += taken
        budget -= taken
    return [
        sparsity if number not in kept else min(max(1 - kept[number] / size, 0.0), 1 - 1 / size)
        for number, size in enumerate(sizes)
    ]
