"""Allocations: how many weights go from each kernel, within a budget. NumPy only, no model.

An allocation is an array of whole numbers, the weights removed from each kernel. What a kernel costs falls
with them: weights that are left, multiply-accumulates, or milliseconds. Every allocation that a function here
returns is within the budget, and uses up all of it that it can.
"""

import abc
from collections.abc import Sequence

import numpy as np

# The densities of the levels: steps of a twentieth, and of a fifth of what is left where that is less.
_STEP, _FACTOR, _SPARSEST = 0.05, 0.8, 1e-3
# Switches of a mutation, and levels of a switch, at most.
_MOST_SWITCHES, _MOST_LEVELS = 4, 3


def level_densities() -> list[float]:
    """Returns the densities of the levels, from 1 down."""
    densities = [1.0]
    while densities[-1] > _SPARSEST:
        densities.append(max(densities[-1] - _STEP, densities[-1] * _FACTOR))
    return densities


def level_counts(size: int, least: int = 0) -> np.ndarray:
    """Returns the removed weights at each level of a kernel, ascending; one weight stays.

    Args:
        size: The kernel's weights.
        least: Those that are removed already: the first level.
    """
    counts = {size - max(round(density * size), 1) for density in level_densities()}
    return np.array(sorted({least, *(count for count in counts if count > least)}), np.int64)


class Costs(abc.ABC):
    """The cost of each kernel, by the weights that are removed from it.

    Attributes:
        sizes: Weights of each kernel, int64.
    """

    sizes: np.ndarray

    @abc.abstractmethod
    def of(self, kernel: int, removed: int) -> float:
        """Returns what a kernel costs, at most what it costs with fewer removed."""

    @abc.abstractmethod
    def removed_at(self, kernel: int, cost: float) -> int:
        """Returns the fewest removed weights with which a kernel costs no more, perhaps all or below 0."""

    def total(self, removed: Sequence[int]) -> float:
        """Returns what all kernels cost."""
        return sum(self.of(kernel, int(count)) for kernel, count in enumerate(removed))


class Uses(Costs):
    """Costs in proportion to the weights that are left: whole numbers.

    Args:
        sizes: Weights of each kernel.
        uses: What each weight of a kernel costs: 1 for a budget of weights, its multiply-accumulates for one
            example for a budget of those.
    """

    def __init__(self, sizes: Sequence[int], uses: Sequence[int]) -> None:
        self.sizes = np.asarray(sizes, np.int64)
        self._uses = [int(each) for each in uses]

    def of(self, kernel: int, removed: int) -> int:
        return self._uses[kernel] * (int(self.sizes[kernel]) - int(removed))

    def removed_at(self, kernel: int, cost: float) -> int:
        if not self._uses[kernel]:
            return 0
        return int(self.sizes[kernel]) - int(cost // self._uses[kernel])


class Timed(Costs):
    """Measured costs, on straight lines between the numbers of removed weights that were measured.

    A time that is longer than one with fewer weights removed counts as the shorter one.

    Args:
        sizes: Weights of each kernel.
        removed: Numbers of removed weights of each kernel that were measured, ascending.
        times: The time of each.
    """

    def __init__(
        self, sizes: Sequence[int], removed: Sequence[np.ndarray], times: Sequence[np.ndarray]
    ) -> None:
        self.sizes = np.asarray(sizes, np.int64)
        self._removed = [np.asarray(each, np.float64) for each in removed]
        self._times = [np.minimum.accumulate(each) for each in times]

    def of(self, kernel: int, removed: int) -> float:
        return float(np.interp(removed, self._removed[kernel], self._times[kernel]))

    def removed_at(self, kernel: int, cost: float) -> int:
        low, high = -1, int(self.sizes[kernel])
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.of(kernel, middle) <= cost else (middle, high)
        return high


class Allocations:
    """All allocations within a budget.

    Args:
        costs: What kernels cost.
        limit: What they may cost together.
        levels: The removed weights at each level of each kernel, ascending, from the fewest to the most that
            may go.
    """

    def __init__(self, costs: Costs, limit: float, levels: Sequence[np.ndarray]) -> None:
        self.costs, self.limit, self._levels = costs, limit, levels
        self._least = np.array([each[0] for each in levels], np.int64)
        self._most = np.array([each[-1] for each in levels], np.int64)

    @property
    def lowest_cost(self) -> float:
        """Returns what the sparsest allocation costs."""
        return self.costs.total(self._most)

    @property
    def highest_cost(self) -> float:
        """Returns what the densest allocation costs."""
        return self.costs.total(self._least)

    def settled(self, removed: Sequence[int], order: Sequence[int], locked: Sequence[int] = ()) -> np.ndarray:
        """Returns the allocation near to another one that uses up the budget.

        Kernels become sparser a level at a time, each in its turn, until the budget is met; then denser as
        long as a level fits in; what then is left of the budget goes to the first ones in the order.

        Args:
            removed: Any numbers of removed weights.
            order: A permutation of the kernels.
            locked: Kernels that change last.
        """
        counts = np.clip(np.asarray(removed, np.int64), self._least, self._most)
        free = [kernel for kernel in order if kernel not in locked]
        cost = self._sparser(counts, free)
        if cost > self.limit:
            cost = self._sparser(counts, list(locked))
        for kernels in (free, locked):
            moved = True
            while moved and cost < self.limit:
                moved = False
                for kernel in kernels:
                    wanted = self._denser(kernel, counts[kernel])
                    change = self.costs.of(kernel, wanted) - self.costs.of(kernel, counts[kernel])
                    if wanted < counts[kernel] and cost + change <= self.limit:
                        counts[kernel], cost, moved = wanted, cost + change, True
        for kernel in [*free, *locked]:
            # Summed anew, lest what rounding adds up break the budget.
            own = self.costs.of(kernel, counts[kernel])
            rest = self.costs.total(counts) - own
            wanted = max(self.costs.removed_at(kernel, self.limit - rest), self._least[kernel])
            if wanted < counts[kernel] and rest + self.costs.of(kernel, wanted) <= self.limit:
                counts[kernel] = wanted
        return counts

    def mutated(self, removed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns an allocation in which some kernels are denser and as many others sparser.

        A switch moves the same cost from one kernel to another: as much as neither changes by more than the
        levels that are drawn. The number of switches is the lesser of two that are drawn.
        Source: arXiv:2410.14649.
        """
        counts, kernels = removed.copy(), len(removed)
        if kernels < 2:
            return counts
        changed: list[int] = []
        for _ in range(min(rng.integers(1, _MOST_SWITCHES + 1, 2))):
            denser, sparser = (int(kernel) for kernel in rng.choice(kernels, 2, replace=False))
            levels = int(min(rng.integers(1, _MOST_LEVELS + 1, 2)))
            self._switch(counts, denser, sparser, levels)
            changed += [denser, sparser]
        return self.settled(counts, rng.permutation(kernels), locked=sorted(set(changed)))

    def crossed(self, one: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns an allocation that has each kernel's share from one of two allocations, then settled."""
        counts = np.where(rng.random(len(one)) < 0.5, one, other)
        return self.settled(counts, rng.permutation(len(one)))

    def _switch(self, counts: np.ndarray, denser: int, sparser: int, levels: int) -> None:
        fewer, more = counts[denser], counts[sparser]
        for _ in range(levels):
            fewer, more = self._denser(denser, fewer), self._above(sparser, more)
        spent, saved = self.costs.of(denser, counts[denser]), self.costs.of(sparser, counts[sparser])
        moved = min(self.costs.of(denser, fewer) - spent, saved - self.costs.of(sparser, more))
        if moved <= 0:
            return
        given = min(max(self.costs.removed_at(sparser, saved - moved), counts[sparser]), more)
        freed = saved - self.costs.of(sparser, given)
        taken = max(self.costs.removed_at(denser, spent + freed), fewer)
        if taken < counts[denser]:
            counts[sparser], counts[denser] = given, taken

    def _sparser(self, counts: np.ndarray, kernels: Sequence[int]) -> float:
        """Removes levels until the budget is met, or nothing is left to remove; returns the cost."""
        cost, moved = self.costs.total(counts), True
        while moved and cost > self.limit:
            moved = False
            for kernel in kernels:
                if cost <= self.limit:
                    break
                wanted = self._above(kernel, counts[kernel])
                if wanted > counts[kernel]:
                    counts[kernel], moved = wanted, True
                    cost = self.costs.total(counts)
        return cost

    def _above(self, kernel: int, count: int) -> int:
        """Returns the next sparser level; the sparsest one if there is none."""
        levels = self._levels[kernel]
        return int(levels[min(np.searchsorted(levels, count, "right"), len(levels) - 1)])

    def _denser(self, kernel: int, count: int) -> int:
        """Returns the next denser level; the densest one if there is none."""
        levels = self._levels[kernel]
        return int(levels[max(np.searchsorted(levels, count, "left") - 1, 0)])
