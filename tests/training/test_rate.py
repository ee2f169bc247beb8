"""The learning rate of each step, against the formulas and against PyTorch's schedulers."""

import math

import keras
import numpy as np
import pytest

from tfprune.training.rate import RecordLearningRate, RoundSchedule, make_schedule
from tfprune.training.settings import TrainingSettings

STEPS_PER_EPOCH = 5


def rates(schedule, steps):
    """The tensors' values, which `rate_at` must repeat."""
    values = [float(keras.ops.convert_to_numpy(schedule(np.int64(step)))) for step in range(steps)]
    assert [schedule.rate_at(step) for step in range(steps)] == pytest.approx(values, rel=1e-5, abs=1e-9)
    return values


def make(**settings):
    return make_schedule(TrainingSettings(**settings), STEPS_PER_EPOCH)


def torch_rates(make_scheduler, base, steps):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = make_scheduler(torch.optim.lr_scheduler, optimizer)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.slow
@pytest.mark.parametrize("boundaries", [(), (1,), (3, 4), (2, 40)])
def test_steps_are_those_of_multi_step_lr(boundaries):
    schedule = make(epochs=6, learning_rate=1e-3, lr_boundaries_epochs=boundaries, lr_factor=0.2)
    expected = torch_rates(
        lambda torch, sgd: torch.MultiStepLR(sgd, [5 * epoch for epoch in boundaries], 0.2), 1e-3, 30
    )
    assert rates(schedule, 30) == pytest.approx(expected, rel=1e-6)


def test_a_step_is_the_nearest_float32():
    """Not a product of float32 numbers: the rates that an assignment of the number would give."""
    schedule = make(epochs=3, learning_rate=3e-4, lr_boundaries_epochs=(1, 2), lr_factor=0.1)
    expected = [float(np.float32(3e-4 * 0.1**passed)) for passed in (0, 1, 2) for _ in range(5)]
    assert rates(schedule, 15) == expected
    assert [schedule.rate_at(step) for step in range(15)] == expected


@pytest.mark.slow
def test_a_cosine_is_that_of_cosine_annealing_lr():
    schedule = make(epochs=4, learning_rate=2e-3, lr_schedule="cosine")
    expected = torch_rates(lambda torch, sgd: torch.CosineAnnealingLR(sgd, T_max=20), 2e-3, 20)
    assert rates(schedule, 20) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert schedule.rate_at(20) == 0.0


def test_a_warm_up_is_that_of_linear_lr():
    schedule = make(epochs=4, learning_rate=2e-3, warmup_epochs=2)
    expected = torch_rates(
        lambda torch, sgd: torch.LinearLR(sgd, start_factor=1 / 10, total_iters=9), 2e-3, 20
    )
    assert rates(schedule, 20) == pytest.approx(expected, rel=1e-5)


def test_a_warm_up_and_a_cosine():
    schedule = make(epochs=4, learning_rate=0.5, lr_schedule="cosine", warmup_epochs=1)
    rising = [0.5 * (t + 1) / 5 for t in range(5)]
    falling = [0.25 * (1 + math.cos(math.pi * t / 15)) for t in range(15)]
    assert rates(schedule, 20) == pytest.approx(rising + falling, rel=1e-5)


def test_a_boundary_in_the_warm_up_lowers_it():
    schedule = make(epochs=4, learning_rate=0.5, warmup_epochs=2, lr_boundaries_epochs=(1,), lr_factor=0.1)
    expected = [0.5 * (t + 1) / 10 * (0.1 if t >= 5 else 1.0) for t in range(10)] + [0.05] * 10
    assert rates(schedule, 20) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("epochs, steps", [(0.0, 0), (0.5, 2), (0.7, 4), (1.0, 5), (0.01, 0)])
def test_a_fraction_of_an_epoch_is_whole_steps(epochs, steps):
    assert make(epochs=2, warmup_epochs=epochs).warmup_steps == steps


def test_the_last_step_has_the_full_rate_whatever_is_rounded():
    schedule = make(epochs=1, learning_rate=0.5, lr_schedule="cosine", warmup_epochs=0.95)
    assert rates(schedule, 5) == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])


def test_the_schedule_survives_saving():
    schedule = make(epochs=4, learning_rate=0.5, warmup_epochs=1.5, lr_boundaries_epochs=(2, 3))
    saved = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(saved)
    assert isinstance(again, RoundSchedule)
    assert rates(again, 20) == rates(schedule, 20)
    assert again.get_config() == schedule.get_config()


def test_an_epochs_recorded_rate_is_its_first_steps():
    schedule = make(epochs=4, learning_rate=0.5, lr_schedule="cosine", warmup_epochs=1)
    callback = RecordLearningRate(schedule, STEPS_PER_EPOCH)
    recorded = []
    for epoch in range(4):
        logs = {}
        callback.on_epoch_end(epoch, logs)
        recorded.append(logs["learning_rate"])
    assert recorded == pytest.approx(rates(schedule, 20)[::5], rel=1e-5)
