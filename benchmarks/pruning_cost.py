r"""What pruning costs on a ResNet-34: the training step, and one update of all masks.

    python benchmarks/pruning_cost.py
    python benchmarks/pruning_cost.py --width=16 --rounds=5

One process for each backend of tfprune, one for tfmot on tf-keras, one for torch.nn.utils.prune. They are
asked in turn, round after round, so that what else the machine does falls on all alike; a ratio is the
median over the rounds of the ratios within a round.

- Step: pruned / dense, `train_on_batch` on the same images, masks at 0.9, no mask update among them.
- Update: seconds to prune all convolutions and the head from dense to 0.9, as ratio to tfprune's on
  TensorFlow in the layer scope.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

WIDTH = flags.DEFINE_integer("width", 64, "Filters of the first stage.", lower_bound=1)
IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Side of the images, in pixels.", lower_bound=8)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images a step.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 2, "Training steps a round.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each thing is timed.", lower_bound=1)
WORKERS = flags.DEFINE_list(
    "workers", ["tensorflow", "jax", "torch", "tfmot", "torch_prune"], "What to time."
)
WORKER = flags.DEFINE_string("worker", "", "Internal: what this process is.")

SPARSITY = 0.9
Timer = Callable[[], float]


def timed(function: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def data() -> tuple[Any, Any]:
    """A batch of random images and labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH_SIZE.value, IMAGE_SIZE.value, IMAGE_SIZE.value, 3))
    return images.astype("uint8"), rng.integers(0, 10, BATCH_SIZE.value)


def build() -> Any:
    """The dense Keras 3 network."""
    import keras

    from tfprune.models.resnet import build_resnet

    keras.utils.set_random_seed(0)
    return build_resnet("resnet34", classes=10, image_size=IMAGE_SIZE.value, width=WIDTH.value, stem="cifar")


def step_timer(model: Any, compile_model: Callable[[Any], None]) -> Timer:
    """Compiles a model, traces its step, and returns what times `STEPS` of them."""
    images, labels = data()
    compile_model(model)
    model.train_on_batch(images, labels)
    return lambda: timed(lambda: [model.train_on_batch(images, labels) for _ in range(STEPS.value)])


def tfprune_timers() -> dict[str, Timer]:
    """tfprune on the backend of this process."""
    import keras
    from keras import ops

    from tfprune import sparsity
    from tfprune.training.fit import compile_for_training
    from tfprune.training.settings import TrainingSettings

    settings = TrainingSettings(epochs=1, batch_size=BATCH_SIZE.value, learning_rate=1e-5)
    dense = build()
    pruned = sparsity.prune_low_magnitude(keras.models.clone_model(dense), None)
    to_update = sparsity.prune_low_magnitude(keras.models.clone_model(dense), None)
    sparsity.prune_to(pruned, SPARSITY)
    # Pruning zeroes the weights; each update starts from the same.
    start = [(v, ops.convert_to_numpy(v)) for w in sparsity.pruned_layers(to_update) for v in w.variables]

    def update(scope: str) -> float:
        for variable, value in start:
            variable.assign(value)
        return timed(lambda: sparsity.prune_to(to_update, SPARSITY, scope=scope))

    def compile_model(model: Any) -> None:
        compile_for_training(model, settings)

    return {
        "dense step": step_timer(dense, compile_model),
        "pruned step": step_timer(pruned, compile_model),
        "update, layer": lambda: update("layer"),
        "update, global": lambda: update("global"),
    }


def tfmot_timers() -> dict[str, Timer]:
    """tfmot's own wrapper on the same network in tf-keras."""
    from tfprune import sparsity
    from tfprune.experiments.tfmot.resnet import build_twin

    # After the twin's module, which keeps `tf.keras` what it was.
    import tensorflow_model_optimization as tfmot  # isort: skip
    import tf_keras  # isort: skip

    network = build()
    wrapped = sparsity.prune_low_magnitude(network, None)
    schedule = tfmot.sparsity.keras.ConstantSparsity(SPARSITY, begin_step=1, end_step=1, frequency=1)
    dense = build_twin(network, lambda layer: layer)
    pruned = build_twin(
        wrapped, lambda layer: tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)
    )
    layers = [layer for layer in pruned.layers if type(layer).__name__ == "PruneLowMagnitude"]

    def compile_model(model: Any) -> None:
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_keras.optimizers.Adam(1e-5), loss, metrics=["accuracy"])

    def update() -> None:
        for layer in layers:
            layer.pruning_step.assign(1)
            layer.pruning_obj.conditional_mask_update()
            layer.pruning_obj.weight_mask_op()

    for layer in layers:
        layer.pruning_step.assign(0)
    return {
        "dense step": step_timer(dense, compile_model),
        "pruned step": step_timer(pruned, compile_model),
        "update, layer": lambda: timed(update),
    }


def torch_prune_timers() -> dict[str, Timer]:
    """torch.nn.utils.prune on tensors of the same shapes."""
    import torch
    from torch.nn.utils import prune

    from tfprune import sparsity

    wrapped = sparsity.prune_low_magnitude(build(), None)
    shapes = [tuple(v.shape) for w in sparsity.pruned_layers(wrapped) for v in w.prunable_variables]
    torch.manual_seed(0)
    values = [torch.randn(shape) for shape in shapes]

    def modules() -> list[tuple[Any, str]]:
        made = []
        for value in values:
            module = torch.nn.Module()
            module.weight = torch.nn.Parameter(value.clone())
            made.append((module, "weight"))
        return made

    def layerwise() -> float:
        made = modules()
        return timed(lambda: [prune.l1_unstructured(module, name, SPARSITY) for module, name in made])

    def together() -> float:
        made = modules()
        return timed(
            lambda: prune.global_unstructured(made, pruning_method=prune.L1Unstructured, amount=SPARSITY)
        )

    return {"update, layer": layerwise, "update, global": together}


def serve() -> None:
    """Answers each name on a line of stdin with the seconds that it took."""
    make = {"tfmot": tfmot_timers, "torch_prune": torch_prune_timers}.get(WORKER.value, tfprune_timers)
    timers = make()
    print("@" + json.dumps(list(timers)), flush=True)
    for line in sys.stdin:
        print("@" + json.dumps(timers[line.strip()]()), flush=True)


class Worker:
    """A process that times things on request."""

    def __init__(self, name: str) -> None:
        backend = {"tfmot": "tensorflow", "torch_prune": "torch"}.get(name, name)
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], f"--worker={name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.names = self._answer(name)

    def _answer(self, what: str) -> Any:
        for line in self.process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise RuntimeError(f"The process for {what} ended without an answer")

    def ask(self, name: str) -> float:
        """Seconds of one measurement."""
        print(name, file=self.process.stdin, flush=True)
        return self._answer(name)

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def main(_: list[str]) -> None:
    """Runs the rounds and prints the table."""
    if WORKER.value:
        serve()
        return
    workers = {}
    for name in WORKERS.value:
        print(f"{name}: builds and compiles ...", flush=True)
        workers[name] = Worker(name)
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in range(ROUNDS.value + 1):
        for name, worker in workers.items():
            for what in worker.names:
                value = worker.ask(what)
                if number:  # The first round warms up.
                    seconds.setdefault((name, what), []).append(value)
        print(f"round {number} of {ROUNDS.value}", flush=True)
    for worker in workers.values():
        worker.close()

    def ratio(above: tuple[str, str], below: tuple[str, str]) -> str:
        ratios = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
        return f"{statistics.median(ratios):7.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"

    print(f"\n{'training step, pruned / dense':42}   ratio")
    for name in workers:
        if (name, "dense step") in seconds:
            print(f"{name:42} {ratio((name, 'pruned step'), (name, 'dense step'))}")
    first = next(key for key in seconds if key[1] == "update, layer")
    print(f"\n{'mask update / that of ' + first[0] + ', layer':42}   ratio   median seconds")
    for name, what in seconds:
        if what.startswith("update"):
            median = statistics.median(seconds[name, what])
            print(f"{name + ' ' + what[8:]:42} {ratio((name, what), first)}  {median:.3f} s")


if __name__ == "__main__":
    app.run(main)
