"""The two trainings that `accelerator_study.py` compares, each in a process of its own.

A worker makes batches of the prepared data by tfprune's input pipeline (`pipeline`), or repeats a few that
lie on the device already (`device`), and answers each request with a round's figures.
"""

import itertools
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_STORED_BATCHES = 4


class Setting(NamedTuple):
    """What both trainings have in common."""

    dataset: str
    data_dir: str
    width: int
    batch_size: int
    steps: int
    precision: str
    sparsity: float
    compiled: bool


class Data:
    """The images, whole or as many as a round needs; `random` makes some where there is no dataset."""

    def __init__(self, setting: Setting) -> None:
        # The first batch of a round is not timed.
        self.examples = (setting.steps + 1) * setting.batch_size
        self.batch_size = setting.batch_size
        rng = np.random.default_rng(0)
        if setting.dataset == "random":
            self.images = rng.integers(0, 256, (50_000, 32, 32, 3), np.uint8)
            self.labels = rng.integers(0, 10, 50_000).astype(np.int32)
            self.classes, self.mean, self.std = 10, (127.5,) * 3, (73.9,) * 3
        else:
            _keep_tensorflow_off_accelerator()
            from tfprune.data import datasets

            loaded = datasets.load(setting.dataset, setting.data_dir or None)
            self.images, self.labels = loaded.train.inputs, loaded.train.labels
            self.classes, self.mean, self.std = len(loaded.class_names), loaded.mean, loaded.std
        repeats = math.ceil(self.examples / len(self.images))
        self._order = np.tile(np.arange(len(self.images)), repeats)[: self.examples]

    def from_pipeline(self, number: int) -> tuple[Any, Any]:
        """Batches of round `number`, and the meter of the wait for them."""
        _keep_tensorflow_off_accelerator()
        from tfprune.data.pipeline import train_batches
        from tfprune.data.splits import Split
        from tfprune.data.waiting import WaitingTime

        split = Split(self.images[self._order], self.labels[self._order], len(self._order))
        batches = train_batches(
            split,
            image_size=32,
            batch_size=self.batch_size,
            autoaugment="cifar10",
            seed=0,
            first_epoch=number,
            epochs=number + 1,
        )
        waiting = WaitingTime()
        return waiting.measured(batches), waiting

    def stored(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A few batches."""
        for number in range(_STORED_BATCHES):
            part = np.arange(number * self.batch_size, (number + 1) * self.batch_size) % len(self.images)
            yield self.images[part], self.labels[part]


class Ours:
    """tfprune: the run's own `fit`, with pruned layers, the pruning callback and TorchAdam."""

    def __init__(self, setting: Setting) -> None:
        import keras

        from tfprune import sparsity
        from tfprune.models.resnet import build_resnet
        from tfprune.training.fit import compile_for_training
        from tfprune.training.settings import TrainingSettings

        if setting.precision == "bfloat16":
            keras.config.set_dtype_policy("mixed_bfloat16")
        self.data = Data(setting)
        model = build_resnet(
            "resnet34",
            classes=self.data.classes,
            image_size=32,
            width=setting.width,
            stem="cifar",
            mean=self.data.mean,
            std=self.data.std,
            seed=0,
        )
        self.model = sparsity.prune_low_magnitude(model, None, scope="global")
        sparsity.prune_to(self.model, setting.sparsity)
        self.settings = TrainingSettings(epochs=1, batch_size=setting.batch_size, learning_rate=3e-4)
        compile_for_training(self.model, self.settings)
        self._stored: list[tuple[Any, Any]] = []

    def facts(self) -> dict[str, Any]:
        """What it runs on, and the network's cost."""
        import keras

        from tfprune import sparsity

        device, backend = "cpu", keras.backend.backend()
        if backend == "jax":
            import jax

            device = jax.devices()[0].device_kind
        elif backend == "torch":
            import torch

            device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        macs = sparsity.summarize(self.model).all_macs
        return {"device": device, "macs": macs, "name": f"tfprune on {backend} {_version(backend)}"}

    def measure(self, source: str, number: int) -> dict[str, float | None]:
        """Trains a round; images a second and the wait, as a run's history has them."""
        from tfprune import sparsity
        from tfprune.training.fit import fit

        waiting = None
        if source == "pipeline":
            batches, waiting = self.data.from_pipeline(number)
        else:
            if not self._stored:
                self._stored = [self._to_device(*batch) for batch in self.data.stored()]
            batches = (batch for batch in itertools.cycle(self._stored))
        with tempfile.TemporaryDirectory() as folder:
            row = fit(
                self.model,
                self.settings,
                folder=Path(folder),
                train_images=self.data.examples,
                train_batches=lambda first, last: batches,
                test_batches=None,
                history=[],
                notes={},
                callbacks=[sparsity.UpdatePruningStep()],
                waited=waiting and waiting.seconds,
                writes=False,
            )[-1]
        return {"rate": row["images_per_second"], "wait": row.get("data_wait_percent")}

    @staticmethod
    def _to_device(images: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
        import keras

        if keras.backend.backend() == "jax":
            import jax

            return jax.device_put(images), jax.device_put(labels)
        return keras.ops.convert_to_tensor(images), keras.ops.convert_to_tensor(labels)


class Peer:
    """The same in PyTorch."""

    def __init__(self, setting: Setting) -> None:
        from accelerator_torch import TorchTraining

        self.data = Data(setting)
        self.training = TorchTraining(
            classes=self.data.classes,
            width=setting.width,
            mean=self.data.mean,
            std=self.data.std,
            precision=setting.precision,
            sparsity=setting.sparsity,
            compiled=setting.compiled,
        )
        self._steps, self._compiled = setting.steps, setting.compiled
        self._stored: list[tuple[Any, Any]] = []

    def facts(self) -> dict[str, Any]:
        """What it runs on."""
        how = "compiled" if self._compiled else "eager"
        return {"device": self.training.name, "name": f"PyTorch {_version('torch')}, {how}, channels last"}

    def measure(self, source: str, number: int) -> dict[str, float | None]:
        """Trains a round as `Ours` does."""
        marks: list[float] = []
        waiting = None
        if source == "pipeline":
            dataset, waiting = self.data.from_pipeline(number)
            batches = (self.training.to_device(*batch) for batch in dataset.as_numpy_iterator())
        else:
            if not self._stored:
                self._stored = [self.training.to_device(*batch) for batch in self.data.stored()]
            batches = itertools.islice(itertools.cycle(self._stored), self._steps + 1)

        def on_warm() -> None:
            if waiting:
                marks.append(waiting.seconds())

        seconds = self.training.seconds(batches, on_warm)
        wait = 100 * (waiting.seconds() - marks[0]) / seconds if waiting else None
        return {"rate": self._steps * self.data.batch_size / seconds, "wait": wait}


def _keep_tensorflow_off_accelerator() -> None:
    """It feeds; others compute. Before its first operation."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def serve(worker: str, setting: Setting, answer: Any, requests: Any) -> None:
    """Answers each request, `source number`, with a round's figures."""
    start = time.perf_counter()
    made = {"ours": Ours, "peer": Peer}[worker](setting)
    answer({**made.facts(), "build_seconds": time.perf_counter() - start})
    for line in requests:
        source, number = line.split()
        answer(made.measure(source, int(number)))
