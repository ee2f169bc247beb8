"""Sparse transfer: a pruned network on another dataset, its head replaced, its masks fixed."""

import numpy as np
import pytest
from PIL import Image

from tests.support.small_experiments import kernels_of, state_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """An image folder of three classes: noise around three grey levels."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for split, examples in (("train", 32), ("test", 8)):
        for level, name in ((40, "dark"), (128, "grey"), (215, "light")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(examples):
                pixels = np.clip(rng.normal(level, 30, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def transferred(runs, shapes):
    # The module's own run: the small network must be there before its tests begin.
    from tests.support.small_experiments import small_resnet18

    with small_resnet18():
        assert runs.one_shot.round(1).finished
        return runs.run(
            "transfer",
            init_from="one_shot",
            dataset="image_folder",
            data_dir=str(shapes),
            train_examples=0,
            test_examples=0,
            batch_size=32,
            learning_rate=1e-2,
            epochs=(12,),
        )


def test_masks_stay_as_they_are_and_zeros_stay_zero(runs, transferred):
    before, after = kernels_of(runs.one_shot.round(1)), kernels_of(transferred.round(0))
    assert before.keys() == after.keys()
    assert any((mask == 0).any() for _, mask in before.values())
    for layer, (kernel, mask) in after.items():
        assert np.array_equal(mask, before[layer][1]), layer
        assert np.all(kernel[mask == 0] == 0.0), layer


def test_what_is_left_trains(runs, transferred):
    before, after = kernels_of(runs.one_shot.round(1)), kernels_of(transferred.round(0))
    for layer, (kernel, mask) in after.items():
        kept = mask == 1
        assert np.mean(kernel[kept] != before[layer][0][kept]) > 0.9, layer


def test_the_head_is_a_new_one(runs, transferred):
    head = {name: value for name, value in state_of(transferred.round(0)).items() if name.startswith("head")}
    assert sorted(value.shape for value in head.values()) == [(3,), (8, 3)]


def test_the_result_says_so(runs, transferred):
    result = transferred.round(0).read_result()
    sparsity = runs.one_shot.round(1).read_result().sparsity
    assert (result.config.regime, result.round, result.rounds) == ("dense", 0, 0)
    assert (result.config.dataset, result.config.init_from) == ("image_folder", "one_shot")
    assert result.sparsity == result.target_sparsity == pytest.approx(sparsity, abs=1e-12)
    assert result.epochs == 12
    assert (result.train_examples, result.test_examples) == (96, 24)
    # Grey levels so far apart can be told by anything that learns.
    assert result.metric_at_end > 60
