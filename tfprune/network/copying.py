"""A copy of a model through its configuration, as a `.keras` file is loaded: class, layers and weights."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras.src.saving.serialization_lib import ObjectSharingScope, SafeModeScope

from tfprune.network.graph import all_layers
from tfprune.network.state import copy_state

# The precisions of networks that are trained in another one than float32.
_OTHER = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16", "float64")
_FLOAT32 = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}


def classes_of(model: keras.Model) -> dict[str, type]:
    """Returns the classes of a model and its layers that nobody registered, by the names in a file."""
    classes = {cls for part in all_layers(model) for cls in type(part).__mro__}
    return {
        cls.__name__: cls
        for cls in classes
        if issubclass(cls, keras.layers.Layer)
        and not cls.__module__.startswith("keras.src.")
        and keras.saving.get_registered_name(cls) == cls.__name__
    }


@contextlib.contextmanager
def classes_and_functions_of(model: keras.Model) -> Iterator[None]:
    """Lets configurations name the classes of a model in memory, and hold functions without a name."""
    with keras.saving.custom_object_scope(classes_of(model)), SafeModeScope(False):
        yield


def computes_in_float32(model: keras.Model) -> bool:
    """Returns whether all layers of a model compute in float32, or in integers."""
    return not any(part.dtype_policy.name in _OTHER for part in all_layers(model))


def copy_in_float32(
    model: keras.Model, build: Callable[[keras.Model], Any] = lambda copy: None
) -> keras.Model:
    """Copies a model into one of its class that computes in float32 and is not compiled.

    Args:
        model: A built model, wrapped or not.
        build: Calls the copy once where it would else have no variables: that of a model with a `call` of its
            own.

    Returns:
        A model that shares nothing with `model`. The types of its inputs are those of `model`.

    Raises:
        ValueError: The model's configuration does not tell how to make it again.
    """
    try:
        with warnings.catch_warnings(), ObjectSharingScope():
            warnings.filterwarnings("ignore", "Model .* had a build config")  # `build` builds it.
            config = keras.saving.serialize_keras_object(model)
        with warnings.catch_warnings(), ObjectSharingScope():
            warnings.filterwarnings("ignore", "Model .* had a build config")
            copy = keras.saving.deserialize_keras_object(
                _in_float32(config), custom_objects=classes_of(model), safe_mode=False
            )
        build(copy)
    except Exception as error:  # Of the classes of others, too.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{type(model).__name__} cannot be made from its configuration, which `get_config`"
            f" returns: {reason}"
        ) from error
    shapes = [[tuple(weight.shape) for weight in each.weights] for each in (model, copy)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{type(model).__name__} made from its configuration, which `get_config` returns, has other"
            f" weights: {len(shapes[1])}, not the {len(shapes[0])} that it has, or others of other shapes"
        )
    copy.set_weights([np.asarray(keras.ops.convert_to_numpy(weight)) for weight in model.weights])
    copy_state(model, copy)
    return copy


def _in_float32(config: Any) -> Any:
    """Returns a configuration with float32 in place of other precisions, and nothing compiled."""
    if isinstance(config, (list, tuple)):
        return type(config)(map(_in_float32, config))
    if not isinstance(config, dict) or config.get("class_name") == "InputLayer":
        return config
    name = config["config"].get("name") if isinstance(config.get("config"), dict) else None
    if config.get("class_name") == "DTypePolicyMap" or (
        "DTypePolicy" in str(config.get("class_name")) and name in _OTHER
    ):
        return dict(_FLOAT32)
    return {
        key: "float32" if key == "dtype" and value in _OTHER else _in_float32(value)
        for key, value in config.items()
        if key != "compile_config"
    }
