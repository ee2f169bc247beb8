"""`search_sparsities`: the shares to prune of each layer, by evolution."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.files import write_json
from tfprune.network.macs import kernel_uses
from tfprune.reading import json_of, reading
from tfprune.sparsity.apply import read
from tfprune.sparsity.choice import Selection
from tfprune.sparsity.search.allocation import Allocations, Costs, Uses, level_counts
from tfprune.sparsity.search.kernels import ByMagnitude, Searched, searched_kernels
from tfprune.sparsity.search.network import Candidates, check_divergence, images_of
from tfprune.sparsity.search.result import SearchedLayer, SearchResult, Start
from tfprune.sparsity.search.starts import starting_allocations
from tfprune.sparsity.selection import kept_count

BUDGETS = ("weights", "macs")
_FORMAT = 1
# Of the offspring, the share that goes on from one selection to the next.
_STAYS, _FEWEST = 1 / 3, 2
# Of the offspring, the share that two parents have.
_CROSSED = 1 / 4


def search_sparsities(
    model: keras.Model,
    target: float,
    images: Any,
    *,
    budget: str = "weights",
    layers: Selection = None,
    spare: Selection = None,
    generations: int = 40,
    offspring: int = 24,
    population: int = 8,
    batch_size: int = 64,
    divergence: str | None = None,
    recalibrate: bool = True,
    input_shape: Any = None,
    seed: int = 0,
    path: str | os.PathLike | None = None,
    verbose: bool = True,
) -> SearchResult:
    """Searches how much to prune of each layer, so that a network of a given cost changes least.

    Evolution over allocations, the removed weights of each kernel, all of which use up the same budget
    (EvoPress, arXiv:2410.14649). The first population are the allocations of a uniform sparsity, of
    Erdos-Renyi-Kernel, of LAMP and of global magnitude, so that what comes out is on `images` at least as
    near to the dense network as the best of these. In each generation most offspring move a little of the
    budget from one kernel of a parent to another; the others take each kernel's share from one of two
    parents. They are selected on one batch of images, the best third of them on more, and the best of those
    on all; then the best of parents and offspring are the next population.

    No label is used, and the model is the same after the search as before, whatever happens.

    ```python
    best = search_sparsities(model, 0.9, images)
    print(best)
    pruned = prune_low_magnitude(model, None)
    prune_to(pruned, best.sparsities)
    ```

    Args:
        model: A built model of any kind. Of a wrapped one the kernels with masks are searched, and what their
            masks have removed stays removed.
        target: The share of the budget's whole that goes, in (0, 1).
        images: Unlabelled inputs of the model, some hundred: an array, the model's structure of them, or an
            iterable of batches, such as a `tf.data.Dataset`; labels in batches are passed over.
        budget: What may be left. "weights": exactly the number of weights that `prune_to` leaves with
            `scope="global"`. "macs": multiply-accumulates of the searched kernels for one example, at most
            the share that stays, and less below it than a weight of the cheapest kernel that has lost some.
        layers: The layers whose kernels are searched, as in `prune_low_magnitude`; None for all that can be
            pruned.
        spare: The layers to leave dense, as in `prune_low_magnitude`.
        generations: The number of generations.
        offspring: Allocations that are tried in each.
        population: Allocations that go on from one generation to the next.
        batch_size: Images of a batch, at most. Fewer images make a first selection that is quicker and
            worse.
        divergence: What is to stay small. "probabilities": the Kullback-Leibler divergence of the outputs,
            which are probabilities of classes. "logits": that of their softmax. "squared": the squared
            error, divided by what a constant network has. None: by a compiled cross-entropy of classes and
            its `from_logits`; else "probabilities" where the outputs are such, and "squared" otherwise.
        recalibrate: Whether BatchNorm normalizes each batch by its own statistics in the search, as after
            `recalibrate`; else by its moving ones, which fit the dense network alone.
        input_shape: The shape of an input with the batch's axis, for the multiply-accumulates of a model
            that leaves sizes open.
        seed: Of all random choices: one seed finds the same on one machine.
        path: A file that keeps the search after each generation, and from which the same search goes on if
            it is there, to the end that it would have had. None: nothing is kept.
        verbose: Whether to show the progress.

    Returns:
        A `SearchResult`: `sparsities` is what `prune_to` takes.

    Raises:
        ValueError: If an argument is out of range, nothing can be searched, the images do not fit, outputs
            are not finite, or the budget cannot be met.
        FileError: If the file at `path` is damaged, or of another search.
    """
    _check(target, budget, seed, generations=generations, offspring=offspring, population=population)
    _check_at_least("batch_size", batch_size, 2)
    check_divergence(divergence)
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"`model` must be a built Keras 3 model. Received: model={model!r}")
    kernels = searched_kernels(model, layers, spare)
    images = images_of(model, images)
    costs, limit = _budget(model, kernels, target, budget, input_shape)
    levels = [level_counts(kernel.size, kernel.removed) for kernel in kernels]
    allocations = Allocations(costs, limit, levels)
    _check_reachable(allocations, kernels, costs, target, budget)
    pruned = ByMagnitude(kernels)
    candidates = Candidates(model, kernels, pruned, images, batch_size, divergence, recalibrate)
    settings = {
        "target": target,
        "budget": budget,
        "offspring": offspring,
        "population": population,
        "batch_size": batch_size,
        "divergence": candidates.divergence,
        "recalibrate": recalibrate,
        "seed": seed,
        "kernels": {kernel.name: kernel.size for kernel in kernels},
        "content": _digest(kernels, images),
    }
    starts = starting_allocations(kernels, allocations, costs)
    kept = _Kept(None if path is None else Path(path), settings, len(kernels))
    with candidates.exchanging():
        state = kept.read() or _first(starts, candidates)
        state = _evolve(
            state, allocations, candidates, kept, seed, generations, offspring, population, verbose
        )
    return _result(state, kernels, costs, starts, target, budget, candidates.divergence)


@dataclasses.dataclass(frozen=True)
class _State:
    """A search between two generations.

    Attributes:
        starts: The divergence of each start.
        population: Allocations and their divergence on all images, the best first.
        history: The least divergence after each generation, that of the starts first.
    """

    starts: dict[str, float]
    population: list[tuple[tuple[int, ...], float]]
    history: list[float]


def _first(starts: dict[str, np.ndarray], candidates: Candidates) -> _State:
    values = {name: _on_all(candidates, counts) for name, counts in starts.items()}
    population = {tuple(map(int, starts[name])): value for name, value in values.items()}
    ranked = sorted(population.items(), key=lambda one: one[1])
    return _State(values, ranked, [ranked[0][1]])


def _evolve(
    state: _State,
    allocations: Allocations,
    candidates: Candidates,
    kept: "_Kept",
    seed: int,
    generations: int,
    offspring: int,
    population: int,
    verbose: bool,
) -> _State:
    bar = keras.utils.Progbar(generations, verbose=int(verbose), stateful_metrics=["divergence"])
    for generation in range(len(state.history), generations + 1):
        # Of the generation alone: a search that goes on draws what it would have drawn.
        rng = np.random.default_rng([seed, generation])
        children = _children([counts for counts, _ in state.population], allocations, offspring, rng)
        selected = _selected(children, candidates, rng)
        ranked = sorted([*state.population, *selected], key=lambda one: one[1])[:population]
        state = _State(state.starts, ranked, [*state.history, ranked[0][1]])
        kept.write(state)
        bar.update(generation, [("divergence", ranked[0][1])])
    return state


def _children(
    parents: Sequence[tuple[int, ...]], allocations: Allocations, count: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Returns new allocations, each another one and none of the parents: fewer if there are no others."""
    known, children = set(parents), []
    for _ in range(4 * count):
        if len(children) == count:
            break
        # The better a parent, the more children: the lesser of two ranks.
        one, other = (np.array(parents[min(rng.integers(0, len(parents), 2))]) for _ in range(2))
        crosses = len(parents) > 1 and rng.random() < _CROSSED
        child = allocations.crossed(one, other, rng) if crosses else one
        child = tuple(map(int, allocations.mutated(child, rng)))
        if child not in known:
            known.add(child)
            children.append(child)
    return children


def _selected(
    children: list[tuple[int, ...]], candidates: Candidates, rng: np.random.Generator
) -> list[tuple[tuple[int, ...], float]]:
    """Returns the children that are left when all images have been seen, with their divergence."""
    order = [int(batch) for batch in rng.permutation(candidates.batches)]
    seen: dict[tuple[int, ...], dict[int, np.ndarray]] = {child: {} for child in children}
    for end in _stages(candidates.batches):
        for child, values in seen.items():
            for batch in order[len(values) : end]:
                values[batch] = candidates.divergences(child, batch)
        if end < candidates.batches:
            ranked = sorted(seen, key=lambda child: _mean(seen[child]))
            seen = {child: seen[child] for child in ranked[: max(round(len(ranked) * _STAYS), _FEWEST)]}
    return [(child, _mean(values)) for child, values in seen.items()]


def _stages(batches: int) -> list[int]:
    """Returns the numbers of batches after which is selected: one, their root, all."""
    return sorted({1, round(batches**0.5), batches})


def _mean(seen: dict[int, np.ndarray]) -> float:
    """Returns the mean over the examples of the batches, in their order whatever came first."""
    return float(np.concatenate([seen[batch] for batch in sorted(seen)]).mean())


def _on_all(candidates: Candidates, counts: Sequence[int]) -> float:
    return _mean({batch: candidates.divergences(counts, batch) for batch in range(candidates.batches)})


def _budget(
    model: keras.Model, kernels: Sequence[Searched], target: float, budget: str, input_shape: Any
) -> tuple[Costs, float]:
    """Returns what kernels cost, and what they may cost together."""
    sizes = [kernel.size for kernel in kernels]
    if budget == "weights":
        return Uses(sizes, [1] * len(sizes)), kept_count(sum(sizes), target, len(sizes))
    uses = {id(use.variable): use.uses for use in kernel_uses(model, input_shape)}
    of_each = [uses.get(id(kernel.variable)) for kernel in kernels]
    if None in of_each:
        unknown = [kernel.name for kernel, times in zip(kernels, of_each, strict=True) if times is None]
        raise ValueError(
            "The multiply-accumulates of each kernel must be known: give `input_shape`, or `spare` them. "
            f"Received: a model of which those of {', '.join(unknown)} are not"
        )
    costs = Uses(sizes, of_each)
    return costs, round((1 - target) * costs.total([0] * len(sizes)))


def _check_reachable(
    allocations: Allocations, kernels: Sequence[Searched], costs: Costs, target: float, budget: str
) -> None:
    whole = costs.total([0] * len(kernels))
    largest = 1 - allocations.lowest_cost / whole if whole else 0.0
    if allocations.lowest_cost > allocations.limit:
        raise ValueError(
            f"`target` must be at most {largest:.6g} of the {budget}, because each kernel keeps a weight. "
            f"Received: target={target}"
        )
    if allocations.highest_cost < allocations.limit:
        raise ValueError(
            f"`target` must be at least {1 - allocations.highest_cost / whole:.6g}, which the masks have "
            f"removed already. Received: target={target}"
        )


def _check(target: float, budget: str, seed: int, **counts: int) -> None:
    if isinstance(target, bool) or not isinstance(target, (int, float)) or not 0 < target < 1:
        raise ValueError(f"`target` must be in (0, 1). Received: target={target!r}")
    if budget not in BUDGETS:
        raise ValueError(f"`budget` must be one of {list(BUDGETS)}. Received: budget={budget!r}")
    _check_at_least("seed", seed, 0)
    for name, count in counts.items():
        _check_at_least(name, count, 1)


def _check_at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be a whole number, at least {least}. Received: {name}={value!r}")


def _digest(kernels: Sequence[Searched], images: Any) -> str:
    """Returns a digest of the weights, their masks and the images, by which a search knows its file."""
    digest = hashlib.sha256()
    for kernel in kernels:
        digest.update(np.ascontiguousarray(read(kernel.variable)).tobytes())
        if kernel.mask is not None:
            digest.update(np.packbits(kernel.mask).tobytes())
    for array in keras.tree.flatten(images):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class _Kept:
    """The file of a search, written after each generation.

    Args:
        path: The file; None for none.
        settings: All that makes a search another one.
        kernels: The number of kernels.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any], kernels: int) -> None:
        self._path, self._settings, self._kernels = path, settings, kernels

    def write(self, state: _State) -> None:
        """Writes what the search is at, whole or not at all."""
        if self._path is None:
            return
        content = {
            "format": _FORMAT,
            "settings": self._settings,
            "starts": {name: _recorded(value) for name, value in state.starts.items()},
            "population": [
                {"removed": list(counts), "divergence": _recorded(value)}
                for counts, value in state.population
            ],
            "history": list(map(_recorded, state.history)),
        }
        write_json(self._path, content)

    def read(self) -> _State | None:
        """Returns what the search was at; None if there is no file.

        Raises:
            FileError: If the file is damaged, or of another search.
        """
        if self._path is None or not self._path.exists():
            return None
        with reading(self._path, "search of sparsities", "remove it to search anew"):
            content = json_of(self._path)
            if content["format"] != _FORMAT:
                raise ValueError(f"it has format {content['format']}, not {_FORMAT}")
            for name, value in self._settings.items():
                if content["settings"].get(name) != value:
                    raise ValueError(f"it is of another search: {name} was not the same")
            population = [
                (tuple(map(int, one["removed"])), _value(one["divergence"])) for one in content["population"]
            ]
            starts = {name: _value(value) for name, value in content["starts"].items()}
            history = list(map(_value, content["history"]))
            if not population or not history or any(len(one) != self._kernels for one, _ in population):
                raise ValueError("its population is not of the model's kernels")
            return _State(starts, population, history)


def _recorded(divergence: float) -> float | None:
    """Returns a divergence as JSON has it, which knows no infinity."""
    return divergence if math.isfinite(divergence) else None


def _value(recorded: float | None) -> float:
    return math.inf if recorded is None else float(recorded)


def _result(
    state: _State,
    kernels: Sequence[Searched],
    costs: Costs,
    starts: dict[str, np.ndarray],
    target: float,
    budget: str,
    kind: str,
) -> SearchResult:
    best, divergence = state.population[0]
    return SearchResult(
        budget=budget,
        target=target,
        layers=tuple(
            SearchedLayer(kernel.name, kernel.size, count, costs.of(number, 0), costs.of(number, count))
            for number, (kernel, count) in enumerate(zip(kernels, best, strict=True))
        ),
        divergence=divergence,
        kind=kind,
        starts=tuple(
            Start(
                name,
                state.starts[name],
                {
                    kernel.name: int(count) / kernel.size
                    for kernel, count in zip(kernels, counts, strict=True)
                },
            )
            for name, counts in starts.items()
        ),
        history=tuple(state.history),
    )
