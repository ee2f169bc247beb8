"""A SavedModel in a process of its own."""

import gc
import io
import os

import keras
import numpy as np
import pytest

from tfprune.benchmark import process
from tfprune.export.network import write_saved_model


@pytest.mark.slow
def test_a_saved_model_answers_from_its_own_process(tmp_path, monkeypatch):
    image = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x)))
    write_saved_model(model, str(tmp_path / "saved_model"))
    started = []
    popen = process.subprocess.Popen
    monkeypatch.setattr(
        process.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
    )
    run = process.start("saved_model", str(tmp_path / "saved_model"), 1, 3)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for batch in (images, images[::-1]):
        np.testing.assert_allclose(run(batch), np.asarray(model(batch)), rtol=1e-5, atol=1e-6)
    (child,) = started
    assert child.poll() is None and child.pid != os.getpid()
    del run
    gc.collect()
    assert child.poll() == 0


@pytest.mark.slow
def test_a_process_that_cannot_load_is_an_error(tmp_path):
    run = process.start("tfprune", str(tmp_path / "nothing"), 1, 1)
    with pytest.raises((EOFError, OSError)):
        run(np.zeros((1, 8, 8, 3), np.uint8))


def test_arrays_go_through_a_pipe():
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 4), np.uint8), np.uint8(7)[None]]
    both = {"words": np.int64([[1, -2]]), "more": np.float32([[0.5], [1.5]])}
    stream = io.BytesIO()
    for array in arrays:
        process.send(stream, array)
    process.send(stream, both)
    stream.seek(0)
    for array in arrays:
        found = process.receive(stream)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    found = process.receive(stream)
    assert list(found) == ["words", "more"]
    for name, array in both.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(EOFError, match="has ended"):
        process.receive(stream)
