"""What may be left of a network: weights, multiply-accumulates, or milliseconds in the sparse runtime."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.network.macs import kernel_uses
from tfprune.sparsity.search.allocation import Allocations, Costs, Timed, Uses, level_counts
from tfprune.sparsity.search.kernels import Searched
from tfprune.sparsity.search.latency import Times
from tfprune.sparsity.selection import kept_count

BUDGETS = ("weights", "macs", "latency")
# Of the time of the dense network: a larger difference is the machine's other work.
_MOST_CORRECTED = 0.1


@dataclass(frozen=True)
class Budget:
    """A budget.

    Attributes:
        costs: What kernels cost.
        limit: What they may cost together.
        rest: What everything else costs; 0 but for times.
        measured: What was measured for it, as JSON has it; None where nothing was.
    """

    costs: Costs
    limit: float
    rest: float = 0.0
    measured: dict[str, Any] | None = None

    def allocations(self, kernels: Sequence[Searched], target: float) -> Allocations:
        """Returns the allocations within the budget.

        Raises:
            ValueError: If there is none, or each is.
        """
        allocations = Allocations(
            self.costs, self.limit, [level_counts(kernel.size, kernel.removed) for kernel in kernels]
        )
        whole = self.rest + self.costs.total([0] * len(kernels))
        most, least = (
            1 - (self.rest + cost) / whole if whole else 0.0
            for cost in (allocations.lowest_cost, allocations.highest_cost)
        )
        if allocations.lowest_cost > self.limit:
            raise ValueError(
                f"`target` must be at most {most:.4g}: as much goes where each kernel keeps a weight. "
                f"Received: target={target}"
            )
        if allocations.highest_cost < self.limit:
            raise ValueError(
                f"`target` must be at least {least:.4g}, which is gone already. Received: target={target}"
            )
        return allocations


def budget_of(
    budget: str,
    target: float,
    model: keras.Model,
    kernels: Sequence[Searched],
    input_shape: Any,
    times: Times,
    measured: dict[str, Any] | None,
) -> Budget:
    """Returns the budget of a search.

    Args:
        budget: One of `BUDGETS`.
        target: The share of the whole that goes.
        model: The model.
        kernels: The kernels that are searched.
        input_shape: The shape of an input with the batch's axis; None for the model's own.
        times: What measures times.
        measured: What an interrupted search measured; None to measure.

    Raises:
        ValueError: If what a kernel costs is not known.
        UserError: If the runtime cannot run the model.
    """
    sizes = [kernel.size for kernel in kernels]
    if budget == "weights":
        return Budget(Uses(sizes, [1] * len(sizes)), kept_count(sum(sizes), target, len(sizes)))
    if budget == "macs":
        costs = Uses(sizes, _uses(model, kernels, input_shape))
        return Budget(costs, round((1 - target) * costs.total([0] * len(sizes))))
    measured = measured or _measured(times, target, kernels)
    return Budget(
        Timed(sizes, list(map(np.array, measured["removed"])), list(map(np.array, measured["milliseconds"]))),
        measured["limit"],
        measured["rest"],
        measured,
    )


def _uses(model: keras.Model, kernels: Sequence[Searched], input_shape: Any) -> list[int]:
    uses = {id(use.variable): use.uses for use in kernel_uses(model, input_shape)}
    of_each = [uses.get(id(kernel.variable)) for kernel in kernels]
    if None in of_each:
        unknown = [kernel.name for kernel, times in zip(kernels, of_each, strict=True) if times is None]
        raise ValueError(
            "The multiply-accumulates of each kernel must be known: give `input_shape`, or `spare` the "
            f"others. Received: a model of which those of {', '.join(unknown)} are not"
        )
    return of_each


def _measured(times: Times, target: float, kernels: Sequence[Searched]) -> dict[str, Any]:
    """Measures the kernels, then the dense network and one within the budget, which correct the limit."""
    removed, milliseconds = times.of_kernels()
    sizes, none = [kernel.size for kernel in kernels], [0] * len(kernels)
    costs = Timed(sizes, removed, milliseconds)
    dense = times.of_networks({"dense": none})["dense"]
    rest = max(dense - costs.total(none), 0.0)
    limit = (1 - target) * dense - rest
    probe = Budget(costs, limit, rest).allocations(kernels, target).settled(none, range(len(kernels)))
    found = times.of_networks({"dense": none, "pruned": probe})
    # Caches, and what comes before, make a kernel slower or faster than it was when it was measured.
    missed = dense * found["pruned"] / found["dense"] - rest - costs.total(probe)
    limit -= float(np.clip(missed, -_MOST_CORRECTED * dense, _MOST_CORRECTED * dense))
    return {
        "removed": [counts.tolist() for counts in removed],
        "milliseconds": [each.tolist() for each in milliseconds],
        "limit": limit,
        "rest": rest,
    }
