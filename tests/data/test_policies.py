import pytest
import torch

from tfprune.data import policies
from tfprune.data.operations import OPERATIONS


@pytest.mark.parametrize("policy", policies.POLICIES)
def test_every_sub_policy_is_well_formed(policy):
    sub_policies = policies.sub_policies(policy)
    assert len(sub_policies) == 25
    for sub_policy in sub_policies:
        assert len(sub_policy) == 2
        for operation in sub_policy:
            assert operation.name in OPERATIONS
            assert 0.0 <= operation.probability <= 1.0
            assert (operation.level is not None) == (operation.name in policies.WITH_MAGNITUDE)
            assert operation.level is None or 0 <= operation.level < policies.LEVELS
            assert operation.signed == (operation.name in policies.SIGNED)


@pytest.mark.parametrize(
    ("policy", "number", "first", "second"),
    [
        ("cifar10", 0, ("Invert", 0.1, None), ("Contrast", 0.2, 6)),
        ("cifar10", 13, ("Brightness", 0.9, 6), ("Color", 0.2, 8)),
        ("cifar10", 24, ("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None)),
        ("imagenet", 0, ("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
        ("imagenet", 17, ("Sharpness", 0.4, 7), ("Invert", 0.6, None)),
        ("imagenet", 24, ("Equalize", 0.8, None), ("Equalize", 0.6, None)),
        ("svhn", 0, ("ShearX", 0.9, 4), ("Invert", 0.2, None)),
        ("svhn", 15, ("Invert", 0.8, None), ("TranslateY", 0.0, 2)),
        ("svhn", 24, ("ShearX", 0.7, 2), ("Invert", 0.1, None)),
    ],
)
def test_sub_policies(policy, number, first, second):
    pair = policies.sub_policies(policy)[number]
    assert [(operation.name, operation.probability, operation.level) for operation in pair] == [first, second]


def test_unknown_policy_lists_the_valid():
    with pytest.raises(ValueError, match="'cifar'.*cifar10, imagenet, svhn"):
        policies.sub_policies("cifar")


def test_magnitudes_are_torch_linspace_to_the_last_bit():
    for height in range(1, 400, 7):
        width = height + 3
        ends = {"ShearX": 0.3, "Rotate": 30.0, "Color": 0.9}
        ends |= {"TranslateX": 150.0 / 331.0 * width, "TranslateY": 150.0 / 331.0 * height}
        for name, end in ends.items():
            expected = torch.linspace(0.0, end, policies.LEVELS).tolist()
            assert list(policies.magnitudes(name, height, width)) == expected, (name, height)
    assert list(policies.magnitudes("Solarize", 8, 8)) == torch.linspace(255.0, 0.0, 10).tolist()


def test_posterize_keeps_8_to_4_bits():
    assert policies.magnitudes("Posterize", 8, 8) == (8, 8, 7, 7, 6, 6, 5, 5, 4, 4)
