import math

import pytest

from tfprune.training.settings import TrainingSettings


@pytest.mark.parametrize("head, factor", [(0.0, 1.0), (1e-4, 10.0), (1e-5, 1.0)])
def test_the_heads_factor(head, factor):
    settings = TrainingSettings(epochs=1, learning_rate=1e-5, head_learning_rate=head)
    assert settings.head_factor == pytest.approx(factor)


@pytest.mark.parametrize(
    "name, value, rule",
    [
        ("epochs", 0, "at least 1 and at most a million"),
        ("epochs", 10**12, "at least 1 and at most a million"),
        ("batch_size", 0, "at least 1"),
        ("learning_rate", 0.0, "above 0 and finite"),
        ("learning_rate", math.inf, "above 0 and finite"),
        ("learning_rate", math.nan, "above 0 and finite"),
        ("head_learning_rate", -1e-4, "finite and above 0, or 0"),
        ("lr_schedule", "exponential", "one of step, cosine"),
        ("warmup_epochs", -0.5, "at least 0 and below the number of epochs, 1"),
        ("warmup_epochs", 1.0, "at least 0 and below the number of epochs, 1"),
        ("warmup_epochs", math.nan, "finite"),
        ("evaluate_every", 0, "at least 1"),
        ("lr_factor", 0.0, "above 0 and finite"),
        ("weight_decay", -1.0, "at least 0 and finite"),
        ("weight_decay", math.nan, "at least 0 and finite"),
    ],
)
def test_a_number_out_of_range_is_named(name, value, rule):
    with pytest.raises(ValueError) as caught:
        TrainingSettings(**{"epochs": 1, name: value})
    assert str(caught.value) == f"`{name}` must be {rule}. Received: {name}={value}"


@pytest.mark.parametrize("boundaries", [(0,), (-1, 2), (3, 2), (2, 2)])
def test_boundaries_must_rise(boundaries):
    with pytest.raises(ValueError, match="`lr_boundaries_epochs` must be rising") as caught:
        TrainingSettings(epochs=5, lr_boundaries_epochs=boundaries)
    assert str(caught.value).endswith("lr_boundaries_epochs=" + ",".join(map(str, boundaries)))


def test_a_cosine_has_no_boundaries():
    with pytest.raises(ValueError) as caught:
        TrainingSettings(epochs=5, lr_schedule="cosine", lr_boundaries_epochs=(2, 3))
    expected = "`lr_boundaries_epochs` must be empty with lr_schedule=cosine. "
    assert str(caught.value) == f"{expected}Received: lr_boundaries_epochs=2,3"


@pytest.mark.parametrize(
    "epochs, every, evaluated",
    [(4, 1, [1, 2, 3, 4]), (4, 2, [2, 4]), (5, 2, [2, 4, 5]), (3, 3, [3]), (3, 100, [3]), (1, 1, [1])],
)
def test_the_last_epoch_is_always_evaluated(epochs, every, evaluated):
    assert TrainingSettings(epochs=epochs, evaluate_every=every).evaluated_epochs == evaluated
