import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfprune.export.formats.tflite import CONVERSIONS, convert_to_tflite
from tfprune.export.formats.tflite_weights import (
    TFLiteWeights,
    decode_tensor,
    expand_sparse,
    in_keras_layouts,
    matching_weights,
    read_weights,
)
from tfprune.export.network import write_saved_model

pytestmark = pytest.mark.slow


def weights_of(folder, name):
    # Without the pixels' mean and deviation, which no file stores as weights.
    found = [each for each in read_weights((folder / name).read_bytes()) if each.values.size > 3]
    return sorted(found, key=lambda weights: weights.values.shape)


def dense_level(size):
    level = schema.DimensionMetadataT()
    level.format, level.denseSize = schema.DimensionType.DENSE, size
    return level


def sparse_level(segments, indices):
    level = schema.DimensionMetadataT()
    level.format = schema.DimensionType.SPARSE_CSR
    level.arraySegments, level.arrayIndices = schema.Uint8VectorT(), schema.Uint16VectorT()
    level.arraySegments.values, level.arrayIndices.values = segments, indices
    return level


def sparsity_of(order, levels, block_map=None):
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder, sparsity.blockMap, sparsity.dimMetadata = order, block_map, levels
    return sparsity


def tensor_of(type_, shape, scale=None, zero_point=None, dimension=0, sparsity=None):
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.shape, tensor.sparsity = b"t", type_, shape, sparsity
    if scale is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = scale
        tensor.quantization.zeroPoint = zero_point
        tensor.quantization.quantizedDimension = dimension
    return tensor


def test_sparse_and_dense_float16_files_decode_to_the_same_weights(exported):
    folder, _ = exported
    sparse = weights_of(folder, "model_float16_sparse.tflite")
    dense = weights_of(folder, "model_float16.tflite")
    assert len(sparse) == len(dense) == 5
    for left, right in zip(sparse, dense, strict=True):
        np.testing.assert_array_equal(left.values, right.values)


def test_float16_and_int8_decode_to_the_float32_weights_but_for_rounding(exported):
    folder, _ = exported
    exact = weights_of(folder, "model_float32.tflite")
    for half, weights in zip(weights_of(folder, "model_float16.tflite"), exact, strict=True):
        np.testing.assert_allclose(half.values, weights.values, rtol=1e-3, atol=1e-7)
    for int8, weights in zip(weights_of(folder, "model_int8.tflite"), exact, strict=True):
        largest = np.abs(weights.values).max(axis=tuple(range(1, weights.values.ndim)))
        step = (largest / 127).reshape(-1, *[1] * (weights.values.ndim - 1))
        assert (np.abs(int8.values - weights.values) <= 0.501 * step).all()


def test_float32_kernels_are_the_keras_kernels_times_the_batch_norm_scale(exported, network):
    folder, _ = exported
    model, _ = network
    file_weights = read_weights((folder / "model_float32.tflite").read_bytes())
    for name in ("stem_conv", "conv1", "conv2", "shortcut_conv"):
        kernel = np.asarray(model.get_layer(name).kernel)
        (found,) = matching_weights(kernel, (-1,), file_weights)
        gamma, _, _, variance = model.get_layer(f"{name}_bn").get_weights()
        expected = kernel * gamma / np.sqrt(variance + 1e-5)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_expand_sparse_rows():
    # [[1, 0, 2], [0, 0, 0], [0, 3, 0]] as CSR.
    sparsity = sparsity_of([0, 1], [dense_level(3), sparse_level([0, 2, 2, 3], [0, 2, 1])])
    dense = expand_sparse(np.array([1, 2, 3], np.float32), (3, 3), sparsity)
    np.testing.assert_array_equal(dense, [[1, 0, 2], [0, 0, 0], [0, 3, 0]])


def test_expand_sparse_columns_first():
    sparsity = sparsity_of([1, 0], [dense_level(3), sparse_level([0, 1, 2, 3], [0, 2, 0])])
    dense = expand_sparse(np.array([1, 3, 2], np.float32), (3, 3), sparsity)
    np.testing.assert_array_equal(dense, [[1, 0, 2], [0, 0, 0], [0, 3, 0]])


def test_expand_sparse_blocks():
    # 4x4 in 2x2 blocks: the upper left and the lower right one are stored.
    levels = [dense_level(2), sparse_level([0, 1, 2], [0, 1]), dense_level(2), dense_level(2)]
    sparsity = sparsity_of([0, 1, 2, 3], levels, block_map=[0, 1])
    dense = expand_sparse(np.arange(1, 9, dtype=np.float16), (4, 4), sparsity)
    np.testing.assert_array_equal(dense, [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 5, 6], [0, 0, 7, 8]])


def test_expand_sparse_refuses_what_does_not_fit():
    level = sparse_level([0, 2, 2, 3], [0, 2, 1])
    with pytest.raises(ValueError, match="2 values for 3 leaves"):
        expand_sparse(np.ones(2), (3, 3), sparsity_of([0, 1], [dense_level(3), level]))
    with pytest.raises(ValueError, match="4 segments for 2 nodes"):
        expand_sparse(np.ones(3), (2, 3), sparsity_of([0, 1], [dense_level(2), level]))
    with pytest.raises(ValueError, match="leave its shape"):
        expand_sparse(np.ones(3), (3, 2), sparsity_of([0, 1], [dense_level(3), level]))


def test_decode_int8_with_zero_points_by_channel_and_by_tensor():
    data = np.array([[1, 2], [3, -4]], np.int8).tobytes()
    by_channel = tensor_of(schema.TensorType.INT8, [2, 2], [0.5, 2.0], [1, 3], dimension=1)
    np.testing.assert_array_equal(decode_tensor(by_channel, data), [[0.0, -2.0], [1.0, -14.0]])
    by_tensor = tensor_of(schema.TensorType.INT8, [2, 2], [0.5], [2])
    np.testing.assert_array_equal(decode_tensor(by_tensor, data), [[-0.5, 0.0], [0.5, -3.0]])


def test_decode_refuses_unknown_types_and_wrong_sizes():
    with pytest.raises(ValueError, match="cannot decode TFLite type"):
        decode_tensor(tensor_of(schema.TensorType.INT4, [2]), b"\0")
    with pytest.raises(ValueError, match="has 1 values"):
        decode_tensor(tensor_of(schema.TensorType.FLOAT32, [2]), b"\0\0\0\0")


def test_a_transposed_convolution_is_found_in_a_converted_file(tmp_path):
    image = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2DTranspose(4, 3, strides=2, name="transposed")(x)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    write_saved_model(model, str(tmp_path))
    found = read_weights(convert_to_tflite(str(tmp_path), CONVERSIONS[0]))
    kernel = np.asarray(model.get_layer("transposed").kernel)
    np.testing.assert_array_equal(matching_weights(kernel, (-2,), found), [kernel])


def test_matching_ignores_scales_and_signs_of_channels_but_not_content():
    rng = np.random.default_rng(0)
    kernel, other = rng.normal(size=(2, 3, 3, 4, 8)) * (rng.random((2, 3, 3, 4, 8)) < 0.3)
    scales = rng.uniform(-2, 2, 8)
    stored = [
        TFLiteWeights("a", (other * scales).transpose(3, 0, 1, 2)),
        TFLiteWeights("b", (kernel * scales).transpose(3, 0, 1, 2)),
        TFLiteWeights("c", rng.normal(size=(8, 4))),
    ]
    (found,) = matching_weights(kernel, (-1,), stored)
    np.testing.assert_allclose(found, kernel * scales)
    assert matching_weights(kernel[::-1], (-1,), stored) == []


@pytest.mark.parametrize(
    ("stored", "kernel"),
    [
        ((8, 3, 5, 4), (3, 5, 4, 8)),
        ((8, 1, 5, 4), (5, 4, 8)),
        ((1, 3, 5, 8), (3, 5, 4, 2)),
        ((8, 3, 5, 4), (3, 5, 8, 4)),
        ((8, 4), (4, 8)),
        ((8, 4), (1, 1, 4, 8)),
        ((4, 8), (4, 8)),
    ],
)
def test_layouts(stored, kernel):
    found = in_keras_layouts(np.zeros(stored, np.float32), kernel)
    assert found and all(values.shape == kernel for values in found)
    assert in_keras_layouts(np.zeros(stored, np.float32), (*kernel[:-1], 7)) == []
