"""The data of an experiment and the batches that its rounds make of it."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from keras import tree

from tfprune.data import datasets
from tfprune.data.pipeline import test_batches, train_batches
from tfprune.data.reasons import is_of_reading, tensorflow_reason
from tfprune.data.splits import Dataset, form_text
from tfprune.errors import FileError, UserError
from tfprune.runs.config import ExperimentConfig

# The settings of images, and their values that do nothing.
_OF_IMAGES = {"image_size": 0, "autoaugment": "none"}


def load_dataset(config: ExperimentConfig, log: Callable[[str], Any] = print) -> Dataset:
    """Loads the experiment's data.

    Args:
        config: The experiment.
        log: Receives a line now and then while examples that are not held in memory are looked at.

    Raises:
        UserError: On data that is not there or not what it must be, or settings of images without images;
            with the flag.
    """
    try:
        dataset = datasets.load(
            config.dataset,
            config.data_dir or None,
            train_examples=config.train_examples,
            test_examples=config.test_examples,
            image_size=config.image_size,
            seed=config.seed,
            log=log,
        )
    except (ValueError, OSError) as error:
        if isinstance(error, FileError):
            name = "data_dir"
        else:
            arguments = ("image_size", "train_examples", "test_examples", "data_dir")
            name = next((name for name in arguments if f"`{name}`" in str(error)), "dataset")
        raise UserError(f"--{name}={getattr(config, name)}: {error}") from error
    if not dataset.is_images:
        for name, off in _OF_IMAGES.items():
            value, default = getattr(config, name), ExperimentConfig.__dataclass_fields__[name].default
            if value not in (off, default) and name not in dataset.arguments:
                config.refuse(
                    name,
                    f"has no effect on {config.dataset}, whose x is {form_text(dataset.spec.inputs)}, not "
                    "uint8 [n, height, width, 3]",
                )
    return dataset


@contextlib.contextmanager
def reading_data(config: ExperimentConfig) -> Iterator[None]:
    """Turns what goes wrong while batches are read into one line.

    Raises:
        UserError: `--dataset=NAME: cannot be read any more: REASON`.
    """
    try:
        yield
    except Exception as error:
        if not is_of_reading(error):
            raise
        raise UserError(
            f"{config.flag('dataset')}: cannot be read any more: {tensorflow_reason(error)}; finished rounds "
            "and epochs are kept"
        ) from error


@dataclass(frozen=True)
class Batches:
    """The batches of an experiment.

    A stream of training batches is a tuple of numbers. Every stream has an order and an augmentation of its
    own, which depend on nothing but the seed, the stream and the epoch: an interrupted round sees the batches
    that an uninterrupted one sees.

    Attributes:
        config: The experiment.
        dataset: Its data.
        shard: This process's number and the number of processes, which share each batch.
    """

    config: ExperimentConfig
    dataset: Dataset
    shard: tuple[int, int] = (0, 1)

    @cached_property
    def test(self) -> Any:
        """The whole test split."""
        config = self.config
        return test_batches(
            self.dataset.test,
            image_size=self.dataset.image_size,
            batch_size=config.batch_size,
            shard=self.shard,
        )

    def of_round(self, number: int, first_epoch: int, epochs: int) -> Any:
        """Returns the batches that a round trains on, from `first_epoch` up to `epochs`, counted from 0."""
        return self._train((number,), first_epoch, epochs)

    def for_gradients(self, number: int) -> Callable[[int], Any]:
        """Returns a function from a step of a round to an epoch of batches to measure gradients on."""
        # Not 0: a stream (number, 0) would be the round's own.
        return lambda step: self._train((number, step + 1), 0, 1)

    def for_statistics(self, number: int, epochs: int) -> Any:
        """Returns batches to measure BatchNorm's statistics on, before a round's training."""
        return self._train((number, 0, 1), 0, epochs)

    def plain_inputs(self, number: int, count: int) -> Any:
        """Returns the inputs of training examples as the network sees them, not augmented, in memory.

        Args:
            number: The round, whose examples are its own; the first ones of a stream.
            count: How many; all, if there are fewer.
        """
        train = self.dataset.train
        batches = train_batches(
            train,
            image_size=self.dataset.image_size,
            batch_size=min(count, len(train)),
            seed=self._seed((number, 0, 2)),
            epochs=1,
        )
        return next(batches.take(1).as_numpy_iterator())[0]

    def parted(self, number: int, parts: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Returns all training examples, not augmented and in memory, in two parts.

        Args:
            number: The round, which shuffles them in its own way.
            parts: One of so many parts is the second one.

        Returns:
            Inputs and labels, and weights of examples if there are any, of the first part and of the second.
        """
        train = self.dataset.train
        batches = train_batches(
            train,
            image_size=self.dataset.image_size,
            batch_size=len(train),
            seed=self._seed((number, 0, 3)),
            epochs=1,
        )
        examples, cut = next(batches.take(1).as_numpy_iterator()), len(train) - len(train) // parts
        first, second = (
            tree.map_structure(lambda values, rows=rows: values[rows], examples)
            for rows in (slice(cut), slice(cut, None))
        )
        return first, second

    def steps(self, number: int) -> int:
        """Returns the number of training steps of a round."""
        settings = self.config.settings(number)
        return settings.epochs * math.ceil(len(self.dataset.train) / settings.batch_size)

    def _train(self, stream: tuple[int, ...], first_epoch: int, epochs: int) -> Any:
        config = self.config
        return train_batches(
            self.dataset.train,
            image_size=self.dataset.image_size,
            batch_size=config.batch_size,
            autoaugment=config.autoaugment if self.dataset.is_images else "none",
            seed=self._seed(stream),
            first_epoch=first_epoch,
            epochs=epochs,
            shard=self.shard,
        )

    def _seed(self, stream: tuple[int, ...]) -> int:
        return int(np.random.SeedSequence([self.config.seed, *stream]).generate_state(1)[0])
