"""Pruning by a genetic algorithm as it was first done: masks as genes, each trained before it is judged.

Whitley, Starkweather and Bogart, "Genetic algorithms and neural networks: optimizing connections and
connectivity", Parallel Computing 14 (1990). It is here as the study's row of that name, for small networks:
each child costs a training.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune import sparsity
from tfprune.arguments import real_number, whole_number
from tfprune.files import replacing
from tfprune.reading import check_same_search, reading
from tfprune.sparsity.model_masks import pruned_kernels

# The share of the weights that an individual of the first population lacks, and the noise on magnitudes that
# makes two of one share differ, as the deviation of their logarithm.
_FIRST, _NOISE = (0.3, 0.9), 0.5
# Of a child's weights, those that are removed besides what both parents lack, and those that come back.
_REMOVED, _RETURNED = 0.05, 0.01
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Individual:
    """A pruned copy of a network that was trained by itself.

    Attributes:
        masks: Name of a kernel -> booleans, as `masks_of` gives them.
        weights: All weights of the network after its training.
        loss: Its loss on the validation data.
        sparsity: The share of the weights that its masks remove.
        cost: What is to be small: the loss and, `price` times, the share of the weights that stay.
    """

    masks: dict[str, np.ndarray]
    weights: list[np.ndarray]
    loss: float
    sparsity: float
    cost: float


def evolve_masks(
    model: keras.Model,
    train: tuple[Any, ...],
    validation: tuple[Any, ...],
    *,
    children: int = 40,
    population: int = 8,
    steps: int = 40,
    price: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    path: str | Path | None = None,
    log: Callable[[str], Any] = lambda line: None,
) -> list[Individual]:
    """Evolves the masks of a trained network; each individual is trained by itself before it is judged.

    The first population is pruned by magnitudes with noise, to various shares. A child lacks the weights that
    both parents lack, and by chance those that one of them lacks; some more go, fewer come back. It starts
    from the weights of the dense network, and the more it lacks the longer it trains: `steps` steps, and as
    many times the removed share again. It takes the place of the worst if it is better. So fewer weights and
    a better generalisation are rewarded both. Parents are drawn by their rank. Weights that the network's
    masks remove at the start stay removed.

    Args:
        model: A trained and compiled model that went through `prune_low_magnitude`; at the end it is the best
            individual.
        train: Inputs and labels, and perhaps weights of examples; arrays, or structures of them.
        validation: The same of examples that no individual is trained on.
        children: Individuals that are tried after the first population.
        population: Individuals that there are at a time, two at least.
        steps: Steps of training of each.
        price: The loss that a network is worth that keeps every weight, beside one that keeps none.
        batch_size: Examples of a step.
        seed: Of all choices.
        path: A file that keeps the population after each individual: a call with the same arguments goes on
            from there. None: none.
        log: Receives a line for each individual.

    Returns:
        The last population, the best first.

    Raises:
        ValueError: If the model is not compiled or not wrapped, or a number is out of range.
        FileError: If the file is damaged, or of another search.
    """
    children, population = whole_number("children", children, 0), whole_number("population", population, 2)
    steps, batch_size = whole_number("steps", steps, 1), whole_number("batch_size", batch_size, 1)
    seed, paid = whole_number("seed", seed, 0), real_number(price)
    if paid is None or not paid >= 0:
        raise ValueError(f"`price` must be at least 0. Received: price={price!r}")
    if not getattr(model, "compiled", False):
        raise ValueError(f"`model` must be compiled: individuals are trained. Received: model={model!r}")
    trainer = _Trainer(model, train, validation, steps, paid, batch_size)
    settings = {"children": children, "population": population, "steps": steps, "price": paid}
    settings |= {"batch_size": batch_size, "seed": seed}
    settings |= {"kernels": list(trainer.kernels), "weights": trainer.digest}
    file = PopulationFile(None if path is None else Path(path), settings)
    shares, total = np.linspace(*_FIRST, population), population + children
    try:
        born, alive = file.read()
        for number in range(born, total):
            rng = np.random.default_rng([seed, number])
            if number < population:
                masks = _noisy(trainer.kernels, trainer.masks, shares[number], rng)
            else:
                # The lesser of two ranks: the better, the more children.
                mother, father = (alive[min(rng.integers(0, population, 2))] for _ in range(2))
                masks = _crossed(mother.masks, father.masks, rng)
            child = trainer.individual(masks, rng)
            # Of two that cost the same, the older one.
            alive = sorted([*alive, child], key=lambda one: one.cost)[:population]
            file.write(number + 1, alive)
            best = alive[0]
            log(
                f"copy {number + 1} of {total}: loss {child.loss:.4f} at sparsity {child.sparsity:.4f}; "
                f"best {best.loss:.4f} at {best.sparsity:.4f}"
            )
    except BaseException:
        trainer.restore()
        raise
    trainer.restore()
    model.set_weights(alive[0].weights)
    return alive


class PopulationFile:
    """The file of a population, written after each individual.

    Args:
        path: The file, `.npz`; None for none.
        settings: All that makes a search another one, as JSON has it.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings

    def write(self, born: int, alive: Sequence[Individual]) -> None:
        """Writes the population after so many individuals, whole or not at all."""
        if self._path is None:
            return
        figures = [{"loss": one.loss, "sparsity": one.sparsity, "cost": one.cost} for one in alive]
        record = {"format": _FORMAT, "settings": self._settings, "born": born, "alive": figures}
        arrays = {"record": np.frombuffer(json.dumps(record).encode(), np.uint8)}
        for number, one in enumerate(alive):
            arrays |= {f"{number}/mask/{name}": mask for name, mask in one.masks.items()}
            arrays |= {f"{number}/weight/{at}": weight for at, weight in enumerate(one.weights)}
        with replacing(self._path) as temporary:
            np.savez(temporary, **arrays)

    def read(self) -> tuple[int, list[Individual]]:
        """Returns how many individuals there were, and those that are alive, the best first.

        Raises:
            FileError: If the file is damaged, or of another search.
        """
        if self._path is None or not self._path.exists():
            return 0, []
        with reading(self._path, "population of a genetic search", "remove it to search anew"):
            with np.load(self._path, allow_pickle=False) as arrays:
                record = json.loads(arrays["record"].tobytes())
                check_same_search(record, _FORMAT, self._settings)
                alive = [_individual(arrays, number, one) for number, one in enumerate(record["alive"])]
                return int(record["born"]), alive


def _individual(arrays: Mapping[str, np.ndarray], number: int, figures: dict[str, float]) -> Individual:
    """Reads an individual of a file."""
    start = f"{number}/mask/"
    masks = {name.removeprefix(start): arrays[name] for name in arrays if name.startswith(start)}
    count = sum(name.startswith(f"{number}/weight/") for name in arrays)
    return Individual(masks, [arrays[f"{number}/weight/{at}"] for at in range(count)], **figures)


class _Trainer:
    """Trains copies of a network, all in its own variables, from what they are now.

    Attributes:
        kernels: Name of a kernel -> its weights.
        masks: Name of a kernel -> the mask that the network comes with.
        digest: A checksum of all of the network's variables.
    """

    def __init__(
        self,
        model: keras.Model,
        train: tuple[Any, ...],
        validation: tuple[Any, ...],
        steps: int,
        price: float,
        batch_size: int,
    ) -> None:
        self._model, self._train, self._validation = model, train, validation
        self._steps, self._price, self._batch_size = steps, price, batch_size
        self._examples = len(keras.tree.flatten(train)[0])
        model.optimizer.build(model.trainable_variables)
        variables = {id(one): one for one in [*model.variables, *model.optimizer.variables]}.values()
        self._before = [(one, np.array(ops.convert_to_numpy(one))) for one in variables]
        self.masks = sparsity.masks_of(model)
        self.kernels = {
            name: np.array(ops.convert_to_numpy(pruned.kernel.variable))
            for name, pruned in pruned_kernels(model).items()
        }
        checksum = hashlib.sha256()
        for value in model.get_weights():
            checksum.update(np.ascontiguousarray(value).tobytes())
        self.digest = checksum.hexdigest()

    def restore(self) -> None:
        """Brings the network, and its optimizer, back to what they were."""
        for variable, value in self._before:
            variable.assign(value)

    def individual(self, masks: dict[str, np.ndarray], rng: np.random.Generator) -> Individual:
        """Trains and judges the network with other masks."""
        self.restore()
        sparsity.set_masks(self._model, masks)
        kept = sum(np.count_nonzero(mask) for mask in masks.values()) / sum(map(np.size, masks.values()))
        for _ in range(round(self._steps * (2 - kept))):
            chosen = rng.integers(0, self._examples, self._batch_size)
            batch = keras.tree.map_structure(lambda values, chosen=chosen: values[chosen], self._train)
            self._model.train_on_batch(*batch)
        sparsity.set_masks(self._model, masks)  # Momentum moves weights that masks remove.
        inputs, *labels = self._validation
        options = dict(zip(("y", "sample_weight"), labels, strict=False))
        loss = self._model.evaluate(inputs, **options, verbose=0, return_dict=True)["loss"]
        weights = [np.array(weight) for weight in self._model.get_weights()]
        return Individual(masks, weights, float(loss), 1 - kept, float(loss) + self._price * kept)


def _noisy(
    kernels: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    share: float,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Returns masks that remove a share of each kernel, small weights rather than large ones.

    Args:
        kernels: Name of a kernel -> its weights.
        masks: Name of a kernel -> what may stay.
        share: The share of each that goes, if not more is gone.
        rng: Draws the noise.
    """
    made = {}
    for name, kernel in kernels.items():
        scores = np.abs(kernel).ravel() * np.exp(_NOISE * rng.normal(size=kernel.size))
        scores[~masks[name].ravel()] = -1
        removed = max(min(round(share * kernel.size), kernel.size - 1), np.count_nonzero(scores < 0))
        mask = np.ones(kernel.size, bool)
        mask[np.argsort(scores, kind="stable")[:removed]] = False
        made[name] = mask.reshape(kernel.shape)
    return made


def _crossed(
    mother: dict[str, np.ndarray], father: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Returns the masks of a child, each of which keeps a weight at least."""
    masks = {}
    for name, one in mother.items():
        child = np.where(rng.random(one.shape) < 0.5, one, father[name])
        child &= rng.random(one.shape) >= _REMOVED
        child |= rng.random(one.shape) < _RETURNED * (one | father[name])
        masks[name] = child if child.any() else one.copy()
    return masks
