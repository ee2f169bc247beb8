"""The same weights and data give the same masks on TensorFlow, JAX and PyTorch.

This file is also the script that the other backends' processes run. It writes the masks after every step: of
frozen weights, for each way of pruning, with a `Pruner` and no training at all; and of weights that learn in
`fit`.
"""

import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import layers

from tfprune import sparsity
from tfprune.sparsity import RigL

BACKENDS = ("tensorflow", "jax", "torch")
STEPS = 8
BATCH_SIZE = 4
FINAL = 0.75
INPUT_SHAPE = (6, 6, 4)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="runs once, and starts the other backends' processes"
    ),
]


def rising():
    """Updates at steps 1, 3, 5 and 7."""
    return sparsity.PolynomialDecay(0.25, FINAL, begin_step=1, end_step=7, power=1, frequency=2)


def constant():
    """The same steps, for weights that move about."""
    return sparsity.ConstantSparsity(FINAL, begin_step=1, end_step=7, frequency=2)


FROZEN = {
    "layer": {},
    "global": {"scope": "global"},
    "erk": {"scope": "erk"},
    "blocks": {"block_size": (2, 3)},
    "largest_of_blocks": {"block_size": (3, 2), "block_pooling_type": "MAX"},
    "m_by_n": {"sparsity_m_by_n": (3, 4)},
    "channels": {"granularity": "channel"},
    "channels_global": {"granularity": "channel", "scope": "global"},
    "lamp": {"score": "lamp", "scope": "global"},
    "gathered": {"score": "gathered", "scope": "global"},
    "random": {"score": "random"},
    "taylor": {"score": "taylor"},
    "fisher": {"score": "fisher", "scope": "global"},
    "set": {"regrowth": sparsity.SET()},
    "rigl": {"regrowth": RigL()},
}
LEARNING = {"layer": {}, "global": {"scope": "global"}}


def make_model(name, options):
    """A small network of three kernels, wrapped and compiled; `options` are those of a case above."""
    keras.utils.set_random_seed(7)
    start = {"kernel_initializer": "zeros"}  # Values come below.
    model = keras.Sequential(
        [
            keras.Input(INPUT_SHAPE),
            layers.Conv2D(8, 3, activation="tanh", name=f"{name}_first", **start),
            layers.Conv2D(12, (2, 3), activation="tanh", name=f"{name}_second", **start),
            layers.Flatten(name=f"{name}_flatten"),
            layers.Dense(5, name=f"{name}_head", **start),
        ]
    )
    schedule = constant() if "regrowth" in options else rising()
    model = sparsity.prune_low_magnitude(model, schedule, **options)
    rng = np.random.default_rng(7)
    for kernel in kernels_of(model):
        kernel.assign(separated(tuple(kernel.shape), rng))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    return model


def separated(shape, rng):
    """Numbers of both signs whose magnitudes are evenly spaced: no two near each other."""
    size = int(np.prod(shape))
    magnitudes = rng.permutation(np.linspace(0.02, 0.4, size))
    return (magnitudes * rng.choice([-1.0, 1.0], size)).reshape(shape).astype("float32")


def make_data():
    rng = np.random.default_rng(8)
    examples = STEPS * BATCH_SIZE
    x = rng.normal(size=(examples, *INPUT_SHAPE)).astype("float32")
    return x, rng.normal(size=(examples, 5)).astype("float32")


def kernels_of(model):
    return [variable for wrapper in sparsity.pruned_layers(model) for variable in wrapper.prunable_variables]


def masks_of(model):
    return [to_numpy(mask) for wrapper in sparsity.pruned_layers(model) for mask in wrapper.masks]


def to_numpy(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def masks_of_frozen_weights(name, options):
    """[step][kernel] -> mask, by a loop that does nothing in its steps."""
    model = make_model(name, options)
    x, y = make_data()
    batches = [(x[:8], y[:8]), (x[8:16], y[8:16])]
    pruner = sparsity.Pruner(model, gradient_data=batches, gradient_batches=2)
    masks = []
    for _ in range(STEPS):
        pruner.before_step()
        pruner.after_step()
        masks.append(masks_of(model))
    return masks


def masks_of_learning_weights(name, options):
    """[step][kernel] -> mask, and the kernels at the end."""
    model = make_model(name, options)
    masks = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            masks.append(masks_of(self.model))  # On JAX `self.model` brings the training state to the model.

    callbacks = [sparsity.UpdatePruningStep(), Record()]
    model.fit(*make_data(), batch_size=BATCH_SIZE, shuffle=False, verbose=0, callbacks=callbacks)
    return masks, [to_numpy(kernel) for kernel in kernels_of(model)]


def run(path):
    """All cases on this process's backend, to a file."""
    arrays = {"backend": keras.backend.backend()}

    def add(case, masks):
        for step, of_step in enumerate(masks, start=1):
            for number, mask in enumerate(of_step):
                arrays[f"{case}/{number}/{step}"] = mask

    for name, options in FROZEN.items():
        add(f"frozen/{name}", masks_of_frozen_weights(name, options))
    for name, options in LEARNING.items():
        masks, kernels = masks_of_learning_weights(name, options)
        add(f"learning/{name}", masks)
        arrays |= {f"kernels/{name}/{number}": kernel for number, kernel in enumerate(kernels)}
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{backend: what `run` wrote there}; the other backends' processes run beside this one."""
    folder = tmp_path_factory.mktemp("backends")
    root = str(pathlib.Path(__file__).parents[2])
    processes = {
        backend: subprocess.Popen(
            [sys.executable, __file__, folder / f"{backend}.npz"],
            env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for backend in BACKENDS[1:]
    }
    run(folder / f"{BACKENDS[0]}.npz")
    for backend, process in processes.items():
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"{backend}:\n{output}"
    found = {backend: dict(np.load(folder / f"{backend}.npz")) for backend in BACKENDS}
    assert [str(found[backend]["backend"]) for backend in BACKENDS] == list(BACKENDS)
    return found


def masks_of_case(result, case):
    """[step][kernel] -> mask."""
    return [[result[f"{case}/{number}/{step}"] for number in range(3)] for step in range(1, STEPS + 1)]


def assert_equal_masks(results, case):
    first, *others = (masks_of_case(results[backend], case) for backend in BACKENDS)
    for backend, other in zip(BACKENDS[1:], others, strict=True):
        for step, (ours, theirs) in enumerate(zip(first, other, strict=True), start=1):
            for one, two in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one, two, err_msg=f"tensorflow and {backend}, step {step}")
    return first


def share_removed(masks):
    return sum(np.count_nonzero(~mask) for mask in masks) / sum(mask.size for mask in masks)


@pytest.mark.parametrize("case", FROZEN)
def test_frozen_weights_give_the_same_masks_at_every_step(results, case):
    masks = assert_equal_masks(results, f"frozen/{case}")
    changed = [
        step
        for step in range(2, STEPS + 1)
        if any((a != b).any() for a, b in zip(masks[step - 1], masks[step - 2], strict=True))
    ]
    moves = case in ("set", "rigl")
    # The sparsities are 0.25, 0.42, 0.58 and 0.75; of four weights the second and the third remove two. Where
    # weights move, none does at the last update.
    assert changed == {"m_by_n": [3, 7], "set": [3, 5], "rigl": [3, 5]}.get(case, [3, 5, 7])
    assert share_removed(masks[0]) == pytest.approx(FINAL if moves else 0.25, abs=0.05)
    assert share_removed(masks[-1]) == pytest.approx(FINAL, abs=0.05)


@pytest.mark.parametrize("case", LEARNING)
def test_learning_weights_give_the_same_masks_at_every_step(results, case):
    masks = assert_equal_masks(results, f"learning/{case}")
    assert share_removed(masks[-1]) == pytest.approx(FINAL, abs=0.01)
    frozen = masks_of_case(results["tensorflow"], f"frozen/{case}")
    assert any((a != b).any() for a, b in zip(masks[-1], frozen[-1], strict=True))  # It did learn.
    for number, mask in enumerate(masks[-1]):
        kernels = [results[backend][f"kernels/{case}/{number}"] for backend in BACKENDS]
        for kernel in kernels:
            np.testing.assert_array_equal(kernel == 0, ~mask)
            np.testing.assert_allclose(kernel, kernels[0], rtol=0, atol=1e-4)


if __name__ == "__main__":
    run(sys.argv[1])
