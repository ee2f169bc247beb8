"""The kernels that `layers` and `spare` choose: of a model's layers, and of the layers inside those."""

import re
from collections.abc import Callable

import keras

from tfprune.network import kinds
from tfprune.network.graph import is_built

Selection = str | type | tuple[type, ...] | Callable[[keras.layers.Layer], bool] | None


class Choice:
    """The kernels to prune, as `prune_low_magnitude` is told them.

    Args:
        layers: What is selected. A regular expression selects what is inside the layers that it matches, a
            class what is inside its layers; a function is asked of a model's own layers alone, because who
            refuses a layer means all of it.
        spare: What is left as it is, whatever `layers` says, in the same forms; a function is asked of the
            layers inside layers too.

    Raises:
        ValueError: On anything else, and on a regular expression that is not valid.
    """

    def __init__(self, layers: Selection, spare: Selection) -> None:
        self._selects = _test("layers", layers, whole=True)
        self._spares = _test("spare", spare, whole=False)

    def __call__(self, layer: keras.layers.Layer) -> list[int] | None:
        """Returns which of a layer's prunable kernels are chosen, by their numbers; None for all of them.

        Args:
            layer: A layer of a model, not a wrapper.

        Raises:
            ValueError: If the layer is not built, and only a part of it is chosen.
        """
        parts = _places(layer)
        chosen = [number for number, part in enumerate(parts) if self._takes(part)]
        if len(chosen) == len(parts):
            return None
        if chosen and not is_built(layer):
            raise ValueError(
                "A layer must be built before layers inside it are selected or spared: call the model on a "
                f"batch first. Received: layer {layer.name!r}"
            )
        return chosen

    def _takes(self, placed: kinds.Placed) -> bool:
        return self._selects(placed) and not self._spares(placed)


def names_in(layer: keras.layers.Layer) -> list[str]:
    """Returns the names that a layer, what is inside it and its kernels are chosen by."""
    return [name for place in _places(layer) for name in place.names]


def _places(layer: keras.layers.Layer) -> list[kinds.Placed]:
    # Kernels that are not there yet are chosen with the layers that will have them.
    places = kinds.placed(layer) if is_built(layer) else kinds.placed_layers(layer)
    return places or [kinds.Placed((layer,))]


def _test(argument: str, selection: Selection, whole: bool) -> Callable[[kinds.Placed], bool]:
    """Turns a selection into a predicate; `whole`: functions are asked of outermost layers alone."""
    if selection is None:
        return lambda placed: whole
    if isinstance(selection, str):
        pattern = compile_name(argument, selection)
        return lambda placed: any(pattern.fullmatch(name) for name in placed.names)
    if isinstance(selection, type) or (
        isinstance(selection, tuple) and all(isinstance(cls, type) for cls in selection)
    ):
        return lambda placed: any(isinstance(layer, selection) for layer in placed.layers)
    if callable(selection):
        return lambda placed: any(map(selection, placed.layers[:1] if whole else placed.layers))
    raise ValueError(
        f"`{argument}` must be a layer class, a tuple of them, a regular expression, a function or None. "
        f"Received: {argument}={selection!r}"
    )


def compile_name(argument: str, pattern: str) -> re.Pattern:
    """Compiles a regular expression on layer names.

    Raises:
        ValueError: If it is not valid; the message names the argument.
    """
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"`{argument}` must be a valid regular expression ({error}). Received: {argument}={pattern!r}"
        ) from error
