r"""Measures training steps of a pruned ResNet-34: the sparse trainer beside dense training elsewhere.

    python benchmarks/sparse_training.py
    python benchmarks/sparse_training.py --widths=16 --sparsities=0,0.95 --rounds=3 --peers=tensorflow,torch
    python benchmarks/sparse_training.py --profile
    python benchmarks/sparse_training.py --sparseprop    # pip install sparseprop; it needs a C++ compiler

The peers train the same network, dense: Keras on TensorFlow and on JAX, PyTorch as it is and with
`torch.compile`. A pruned network takes them as long, or longer: they multiply by every zero. Each has a
process of its own. They are asked in turn, round after round, and each gets the same cores, so that what else
the machine does falls on all alike. With `--sparseprop` SparseProp (arXiv:2302.04852) trains the pruned
network, too: in PyTorch, where it takes for each layer its own sparse form or the dense one, whichever it
finds faster. The images lie in memory: the input pipeline is excluded. A ratio is the median over the rounds
of the ratio to the fastest peer of the round, least and largest in parentheses. Memory is the peak of the
process, less that of one that has only imported the same packages.
"""

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags
from paired_processes import Worker, answer_lines

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

WIDTHS = flags.DEFINE_list("widths", ["64", "16"], "Filters of the first stage.")
SPARSITIES = flags.DEFINE_list("sparsities", ["0", "0.95", "0.98", "0.995"], "Of each convolution.")
PEERS = flags.DEFINE_list("peers", ["tensorflow", "jax", "torch", "torch_compiled"], "Whom to measure.")
IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Side of the images, in pixels.", lower_bound=8)
STEM = flags.DEFINE_enum("stem", "cifar", ["imagenet", "cifar"], "First layers; PyTorch has cifar alone.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images a step.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 2, "Training steps a round.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each is timed.", lower_bound=1)
THREADS = flags.DEFINE_integer("threads", 0, "Of the sparse trainer; 0: the cores of this process.")
SPARSEPROP = flags.DEFINE_boolean("sparseprop", False, "Measure SparseProp, too.")
PROFILE = flags.DEFINE_boolean("profile", False, "Print where the sparse trainer's time goes.")
WORKER = flags.DEFINE_string("worker", "", "Internal: what this process is.")

SPARSE = "sparse"
Steps = Callable[[], Any]


def data() -> tuple[Any, Any]:
    """Returns a batch of random images and labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (BATCH_SIZE.value, IMAGE_SIZE.value, IMAGE_SIZE.value, 3)
    return rng.integers(0, 256, shape, dtype=np.uint8), rng.integers(0, 10, BATCH_SIZE.value)


def build(width: int) -> Any:
    """Returns a dense Keras network, compiled as the experiments compile it."""
    import keras

    from tfprune.models.resnet import build_resnet

    keras.utils.set_random_seed(0)
    size = IMAGE_SIZE.value
    pixels = {"mean": (127.5,) * 3, "std": (64.0,) * 3}
    return build_resnet("resnet34", classes=10, image_size=size, width=width, stem=STEM.value, **pixels)


def compile_model(model: Any) -> Any:
    """Compiles a network as the experiments do."""
    from tfprune.training.fit import compile_for_training
    from tfprune.training.settings import TrainingSettings

    settings = TrainingSettings(epochs=1, batch_size=BATCH_SIZE.value, learning_rate=1e-4, weight_decay=5e-4)
    compile_for_training(model, settings)
    return model


def keras_step(width: int) -> Steps:
    """Returns a training step of the dense Keras network."""
    model, batch = compile_model(build(width)), data()
    return lambda: model.train_on_batch(*batch)


def torch_training(width: int, sparsity: float, compiled: bool) -> Any:
    """Returns the training of the PyTorch network."""
    from accelerator_torch import TorchTraining

    mean, std = (127.5,) * 3, (64.0,) * 3
    return TorchTraining(
        classes=10, width=width, mean=mean, std=std, precision="float32", sparsity=sparsity, compiled=compiled
    )


def sparseprop_training(width: int, sparsity: float) -> Any:
    """Returns the training of the pruned PyTorch network with the layers that SparseProp makes of it."""
    import torch
    from sparseprop.utils import swap_modules_with_sparse

    training = torch_training(width, sparsity, compiled=False)
    shape = data()[0].shape
    model = training.model.to(memory_format=torch.contiguous_format)
    training.model = swap_modules_with_sparse(model, shape)
    optimizer = training.optimizer
    training.optimizer = type(optimizer)(training.model.parameters(), **optimizer.defaults)
    return training


def torch_step(training: Any) -> Steps:
    """Returns a step of a PyTorch training."""
    batch = training.to_device(*data())
    return lambda: training.seconds([batch])


def sparse_trainer(width: int, sparsity: float) -> Any:
    """Returns a sparse trainer of the pruned network."""
    from tfprune import sparsity as library
    from tfprune.sparse_training import SparseTrainer

    model = build(width)
    if sparsity:
        model = library.prune_low_magnitude(model, None, layers=".*conv.*")
        library.prune_to(model, sparsity)
    return SparseTrainer(compile_model(model), threads=THREADS.value or None)


def serve() -> None:
    """Answers `steps N` with the seconds of N steps, `memory` with bytes, `profile` with rows."""
    name, width, sparsity = WORKER.value.split(":")
    imported = _import_all(name)
    trainer = None
    if name == SPARSE:
        trainer, batch = sparse_trainer(int(width), float(sparsity)), data()
        step = lambda: trainer.train_on_batch(*batch)  # noqa: E731
    elif name == SPARSEPROP.name:
        step = torch_step(sparseprop_training(int(width), float(sparsity)))
    elif name.startswith("torch"):
        step = torch_step(torch_training(int(width), 0.0, compiled=name == "torch_compiled"))
    else:
        step = keras_step(int(width))
    step()

    def answer(question: str) -> Any:
        if question == "memory":
            return _peak_bytes() - imported
        if question == "profile":
            return trainer.engine.profile()
        start = time.perf_counter()
        for _ in range(int(question)):
            step()
        return time.perf_counter() - start

    answer_lines("ready", answer)


def _import_all(name: str) -> int:
    """Imports what a worker computes with; returns the peak of the memory until then."""
    if name == SPARSEPROP.name or name.startswith("torch"):
        import torch  # noqa: F401
    else:
        import keras

        keras.ops.convert_to_tensor(0.0)
    return _peak_bytes()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def start_worker(name: str, width: str, sparsity: str = "0") -> Worker:
    """Starts a process that trains."""
    backend = "jax" if name == "jax" else "tensorflow"
    worker = f"--worker={name}:{width}:{sparsity}"
    environment = {"KERAS_BACKEND": backend, "OMP_NUM_THREADS": str(os.cpu_count())}
    return Worker([__file__, *sys.argv[1:], worker], worker, environment)


def measure(width: str) -> None:
    """Times all on networks of one width, and prints the table."""
    workers = {}
    for name in PEERS.value:
        print(f"width {width}, {name}: builds and compiles ...", flush=True)
        workers[name] = start_worker(name, width)
    for sparsity in SPARSITIES.value:
        print(f"width {width}, sparse trainer at {sparsity}: builds and compiles ...", flush=True)
        workers[f"{SPARSE} {sparsity}"] = start_worker(SPARSE, width, sparsity)
        if SPARSEPROP.value and float(sparsity):
            print(f"width {width}, SparseProp at {sparsity}: tries its layers ...", flush=True)
            try:
                workers[f"{SPARSEPROP.name} {sparsity}"] = start_worker(SPARSEPROP.name, width, sparsity)
            except RuntimeError as error:  # Its kernels end the process at some sparsities.
                print(f"left out: {error}", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(ROUNDS.value):
        for name, worker in workers.items():
            seconds[name].append(worker.ask(str(STEPS.value)))
        print(f"width {width}: round {number + 1} of {ROUNDS.value}", flush=True)
    fastest = [min(seconds[name][number] for name in PEERS.value) for number in range(ROUNDS.value)]
    images = BATCH_SIZE.value * STEPS.value
    print(
        f"\nResNet-34, width {width}, {STEM.value} stem, {IMAGE_SIZE.value} pixels, batch {BATCH_SIZE.value}"
    )
    print(f"{'':20}   images/s   times the fastest peer    peak MB")
    for name, worker in workers.items():
        ratios = [peer / own for peer, own in zip(fastest, seconds[name], strict=True)]
        speed = images / statistics.median(seconds[name])
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        megabytes = worker.ask("memory") / 1e6
        print(f"{name:20}   {speed:8.1f}   {statistics.median(ratios):6.2f} {spread:16}   {megabytes:7.0f}")
    if PROFILE.value:
        for name, worker in workers.items():
            if name.split()[0] == SPARSE:
                print_profile(f"width {width}, {name}", worker.ask("profile"))
    for worker in workers.values():
        worker.close()


def print_profile(title: str, rows: list[Any]) -> None:
    """Prints where the time of one step goes."""
    total = sum(seconds for _, seconds, *_ in rows)
    print(f"\n{title}: {1000 * total:.1f} ms a step")
    print(f"{'kind':28}   share      ms   GB/s   G multiply-adds/s")
    for kind, seconds, moved, products in sorted(rows, key=lambda row: -row[1]):
        print(
            f"{kind:28}   {seconds / total:5.1%} {1000 * seconds:7.1f} {moved / seconds / 1e9:6.1f}"
            f"   {products / seconds / 1e9:17.1f}"
        )


def main(_: list[str]) -> None:
    """Measures each width."""
    if WORKER.value:
        serve()
        return
    for width in WIDTHS.value:
        measure(width)


if __name__ == "__main__":
    app.run(main)
