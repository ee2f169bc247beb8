"""Every layer class of Keras has a rule for its channels, or a reason why it has none."""

import inspect

import keras
import pytest
from packaging.version import Version

from tfprune.channels.rules import _LAYERS

pytestmark = pytest.mark.one_backend

# The newest Keras whose classes were looked through.
NEWEST = "3.15"

WITHOUT = {
    "Layer": "a base class",
    "Wrapper": "a base class",
    "InputLayer": "it is never called",
    **dict.fromkeys(
        ("Lambda", "JaxLayer", "FlaxLayer", "TorchModuleWrapper", "TFSMLayer"),
        "what it computes is not known",
    ),
    **dict.fromkeys(
        ("SimpleRNNCell", "GRUCell", "LSTMCell", "StackedRNNCells"), "the layer that runs it has the rule"
    ),
}


def test_every_layer_has_a_rule_or_a_reason():
    classes = [cls for cls in vars(keras.layers).values() if inspect.isclass(cls)]
    names = {cls.__name__ for cls in classes if issubclass(cls, keras.layers.Layer)}
    left = sorted(names - _LAYERS.keys() - WITHOUT.keys())
    if Version(keras.__version__).release[:2] > Version(NEWEST).release:
        pytest.skip(f"Keras {keras.__version__} is newer than {NEWEST}; without a rule: {left}")
    assert left == []
    assert not _LAYERS.keys() & WITHOUT.keys()
