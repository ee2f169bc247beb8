"""The same weights and data give the same masks on TensorFlow, JAX and PyTorch.

This file is also the script that a process for each backend runs: two fits, whose masks after every step it
writes to a file. In the frozen fit (a learning rate of 0) each way of pruning has a branch of one model; in
the other the weights learn.
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
INPUT_SHAPE = (6, 6, 5)

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="runs once, and starts a process for each backend"
)


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
    "random": {"score": "random"},
    "taylor": {"score": "taylor"},
    "fisher": {"score": "fisher", "scope": "global"},
    "set": {"regrowth": sparsity.SET()},
    "rigl": {"regrowth": RigL()},
}
LEARNING = {"layer": {}, "global": {"scope": "global"}}


def make_branch(name, options):
    """A small network of three kernels, wrapped; `name` and `options` are a case of those above."""
    branch = keras.Sequential(
        [
            keras.Input(INPUT_SHAPE),
            layers.Conv2D(8, 3, activation="tanh", name=f"{name}_first"),
            layers.Conv2D(6, (2, 3), activation="tanh", name=f"{name}_second"),
            layers.Flatten(name=f"{name}_flatten"),
            layers.Dense(4, name=f"{name}_head"),
        ],
        name=f"{name}_branch",
    )
    schedule = constant() if "regrowth" in options else rising()
    return sparsity.prune_low_magnitude(branch, schedule, **options)


def separated(shape, rng):
    """Numbers of both signs whose magnitudes are evenly spaced: no two near each other."""
    size = int(np.prod(shape))
    magnitudes = rng.permutation(np.linspace(0.02, 0.4, size))
    return (magnitudes * rng.choice([-1.0, 1.0], size)).reshape(shape).astype("float32")


def fit(cases, optimizer):
    """Fits all cases, a branch each.

    Returns {"case/kernel's number/step": mask after it} and {"case/kernel's number": kernel at the end}.
    """
    keras.utils.set_random_seed(7)
    rng = np.random.default_rng(7)
    inputs = keras.Input(INPUT_SHAPE)
    branches = {name: make_branch(name, options) for name, options in cases.items()}
    outputs = layers.Concatenate()([branch(inputs) for branch in branches.values()])
    model = keras.Model(inputs, outputs)
    wrappers = {name: sparsity.pruned_layers(branch) for name, branch in branches.items()}
    for case in wrappers.values():
        for wrapper in case:
            (kernel,) = wrapper.prunable_variables
            kernel.assign(separated(tuple(kernel.shape), rng))

    masks = {}

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model  # noqa: B018  (On JAX: brings the training state to the model.)
            for name, case in wrappers.items():
                for number, wrapper in enumerate(case):
                    masks[f"{name}/{number}/{batch + 1}"] = to_numpy(wrapper.masks[0])

    x = rng.normal(size=(STEPS * BATCH_SIZE, *INPUT_SHAPE)).astype("float32")
    y = rng.normal(size=(STEPS * BATCH_SIZE, outputs.shape[-1])).astype("float32")
    model.compile(optimizer, "mse", jit_compile=False)
    update = sparsity.UpdatePruningStep(
        gradient_data=[(x[:8], y[:8]), (x[8:20], y[8:20])], gradient_batches=2
    )
    model.fit(x, y, batch_size=BATCH_SIZE, shuffle=False, verbose=0, callbacks=[update, Record()])
    kernels = {
        f"{name}/{number}": to_numpy(wrapper.prunable_variables[0])
        for name, case in wrappers.items()
        for number, wrapper in enumerate(case)
    }
    return masks, kernels


def to_numpy(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def run(path):
    """Both fits on this process's backend, to a file."""
    frozen, _ = fit(FROZEN, keras.optimizers.SGD(0.0))
    learning, kernels = fit(LEARNING, keras.optimizers.SGD(0.1, momentum=0.9))
    np.savez(
        path,
        backend=keras.backend.backend(),
        **{f"frozen/{key}": value for key, value in frozen.items()},
        **{f"learning/{key}": value for key, value in learning.items()},
        **{f"kernels/{key}": value for key, value in kernels.items()},
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{backend: what its process wrote}; the processes run side by side."""
    folder = tmp_path_factory.mktemp("backends")
    processes = {}
    for backend in BACKENDS:
        root = str(pathlib.Path(__file__).parents[2])
        environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""}
        processes[backend] = subprocess.Popen(
            [sys.executable, __file__, folder / f"{backend}.npz"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
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
    # At the end of a regrowth no weight moves.
    assert changed == ([3, 5] if moves else [3, 5, 7])
    assert share_removed(masks[0]) == pytest.approx(FINAL if moves else 0.25, abs=0.09)
    assert share_removed(masks[-1]) == pytest.approx(FINAL, abs=0.06)


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
