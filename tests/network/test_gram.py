"""Kernels as matrices: rows times matrices are what Keras's layers compute."""

import numpy as np
import pytest
from keras import layers, ops

from tfprune.network.gram import Covariance, Gram, product_of
from tfprune.network.kinds import kernels

CONVOLUTIONS = {
    "plain": {},
    "strides": {"strides": 2},
    "dilation": {"dilation_rate": 2},
}
CASES = {
    "dense": (lambda: layers.Dense(5), (3, 4)),
    "query": (lambda: layers.EinsumDense("abc,cde->abde", (4, 2, 3), bias_axes="de"), (4, 5)),
    "output": (lambda: layers.EinsumDense("abcd,cde->abe", (4, 6), bias_axes="e"), (4, 5, 3)),
    "leading": (lambda: layers.EinsumDense("...x,xy->...y", 6, bias_axes="y"), (5,)),
    "causal": (lambda: layers.Conv1D(6, 3, dilation_rate=2, padding="causal"), (9, 4)),
    "wide strides": (lambda: layers.Conv2DTranspose(6, 2, strides=3), (5, 4, 3)),
    "same, wide strides": (lambda: layers.Conv2DTranspose(6, 3, strides=3, padding="same"), (5, 4, 3)),
}
for padding in ("same", "valid"):
    for name, options in CONVOLUTIONS.items():
        options = {**options, "padding": padding}
        for kind, size, shape in (
            (layers.Conv1D, 3, (9, 4)),
            (layers.Conv3D, 2, (5, 6, 4, 4)),
            (layers.SeparableConv2D, 3, (9, 8, 4)),
            (layers.Conv2DTranspose, 4, (5, 4, 3)),
        ):
            make = lambda kind=kind, size=size, options=options: kind(6, size, **options)  # noqa: E731
            CASES[f"{kind.__name__} {padding} {name}"] = (make, shape)
        grouped = lambda options=options: layers.Conv2D(6, (3, 2), groups=2, **options)  # noqa: E731
        depthwise = lambda options=options: layers.DepthwiseConv2D(  # noqa: E731
            3, depth_multiplier=2, **options
        )
        CASES[f"grouped {padding} {name}"] = (grouped, (9, 8, 4))
        CASES[f"depthwise {padding} {name}"] = (depthwise, (9, 8, 4))


@pytest.mark.parametrize("name", CASES)
def test_rows_times_matrices_are_the_layers_outputs(name):
    make, shape = CASES[name]
    random = np.random.default_rng(0)
    layer, images = make(), random.normal(size=(2, *shape)).astype("float32")
    layer(images)
    product = product_of(kernels(layer)[-1])
    values = ops.convert_to_numpy(product.kernel.variable)
    matrices = product.matrices(values)
    assert np.array_equal(product.values(matrices), values)
    added = random.normal(size=(matrices.shape[0], matrices.shape[2])).astype("float32")
    layer.bias.assign(product.bias(added))
    outputs = product.rows(images) @ matrices + added[:, None]
    expected = ops.convert_to_numpy(layer(images))
    assert np.allclose(np.moveaxis(outputs, 0, 1).reshape(expected.shape), expected, atol=1e-4)


def test_a_wide_dense_layer_is_the_sum_of_blocks_of_its_inputs(monkeypatch):
    monkeypatch.setattr("tfprune.network.gram._WIDEST", 3)
    random = np.random.default_rng(0)
    layer, images = layers.Dense(4), random.normal(size=(2, 5, 8)).astype("float32")
    layer(images)
    product = product_of(kernels(layer)[0])
    assert product.shape == (3, 3, 4)
    values = ops.convert_to_numpy(layer.kernel)
    matrices = product.matrices(values)
    assert np.array_equal(product.values(matrices), values)
    added = random.normal(size=(3, 4)).astype("float32")
    layer.bias.assign(product.bias(added))
    outputs = (product.rows(images) @ matrices + added[:, None]).sum(0)
    assert np.allclose(outputs.reshape(2, 5, 4), ops.convert_to_numpy(layer(images)), atol=1e-4)


def test_a_covariance_is_numpys_whatever_the_batches():
    values = np.random.default_rng(0).normal(1000, 1, (50, 1, 4))
    sums = Covariance(4)
    for start in (0, 7, 30):
        sums.add(values[start : {0: 7, 7: 30, 30: 50}[start]].copy())
    assert np.allclose(sums.sums / sums.samples, np.cov(values[:, 0].T, bias=True), atol=1e-9)
    assert np.allclose(sums.mean, values.mean(0))


def test_a_gram_matrix_sums_up_all_rows_beside_the_outputs_that_were():
    random = np.random.default_rng(0)
    layer = layers.Conv2D(3, 2)
    now, was = random.normal(size=(2, 6, 5, 4, 2)).astype("float32")
    layer(now)
    product = product_of(kernels(layer)[0])
    matrices = product.matrices(ops.convert_to_numpy(layer.kernel))
    gram = Gram(product)
    for start in (0, 4):
        gram.add(now[start : start + 4], was[start : start + 4], matrices)
    rows, outputs = product.rows(now)[0], product.rows(was)[0] @ matrices[0]
    for centred in (False, True):
        if centred:
            rows, outputs = rows - rows.mean(0), outputs - outputs.mean(0)
        own, cross, energy = gram.sums(centred)
        assert np.allclose(own[0], rows.T @ rows / len(rows), atol=1e-5)
        assert np.allclose(cross[0], rows.T @ outputs / len(rows), atol=1e-5)
        assert np.allclose(energy[0], (outputs**2).mean(0), atol=1e-5)


def test_a_kernel_that_multiplies_nothing_that_can_be_seen_is_no_product():
    table, cell = layers.Embedding(5, 3), layers.LSTM(3)
    table(np.zeros((2, 4), "int32"))
    cell(np.zeros((2, 4, 3), "float32"))
    assert product_of(kernels(table)[0]) is None
    assert product_of(kernels(cell.cell)[0]) is None
