"""Files that tfprune 0.1.0 wrote: wrapped models and `model.tfprune` load; its run folders are a clear error.

`tests/fixtures/` holds the files and, in the `.npz` of the same name, what 0.1.0 computed from them.
"""

import pathlib
import shutil

import keras
import numpy as np
import pytest
from keras import ops

from tfprune import runtime, sparsity
from tfprune.compare import write_comparison
from tfprune.errors import UserError

pytestmark = pytest.mark.slow

FIXTURES = pathlib.Path(__file__).with_name("fixtures")
WRAPPED = sorted(FIXTURES.glob("wrapped_*.keras"))


def masks(model):
    return {
        f"{layer.layer.name}/{variable.name}": ops.convert_to_numpy(mask)
        for layer in sparsity.pruned_layers(model)
        for variable, mask in zip(layer.prunable_variables, layer.masks, strict=True)
    }


def expected_masks(recorded, prefix):
    return {
        name.partition("/")[2]: recorded[name] for name in recorded.files if name.startswith(f"{prefix}/")
    }


def assert_same_masks(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, mask in theirs.items():
        assert np.array_equal(ours[name], mask), name


def test_there_are_files_of_every_pattern_and_scope():
    names = {path.stem.removeprefix("wrapped_") for path in WRAPPED}
    assert names >= {
        "weights",
        "blocks",
        "m_of_n",
        "channels",
        "global_lamp",
        "erk",
        "random",
        "set",
        "nested",
    }


@pytest.mark.parametrize("path", WRAPPED, ids=lambda path: path.stem)
def test_a_wrapped_model_loads_and_goes_on_as_it_would_have(path):
    """Masks, outputs and count of steps are the old ones, and the next pruning removes the same weights."""
    recorded = np.load(path.with_suffix(".npz"))
    model = keras.saving.load_model(path)
    assert_same_masks(masks(model), expected_masks(recorded, "mask"))
    assert sparsity.pruned_layers(model)[0].steps_taken == recorded["steps_taken"]
    logits = ops.convert_to_numpy(model(recorded["x"]))
    np.testing.assert_allclose(logits, recorded["logits"], rtol=1e-5, atol=1e-6)
    sparsity.prune_to(model, 0.5 if path.stem == "wrapped_m_of_n" else 0.85)
    assert_same_masks(masks(model), expected_masks(recorded, "later"))


@pytest.mark.parametrize("path", WRAPPED, ids=lambda path: path.stem)
def test_a_wrapped_model_trains_on_by_its_schedule(path):
    model = keras.saving.load_model(path)
    recorded = np.load(path.with_suffix(".npz"))
    x, y = recorded["x"], np.arange(len(recorded["x"])) % 4
    before = masks(model)
    model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[sparsity.UpdatePruningStep()])
    after = masks(model)
    assert sparsity.pruned_layers(model)[0].steps_taken == recorded["steps_taken"] + 18
    removed = [sum(int((~mask).sum()) for mask in found.values()) for found in (before, after)]
    if path.stem in ("wrapped_set", "wrapped_m_of_n", "wrapped_sequence"):  # Constant: as many as before.
        assert removed[0] == removed[1]
    else:
        assert removed[0] < removed[1]


@pytest.mark.parametrize("weights", ["float16", "float32"])
def test_a_model_tfprune_loads_and_computes_the_same(weights):
    recorded = np.load(FIXTURES / "model_tfprune.npz")
    logits = runtime.load(FIXTURES / f"model_{weights}.tfprune")(recorded["images"])
    np.testing.assert_allclose(logits, recorded[weights], rtol=1e-5, atol=1e-6)


def test_a_run_folder_of_an_older_format_is_an_error_that_says_what_to_do(tmp_path):
    shutil.copytree(FIXTURES / "format_1_runs", tmp_path / "runs")
    with pytest.raises(UserError, match=r"result\.json: .*format 1.*\b(anew|again)\b"):
        write_comparison(tmp_path / "runs")
