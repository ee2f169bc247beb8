"""Every name and module that code written for tfmot imports, here without tfmot."""

import importlib
import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import tfprune.tfmot as tfmot
from tfprune import sparsity
from tfprune.tfmot.python.core.keras.compat import keras as compat_keras
from tfprune.tfmot.python.core.sparsity.keras import prune, pruning_utils, pruning_wrapper
from tfprune.tfmot.python.core.sparsity.keras.prune_registry import PruneRegistry
from tfprune.tfmot.sparsity import keras as short

pytestmark = pytest.mark.one_backend

DEEP = {
    "prune": ["prune_low_magnitude", "prune_scope", "strip_pruning"],
    "prunable_layer": ["PrunableLayer"],
    "pruning_callbacks": ["PruningSummaries", "UpdatePruningStep"],
    "pruning_policy": ["PruneForLatencyOnXNNPack", "PruningPolicy"],
    "pruning_schedule": ["ConstantSparsity", "PolynomialDecay", "PruningSchedule"],
    "pruning_wrapper": ["PruneLowMagnitude", "collect_prunable_layers"],
    "prune_registry": ["PruneRegistry"],
    "pruning_utils": ["is_pruned_m_by_n"],
}
# Modules that public code reaches through others, such as `prune.pruning_wrapper.PruneLowMagnitude`.
THROUGH = {
    "prune": ["pruning_sched", "pruning_wrapper"],
    "pruning_callbacks": ["pruning_wrapper"],
    "pruning_policy": ["pruning_wrapper"],
    "prune_registry": ["prunable_layer"],
    "pruning_wrapper": ["prunable_layer", "prune_registry", "pruning_sched"],
}


def test_both_forms_of_import_have_the_eleven_names_of_the_library():
    assert tfmot.sparsity.keras is short and tfmot.__version__
    assert compat_keras is keras
    for name in short.__all__:
        assert getattr(short, name) is getattr(sparsity, name)


@pytest.mark.parametrize("module", DEEP)
def test_deep_modules_have_the_names_of_tfmots(module):
    ours = importlib.import_module(f"tfprune.tfmot.python.core.sparsity.keras.{module}")
    assert set(ours.__all__) == {*DEEP[module], *THROUGH.get(module, ())}
    for name in set(ours.__all__) & set(sparsity.__all__):
        assert getattr(ours, name) is getattr(sparsity, name)


@pytest.mark.slow
def test_the_names_are_all_of_tfmots_and_their_arguments_too():
    """Every class and function that the module of that name in tfmot makes, but for the privates."""
    original = pytest.importorskip("tensorflow_model_optimization")
    public = vars(original.sparsity.keras).items()
    assert set(short.__all__) == {n for n, v in public if inspect.isclass(v) or inspect.isfunction(v)}
    for module, names in DEEP.items():
        path = f"python.core.sparsity.keras.{module}"
        theirs = importlib.import_module(f"tensorflow_model_optimization.{path}")
        ours = importlib.import_module(f"tfprune.tfmot.{path}")
        if module != "pruning_utils":  # The others of it are steps of the computation.
            made = {n for n, v in vars(theirs).items() if getattr(v, "__module__", "") == theirs.__name__}
            assert {name for name in made if not name.startswith("_")} <= set(names)
        for name in names:
            theirs_of, ours_of = (
                inspect.signature(getattr(library, name)).parameters.values() for library in (theirs, ours)
            )
            if not inspect.isabstract(getattr(theirs, name)):  # `tests/sparsity` compares the defaults.
                common = [p.name for p in ours_of if p.kind is not inspect.Parameter.KEYWORD_ONLY]
                assert [p.name for p in theirs_of] == common, name


@pytest.mark.parametrize("name", ["quantization", "clustering", "experimental"])
def test_what_is_not_ported_is_said(name):
    with pytest.raises(AttributeError, match=f"not its `{name}`: docs/coming_from_tfmot.md"):
        getattr(tfmot, name)
    with pytest.raises(AttributeError, match="has no attribute 'sparse'"):
        tfmot.sparse  # noqa: B018


def test_modules_are_reached_through_others():
    assert prune.pruning_wrapper.PruneLowMagnitude is sparsity.PruneLowMagnitude
    assert prune.pruning_sched.PolynomialDecay is sparsity.PolynomialDecay
    assert pruning_wrapper.prune_registry.PruneRegistry is PruneRegistry
    assert tfmot.python.core.sparsity.keras.pruning_wrapper is pruning_wrapper


@pytest.mark.slow
def test_deep_imports_alone_are_enough():
    code = "import tfprune.tfmot.python.core.sparsity.keras.pruning_wrapper as w; print(w.PruneLowMagnitude)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tfprune.sparsity.wrapper.PruneLowMagnitude" in run.stdout


def test_wrapped_layers_are_collected():
    model = keras.Sequential([keras.Input((4,)), keras.Sequential([layers.Dense(3)]), layers.Dense(2)])
    pruned = prune.prune_low_magnitude(model)
    found = pruning_wrapper.collect_prunable_layers(pruned)
    assert [wrapper.layer.units for wrapper in found] == [3, 2]


def test_the_registry():
    class Own(layers.Layer):
        pass

    dense = layers.Dense(3)
    assert PruneRegistry.supports(dense) and PruneRegistry.supports(layers.Dropout(0.5))
    assert not PruneRegistry.supports(Own()) and not PruneRegistry.supports(layers.TimeDistributed(Own()))
    assert PruneRegistry.make_prunable(dense) is dense
    dense.build((None, 4))
    assert dense.get_prunable_weights() == [dense.kernel]
    with pytest.raises(ValueError, match="class of Keras's own"):
        PruneRegistry.make_prunable(Own())


@pytest.mark.parametrize("shape", [(8, 3), (7, 3), (3, 3, 6, 4), (1, 6)])
def test_m_of_n_is_checked_along_the_input_channels(shape):
    kernel = np.ones(shape, "float32")
    kernel[..., ::2, :] = 0
    assert pruning_utils.is_pruned_m_by_n(kernel) and pruning_utils.is_pruned_m_by_n(kernel, (1, 2))
    assert pruning_utils.is_pruned_m_by_n(np.moveaxis(kernel, -2, -1), last_channel="C_IN")
    assert pruning_utils.is_pruned_m_by_n(keras.Variable(kernel))
    if shape[-2] >= 4:
        kernel[..., 0, 0] = 1
        assert not pruning_utils.is_pruned_m_by_n(kernel)
    for wrong in ({"m_by_n": (5, 4)}, {"last_channel": "C"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            pruning_utils.is_pruned_m_by_n(kernel, **wrong)
