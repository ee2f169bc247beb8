"""`search_sparsities`: the shares to prune of each layer, by evolution."""

import dataclasses
import hashlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.arguments import one_of, progress, real_number, true_or_false, whole_number
from tfprune.sparsity.apply import read
from tfprune.sparsity.choice import Selection
from tfprune.sparsity.search.allocation import Allocations
from tfprune.sparsity.search.budget import BUDGETS, Budget, budget_of
from tfprune.sparsity.search.database import Database
from tfprune.sparsity.search.kernels import ByMagnitude, Searched, searched_kernels
from tfprune.sparsity.search.latency import Times
from tfprune.sparsity.search.network import Candidates, check_divergence, images_of
from tfprune.sparsity.search.result import SearchedLayer, SearchResult, Start
from tfprune.sparsity.search.starts import starting_allocations
from tfprune.sparsity.search.state import State, StateFile
from tfprune.sparsity.with_data import METHODS

# Of the offspring, the share that goes on from one selection to the next.
_STAYS, _FEWEST = 1 / 3, 2
# Of the offspring, the share that two parents have.
_CROSSED = 1 / 4
# A time is met within this share of the dense network's, or by so many corrections as well as it was.
_NEAR, _MOST_CORRECTIONS = 0.01, 4


def search_sparsities(
    model: keras.Model,
    target: float,
    images: Any,
    *,
    budget: str = "weights",
    method: str = "magnitude",
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
    verbose: int | None = None,
) -> SearchResult:
    """Searches how much to prune of each layer, so that a network of a given cost changes least.

    Evolution over allocations, the removed weights of each kernel, all of which use up the same budget
    (EvoPress, arXiv:2410.14649). The first population are the allocations of a uniform sparsity, of
    Erdos-Renyi-Kernel, of LAMP and of global magnitude, and with a `method` that of the least sum of the
    layers' errors, so that what comes out is on `images` at least as
    near to the dense network as the best of these. In each generation most offspring move a little of the
    budget from one kernel of a parent to another; the others take each kernel's share from one of two
    parents. They are selected on one batch of images, the best third of them on more, and the best of those
    on all; then the best of parents and offspring are the next population.

    No label is used, and the model is the same after the search as before, whatever happens.

    ```python
    best = search_sparsities(model, 0.9, images, method="reconstruct")
    print(best)
    prune_with_data(model, best.sparsities, images)
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
            "latency": milliseconds of a call with one example in the sparse runtime of this machine, on one
            thread, measured: every kernel at some levels, then whole networks. What is found is made sparser
            or denser in the end, until its time is within a hundredth of the dense network's; a warning
            tells of one that cannot be.
        method: How candidates are pruned: a method of `prune_with_data`, that by which the result will be.
            Other than by "magnitude", each kernel is pruned once at some levels by the images, in the dense
            model, and repaired as `prune_with_data` does it; between levels the smallest go as well.
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
        input_shape: The shape of an input with the batch's axis, for the multiply-accumulates, or the time,
            of a model that leaves sizes open.
        seed: Of all random choices: one seed finds the same on one machine.
        path: A file that keeps the search after each generation, and from which the same search goes on if
            it is there, to the end that it would have had. None: nothing is kept.
        verbose: 1: a line of progress. 2: one at the end. 0: none. None: 1 where standard output is a
            terminal, else 0.

    Returns:
        A `SearchResult`: `sparsities` is what `prune_to` takes.

    Raises:
        ValueError: If an argument is out of range, nothing can be searched, the images do not fit, outputs
            are not finite, or the budget cannot be met.
        UserError: If a budget of time is given for a model that the sparse runtime cannot run.
        FileError: If the file at `path` is damaged, or of another search.
    """
    target = _checked_target(target)
    one_of("budget", budget, BUDGETS)
    one_of("method", method, METHODS)
    check_divergence(divergence)
    generations = whole_number("generations", generations, 1)
    offspring = whole_number("offspring", offspring, 1)
    population = whole_number("population", population, 1)
    batch_size = whole_number("batch_size", batch_size, 2)
    seed = whole_number("seed", seed, 0)
    recalibrate = true_or_false("recalibrate", recalibrate)
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"`path` must be a path or None. Received: path={path!r}")
    shown = int(sys.stdout.isatty()) if verbose is None else progress(verbose)
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"`model` must be a built Keras 3 model. Received: model={model!r}")
    kernels = searched_kernels(model, layers, spare)
    images = images_of(model, images)
    candidates = Candidates(model, len(kernels), images, batch_size, divergence, recalibrate)
    settings = {
        "target": target,
        "budget": budget,
        "method": method,
        "offspring": offspring,
        "population": population,
        "batch_size": batch_size,
        "divergence": candidates.divergence,
        "recalibrate": recalibrate,
        "seed": seed,
        "kernels": {kernel.name: kernel.size for kernel in kernels},
        "content": _digest(kernels, images),
    }
    file = StateFile(None if path is None else Path(path), settings)
    state = file.read()
    if method == "magnitude":
        pruned = ByMagnitude(kernels)
    else:
        pruned = Database(model, kernels, images, method, method != "wanda", shown)
    times = Times(model, kernels, pruned, input_shape) if budget == "latency" else None
    allowed = budget_of(budget, target, model, kernels, input_shape, times, state and state.measured)
    allocations = allowed.allocations(kernels, target)
    starts = starting_allocations(kernels, allocations)
    if isinstance(pruned, Database):
        together = sum(starts["uniform"]) / sum(kernel.size for kernel in kernels)
        starts["errors"] = allocations.settled(pruned.by_errors(float(together)), range(len(kernels)))
    bar = keras.utils.Progbar(generations, verbose=shown, stateful_metrics=["divergence"])
    with candidates.exchanging(pruned):
        if state is None:
            state = _first(starts, candidates, allowed.measured)
        for generation in range(len(state.history), generations + 1):
            # Of the generation alone: a search that goes on draws what it would have drawn.
            rng = np.random.default_rng([seed, generation])
            state = _next(state, allocations, candidates, rng, offspring, population)
            file.write(state)
            bar.update(generation, [("divergence", state.history[-1])])
        best, whole = state.population[0], None
        if times is not None:
            best, whole = _in_time(best, target, kernels, allowed, times, candidates)
    return _result(state, best, kernels, allowed, starts, target, budget, candidates.divergence, whole)


def _in_time(
    best: tuple[tuple[int, ...], float],
    target: float,
    kernels: Sequence[Searched],
    allowed: Budget,
    times: Times,
    candidates: Candidates,
) -> tuple[tuple[tuple[int, ...], float], tuple[float, float]]:
    """Makes an allocation sparser or denser until the whole network takes the time that it is to.

    Kernels take other times together than each by itself.

    Returns:
        The allocation with its divergence, and the milliseconds of the dense network and of the pruned one.
    """
    counts, divergence = best
    for corrections in range(_MOST_CORRECTIONS + 1):
        found = times.of_networks({"dense": [0] * len(kernels), "pruned": counts})
        dense, pruned = found["dense"], found["pruned"]
        missed = pruned / dense - (1.0 - target)
        if abs(missed) <= _NEAR or corrections == _MOST_CORRECTIONS:
            break
        before = allowed.rest + allowed.costs.total([0] * len(kernels))
        limit = allowed.costs.total(counts) - missed * before
        try:
            allocations = dataclasses.replace(allowed, limit=limit).allocations(kernels, target)
        except ValueError:  # As sparse, or as dense, as can be.
            break
        counts = tuple(map(int, allocations.settled(counts, range(len(kernels)))))
        divergence = _on_all(candidates, counts)
    if abs(missed) > _NEAR:
        warnings.warn(
            f"The network that was found takes {100 * (1 - pruned / dense):.3g} % less time than the dense "
            f"one, where {100 * target:.3g} % were asked, and corrections have not brought it nearer: "
            "measure again on a quieter machine, or ask for another share.",
            stacklevel=3,
        )
    return (counts, divergence), (dense, pruned)


def _first(starts: dict[str, np.ndarray], candidates: Candidates, measured: dict[str, Any] | None) -> State:
    values = {name: _on_all(candidates, counts) for name, counts in starts.items()}
    population = {tuple(map(int, starts[name])): value for name, value in values.items()}
    ranked = sorted(population.items(), key=lambda one: one[1])
    return State(values, ranked, [ranked[0][1]], measured)


def _next(
    state: State,
    allocations: Allocations,
    candidates: Candidates,
    rng: np.random.Generator,
    offspring: int,
    population: int,
) -> State:
    """Returns the search after one more generation."""
    children = _children([counts for counts, _ in state.population], allocations, offspring, rng)
    selected = _selected(children, candidates, rng)
    # Parents stay where children are no better.
    ranked = sorted([*state.population, *selected], key=lambda one: one[1])[:population]
    return dataclasses.replace(state, population=ranked, history=[*state.history, ranked[0][1]])


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


def _checked_target(target: float) -> float:
    share = real_number(target)
    if share is None or not 0 < share < 1:
        raise ValueError(f"`target` must be in (0, 1). Received: target={target!r}")
    return share


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


def _result(
    state: State,
    found: tuple[tuple[int, ...], float],
    kernels: Sequence[Searched],
    allowed: Budget,
    starts: dict[str, np.ndarray],
    target: float,
    budget: str,
    kind: str,
    milliseconds: tuple[float, float] | None,
) -> SearchResult:
    (best, divergence), costs = found, allowed.costs
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
        rest=allowed.rest,
        milliseconds=milliseconds,
    )
