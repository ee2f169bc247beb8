"""Datasets that a function of the user's own returns, as arrays or as `tf.data.Dataset`s."""

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tfprune.data.reasons import tensorflow_reason
from tfprune.data.splits import (
    ArraySpec,
    Dataset,
    DataSpec,
    Split,
    Stream,
    are_classes,
    are_images,
    arrays_of,
    chosen_examples,
    form_text,
    map_arrays,
)
from tfprune.data.statistics import ChannelValues, LabelValues, Told
from tfprune.extras import extra
from tfprune.named import arguments_for, call_named, load_named
from tfprune.reading import reason_of

with extra("experiments"):
    import tensorflow as tf

_FORM = (
    "(train, test) or (train, test, class names), with train and test each (x, y) or (x, y, weights) of "
    "arrays, or a tf.data.Dataset of them; tf.data.Dataset.from_generator makes one of what can be iterated"
)
_PARTS = ("x", "y", "weights")

# Examples that are looked at together.
_CHUNK = 1024
# Examples that are put into a batch of a stream without batches, before those of training are made of them.
_BATCH = 32


def load_own(
    name: str,
    data_dir: str | os.PathLike | None,
    *,
    train_examples: int,
    test_examples: int,
    image_size: int,
    seed: int,
    log: Callable[[str], Any],
) -> Dataset:
    """Returns the dataset of a function; arguments as for `datasets.load`.

    The function is called with those of this function's arguments that it names. Arrays become a `Split`, a
    dataset of tf.data a `Stream`, each of whose examples is looked at once.

    Raises:
        ValueError: If there is no such function, it fails, or what it returns is no dataset.
    """
    function = load_named(name)
    offered = {
        "data_dir": str(data_dir or ""),
        "image_size": image_size,
        "train_examples": train_examples,
        "test_examples": test_examples,
        "seed": seed,
    }
    given = arguments_for(name, function, offered)
    if data_dir and "data_dir" not in given:
        raise ValueError(f"`data_dir` has no effect: {name} takes no argument data_dir")
    if not data_dir and given.pop("data_dir", None) is not None:
        parameter = inspect.signature(function).parameters.get("data_dir")
        if parameter and parameter.default is parameter.empty:
            raise ValueError(f"`data_dir` must be given: {name} needs it")
    returned = call_named(name, function, given)
    if not isinstance(returned, tuple | list) or len(returned) not in (2, 3):
        raise ValueError(f"must return {_FORM}. Received: {_told(returned)}")
    train, labels, channels = _read(returned[0], "train", train_examples, log)
    test, test_labels, _ = _read(returned[1], "test", test_examples, log)
    for part, ours, theirs in (
        ("x", train.spec.inputs, test.spec.inputs),
        ("y", train.spec.labels, test.spec.labels),
    ):
        if ours != theirs:
            raise ValueError(
                f"{part} of train and test must have the same form. Received: "
                f"{form_text(ours)} and {form_text(theirs)}"
            )
    names = _class_names(returned[2]) if len(returned) == 3 else None
    if are_classes(train.spec):
        if names is None:
            names = labels.names(test_labels)
        labels.check_below(len(names))
        test_labels.check_below(len(names))
    elif names is not None:
        raise ValueError(
            "class names must come with y of whole numbers, one an example. "
            f"Received: {form_text(train.spec.labels)}"
        )
    images = are_images(train.spec)
    mean, std = channels.statistics() if images else (None, None)
    return Dataset(
        name, train, test, names, mean, std, image_size if images else 0, arguments=frozenset(given)
    )


def _read(
    part: Any, split: str, examples: int, log: Callable[[str], Any]
) -> tuple[Split | Stream, LabelValues, ChannelValues]:
    """Returns a split, and the values of its labels and channels if they are those of classes and images."""
    labels, channels = LabelValues(split), ChannelValues()
    if isinstance(part, tf.data.Dataset):
        read = _stream(part, split, examples, labels, channels, log)
    elif isinstance(part, tuple | list) and len(part) in (2, 3):
        read = _split(part, split, examples, labels, channels)
    else:
        raise ValueError(f"must return {_FORM}. Received as {split}: {_told(part)}")
    return read, labels, channels


def _split(
    part: Sequence[Any], split: str, examples: int, labels: LabelValues, channels: ChannelValues
) -> Split:
    """Returns examples in arrays, all of which are looked at."""
    trees = [_tree(tree, f"{name} of {split}") for name, tree in zip(_PARTS, part, strict=False)]
    named = [(name, array) for name, tree in zip(_PARTS, trees, strict=False) for array in arrays_of(tree)]
    available = len(named[0][1])
    if any(len(array) != available for _, array in named):
        received = ", ".join(f"{len(array):,} in {name}" for name, array in named)
        raise ValueError(f"all arrays of {split} must have as many examples. Received: {received}")
    if not available:
        raise ValueError(f"{split} must have at least one example. Received: none")
    for start in range(0, available, _CHUNK):
        for name, array in named:
            _check_finite(array[start : start + _CHUNK], f"{name} of {split}", start)
    trees[1] = map_arrays(_as_label_array, trees[1])
    whole = Split(*trees[:2], available, *trees[2:])
    if are_classes(whole.spec):
        labels.add(whole.labels, 0)
    used = chosen_examples(split, available, examples)
    if examples:
        trees = [map_arrays(lambda array: array[used], tree) for tree in trees]
        whole = Split(*trees[:2], available, *trees[2:])
    if are_images(whole.spec):
        channels.add(whole.inputs)
    return whole


def _tree(value: Any, what: str) -> Any:
    """Returns an array, or a dict or tuple of them, of what stands for such: lists and tensors, too."""
    if isinstance(value, dict):
        if not value or not all(isinstance(name, str) for name in value):
            raise ValueError(f"the keys of {what} must be names. Received: {_told(value)}")
        return {name: _tree(part, f"{what}[{name!r}]") for name, part in value.items()}
    # As Keras has it: a list of arrays is several, one of numbers is an array.
    if isinstance(value, tuple | list) and any(len(getattr(part, "shape", ())) for part in value):
        return tuple(_tree(part, f"{what}[{number}]") for number, part in enumerate(value))
    try:
        array = np.asarray(value)
    except Exception as error:  # Of any library whose arrays these are.
        raise ValueError(f"{what} must be an array: {reason_of(error)}. Received: {_told(value)}") from error
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise ValueError(f"{what} must be numbers. Received: {array.dtype} in {_told(value)}")
    if not array.ndim:
        raise ValueError(f"{what} must be an array of examples. Received: {_told(value)}")
    return array.astype(np.float32) if array.dtype.kind == "f" and array.dtype.itemsize > 4 else array


def _is_label(shape: Sequence[int | None], is_whole: bool) -> bool:
    """Returns whether labels of a shape, examples first, are whole numbers, one an example."""
    return is_whole and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1))


def _as_label_array(array: np.ndarray) -> np.ndarray:
    """Returns labels as they are used: whole numbers, one an example, are int32 of shape [examples]."""
    if not _is_label(array.shape, array.dtype.kind in "biu"):
        return array
    if array.dtype.kind != "b" and np.abs(array.astype(np.float64)).max() >= 2**31:
        raise ValueError(f"whole numbers in y must be below 2**31. Received: {np.abs(array).max()}")
    return array.reshape(-1).astype(np.int32)


def _stream(
    given: tf.data.Dataset,
    split: str,
    examples: int,
    labels: LabelValues,
    channels: ChannelValues,
    log: Callable[[str], Any],
) -> Stream:
    """Returns examples of tf.data, after a pass over them."""
    batched = _is_batched(given.element_spec, split)
    elements = int(given.cardinality())
    if elements == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"{split} must have an end. Received: one that repeats for ever; leave repeat() out")
    batches = (given if batched else given.batch(_BATCH)).map(_as_used, tf.data.AUTOTUNE)
    spec = DataSpec(*map_arrays(_array_spec, batches.element_spec))
    total = None if batched or elements < 0 else elements
    told = Told(f"looks at {split}", log, examples or total)
    seen = 0
    for batch in _pass_over(batches, split):
        left = examples - seen if examples else None
        size = len(next(arrays_of(batch)))
        used = map_arrays(lambda array, left=left: array[:left], batch)
        for name, tree in zip(_PARTS, used, strict=False):
            for array in arrays_of(tree):
                _check_finite(array, f"{name} of {split}", seen)
        if are_classes(spec):
            labels.add(used[1], seen)
        if are_images(spec):
            channels.add(used[0])
        seen += size
        told(seen)
        if examples and seen >= examples:
            break
    if not seen:
        raise ValueError(f"{split} must have at least one example. Received: none")
    if elements < 0 and not list(_pass_over(batches.take(1), split)):
        raise ValueError(
            f"{split} must give its examples in every pass. Received: one that gave them in the first alone; "
            "a generator must begin anew when it is asked again"
        )
    chosen_examples(split, seen, examples)
    used = examples or seen
    return Stream(batches, used, max(total or 0, used), spec)


def _is_batched(element: Any, split: str) -> bool:
    """Returns whether the elements of a dataset are batches: where the first axis of all has no fixed size.

    Args:
        element: The dataset's `element_spec`.
        split: Its name, for errors.

    Raises:
        ValueError: If elements are not (x, y) or (x, y, weights) of dense tensors of known shapes, or the
            shapes do not tell.
    """
    if not isinstance(element, tuple) or len(element) not in (2, 3):
        raise ValueError(f"elements of {split} must be (x, y) or (x, y, weights). Received: {_told(element)}")
    tensors = list(arrays_of(element))
    for tensor in tensors:
        if not isinstance(tensor, tf.TensorSpec):
            raise ValueError(f"elements of {split} must be dense tensors. Received: {_told(tensor)}")
        if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
            raise ValueError(f"elements of {split} must be numbers. Received: {tensor.dtype.name}")
    shapes = [tensor.shape for tensor in tensors]
    received = f"Received: shapes {', '.join(map(_shape_text, shapes))}"
    firsts = {shape[0] if shape.rank else "none" for shape in shapes}
    if any(shape.rank is None or None in shape[1:] for shape in shapes) or (
        None in firsts and len(firsts) > 1
    ):
        raise ValueError(
            f"elements of {split} must have known shapes, but for the axis of a batch, the first of all; "
            f"tf.ensure_shape says them, padded_batch(..., padded_shapes=...) makes them equal. {received}"
        )
    if firsts == {None}:
        return True
    if len(firsts) == 1 and firsts != {"none"}:
        raise ValueError(
            f"whether the first axis of {split} is the batch must be clear; batch(n) without drop_remainder "
            f"makes it so, and batches are made anew. {received}"
        )
    return False


def _as_used(*batch: Any) -> tuple[Any, ...]:
    """Returns a batch of tensors in the types and shapes that arrays have."""

    def of_label(tensor: tf.Tensor) -> tf.Tensor:
        if _is_label(tensor.shape, tensor.dtype.is_integer or tensor.dtype.is_bool):
            return tf.cast(tf.reshape(tensor, [-1]), tf.int32)
        return _as_float32(tensor)

    inputs, labels, *weights = batch
    parts = map_arrays(_as_float32, inputs), map_arrays(of_label, labels)
    return *parts, *(map_arrays(_as_float32, tree) for tree in weights)


def _as_float32(tensor: tf.Tensor) -> tf.Tensor:
    return tf.cast(tensor, tf.float32) if tensor.dtype == tf.float64 else tensor


def _pass_over(batches: tf.data.Dataset, split: str) -> Iterator[Any]:
    """Yields the batches of a pass as arrays.

    Raises:
        ValueError: If what makes them fails.
    """
    try:
        yield from batches.as_numpy_iterator()
    except Exception as error:  # Of TensorFlow, or of what it calls.
        raise ValueError(f"{split} cannot be read: {tensorflow_reason(error)}") from error


def _check_finite(array: np.ndarray, what: str, first: int) -> None:
    """Checks that all numbers are finite.

    Args:
        array: Numbers of some examples.
        what: Their name, for errors.
        first: Number of the first example.
    """
    if array.dtype.kind in "biu":
        return
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.argmin(finite.reshape(len(array), -1).all(axis=1)))
        number = array[row][~finite[row]].flat[0] if array.ndim > 1 else array[row]
        raise ValueError(f"{what} must be finite. Received: {number} in example {first + row}")


def _class_names(value: Any) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else ()
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ValueError(f"the third part must be names of classes, no two alike. Received: {_told(value)}")
    return tuple(map(str, names))


def _array_spec(tensor: tf.TensorSpec) -> ArraySpec:
    return ArraySpec(tuple(tensor.shape[1:]), tensor.dtype.name)


def _shape_text(shape: tf.TensorShape) -> str:
    return str(shape).replace("<unknown>", "unknown")


def _told(value: Any) -> str:
    """Returns a value that is none of those that could be used in a few words."""
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name} of {len(value)}" if isinstance(value, tuple | list | dict) else name
