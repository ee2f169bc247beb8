import math

import pytest

from tfprune.training.settings import TrainingSettings


def test_a_drop_at_epoch_20_leaves_the_first_20_epochs_at_the_full_rate():
    settings = TrainingSettings(epochs=40, learning_rate=3e-4, lr_boundaries_epochs=(20,))
    rates = [settings.learning_rate_at(epoch) for epoch in range(40)]  # epochs counted from 0
    assert rates[:20] == [3e-4] * 20
    assert rates[20:] == pytest.approx([3e-5] * 20)


@pytest.mark.parametrize("boundaries", [(), (1,), (20,), (20, 31, 46)])
def test_the_rates_are_those_of_multi_step_lr(boundaries):
    torch = pytest.importorskip("torch")
    settings = TrainingSettings(epochs=55, learning_rate=1e-3, lr_boundaries_epochs=boundaries, lr_factor=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=boundaries, gamma=0.1)
    for epoch in range(55):
        assert settings.learning_rate_at(epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("head, factor", [(0.0, 1.0), (1e-4, 10.0), (1e-5, 1.0)])
def test_the_heads_factor(head, factor):
    settings = TrainingSettings(epochs=1, learning_rate=1e-5, head_learning_rate=head)
    assert settings.head_factor == pytest.approx(factor)


@pytest.mark.parametrize(
    "name, value, rule",
    [
        ("epochs", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("learning_rate", 0.0, "above 0 and finite"),
        ("learning_rate", math.inf, "above 0 and finite"),
        ("learning_rate", math.nan, "above 0 and finite"),
        ("head_learning_rate", -1e-4, "finite and above 0, or 0"),
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
