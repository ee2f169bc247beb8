import collections

import numpy as np
import pytest
from PIL import Image

from tests.support import pillow_reference
from tfprune.data import datasets, policies
from tfprune.data.autoaugment import DRAWS, AutoAugment

BLENDS = {"Color", "Sharpness"}


def compare_with_pillow(policy, images, draws):
    """Returns for every image the share of differing values and whether a blend was applied."""
    augment = AutoAugment(policy)
    shares = []
    for image, numbers in zip(images, draws, strict=True):
        operations = augment.operations(numbers, *image.shape[:2])
        theirs = np.asarray(pillow_reference.apply_operations(Image.fromarray(image), operations))
        differs = augment.apply(image, numbers) != theirs
        shares.append((np.mean(differs), any(name in BLENDS for name, _ in operations)))
    return shares


@pytest.mark.parametrize("policy", policies.POLICIES)
def test_equals_pillow_with_the_same_draws(policy, photographs):
    labels = ["china 224x224", "flower 32x32", "china 57x33", "flower 57x33", "one grey level"]
    draws = np.random.default_rng(1).random((600, DRAWS))
    images = [photographs[labels[row % len(labels)]] for row in range(len(draws))]
    shares = compare_with_pillow(policy, images, draws)
    assert max(share for share, blended in shares if not blended) == 0.0
    # An operation after a blend may widen a difference of one grey level, not add to its places.
    assert max((share for share, blended in shares if blended), default=0.0) <= 0.05


@pytest.mark.slow
def test_equals_pillow_on_cifar(cifar_data_dir):
    images = datasets.load("cifar10", cifar_data_dir, train_examples=400, test_examples=1).train.inputs
    shares = compare_with_pillow("cifar10", images, np.random.default_rng(2).random((400, DRAWS)))
    assert max(share for share, blended in shares if not blended) == 0.0
    assert max(share for share, blended in shares if blended) <= 0.05


def test_draws_choose_operations_probabilities_and_signs():
    augment = AutoAugment("cifar10")
    rotate = policies.magnitudes("Rotate", 100, 200)[2]
    translate = policies.magnitudes("TranslateX", 100, 200)[9]
    assert translate == pytest.approx(150 / 331 * 200)

    # Sub-policy 1 of 25: Rotate with probability 0.7, TranslateX with 0.3.
    def chosen(first_chance, second_chance, first_sign, second_sign):
        draws = np.array([1.5 / 25, first_chance, second_chance, first_sign, second_sign])
        return augment.operations(draws, 100, 200)

    assert chosen(0.69, 0.29, 0.5, 0.49) == [("Rotate", rotate), ("TranslateX", -translate)]
    assert chosen(0.70, 0.30, 0.49, 0.5) == [("Rotate", -rotate), ("TranslateX", translate)]
    assert chosen(0.71, 0.29, 0.9, 0.9) == [("TranslateX", translate)]
    assert chosen(0.71, 0.31, 0.9, 0.9) == []
    # Unsigned: the sign draw does not matter. Sub-policy 14: Solarize 0.5 at level 2, Invert 0.0.
    threshold = policies.magnitudes("Solarize", 100, 200)[2]
    for sign in (0.0, 0.99):
        draws = np.array([14.5 / 25, 0.2, 0.2, sign, sign])
        assert augment.operations(draws, 100, 200) == [("Solarize", threshold)]


def test_operations_occur_as_often_as_their_probabilities_say():
    augment = AutoAugment("svhn")
    images = 20000
    counts = collections.Counter(
        name
        for draws in np.random.default_rng(0).random((images, DRAWS))
        for name, _ in augment.operations(draws, 32, 32)
    )
    expected = collections.Counter()
    for pair in policies.sub_policies("svhn"):
        for operation in pair:
            expected[operation.name] += operation.probability / 25
    for name, frequency in expected.items():
        assert counts[name] / images == pytest.approx(frequency, abs=0.02), name


def test_call_draws_from_the_generator(photographs):
    augment, image = AutoAugment("imagenet"), photographs["flower 32x32"]
    generator, same = np.random.default_rng(5), np.random.default_rng(5)
    results = [augment(image, generator) for _ in range(20)]
    for result in results:
        np.testing.assert_array_equal(result, augment.apply(image, same.random(DRAWS)))
    assert len({result.tobytes() for result in results}) > 5


def test_unknown_policy_lists_the_valid():
    with pytest.raises(ValueError, match="'CIFAR'.*cifar10, imagenet, svhn"):
        AutoAugment("CIFAR")
