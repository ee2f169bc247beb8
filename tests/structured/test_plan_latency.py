"""A budget of time is met by what is measured, whatever the times have to do with the sizes."""

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.network.macs import kernel_uses, total
from tfprune.structured import plan


def make_model(widths=(16, 12, 8)):
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            *(layers.Conv2D(width, 3, padding="same", name=f"conv{n}") for n, width in enumerate(widths)),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="head"),
        ]
    )


def macs_of(model):
    return total([use.macs for use in kernel_uses(model)])


class Clock:
    """Seconds of an imaginary runtime, and how often it was asked."""

    def __init__(self, seconds):
        self.seconds, self.asked = seconds, 0

    def __call__(self, model):
        self.asked += 1
        return self.seconds(model)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(lambda model: 1e-9 * macs_of(model), id="linear"),
        pytest.param(lambda model: 1e-3 + 1e-9 * macs_of(model), id="a time for nothing"),
        pytest.param(lambda model: 1e-9 * macs_of(model) ** 2, id="squared"),
        pytest.param(lambda model: 1e-3 * -(-model.layers[0].filters // 4), id="whole registers"),
    ],
)
@pytest.mark.parametrize("share", [0.8, 0.3])
def test_the_time_is_within_the_budget_and_near_it(seconds, share):
    model = make_model()
    clock = Clock(seconds)
    least = seconds(make_model((1, 1, 1))) / seconds(model)
    fraction = least + share * (1 - least)
    made = plan(model, latency=fraction, runtime=clock, scope="layer")
    assert clock.asked <= 11
    assert made.before.seconds == seconds(model)
    assert made.after.seconds == pytest.approx(seconds(made.apply()))
    assert made.after.seconds <= fraction * made.before.seconds
    larger = plan(model, macs=min(1, made.after.macs / made.before.macs + 0.12), scope="layer")
    assert seconds(larger.apply()) > 0.9 * fraction * seconds(model)
    assert f"{1e3 * made.before.seconds:.3g} ms before" in str(made)


@pytest.mark.one_backend
def test_a_time_that_cannot_be_reached_names_the_least():
    clock = Clock(lambda model: 0.5 + 1e-6 * macs_of(model))
    with pytest.raises(
        ValueError, match=r"`latency` must be at least 0\.\d+: .* of .* ms. Received: latency=0.1"
    ):
        plan(make_model(), latency=0.1, runtime=clock)
    assert clock.asked == 2


@pytest.mark.one_backend
def test_a_runtime_must_be_known():
    with pytest.raises(ValueError, match=r"`runtime` must be one of \['tflite', 'sparse'\] or a function"):
        plan(make_model(), latency=0.5, runtime="tensorrt")


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.parametrize("runtime", ["tflite", "sparse"])
def test_networks_are_measured_where_they_run(runtime, monkeypatch):
    from tfprune.benchmark import latency

    monkeypatch.setattr(latency, "ROUNDS", 7)
    image = keras.Input((24, 24, 3), dtype="uint8")

    def network(width):
        x = layers.Rescaling(1 / 255)(image)
        x = layers.Conv2D(width, 3, activation="relu")(x)
        x = layers.Conv2D(width, 3, activation="relu")(x)
        return keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))

    wide = network(64)
    before = [np.array(weight) for weight in wide.weights]
    watch = latency.Stopwatch(wide, runtime)
    whole, narrow = watch.seconds(network(16))
    assert whole > 0 and narrow > 0  # How much faster it is, the benchmarks say.
    for old, new in zip(before, wide.weights, strict=True):
        np.testing.assert_array_equal(old, np.array(new))
