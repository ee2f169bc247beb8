"""The tests' experiments: a network that compiles in seconds, its flags, and runs that tests share."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Iterator
from unittest import mock

import keras
import numpy as np

from tfprune import sparsity
from tfprune.data import datasets
from tfprune.experiments.networks import load_model
from tfprune.experiments.run import run_experiment
from tfprune.models import resnet
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RoundFolder, RunFolder

# One block in each of two stages: 6 convolutions instead of resnet18's 20.
BLOCKS = (1, 1, 0, 0)

FLAGS = {
    "dataset": "digits",
    "train_examples": 256,
    "test_examples": 100,
    "image_size": 8,
    "autoaugment": "none",
    "model": "resnet18",
    "width": 4,
    "stem": "cifar",
    "weights": "none",
    "batch_size": 64,
    "learning_rate": 3e-3,
}


@contextlib.contextmanager
def small_resnet18() -> Iterator[None]:
    """Makes `--model=resnet18` a network of `BLOCKS`."""
    published = resnet.BLOCKS_PER_STAGE["resnet18"]
    resnet.BLOCKS_PER_STAGE["resnet18"] = BLOCKS
    try:
        yield
    finally:
        resnet.BLOCKS_PER_STAGE["resnet18"] = published


@contextlib.contextmanager
def no_training() -> Iterator[None]:
    """Makes every fit an error."""
    with mock.patch("tfprune.experiments.methods.method.fit", side_effect=AssertionError("it trains")):
        yield


class Runs:
    """Experiments in one folder. Each property trains when it is first used."""

    def __init__(self, output_dir: pathlib.Path) -> None:
        self.output_dir = output_dir

    def config(self, experiment: str, **flags) -> ExperimentConfig:
        return ExperimentConfig(
            **{"experiment": experiment, "output_dir": str(self.output_dir), **FLAGS, **flags}
        )

    def run(self, experiment: str, **flags) -> RunFolder:
        config = self.config(experiment, **flags)
        run_experiment(config, log=lambda line: None)
        return RunFolder(config.folder)

    def copy(self, run: RunFolder, name: str) -> ExperimentConfig:
        """Copies a run under another name, for a test that changes it; returns the copy's config."""
        config = run.read_config()
        config = dataclasses.replace(config, experiment=name, output_dir=str(self.output_dir))
        shutil.copytree(run.path, config.folder)
        (config.folder / "flags.txt").write_text(config.to_flags())
        for path in config.folder.glob("round_*/result.json"):
            content = json.loads(path.read_text())
            content["config"]["experiment"] = name
            path.write_text(json.dumps(content))
        return config

    @functools.cached_property
    def dense(self) -> RunFolder:
        return self.run("dense", epochs=(8,), batch_size=16, learning_rate=1e-2)

    @functools.cached_property
    def one_shot(self) -> RunFolder:
        return self.run("one_shot", **self.one_shot_flags)

    @property
    def one_shot_flags(self) -> dict:
        assert self.dense
        return {"init_from": "dense", "regime": "one_shot", "target_sparsity": 0.9, "epochs": (2,)}

    @functools.cached_property
    def iterative(self) -> RunFolder:
        return self.run("iterative", **self.iterative_flags)

    @property
    def iterative_flags(self) -> dict:
        assert self.dense
        return {
            "init_from": "dense",
            "regime": "iterative",
            "schedule": "geometric",
            "target_sparsity": 0.8,
            "rounds": 3,
            "epochs": (1, 1, 3),
        }

    @functools.cached_property
    def continued(self) -> RunFolder:
        return self.run("continued", **self.continued_flags)

    @property
    def continued_flags(self) -> dict:
        assert self.iterative
        return {
            "init_from": "iterative/round_02",
            "regime": "iterative",
            "schedule": "geometric",
            "target_sparsity": 0.9,
            "rounds": 2,
            "epochs": (3, 1),
            "scope": "layer",
        }

    @functools.cached_property
    def gradual(self) -> RunFolder:
        """Records (steps taken, sparsity) after each epoch in `gradual_levels`."""
        self.gradual_levels = []
        on_epoch_end = sparsity.UpdatePruningStep.on_epoch_end

        def watched(callback, epoch, logs=None):
            on_epoch_end(callback, epoch, logs)
            level = sparsity.summarize(callback.model).sparsity
            self.gradual_levels.append((callback.steps_taken, level))

        with mock.patch.object(sparsity.UpdatePruningStep, "on_epoch_end", watched):
            return self.run("gradual", **self.gradual_flags)

    @property
    def gradual_flags(self) -> dict:
        """12 steps: updates at 0, 2, 4, 6, 8 and, the end of the ramp, 9."""
        assert self.dense
        return {
            "init_from": "dense",
            "regime": "gradual",
            "schedule": "polynomial",
            "target_sparsity": 0.85,
            "frequency": 2,
            "ramp_fraction": 0.75,
            "epochs": (3,),
        }


@functools.cache
def shared_runs(output_dir: pathlib.Path) -> Runs:
    return Runs(output_dir)


def state_of(round_folder: RoundFolder) -> dict[str, np.ndarray]:
    """All weights and masks of a round's network, by layer and variable."""
    state = {}
    for layer in load_model(round_folder).layers:
        for variable in layer.variables:
            name = f"{layer.name}: {variable.path}"
            assert name not in state
            state[name] = keras.ops.convert_to_numpy(variable)
    return state


def kernels_of(round_folder: RoundFolder) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The kernel and the mask of each pruned layer."""
    return {
        wrapper.layer.name: (
            keras.ops.convert_to_numpy(wrapper.layer.kernel),
            keras.ops.convert_to_numpy(wrapper.masks[0]),
        )
        for wrapper in sparsity.pruned_layers(load_model(round_folder))
    }


def measured_accuracy_percent(model: keras.Model) -> float:
    """Accuracy on the test images that the experiments use, without Keras's metrics."""
    test = datasets.load("digits", test_examples=FLAGS["test_examples"]).test
    logits = keras.ops.convert_to_numpy(model(test.inputs, training=False))
    return 100.0 * float(np.mean(logits.argmax(axis=1) == test.labels))
