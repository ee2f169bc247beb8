"""Pruning by a genetic algorithm as it was first done: masks as genes, each trained before it is judged.

Whitley, Starkweather and Bogart, "Genetic algorithms and neural networks: optimizing connections and
connectivity", Parallel Computing 14 (1990). It is here as the study's row of that name, for small networks:
each child costs a training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune import sparsity

# The share of the weights that an individual of the first population lacks, and the noise on magnitudes that
# makes two of one share differ, as the deviation of their logarithm.
_FIRST, _NOISE = (0.3, 0.9), 0.5
# Of a child's weights, those that are removed besides what both parents lack, and those that come back.
_REMOVED, _RETURNED = 0.05, 0.01


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
    train: tuple[Any, Any],
    validation: tuple[Any, Any],
    *,
    children: int = 40,
    population: int = 8,
    steps: int = 40,
    price: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    log: Callable[[str], Any] = lambda line: None,
) -> list[Individual]:
    """Evolves the masks of a trained network; each individual is trained by itself before it is judged.

    The first population is pruned by magnitudes with noise, to various shares. A child lacks the weights that
    both parents lack, and by chance those that one of them lacks; some more go, fewer come back. It starts
    from the weights of the dense network, and the more it lacks the longer it trains: `steps` steps, and as
    many times the removed share again. It takes the place of the worst if it is better. So fewer weights and
    a better generalisation are rewarded both. Parents are drawn by their rank.

    Args:
        model: A trained and compiled model that went through `prune_low_magnitude`; at the end it is the best
            individual.
        train: Inputs and labels.
        validation: Inputs and labels that no individual is trained on.
        children: Individuals that are tried after the first population.
        population: Individuals that there are at a time, two at least.
        steps: Steps of training of each.
        price: The loss that a network is worth that keeps no weight rather than all.
        batch_size: Examples of a step.
        seed: Of all choices.
        log: Receives a line for each child.

    Returns:
        The last population, the best first.

    Raises:
        ValueError: If the model is not compiled or not wrapped, or a number is out of range.
    """
    for name, value, least in (
        *(("children", children, 0), ("population", population, 2)),
        *(("steps", steps, 1), ("batch_size", batch_size, 1)),
    ):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"`{name}` must be a whole number, at least {least}. Received: {name}={value!r}")
    if not price >= 0:
        raise ValueError(f"`price` must be at least 0. Received: price={price!r}")
    if not getattr(model, "compiled", False):
        raise ValueError(f"`model` must be compiled: individuals are trained. Received: model={model!r}")
    trainer = _Trainer(model, train, validation, steps, price, batch_size)
    rng = np.random.default_rng(seed)
    shares = np.linspace(*_FIRST, population)
    try:
        alive = [trainer.individual(_noisy(trainer.kernels, share, rng), rng) for share in shares]
        for number in range(children):
            alive.sort(key=lambda one: one.cost)
            # The lesser of two ranks: the better, the more children.
            mother, father = (alive[min(rng.integers(0, population, 2))] for _ in range(2))
            child = trainer.individual(_crossed(mother.masks, father.masks, rng), rng)
            if child.cost < alive[-1].cost:
                alive[-1] = child
            best = min(alive, key=lambda one: one.cost)
            log(
                f"child {number + 1} of {children}: loss {child.loss:.4f} at sparsity {child.sparsity:.4f}; "
                f"best {best.loss:.4f} at {best.sparsity:.4f}"
            )
    except BaseException:
        trainer.restore()
        raise
    alive.sort(key=lambda one: one.cost)
    trainer.restore()
    model.set_weights(alive[0].weights)
    return alive


class _Trainer:
    """Trains copies of a network, all in its own variables, from what they are now."""

    def __init__(
        self,
        model: keras.Model,
        train: tuple[Any, Any],
        validation: tuple[Any, Any],
        steps: int,
        price: float,
        batch_size: int,
    ) -> None:
        self._model, self._train, self._validation = model, train, validation
        self._steps, self._price, self._batch_size = steps, price, batch_size
        model.optimizer.build(model.trainable_variables)
        variables = {id(one): one for one in [*model.variables, *model.optimizer.variables]}.values()
        self._before = [(one, np.array(ops.convert_to_numpy(one))) for one in variables]
        wrappers = sparsity.pruned_layers(model)
        by_mask = {id(mask): kernel.variable for wrapper in wrappers for kernel, mask in wrapper.pruned}
        names, masks = sparsity.masks_of(model), {}
        for wrapper in wrappers:
            for _, mask in wrapper.pruned:
                masks.setdefault(id(mask), mask)
        self.kernels = {
            name: np.array(ops.convert_to_numpy(by_mask[key])) for name, key in zip(names, masks, strict=True)
        }

    def restore(self) -> None:
        """Brings the network, and its optimizer, back to what they were."""
        for variable, value in self._before:
            variable.assign(value)

    def individual(self, masks: dict[str, np.ndarray], rng: np.random.Generator) -> Individual:
        """Trains and judges the network with other masks."""
        self.restore()
        sparsity.set_masks(self._model, masks)
        kept = sum(np.count_nonzero(mask) for mask in masks.values()) / sum(map(np.size, masks.values()))
        inputs, labels = self._train
        for _ in range(round(self._steps * (2 - kept))):
            chosen = rng.integers(0, len(inputs), self._batch_size)
            self._model.train_on_batch(inputs[chosen], labels[chosen])
        sparsity.set_masks(self._model, masks)  # Momentum moves weights that masks remove.
        loss = self._model.evaluate(*self._validation, verbose=0, return_dict=True)["loss"]
        weights = [np.array(weight) for weight in self._model.get_weights()]
        return Individual(masks, weights, loss, 1 - kept, loss + self._price * kept)


def _noisy(kernels: dict[str, np.ndarray], share: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns masks that remove a share of each kernel, small weights rather than large ones."""
    masks = {}
    for name, kernel in kernels.items():
        scores = np.abs(kernel).ravel() * np.exp(_NOISE * rng.normal(size=kernel.size))
        mask = np.ones(kernel.size, bool)
        mask[np.argsort(scores)[: min(round(share * kernel.size), kernel.size - 1)]] = False
        masks[name] = mask.reshape(kernel.shape)
    return masks


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
