"""Our masks against those of tfmot 0.8.1 itself: the same kernels, schedules and steps, frozen weights.

Every layer under test is a branch of one model, so that a whole table of cases costs one fit in each library.
The weights are frozen because the two differ on purpose in what becomes of removed weights in training.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

from tfprune import sparsity

if keras.backend.backend() != "tensorflow":
    pytest.skip("tfmot works on TensorFlow alone", allow_module_level=True)

import tensorflow as tf

from tfprune.experiments.environment import legacy_keras_kept_apart

pytestmark = pytest.mark.slow

with legacy_keras_kept_apart():
    assert tf.keras.__version__.startswith("3.")
    import tensorflow_model_optimization as tfmot
    import tf_keras

EPOCHS, BATCHES, BATCH_SIZE = 3, 4, 2
STEPS = EPOCHS * BATCHES


class Case(NamedTuple):
    """One layer, its kernel's shape and how it is pruned."""

    shape: tuple[int, ...]
    schedule: str
    schedule_arguments: dict[str, float]
    options: dict[str, Any] = {}
    # The steps at which tfmot's mask changes.
    changes: tuple[int, ...] = (1,)

    def wrapped(self, keras_module, library, name):
        """The layer, built by nobody yet, in `library`'s wrapper."""
        if len(self.shape) == 2:
            layer = keras_module.layers.Dense(self.shape[-1], name=name)
        else:
            layer = keras_module.layers.Conv2D(self.shape[-1], self.shape[:2], name=name)
        return library.prune_low_magnitude(layer, self.make_schedule(library), **self.options)

    def make_schedule(self, library):
        return getattr(library, self.schedule)(**self.schedule_arguments)

    @property
    def input_shape(self):
        return self.shape[:1] if len(self.shape) == 2 else (*self.shape[:2], self.shape[2])

    @property
    def kernel(self):
        """Normally distributed, so without ties; every case has its own."""
        return np.random.default_rng(self.shape).normal(size=self.shape).astype("float32")


def constant(target, **arguments):
    return "ConstantSparsity", {"target_sparsity": target, **arguments}


def polynomial(initial, final, begin, end, **arguments):
    ends = {"begin_step": begin, "end_step": end}
    return "PolynomialDecay", {"initial_sparsity": initial, "final_sparsity": final, **ends, **arguments}


def fit(keras_module, library, cases, read, run_eagerly):
    """Fits all cases in one model, with a learning rate of 0.

    Returns for every step {name of the case: (mask, kernel) after the step}.
    """
    inputs = [keras_module.Input(case.input_shape) for case in cases.values()]
    wrappers = {name: case.wrapped(keras_module, library, name) for name, case in cases.items()}
    branches = [wrap(x) for wrap, x in zip(wrappers.values(), inputs, strict=True)]
    outputs = keras_module.layers.Concatenate()([keras_module.layers.Flatten()(x) for x in branches])
    model = keras_module.Model(inputs, outputs)
    for name, case in cases.items():
        wrappers[name].layer.kernel.assign(case.kernel)
    steps = []

    class Record(keras_module.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append({name: read(wrapper) for name, wrapper in wrappers.items()})

    compiled = {"jit_compile": False, "run_eagerly": run_eagerly}
    model.compile(keras_module.optimizers.SGD(0.0), "mse", **compiled)
    n = BATCHES * BATCH_SIZE
    x = [np.ones((n, *case.input_shape), "float32") for case in cases.values()]
    y = np.zeros((n, outputs.shape[-1]), "float32")
    callbacks = [library.UpdatePruningStep(), Record()]
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=EPOCHS, callbacks=callbacks, verbose=0)
    return steps


def fit_both(cases, run_eagerly=False):
    def read_ours(wrapper):
        (mask,), (kernel,) = wrapper.masks, wrapper.prunable_variables
        return mask.numpy().astype(bool), kernel.numpy()

    def read_theirs(wrapper):
        ((kernel, mask, _),) = wrapper.pruning_vars
        return mask.numpy().astype(bool), kernel.numpy()

    return (
        fit(keras, sparsity, cases, read_ours, run_eagerly),
        fit(tf_keras, tfmot.sparsity.keras, cases, read_theirs, run_eagerly),
    )


def changes(steps, name):
    """The 1-based steps after which the mask of a case differs from the one before."""
    masks = [np.ones_like(steps[0][name][0]), *(step[name][0] for step in steps)]
    return tuple(t for t in range(1, len(masks)) if (masks[t] != masks[t - 1]).any())


def assert_equal_at_every_step(both, name, expected_changes):
    ours, theirs = both
    assert len(ours) == len(theirs) == STEPS
    assert changes(theirs, name) == expected_changes
    for t, (our, their) in enumerate(zip(ours, theirs, strict=True), start=1):
        np.testing.assert_array_equal(our[name][0], their[name][0], err_msg=f"mask after step {t}")
        np.testing.assert_array_equal(our[name][1], their[name][1], err_msg=f"kernel after step {t}")


def zeros(steps, name):
    """How many weights the mask of a case removes after each step."""
    return [int(np.count_nonzero(~step[name][0])) for step in steps]


SCHEDULES = {
    "constant_from_the_first_step": Case((10, 7), *constant(0.3, begin_step=1)),
    "constant_begin": Case((10, 9), *constant(0.7, begin_step=4), changes=(4,)),
    "constant_begin_and_end": Case(
        (9, 8), *constant(0.6, begin_step=3, end_step=9, frequency=3), changes=(3,)
    ),
    "constant_convolution": Case(
        (3, 3, 4, 6), *constant(0.8, begin_step=2, end_step=12, frequency=5), changes=(2,)
    ),
    "polynomial_every_step": Case(
        (11, 13), *polynomial(0.0, 0.9, 1, 12, power=2, frequency=1), changes=tuple(range(2, 13))
    ),
    "polynomial_every_second_step": Case(
        (12, 11), *polynomial(0.2, 0.8, 2, 8, frequency=2), changes=(2, 4, 6, 8)
    ),
    "polynomial_linear": Case(
        (7, 16), *polynomial(0.1, 0.7, 3, 11, power=1, frequency=4), changes=(3, 7, 11)
    ),
    "polynomial_convolution": Case(
        (3, 2, 5, 8), *polynomial(0.3, 0.95, 2, 11, power=2, frequency=3), changes=(2, 5, 8, 11)
    ),
    "polynomial_pointwise_convolution": Case(
        (1, 1, 13, 9), *polynomial(0.25, 0.9, 1, 7, frequency=2), changes=(1, 3, 5, 7)
    ),
    # The contract differs on purpose; the two tests below say how.
    "begin_step_zero": Case((6, 7), *constant(0.5, begin_step=0, frequency=5), changes=(5,)),
    "end_step_off_the_frequency": Case(
        (13, 10), *polynomial(0.1, 0.9, 1, 10, power=1, frequency=4), changes=(1, 5, 9)
    ),
}
DIFFERENT_ON_PURPOSE = ("begin_step_zero", "end_step_off_the_frequency")


@pytest.fixture(scope="module")
def schedule_steps():
    return fit_both(SCHEDULES)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in DIFFERENT_ON_PURPOSE])
def test_masks_are_equal_at_every_step_under_every_schedule(schedule_steps, name):
    assert_equal_at_every_step(schedule_steps, name, SCHEDULES[name].changes)


def test_no_case_has_a_count_near_a_half():
    """There the two round differently: tfmot the number kept, in float32, we the number removed."""
    for case in SCHEDULES.values():
        schedule = case.make_schedule(sparsity)
        counts = [schedule(t)[1] * np.prod(case.shape) for t in range(1, STEPS + 1) if schedule(t)[0]]
        assert counts
        assert all(abs(count % 1 - 0.5) > 0.001 for count in counts), case


def test_begin_step_zero_fires_at_the_first_batch_and_in_tfmot_one_frequency_later(schedule_steps):
    name, (ours, theirs) = "begin_step_zero", schedule_steps
    assert changes(ours, name) == (1,)
    assert changes(theirs, name) == (5,)
    np.testing.assert_array_equal(ours[0][name][0], theirs[-1][name][0])


def test_end_step_fires_off_the_frequency_and_in_tfmot_does_not(schedule_steps):
    name, (ours, theirs) = "end_step_off_the_frequency", schedule_steps
    assert changes(ours, name) == (1, 5, 9, 10)
    assert changes(theirs, name) == (1, 5, 9)
    for t in range(9):
        np.testing.assert_array_equal(ours[t][name][0], theirs[t][name][0])
    assert zeros(ours, name)[-1] == round(0.9 * 130)
    assert zeros(theirs, name)[-1] < round(0.9 * 130)
    assert not (ours[-1][name][0] & ~theirs[-1][name][0]).any()


def block_case(shape, block_size, pooling):
    options = {"block_size": block_size, "block_pooling_type": pooling}
    return Case(shape, *polynomial(0.21, 0.73, 1, 9, frequency=4), options, changes=(1, 5, 9))


BLOCK_SHAPES = {
    # Sizes that the blocks divide, and sizes that leave a smaller block at the end.
    (2, 2): [(12, 8), (13, 9)],
    (4, 1): [(16, 7), (15, 6)],
    (1, 4): [(7, 20), (6, 19)],
    (3, 2): [(15, 10), (14, 11)],
}
BLOCKS = {
    f"blocks_{h}x{w}_{pooling}_of_{shape[0]}x{shape[1]}": block_case(shape, (h, w), pooling)
    for (h, w), shapes in BLOCK_SHAPES.items()
    for pooling in ("AVG", "MAX")
    for shape in shapes
}
# TensorFlow's "SAME" padding puts half of it in front: where two or more rows or columns are missing from the
# last block, tfmot ranks windows that lie before the blocks that it then removes.
SHIFTED_BLOCKS = {
    f"shifted_blocks_{pooling}": block_case(shape, block, pooling)
    for pooling, block, shape in (("AVG", (4, 1), (17, 6)), ("MAX", (3, 2), (16, 9)))
}


@pytest.fixture(scope="module")
def block_steps():
    return fit_both({**BLOCKS, **SHIFTED_BLOCKS}, run_eagerly=True)


@pytest.mark.parametrize("name", BLOCKS)
def test_masks_of_blocks_are_equal_at_every_step(block_steps, name):
    assert_equal_at_every_step(block_steps, name, BLOCKS[name].changes)


def pooled(kernel, block, pooling, shift):
    """One number a block: the mean or largest magnitude of the window `shift` rows before it."""
    magnitudes = np.abs(kernel)
    (rows, columns), (h, w) = kernel.shape, block
    pool = np.mean if pooling == "AVG" else np.max
    return np.array(
        [
            [pool(magnitudes[max(i - shift, 0) : i - shift + h, j : j + w]) for j in range(0, columns, w)]
            for i in range(0, rows, h)
        ]
    )


@pytest.mark.parametrize("name", SHIFTED_BLOCKS)
def test_blocks_are_ranked_by_their_own_weights_and_in_tfmot_by_the_window_before(block_steps, name):
    case = SHIFTED_BLOCKS[name]
    block, pooling = case.options["block_size"], case.options["block_pooling_type"]
    for steps, shift in zip(block_steps, (0, 1), strict=True):
        scores = pooled(case.kernel, block, pooling, shift)
        removed = np.argsort(scores, axis=None)[: round(0.21 * scores.size)]
        keep = np.ones(scores.size, bool)
        keep[removed] = False
        mask = np.kron(keep.reshape(scores.shape), np.ones(block, bool))
        rows, columns = case.shape
        np.testing.assert_array_equal(steps[0][name][0], mask[:rows, :columns])


def m_by_n_case(shape, m, n):
    """tfmot makes this mask at step 1, once, whatever its schedule says; ours follows the schedule."""
    return Case(shape, *constant(m / n, begin_step=1, frequency=3), {"sparsity_m_by_n": (m, n)})


# Input channels: multiples of 4, and with 1, 2 and 3 left over.
M_BY_N_SHAPES = {
    (2, 4): [(12, 7), (13, 6), (10, 5), (11, 9), (3, 3, 8, 5), (3, 2, 5, 6), (1, 1, 6, 7), (2, 2, 7, 3)],
    (1, 4): [(13, 8), (11, 6), (2, 3, 6, 4)],
    (3, 4): [(10, 9), (15, 6), (3, 1, 5, 7)],
}
M_BY_N = {
    f"{m}_by_{n}_of_{'x'.join(map(str, shape))}": m_by_n_case(shape, m, n)
    for (m, n), shapes in M_BY_N_SHAPES.items()
    for shape in shapes
}


@pytest.fixture(scope="module")
def m_by_n_steps():
    return fit_both(M_BY_N, run_eagerly=True)


@pytest.mark.parametrize("name", M_BY_N)
def test_m_by_n_masks_are_equal_from_step_one_on(m_by_n_steps, name):
    assert_equal_at_every_step(m_by_n_steps, name, (1,))
