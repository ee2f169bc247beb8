"""Layers that a global ranking all but erases: the warning, and the floor."""

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import (
    PolynomialDecay,
    Pruner,
    UpdatePruningStep,
    masks_of,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
)
from tfprune.sparsity.masks import update_masks


@pytest.fixture
def uneven():
    """A function that makes a network whose embedding has by far the smallest weights."""

    def make(schedule=None, **options):
        inputs = keras.Input((5,))
        small = keras.initializers.RandomUniform(1e-6, 1e-5)
        x = layers.Embedding(100, 64, name="embedding", embeddings_initializer=small)(inputs)
        outputs = layers.Dense(30, name="head")(layers.Flatten()(x))
        return prune_low_magnitude(keras.Model(inputs, outputs), schedule, scope="global", **options)

    return make


def warned(recwarn):
    return [str(w.message) for w in recwarn if "scope='global'" in str(w.message)]


@pytest.mark.parametrize("options", [{}, {"granularity": "channel"}, {"block_size": (2, 2)}], ids=str)
def test_an_erased_layer_is_named(uneven, recwarn, options):
    model = uneven(**options)
    prune_to(model, 0.2)
    assert warned(recwarn) == []
    prune_to(model, 0.7)
    (message,) = warned(recwarn)
    kept = masks_of(model)["embedding/embeddings"].sum()
    assert f"leaves {kept} of 6,400 weights in layer 'embedding'" in message and "`min_density`" in message


@pytest.mark.parametrize("options", [{}, {"granularity": "channel"}, {"block_size": (2, 2)}], ids=str)
def test_the_floor_holds_and_the_whole_is_as_sparse(uneven, recwarn, options):
    model = uneven(min_density=0.25, **options)
    for target in (0.3, 0.7):
        prune_to(model, target)
        masks = masks_of(model)
        assert np.mean(masks["embedding/embeddings"]) == pytest.approx(0.25, abs=1e-3)
        whole = np.concatenate([mask.ravel() for mask in masks.values()])
        assert np.mean(whole) == pytest.approx(1 - target, abs=0.02)
    assert warned(recwarn) == []


def test_once_by_schedule_in_fit_and_in_a_loop(uneven, recwarn):
    schedule = PolynomialDecay(0.0, 0.8, 0, 2, frequency=1)
    model = uneven(schedule)
    model.compile("sgd", "mse")
    x, y = np.zeros((24, 5), "int32"), np.zeros((24, 30), "float32")
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[UpdatePruningStep()])
    assert len(warned(recwarn)) == 1
    recwarn.clear()
    pruner = Pruner(uneven(schedule))
    for _ in range(4):
        pruner.before_step()
        pruner.after_step()
    assert len(warned(recwarn)) == 1


def test_even_layers_small_tensors_and_other_scopes_are_silent(mlp, recwarn):
    for scope in ("global", "layer", "erk"):
        model = prune_low_magnitude(mlp(), None, scope=scope)
        prune_to(model, 0.95)
    assert warned(recwarn) == []


def test_the_floor_survives_a_save(uneven, tmp_path):
    uneven(min_density=0.25).save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert {layer.rule.min_density for layer in pruned_layers(again)} == {0.25}


def test_a_floor_that_cannot_hold_is_an_error(mlp):
    with pytest.raises(ValueError, match=r"`min_density` must be in \[0, 1\)"):
        prune_low_magnitude(mlp(), None, scope="global", min_density=1.0)
    for value in ("x", None, float("nan"), -0.1):
        with pytest.raises(ValueError, match=r"`min_density` must be in \[0, 1\)"):
            prune_low_magnitude(mlp(), None, scope="global", min_density=value)
    with pytest.raises(ValueError, match="`min_density` is for `scope='global'`"):
        prune_low_magnitude(mlp(), None, min_density=0.1)
    with pytest.raises(ValueError, match="at most 1 - final_sparsity"):
        prune_low_magnitude(mlp(), PolynomialDecay(0, 0.9, 0, 9), scope="global", min_density=0.2)
    model = prune_low_magnitude(mlp(), None, scope="global", min_density=0.2)
    with pytest.raises(ValueError, match="at most 1 - min_density"):
        prune_to(model, 0.9)
    prune_to(model, 0.8)


def test_without_a_floor_the_ranking_is_as_ever():
    rng = np.random.default_rng(0)
    scores = [rng.random((40, 5), np.float32), rng.random((3, 3), np.float32)]
    masks = update_masks(scores, [np.ones(s.shape, bool) for s in scores], 0.8, "global")
    order = np.sort(np.concatenate([s.ravel() for s in scores]))[::-1]
    for score, mask in zip(scores, masks, strict=True):
        np.testing.assert_array_equal(mask, score >= order[209 - round(0.8 * 209) - 1])
