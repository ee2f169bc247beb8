"""Blocks, whole channels and m of n: arrays by hand, then every kind of layer, schedules and scopes."""

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import (
    ConstantSparsity,
    PolynomialDecay,
    Pruner,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
)
from tfprune.sparsity.patterns import WEIGHTS, Blocks, Channels, MOfN

RNG = np.random.default_rng(0)


def select(pattern, scores, sparsity, mask=None):
    scores = np.asarray(scores, np.float32)
    mask = np.ones(scores.shape, bool) if mask is None else np.asarray(mask, bool)
    return pattern.select(scores, mask, sparsity).astype(int).tolist()


# --- blocks

# As blocks of (2, 2), with ragged edges: means 2, 4, 3 above and 5, 1, 6 below; largest 8, 4, 3, 5, 1, 6.
RAGGED = [
    [0, 0, 4, 4, 3],
    [0, 8, 4, 4, 3],
    [5, 5, 1, 1, 6],
]


@pytest.mark.parametrize(
    "pooling, sparsity, blocks",
    [
        ("AVG", 0.17, [[1, 1, 1], [1, 0, 1]]),
        ("AVG", 0.34, [[0, 1, 1], [1, 0, 1]]),
        ("AVG", 0.5, [[0, 1, 0], [1, 0, 1]]),
        ("MAX", 0.5, [[1, 0, 0], [1, 0, 1]]),
        ("MAX", 0.99, [[1, 0, 0], [0, 0, 0]]),  # One block always stays.
    ],
)
def test_blocks_by_hand(pooling, sparsity, blocks):
    expected = np.repeat(np.repeat(blocks, 2, 0), 2, 1)[:3, :5]
    assert select(Blocks((2, 2), pooling), RAGGED, sparsity) == expected.tolist()


def blocks_of(matrix):
    """The blocks of (2, 3) of a matrix of 5 by 4."""
    return [matrix[a : a + 2, b : b + 3] for a in (0, 2, 4) for b in (0, 3)]


def test_blocks_of_a_convolution_are_of_its_channels_at_each_position():
    scores = RNG.random((3, 2, 5, 4))
    mask = np.array(select(Blocks((2, 3), "AVG"), scores, 0.5))
    found = [block for row in mask for matrix in row for block in blocks_of(matrix)]
    means = np.array([block.mean() for row in scores for matrix in row for block in blocks_of(matrix)])
    stays = np.array([block.all() for block in found])
    assert [block.any() for block in found] == stays.tolist()
    assert np.count_nonzero(stays) == 18  # Half of 36 blocks.
    assert means[stays].min() > means[~stays].max()


def test_a_block_larger_than_the_kernel_is_the_kernel():
    assert select(Blocks((9, 9), "AVG"), RAGGED, 0.9) == np.ones((3, 5)).tolist()


# --- m of n


@pytest.mark.parametrize(
    "sparsity, expected",
    [
        (0.0, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (0.12, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),  # round(0.48) = 0 zeros in a group of four.
        (0.25, [0, 1, 1, 1, 1, 1, 1, 0, 1, 1]),
        (0.5, [0, 1, 0, 1, 1, 0, 1, 0, 1, 1]),
        (0.9, [0, 1, 0, 1, 1, 0, 1, 0, 1, 1]),  # Two of four at most.
    ],
)
def test_m_of_n_along_the_first_of_two_axes(sparsity, expected):
    """The last group has two weights, as many as the others keep."""
    column = [1, 4, 2, 3, 9, 2, 9, 1, 5, 6]
    scores = np.stack([column, column[::-1]], axis=1)
    assert np.array(select(MOfN(2, 4, 0), scores, sparsity))[:, 0].tolist() == expected
    assert np.array(select(MOfN(2, 4, -2), scores, sparsity))[:, 0].tolist() == expected
    assert select(MOfN(2, 4, 1), scores.T, sparsity)[0] == expected


@pytest.mark.parametrize("length", [1, 2, 3, 5, 6, 7, 9])
@pytest.mark.parametrize("m, n", [(1, 2), (2, 4), (3, 4), (1, 3)])
def test_a_short_last_group_keeps_as_many_as_the_others(length, m, n):
    mask = np.array(select(MOfN(m, n, 0), RNG.random((length, 3)), m / n))
    for start in range(0, length, n):
        group = mask[start : start + n]
        assert (group.sum(axis=0) == min(n - m, len(group))).all()


def test_masks_of_every_pattern_are_nested_though_scores_change():
    for pattern in (Blocks((2, 3), "AVG"), Channels((-1,), 2), MOfN(3, 4, 0)):
        mask, before = np.ones((9, 8), bool), 73
        for sparsity in (0.25, 0.5, 0.75):
            new = np.array(select(pattern, RNG.random((9, 8)), sparsity, mask), bool)
            assert (new <= mask).all() and new.sum() < before
            mask, before = new, new.sum()


# --- every kind of layer

# Name -> (layer, input shape, axes of output channels of each kernel, axis of input channels).
CHANNELS = {
    "dense": (lambda: layers.Dense(6), (8,), [(1,)], 0),
    "conv1d": (lambda: layers.Conv1D(6, 3), (8, 4), [(2,)], 1),
    "conv2d": (lambda: layers.Conv2D(6, 3), (8, 8, 4), [(3,)], 2),
    "conv2d_groups": (lambda: layers.Conv2D(6, 3, groups=2), (8, 8, 8), [(3,)], 2),
    "conv3d": (lambda: layers.Conv3D(6, 2), (4, 4, 4, 4), [(4,)], 3),
    "conv1d_transpose": (lambda: layers.Conv1DTranspose(6, 3), (8, 4), [(1,)], 2),
    "conv2d_transpose": (lambda: layers.Conv2DTranspose(6, 3), (8, 8, 4), [(2,)], 3),
    "conv3d_transpose": (lambda: layers.Conv3DTranspose(6, 2), (4, 4, 4, 4), [(3,)], 4),
    "separable": (lambda: layers.SeparableConv2D(6, 3), (8, 8, 4), [(3,)], 2),
    "embedding": (lambda: layers.Embedding(8, 6), (5,), [(1,)], None),
    "einsum": (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (5, 8), [(1, 2)], 0),
    "einsum_transposed": (lambda: layers.EinsumDense("abc,dc->abd", (None, 6)), (5, 8), [(0,)], 1),
    "attention": (lambda: Attends(2, 4), (5, 8), [(1, 2), (1, 2), (1, 2), (2,)], [0, 0, 0, 1]),
}


@keras.saving.register_keras_serializable("tests")
class Attends(layers.MultiHeadAttention):
    """To itself."""

    def call(self, x, **kwargs):
        return super().call(x, x, **kwargs)

    def build(self, shape):
        super().build(shape, shape)

    def compute_output_spec(self, x, **kwargs):
        return super().compute_output_spec(x, x, **kwargs)


def wrapped(name, **options):
    make, shape, axes, input_axis = CHANNELS[name]
    model = keras.Sequential([keras.Input(shape), make()])
    return prune_low_magnitude(model, None, **options), axes, input_axis


@pytest.mark.parametrize("name", CHANNELS)
def test_whole_output_channels_go_and_no_other(name, masks_of, kernels_of, to_numpy):
    model, axes, _ = wrapped(name, granularity="channel")
    kernels = kernels_of(model)
    prune_to(model, 0.5)
    for mask, kernel, kept in zip(masks_of(model), kernels, axes, strict=True):
        others = tuple(axis for axis in range(mask.ndim) if axis not in kept)
        np.testing.assert_array_equal(mask.any(axis=others), mask.all(axis=others))
        norms, stays = np.sqrt(np.square(kernel).sum(axis=others)), mask.any(axis=others)
        assert np.count_nonzero(stays) == stays.size // 2
        assert norms[stays].min() > norms[~stays].max()
    if name not in ("embedding", "attention", "separable"):  # A removed channel is silent.
        shape = CHANNELS[name][1]
        outputs = to_numpy(model(RNG.normal(size=(2, *shape)).astype("float32")))
        silent = (outputs == 0).all(axis=tuple(range(outputs.ndim - stays.ndim)))
        np.testing.assert_array_equal(silent, ~stays)


@pytest.mark.parametrize("name", [name for name in CHANNELS if name != "embedding"])
def test_m_of_n_runs_along_the_input_channels(name, masks_of, kernels_of):
    model, axes, input_axis = wrapped(name, sparsity_m_by_n=(2, 4))
    kernels = kernels_of(model)
    prune_to(model, 0.5)
    input_axes = input_axis if isinstance(input_axis, list) else [input_axis]
    for mask, kernel, axis in zip(masks_of(model), kernels, input_axes, strict=True):
        groups, sizes = (np.moveaxis(a, axis, -1).reshape(-1, 4) for a in (mask, np.abs(kernel)))
        assert (groups.sum(axis=1) == 2).all()
        assert (np.where(groups, sizes, np.inf).min(1) > np.where(groups, 0, sizes).max(1)).all()


def test_m_of_n_follows_a_schedule(masks_of, to_numpy):
    layer = layers.Dense(3, name="dense")
    schedule = PolynomialDecay(0.0, 0.75, begin_step=1, end_step=9, power=1, frequency=2)
    model = keras.Sequential([keras.Input((10,)), layer])
    model = prune_low_magnitude(model, schedule, sparsity_m_by_n=(3, 4))
    pruner = Pruner(model)
    removed = []
    for _ in range(10):
        pruner.before_step()
        mask = masks_of(model)[0]
        removed.append([int(np.count_nonzero(~mask[a : a + 4])) for a in (0, 4, 8)])
        np.testing.assert_array_equal(to_numpy(layer.kernel) == 0, ~mask)
        pruner.after_step()
    # 0, 1, 2, 2 and 3 zeros in a group of four, in each of three columns; the last group has two weights.
    assert removed[::2] == [[0, 0, 0], [3, 3, 0], [6, 6, 0], [6, 6, 0], [9, 9, 3]]
    assert removed[1::2] == removed[::2]


# --- scopes


@pytest.mark.parametrize("scope, kept", [("layer", [5, 2]), ("global", [1, 4]), ("erk", [5, 3])])
def test_channels_in_every_scope(scope, kept, mlp, masks_of):
    """Channels of 10 weights; those of the second layer are ten times as large."""
    model = mlp()
    model.get_layer("first").kernel.assign(RNG.uniform(1, 2, size=(10, 10)))
    model.get_layer("second").kernel.assign(RNG.uniform(10, 20, size=(10, 4)))
    wrapped = prune_low_magnitude(model, None, granularity="channel", scope=scope)
    prune_to(wrapped, {"layer": 0.5, "global": 0.64, "erk": 0.45}[scope])
    assert [int(mask.any(axis=0).sum()) for mask in masks_of(wrapped)] == kept
    assert all(mask.all(axis=0).sum() == mask.any(axis=0).sum() for mask in masks_of(wrapped))


@pytest.mark.parametrize("options", [{"granularity": "channel"}, {"block_size": (2, 2)}, {}])
@pytest.mark.parametrize("scope", ["layer", "global", "erk"])
def test_scope_and_pattern_together_come_within_one_group(scope, options, mlp, masks_of):
    group = 10 if "granularity" in options else 4 if options else 1
    model = prune_low_magnitude(mlp(), None, scope=scope, **options)
    for sparsity in (0.3, 0.6):
        prune_to(model, sparsity)
        masks = masks_of(model)
        removed = sum(np.count_nonzero(~mask) for mask in masks)
        roundings = 1 if scope == "global" else len(masks)
        assert abs(removed - sparsity * 140) <= group * (roundings + 1) / 2
        assert all(mask.any() for mask in masks)


# --- errors


@pytest.mark.parametrize(
    "options, message",
    [
        ({"block_size": (2, 2), "granularity": "channel"}, r"Only one.*block_size=\(2, 2\), granularity"),
        ({"block_size": (2, 2), "sparsity_m_by_n": (2, 4)}, "Only one pattern"),
        ({"sparsity_m_by_n": (2, 4), "granularity": "channel"}, "Only one pattern"),
        (
            {"pattern": Blocks((4, 4)), "block_size": (2, 2)},
            r"Only one.*block_size=\(2, 2\).*block_size=\(4, 4",
        ),
        ({"pattern": Blocks((4, 4)), "sparsity_m_by_n": (2, 4)}, r"Only one.*sparsity_m_by_n=\(2, 4\)"),
        ({"pattern": MOfN(2, 4), "granularity": "channel"}, "Only one.*granularity='channel'"),
        ({"pattern": MOfN(2, 4), "block_pooling_type": "MIN"}, r"\['AVG', 'MAX'\].*'MIN'"),
        ({"pattern": MOfN(2, 4), "block_pooling_type": "MAX"}, "Only one.*block_pooling_type='MAX'"),
        ({"pattern": 3}, "`pattern` must be a `Pattern`.*pattern=3"),
        ({"pattern": Blocks}, "`pattern` must be a `Pattern`.*Blocks"),
        ({"block_size": (0, 2)}, r"`block_size` must be two whole numbers, at least 1.*\(0, 2\)"),
        ({"block_size": 4}, "`block_size` must be two"),
        ({"block_size": (1.5, 2)}, "`block_size` must be two"),
        ({"block_pooling_type": "MIN"}, r"\['AVG', 'MAX'\].*'MIN'"),
        ({"granularity": "filter"}, r"\['weight', 'channel'\].*'filter'"),
        ({"sparsity_m_by_n": (4, 4)}, "with m below n"),
        ({"sparsity_m_by_n": (0, 4)}, "`sparsity_m_by_n` must be two"),
        ({"sparsity_m_by_n": (2, 4), "scope": "global"}, "`scope` must be 'layer'.*'global'"),
        (
            {"sparsity_m_by_n": (2, 4), "pruning_schedule": ConstantSparsity(0.8, 0)},
            "must end at 0.5.*target_sparsity=0.8",
        ),
        (
            {"sparsity_m_by_n": (3, 4), "pruning_schedule": PolynomialDecay(0, 0.5, 0, 9)},
            "must end at 0.75.*final_sparsity=0.5",
        ),
    ],
)
def test_what_does_not_go_together(options, message, mlp):
    model = mlp()
    with pytest.raises(ValueError, match=message):
        prune_low_magnitude(model, **{"pruning_schedule": None, **options})
    assert pruned_layers(model) == []


class Vector(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x):
        return x * self.scale

    def get_prunable_weights(self):
        return [self.scale]


class Table(layers.Embedding):
    def __init__(self, name):
        super().__init__(4, 4, name=name)


@pytest.mark.parametrize(
    "make, options, message",
    [
        (Vector, {"block_size": (2, 2)}, r"two axes or more.*layer 'it', variable 'scale'.*\(4,\)"),
        (Vector, {"granularity": "channel"}, "layer 'it', variable 'scale', which has none"),
        (Vector, {"sparsity_m_by_n": (2, 4)}, "layer 'it', variable 'scale', which has none"),
        (Table, {"sparsity_m_by_n": (2, 4)}, "layer 'it', variable 'embeddings', which has none"),
    ],
)
def test_a_layer_that_a_pattern_does_not_fit_is_an_error_that_names_it(make, options, message):
    model = keras.Sequential([keras.Input((4,)), make(name="it")])
    with pytest.raises(ValueError, match=message):
        prune_low_magnitude(model, None, **options)


def test_a_gates_column_is_no_channel():
    model = keras.Sequential([keras.Input((3, 4)), layers.LSTM(4, name="lstm")])
    with pytest.raises(ValueError, match="granularity='channel', layer 'lstm', variable 'lstm_cell/kernel'"):
        prune_low_magnitude(model, None, granularity="channel")


@pytest.mark.parametrize("pattern", [WEIGHTS, Blocks((2, 2)), Channels((-1,), 2)])
@pytest.mark.parametrize("kept", [0, 0.3, 0.5, 0.50001, 0.7, 1.0])
def test_a_pattern_that_is_reached_is_one_whose_mask_stays(pattern, kept):
    """So that no scores need to be read for it."""
    rng = np.random.default_rng(0)
    scores = rng.random((6, 8), np.float32)
    mask = np.array(pattern.select(scores, np.ones(scores.shape, bool), 1 - kept))
    for sparsity in (0.0, 0.25, 0.5, 0.75, 0.99):
        stays = np.array_equal(pattern.select(scores, mask, sparsity), mask)
        assert pattern.reached(mask, sparsity) == stays


@pytest.mark.parametrize("m, n", [(1, 4), (3, 4), (2, 4), (1, 3)])
def test_m_of_n_without_a_schedule_ends_at_its_own_sparsity(m, n, data, masks_of):
    model = keras.Sequential([keras.Input((12,)), layers.Dense(4)])
    model = prune_low_magnitude(model, sparsity_m_by_n=(m, n))
    (wrapper,) = pruned_layers(model)
    assert wrapper.pruning_schedule.target_sparsity == m / n and wrapper.pruning_schedule.begin_step == 0
    single = prune_low_magnitude(layers.Dense(4), pattern=MOfN(m, n))
    assert single.pruning_schedule.target_sparsity == m / n
    model.compile("sgd", "mse")
    x = np.ones((4, 12), "float32")
    model.fit(x, x[:, :4], verbose=0, callbacks=[UpdatePruningStep()])
    (mask,) = masks_of(model)
    assert (mask.reshape(12 // n, n, 4).sum(axis=1) == n - m).all()
