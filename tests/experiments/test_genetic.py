"""Masks as genes: individuals that are trained by themselves, the best of which the network becomes."""

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.experiments.genetic import evolve_masks
from tfprune.sparsity import masks_of, prune_low_magnitude

QUICK = {"children": 3, "population": 3, "steps": 2, "batch_size": 8}


def problem():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 6)).astype("float32")
    return inputs, (inputs[:, 0] + inputs[:, 1] > 0).astype("int32")


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="tanh"), layers.Dense(2)])
    model = prune_low_magnitude(model, None)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def values(model):
    return [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]


@pytest.mark.slow
def test_the_network_becomes_the_best_individual_whose_removed_weights_are_zero():
    inputs, labels = problem()
    data = (inputs[:30], labels[:30]), (inputs[30:], labels[30:])
    model, lines = network(), []
    alive = evolve_masks(model, *data, **QUICK, log=lines.append)
    assert len(alive) == 3 and len(lines) == 3
    assert [one.cost for one in alive] == sorted(one.cost for one in alive)
    best, masks = alive[0], masks_of(model)
    assert best.cost == pytest.approx(best.loss + 1 - best.sparsity)
    assert all(np.array_equal(masks[name], mask) for name, mask in best.masks.items())
    kernels = [value for value in values(model) if value.shape in ((6, 8), (8, 2)) and value.dtype != bool]
    removed = sum(np.count_nonzero(~mask) for mask in masks.values())
    assert removed == round(best.sparsity * 64) > 0
    assert sum(np.count_nonzero(kernel == 0) for kernel in kernels if kernel.dtype.kind == "f") == removed
    assert model.evaluate(*data[1], verbose=0) == pytest.approx(best.loss, rel=1e-5)
    again = evolve_masks(network(), *data, **QUICK)
    assert [one.cost for one in again] == pytest.approx([one.cost for one in alive], rel=1e-5)


@pytest.mark.slow
def test_the_network_stays_as_it_is_where_a_training_fails():
    inputs, labels = problem()
    model = network()
    before = values(model)

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evolve_masks(model, (inputs, labels), (inputs, labels), **QUICK, log=stop)
    assert all(np.array_equal(a, b) for a, b in zip(values(model), before, strict=True))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"population": 1}, "`population` must be a whole number, at least 2"),
        ({"steps": 0}, "`steps` must be a whole number, at least 1"),
        ({"price": -1.0}, "`price` must be at least 0"),
    ],
)
def test_a_bad_number_is_an_error(changed, message):
    with pytest.raises(ValueError, match=message):
        evolve_masks(network(), problem(), problem(), **{**QUICK, **changed})
