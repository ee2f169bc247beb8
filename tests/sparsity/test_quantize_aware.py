"""`quantize_aware`: the weights that are trained are those that files of 8 bits hold."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune import sparsity
from tfprune.export import export_sparse
from tfprune.runtime import load
from tfprune.runtime.integers import channel_scales, to_int8
from tfprune.sparse_training import SparseTrainer

pytestmark = pytest.mark.slow

_rng = np.random.default_rng(0)
IMAGES = _rng.normal(size=(16, 6, 6, 3)).astype(np.float32)
LABELS = _rng.integers(0, 4, 16)


def pruned_network(schedule=None):
    """Returns a compiled network with a pruned layer, one that is never pruned, and one without a mask."""
    keras.utils.set_random_seed(0)
    chain = [
        layers.Conv2D(8, 3, activation="relu", name="conv"),
        layers.DepthwiseConv2D(3, name="depthwise"),
        layers.BatchNormalization(name="norm"),
        layers.Flatten(name="flat"),
        layers.Dense(4, name="head"),
    ]
    model = keras.Sequential([keras.Input((6, 6, 3)), *chain])
    model.compile("adam", "sparse_categorical_crossentropy")
    pruned = sparsity.prune_low_magnitude(model, schedule, layers="conv")
    if schedule is None:
        sparsity.prune_to(pruned, 0.75)
    return pruned


def outputs(model):
    return ops.convert_to_numpy(model(IMAGES))


def values(variable):
    return np.array(ops.convert_to_numpy(variable))


def nearest(kernel):
    """Returns a kernel's nearest weights on the steps of the runtime's files."""
    scales = channel_scales(kernel)
    return np.rint(kernel / scales) * scales


def rounded(kernel):
    """Returns a kernel as the runtime's files hold it."""
    positions, integers, scales = to_int8(kernel)
    filled = np.zeros(kernel.size, np.float32)
    filled[positions] = integers * scales[positions % kernel.shape[-1]]
    return filled.reshape(kernel.shape)


def kernels(stripped):
    """Returns the kernels as the runtime's files have them: the last axis numbers the output channels."""
    of = {name: values(stripped.get_layer(name).kernel) for name in ("conv", "depthwise", "head")}
    return {**of, "depthwise": of["depthwise"].reshape(3, 3, 1, 8)}


def test_computes_with_weights_on_the_steps_of_the_files():
    aware = sparsity.quantize_aware(pruned_network())
    reference = sparsity.strip_pruning(pruned_network())
    exact = outputs(reference)
    assert np.abs(outputs(aware) - exact).max() > 1e-4
    for name, kernel in kernels(reference).items():
        variable = reference.get_layer(name).kernel
        variable.assign(nearest(kernel).reshape(variable.shape))
    np.testing.assert_allclose(outputs(aware), outputs(reference), atol=1e-5)


def test_trained_weights_are_those_of_the_stripped_model_and_of_the_file(tmp_path):
    pruned = pruned_network()
    aware = sparsity.quantize_aware(pruned)
    (mask,) = sparsity.masks_of(aware).values()
    np.testing.assert_array_equal(mask, sparsity.masks_of(pruned)["conv/kernel"])
    before = values(pruned.get_layer("prune_low_magnitude_conv").layer.kernel)
    aware.fit(IMAGES, LABELS, epochs=3, verbose=0)
    exact = values(pruned.get_layer("prune_low_magnitude_conv").layer.kernel)
    assert (exact[mask] != before[mask]).all()
    assert np.abs(rounded(exact) - exact).max() > 1e-5  # Gradients reach the exact weights.
    expected = outputs(aware)
    stripped = sparsity.strip_pruning(aware)
    np.testing.assert_allclose(outputs(stripped), expected, atol=1e-6)
    for kernel in kernels(stripped).values():
        np.testing.assert_allclose(rounded(kernel), kernel, rtol=1e-6)
    assert not kernels(stripped)["conv"][~mask].any()
    export_sparse(stripped, tmp_path / "model.tfprune", weights="int8")
    np.testing.assert_allclose(load(tmp_path / "model.tfprune")(IMAGES), expected, atol=1e-5)


def of_layers(*chain, shape=(6, 6, 3)):
    return keras.Sequential([keras.Input(shape), *chain, layers.Flatten(), layers.Dense(4)])


def with_residual():
    image = keras.Input((6, 6, 3))
    one = layers.Conv2D(8, 3, padding="same")(image)
    two = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(one))
    sums = layers.BatchNormalization()(layers.Add()([one, two]))
    return keras.Model(image, layers.Dense(4)(layers.Flatten()(sums)))


def with_dead_inputs():
    """Returns a network whose second convolution loses its largest weights, which take zeros."""
    first = layers.Conv2D(8, 3, activation="relu")
    second = layers.Conv2D(8, 3)
    model = of_layers(first, second)
    first.kernel.assign(values(first.kernel) * (np.arange(8) > 2))
    second.kernel.assign(values(second.kernel) * np.where(np.arange(8) > 2, 1, 3)[:, None])
    return model


NETWORKS = {
    "normalized behind": lambda: of_layers(layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()),
    "normalized before": lambda: of_layers(
        layers.Conv2D(8, 3, activation="relu"), layers.BatchNormalization(), layers.Conv2D(8, 3)
    ),
    "with a residual": with_residual,
    "with dead inputs": with_dead_inputs,
    "transposed": lambda: of_layers(
        layers.Conv2DTranspose(6, 3, strides=2, padding="same"), layers.BatchNormalization()
    ),
    "separable": lambda: of_layers(layers.SeparableConv2D(6, 3, depth_multiplier=2)),
    "recurrent": lambda: of_layers(layers.Bidirectional(layers.GRU(5)), shape=(7, 3)),
    "words": lambda: of_layers(layers.Embedding(20, 6, embeddings_initializer="normal"), shape=(7,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_files_have_what_the_network_computes_with(name, tmp_path):
    """Whatever the compiler makes of kernels: scaled by normalizations, taken apart, cut."""
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.weights:
                sign = -1 if "gamma" in variable.path else 1
                variable.assign(sign * _rng.uniform(0.3, 2, variable.shape))
    inputs = _rng.integers(0, 20, (16, *model.input_shape[1:])).astype(np.float32)
    aware = sparsity.quantize_aware(model)
    expected = ops.convert_to_numpy(aware(inputs))
    export_sparse(sparsity.strip_pruning(aware), tmp_path / "model.tfprune", weights="int8")
    found = load(tmp_path / "model.tfprune")(inputs)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore:.*gets to 0.75 at step 4")  # The first fit ends before.
def test_a_schedule_goes_on():
    schedule = sparsity.PolynomialDecay(0.25, 0.75, begin_step=0, end_step=4, frequency=1)
    pruned = pruned_network(schedule)
    callbacks = [sparsity.UpdatePruningStep()]
    pruned.fit(IMAGES, LABELS, batch_size=8, epochs=1, verbose=0, callbacks=callbacks)
    aware = sparsity.quantize_aware(pruned)
    assert sparsity.pruned_layers(aware)[0].steps_taken == 2
    aware.compile("adam", "sparse_categorical_crossentropy")
    aware.fit(IMAGES, LABELS, batch_size=8, epochs=1, verbose=0, callbacks=callbacks)
    stripped = sparsity.strip_pruning(aware)
    assert (kernels(stripped)["conv"] == 0).mean() == 0.75


def test_is_saved_and_wrapped_again(tmp_path):
    aware = sparsity.quantize_aware(pruned_network())
    aware.save(tmp_path / "aware.keras")
    loaded = keras.saving.load_model(tmp_path / "aware.keras")
    np.testing.assert_allclose(outputs(loaded), outputs(aware), atol=1e-6)
    again = sparsity.prune_low_magnitude(loaded, None, layers="head")
    np.testing.assert_allclose(outputs(again), outputs(aware), atol=1e-6)
    assert len(sparsity.masks_of(again)) == 2


def test_zeros_of_a_channel_and_of_a_mask_are_exact():
    aware = sparsity.quantize_aware(pruned_network())
    conv = sparsity.pruned_layers(aware)[0].layer
    kernel = values(conv.kernel)
    kernel[..., 0] = 0
    conv.kernel.assign(kernel)
    assert np.isfinite(outputs(aware)).all()
    stripped = sparsity.strip_pruning(aware)
    assert not kernels(stripped)["conv"][..., 0].any()


def test_refusals():
    with pytest.raises(ValueError, match="`model` must be a built"):
        sparsity.quantize_aware(keras.Sequential([layers.Dense(4)]))
    with pytest.raises(ValueError, match="must have a kernel"):
        sparsity.quantize_aware(keras.Sequential([keras.Input((4,)), layers.ReLU()]))
    with pytest.raises(ValueError, match="give the wrapped model to `quantize_aware`"):
        sparsity.prune_low_magnitude(pruned_network(), None, in_8_bits=True)
    with pytest.raises(ValueError, match="weights of 8 bits"):
        SparseTrainer(sparsity.quantize_aware(pruned_network()))
