"""The kernels that are pruned, and by which schedules: of a model's layers, and of layers inside those."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import keras

from tfprune.network import kinds
from tfprune.network.graph import is_built

Selection = str | type | tuple[type, ...] | Callable[[keras.layers.Layer], bool] | None


class Chosen(NamedTuple):
    """A kernel that is chosen.

    Attributes:
        number: Its number among the prunable kernels of its layer, or of the layers inside that, if it is not
            built.
        place: The kernel, or the layer that will have it, with the layers on the way to it.
        schedule: The schedule that it is pruned by.
    """

    number: int
    place: kinds.Placed
    schedule: Any


class Choice:
    """The kernels to prune, as `prune_low_magnitude` is told them.

    Args:
        layers: What is selected. A regular expression selects what is inside the layers that it matches, a
            class what is inside its layers; a function is asked of a model's own layers alone, because who
            refuses a layer means all of it.
        spare: What is left as it is, whatever `layers` says, in the same forms; a function is asked of the
            layers inside layers too.
        schedule: A schedule for all, or a mapping from regular expressions to schedules: what none matches is
            left as it is.

    Raises:
        ValueError: On anything else, and on a regular expression that is not valid.
    """

    def __init__(self, layers: Selection, spare: Selection, schedule: Any) -> None:
        self._selects = _test("layers", layers, whole=True)
        self._spares = _test("spare", spare, whole=False)
        self._schedule = lambda *names: schedule
        if isinstance(schedule, Mapping):
            self._schedule = first_match("pruning_schedule", schedule, _NOT_NAMED)

    def __call__(self, layer: keras.layers.Layer) -> list[Chosen]:
        """Returns which of a layer's prunable kernels are chosen; the layer itself if it can have none.

        Args:
            layer: A layer of a model, not a wrapper.
        """
        chosen = []
        for number, place in enumerate(_places(layer)):
            schedule = self._schedule(*place.names)
            if schedule is not _NOT_NAMED and self._selects(place) and not self._spares(place):
                chosen.append(Chosen(number, place, schedule))
        return chosen


_NOT_NAMED = object()


def is_whole(layer: keras.layers.Layer, chosen: Iterable[Chosen]) -> bool:
    """Returns whether all of a layer is chosen, by one schedule.

    Raises:
        ValueError: If it is not, and the layer is not built: its kernels have no numbers yet.
    """
    schedules = [each.schedule for each in chosen]
    if len(schedules) == len(_places(layer)) and all(schedule is schedules[0] for schedule in schedules):
        return True
    if not is_built(layer):
        raise ValueError(
            "A layer must be built before layers inside it are selected or spared: call the model on a "
            f"batch first. Received: layer {layer.name!r}"
        )
    return False


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


def first_match(argument: str, values: Mapping[str, Any], otherwise: Any = None) -> Callable[..., Any]:
    """Turns {regular expression: value} into a function from names to the first value that matches one.

    The function returns `otherwise` where nothing matches.

    Raises:
        ValueError: On no entry, or a regular expression that is not valid.
    """
    if not values:
        raise ValueError(f"`{argument}` must have at least one entry. Received: {argument}={values!r}")
    patterns = [(compile_name(argument, pattern), value) for pattern, value in values.items()]
    return lambda *names: next(
        (value for pattern, value in patterns if any(map(pattern.fullmatch, names))), otherwise
    )


def check_names(argument: str, values: Iterable[str], names: Iterable[str], kind: str) -> None:
    """Checks that each regular expression matches a name, lest a misspelt one be ignored.

    Raises:
        ValueError: On a regular expression that matches none of `names`; the message lists them, and `kind`
            says what they are names of.
    """
    names = dict.fromkeys(names)
    for pattern in values:
        if not any(map(compile_name(argument, pattern).fullmatch, names)):
            raise ValueError(
                f"Each entry of `{argument}` must match {kind}: {', '.join(names)}. Received: {pattern!r}"
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
