r"""Measures what pruning costs: the training step, one update of all masks, small networks, and size.

    python benchmarks/pruning_cost.py
    python benchmarks/pruning_cost.py --width=16 --rounds=5
    python benchmarks/pruning_cost.py --part=small
    python benchmarks/pruning_cost.py --part=size --layers=24,96,192

One process for each backend of tfprune, one for tfmot on tf-keras, one for torch.nn.utils.prune. They are
asked in turn, round after round, so that what else the machine does falls on all alike; a ratio is the
median over the rounds of the ratios within a round.

`--part=step`, on a ResNet-34:

- Step: pruned / dense, `train_on_batch` on the same images, masks at 0.9, no mask update among them.
- Update: seconds to prune all convolutions and the head from dense to 0.9, as ratio to tfprune's on
  TensorFlow in the layer scope.

`--part=small`, on a convolutional network of 14,000 weights: an epoch of `fit` with an update
before every step, and with no update, and a whole second `fit`, each as ratio to that of the dense network.

`--part=size`, dense layers of 2,048 x 2,048 on PyTorch: pruning from dense to 0.9, as ratio to tfprune's by
layer at the same size, beside torch.nn.utils.prune, and the memory that it adds at its peak, as ratio to the
float32 weights. Each size and scope has a process of its own; 192 layers are 805 million weights.
"""

import os
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags
from paired_processes import Worker, answer_lines

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
PART = flags.DEFINE_enum("part", "step", ["step", "small", "size"], "What to measure.")
LAYERS = flags.DEFINE_list("layers", ["6", "24", "96"], "Numbers of layers, for --part=size.")
WORKER = flags.DEFINE_string("worker", "", "Internal: what this process is.")

SPARSITY = 0.9
Timer = Callable[[], float]


def timed(function: Callable[[], Any]) -> float:
    """Returns the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def data() -> tuple[Any, Any]:
    """Returns a batch of random images and labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH_SIZE.value, IMAGE_SIZE.value, IMAGE_SIZE.value, 3))
    return images.astype("uint8"), rng.integers(0, 10, BATCH_SIZE.value)


def build() -> Any:
    """Builds the dense Keras 3 network."""
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
    """Returns the timers of tfprune on the backend of this process."""
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
    """Returns the timers of tfmot's own wrapper on the same network in tf-keras."""
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
    """Returns the timers of torch.nn.utils.prune on tensors of the same shapes."""
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


def small_timers() -> dict[str, Timer]:
    """Returns the timers of fits of a small convolutional network on the backend of this process."""
    import keras
    import numpy as np
    from keras import layers

    from tfprune import sparsity

    steps = 60
    rng = np.random.default_rng(0)
    images = rng.normal(size=(steps * BATCH_SIZE.value, 16, 16, 1)).astype("float32")
    labels = rng.integers(0, 10, len(images))

    def network() -> Any:
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((16, 16, 1)),
                layers.Conv2D(8, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(16, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(32, activation="relu"),
                layers.Dense(10),
            ]
        )

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.seconds = time.perf_counter() - self.start

    timers = {}
    for name, frequency in (("dense", 0), ("no update", 10**6), ("frequency=1", 1)):
        model = network()
        callbacks = []
        if frequency:
            schedule = sparsity.PolynomialDecay(0.0, 0.9, 1, 10**4, frequency=frequency)
            model = sparsity.prune_low_magnitude(model, schedule)
            callbacks = [sparsity.UpdatePruningStep()]
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        clock = Clock()

        def fit(model: Any = model, callbacks: Any = (*callbacks, clock)) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # The schedule without an update.
                model.fit(images, labels, BATCH_SIZE.value, verbose=0, callbacks=list(callbacks))

        timers[f"{name}, fit"] = lambda fit=fit: timed(fit)
        timers[f"{name}, epoch"] = lambda fit=fit, clock=clock: (fit(), clock.seconds)[1]
    return timers


def prune_at_size(peer: bool, layers_count: int, scope: str) -> tuple[float, float]:
    """Returns the seconds to prune, and the bytes added at the peak."""
    side = 2048
    if peer:
        import torch
        from torch.nn.utils import prune

        modules = [(torch.nn.Linear(side, side, bias=False), "weight") for _ in range(layers_count)]

        def run() -> None:
            if scope == "layer":
                for module, name in modules:
                    prune.l1_unstructured(module, name, SPARSITY)
            else:
                prune.global_unstructured(modules, prune.L1Unstructured, amount=SPARSITY)

    else:
        import keras
        from keras import layers

        from tfprune import sparsity

        dense = [layers.Dense(side, use_bias=False) for _ in range(layers_count)]
        model = sparsity.prune_low_magnitude(keras.Sequential([keras.Input((side,)), *dense]), None)

        def run() -> None:
            sparsity.prune_to(model, SPARSITY, scope=scope)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    start = peak = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds = timed(run)
    done.set()
    watcher.join()
    return seconds, peak - start


def serve() -> None:
    """Answers each name on a line of stdin with the seconds that it took."""
    if PART.value == "size":
        name, scope, count = WORKER.value.split(":")
        answer_lines(prune_at_size(name == "torch_prune", int(count), scope), float)
        return
    make = {"tfmot": tfmot_timers, "torch_prune": torch_prune_timers}.get(WORKER.value, tfprune_timers)
    timers = small_timers() if PART.value == "small" else make()
    answer_lines(list(timers), lambda name: timers[name]())


def start_worker(name: str) -> Worker:
    """Starts a process that times things on request."""
    backend = {"tfmot": "tensorflow", "torch_prune": "torch"}.get(name, name)
    environment = {"KERAS_BACKEND": "torch" if PART.value == "size" else backend}
    return Worker([__file__, *sys.argv[1:], f"--worker={name}"], name, environment)


def show_size() -> None:
    """Prunes models of several sizes and prints the table."""
    print(f"{'':24}   {'million weights':>15}   time / by layer   added / float32 weights   seconds")
    for count in LAYERS.value:
        by_layer = None
        for name in ("tfprune", "torch_prune"):
            for scope in ("layer", "global"):
                worker = start_worker(f"{name}:{scope}:{count}")
                worker.close()
                seconds, added = worker.first
                by_layer = by_layer or seconds
                weights = int(count) * 2048**2
                print(
                    f"{name + ', ' + scope:24}   {weights / 1e6:15.0f}   {seconds / by_layer:15.2f}"
                    f"   {added / (4 * weights):23.2f}   {seconds:7.2f}",
                    flush=True,
                )


def main(_: list[str]) -> None:
    """Runs the rounds and prints the table."""
    if WORKER.value:
        serve()
        return
    if PART.value == "size":
        show_size()
        return
    workers = {}
    for name in WORKERS.value:
        if PART.value == "small" and name in ("tfmot", "torch_prune"):
            continue
        print(f"{name}: builds and compiles ...", flush=True)
        workers[name] = start_worker(name)
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in range(ROUNDS.value + 1):
        for name, worker in workers.items():
            for what in worker.first:
                value = worker.ask(what)
                if number:  # The first round warms up.
                    seconds.setdefault((name, what), []).append(value)
        print(f"round {number} of {ROUNDS.value}", flush=True)
    for worker in workers.values():
        worker.close()

    def ratio(above: tuple[str, str], below: tuple[str, str]) -> str:
        ratios = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
        return f"{statistics.median(ratios):7.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"

    if PART.value == "small":
        print(f"\n{'small network / dense':42}   ratio")
        for name, what in seconds:
            if not what.startswith("dense"):
                dense = "dense, " + what.split(", ")[1]
                print(f"{name + ', ' + what:42} {ratio((name, what), (name, dense))}")
        return
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
