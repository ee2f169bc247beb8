"""Models of a class of their own that were wrapped in place: saved with their wrappers, and loaded again."""

import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import keras

from tfprune.network.rebuild import children, rebuild
from tfprune.network.wrapping import unwrapped
from tfprune.sparsity.wrapper import PruneLowMagnitude, one_mask_a_variable

# In a model's configuration: its class, and the wrappers that the class itself does not make.
_KEY = "prune_low_magnitude"
# Whether a model that holds the one at hand is asked for its configuration, which has the wrappers of both.
_inside: ContextVar[bool] = ContextVar("inside", default=False)


@keras.saving.register_keras_serializable("tfprune")
class WrappedInPlace:
    """The part of a model's class that saves its wrappers, for as long as it has any.

    A class that makes its layers itself knows nothing of wrappers: a model made from its configuration has
    none. So a model that `prune_low_magnitude` changed in place is of a subclass of its class, of the same
    name, whose configuration says which layers are wrapped, and how. `strip_pruning` gives it its class back.
    """

    def get_layer(self, name: str | None = None, index: int | None = None) -> keras.layers.Layer:
        """Returns a layer by its name or position; a wrapped one also by the name that it has inside."""
        for layer in self.layers:
            if isinstance(layer, PruneLowMagnitude) and layer.layer.name == name:
                return layer
        return super().get_layer(name, index)

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration that the model's own class gives it, and the wrappers."""
        own = _own_class(self)
        wrappers = [] if _inside.get() else _wrappers(self)
        outside = _inside.set(True)
        try:
            config = own.get_config(self)
        finally:
            _inside.reset(outside)
        return {**config, _KEY: {"class": _class_config(own), "wrappers": wrappers}}

    def __reduce__(self) -> tuple:
        # Keras's file in a pickle, which a method of the class reads; pickles know the model's own by name.
        read, file = super().__reduce__()
        return getattr(_own_class(self), read.__name__), file

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> keras.Model:
        """Makes the model by its own class, then wraps its layers as they were.

        Raises:
            ValueError: If the class no longer makes the layers that were wrapped.
        """
        config = dict(config)
        pruned = config.pop(_KEY)
        model = keras.saving.deserialize_keras_object({**pruned["class"], "config": config})
        if not pruned["wrappers"]:
            return model
        layers = dict(_places(model))
        with one_mask_a_variable():
            wrappers = {
                id(layers.get(entry["place"])): _wrapper(model, layers.get(entry["place"]), entry)
                for entry in pruned["wrappers"]
            }
        return rebuild(model, lambda layer: wrappers.get(id(layer), layer), take_up_class)


def take_up_class(model: keras.Model) -> None:
    """Gives a model that was changed in place the class that saves its wrappers; its own if it has none."""
    own = _own_class(model)
    wrapped = any(isinstance(layer, PruneLowMagnitude) for _, layer in _places(model))
    # Past the tracking of attributes by Keras and the backends.
    object.__setattr__(model, "__class__", _wrapped_class(own) if wrapped else own)


def _own_class(model: keras.Model) -> type:
    cls = type(model)
    return cls.__bases__[1] if issubclass(cls, WrappedInPlace) else cls


@functools.cache
def _wrapped_class(own: type) -> type:
    """Returns the subclass of a model's class that saves its wrappers."""

    def get_config(self: Any) -> dict[str, Any]:
        return WrappedInPlace.get_config(self)

    # Keras marks the `get_config` that it makes up from the arguments of `__init__`.
    functools.update_wrapper(get_config, own.get_config)
    names = {name: getattr(own, name) for name in ("__module__", "__qualname__", "__doc__")}
    cls = type(own)(own.__name__, (WrappedInPlace, own), {**names, "get_config": get_config})
    # Files name `WrappedInPlace`, which a process finds that has pruned nothing yet.
    for named in (cls, WrappedInPlace):
        keras.saving.register_keras_serializable("tfprune", WrappedInPlace.__name__)(named)
    return cls


def _class_config(own: type) -> dict[str, Any]:
    """Returns what Keras finds a class by."""
    return {
        "module": None if own.__module__ == "__main__" else own.__module__,
        "class_name": own.__name__,
        "registered_name": keras.saving.get_registered_name(own),
    }


def _wrappers(model: keras.Model) -> list[dict[str, Any]]:
    """Returns the wrappers of a model as data."""
    return [
        {
            "place": place,
            "name": wrapper.layer.name,
            "class_name": type(wrapper.layer).__name__,
            "config": wrapper.own_config(),
        }
        for place, wrapper in _places(model)
        if isinstance(wrapper, PruneLowMagnitude)
    ]


def _wrapper(model: keras.Model, layer: Any, entry: dict[str, Any]) -> PruneLowMagnitude:
    """Makes a wrapper from its data, around the layer that is in its place."""
    inner = unwrapped(layer)
    if type(inner).__name__ != entry["class_name"]:
        raise ValueError(
            f"{type(model).__name__} must make the layers that it had when it was saved. "
            f"Received: {inner!r} in the place of {entry['name']!r}, a {entry['class_name']}"
        )
    return PruneLowMagnitude(inner, **keras.saving.deserialize_keras_object(entry["config"]))


def _places(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields the layers of a model and of the models in it with their places: positions, wrappers left out.

    Names would not do: those that Keras makes up differ from one instance to the next.
    """
    seen = set()

    def visit(parent: keras.Model, path: str) -> Iterator[tuple[str, keras.layers.Layer]]:
        for position, layer in enumerate(children(parent)):
            if id(unwrapped(layer)) not in seen:
                seen.add(id(unwrapped(layer)))
                yield f"{path}{position}", layer
                if isinstance(layer, keras.Model):
                    yield from visit(layer, f"{path}{position}/")

    return visit(model, "")
