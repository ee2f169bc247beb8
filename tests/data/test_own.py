"""Datasets of a function of one's own: each form of them, and what is refused."""

import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.data import datasets
from tfprune.data.pipeline import test_batches as batches_of_test
from tfprune.data.pipeline import train_batches
from tfprune.data.reasons import tensorflow_reason
from tfprune.data.splits import ArraySpec, DataSpec, Split, Stream

pytestmark = pytest.mark.one_backend

X = np.arange(60, dtype=np.float32).reshape(20, 3)
Y = np.arange(20) % 3
WEIGHTS = np.linspace(0.5, 1.5, 20)


@pytest.fixture
def load(monkeypatch):
    """A function that loads what a function of a module of one's own returns."""

    def loaded(function, **options):
        module = types.ModuleType("data_of_mine")
        module.data = function
        monkeypatch.setitem(sys.modules, "data_of_mine", module)
        return datasets.load("data_of_mine:data", log=lambda line: None, **options)

    return loaded


def whole(split):
    """All inputs and labels of a split, as its batches have them."""
    parts = [batch[:2] for batch in batches_of_test(split, batch_size=7).as_numpy_iterator()]
    return tuple(
        keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *one)
        for one in zip(*parts, strict=True)
    )


def of_tensors(*part):
    return tf.data.Dataset.from_tensor_slices(part)


FORMS = {
    "arrays": ((X, Y), ArraySpec((3,), "float32")),
    "doubles": ((X.astype(np.float64), Y), ArraySpec((3,), "float32")),
    "tokens": (((X % 7).astype(np.int32), Y), ArraySpec((3,), "int32")),
    "grey images": ((np.zeros((20, 4, 4), np.uint8), Y), ArraySpec((4, 4), "uint8")),
    "lists": ((X.tolist(), Y.tolist()), ArraySpec((3,), "float32")),
    "tensors": ((tf.constant(X), tf.constant(Y)), ArraySpec((3,), "float32")),
    "single": (of_tensors(X, Y), ArraySpec((3,), "float32")),
    "batches": (of_tensors(X, Y).batch(6), ArraySpec((3,), "float32")),
    "unknown length": (of_tensors(X, Y).filter(lambda x, y: True).batch(6), ArraySpec((3,), "float32")),
    "several inputs": (
        ({"a": X, "b": X[:, :1]}, Y),
        {"a": ArraySpec((3,), "float32"), "b": ArraySpec((1,), "float32")},
    ),
    "several inputs as tensors": (
        of_tensors({"a": X, "b": X[:, :1]}, Y),
        {"a": ArraySpec((3,), "float32"), "b": ArraySpec((1,), "float32")},
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_of_inputs_is_read(load, name):
    part, spec = FORMS[name]
    dataset = load(lambda: (part, part))
    assert dataset.spec == DataSpec(spec, ArraySpec((), "int32"))
    assert dataset.class_names == ("0", "1", "2")
    assert len(dataset.train) == len(dataset.test) == dataset.train.available == 20
    inputs, labels = whole(dataset.test)
    np.testing.assert_array_equal(labels, Y)
    given = part[0] if isinstance(part, tuple) else X
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    np.testing.assert_array_equal(first, X if isinstance(inputs, dict) else np.asarray(given, first.dtype))


@pytest.mark.parametrize(
    ("labels", "spec"),
    [
        (X[:, :1].astype(np.float64), ArraySpec((1,), "float32")),
        (np.eye(3, dtype=np.float32)[Y], ArraySpec((3,), "float32")),
        (np.zeros((20, 4, 4), np.int64), ArraySpec((4, 4), "int64")),
        ((Y.astype(np.float32), X), (ArraySpec((), "float32"), ArraySpec((3,), "float32"))),
    ],
)
def test_labels_that_are_no_classes_have_no_names(load, labels, spec):
    dataset = load(lambda: ((X, labels), (X, labels)))
    assert dataset.spec.labels == spec
    assert dataset.class_names is None


def test_names_of_classes_and_weights_are_the_functions(load):
    dataset = load(lambda: ((X, Y[:, None], WEIGHTS), (X, Y[:, None]), ["a", "b", "c"]))
    assert dataset.class_names == ("a", "b", "c")
    *_, weights = next(train_batches(dataset.train, batch_size=20, seed=0, epochs=1).as_numpy_iterator())
    np.testing.assert_allclose(np.sort(weights), WEIGHTS)


def test_colour_images_are_resized_and_have_statistics(load):
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3)).astype(np.uint8)
    dataset = load(lambda: ((images, Y), (images, Y)), image_size=8)
    assert dataset.is_images
    assert dataset.spec.inputs == ArraySpec((8, 8, 3), "uint8")
    np.testing.assert_allclose(dataset.mean, images.mean((0, 1, 2)))


@pytest.mark.parametrize(("part", "kind"), [((X, Y), Split), (of_tensors(X, Y).batch(4), Stream)])
def test_a_part_of_the_examples_is_used(load, part, kind):
    dataset = load(lambda: (part, part), train_examples=8, test_examples=5)
    assert isinstance(dataset.train, kind)
    assert (len(dataset.train), len(dataset.test)) == (8, 5)
    assert len(whole(dataset.test)[1]) == 5


def test_arrays_are_shuffled_by_epoch_and_taken_up_alike(load):
    train = load(lambda: ((X, Y), (X, Y))).train

    def epochs(first):
        batches = train_batches(train, batch_size=8, seed=3, first_epoch=first, epochs=3)
        return [inputs for inputs, _ in batches.as_numpy_iterator()]

    assert not np.array_equal(epochs(0)[0], epochs(1)[0])
    for ours, theirs in zip(epochs(0)[3:], epochs(1), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_stream_is_passed_over_once_an_epoch(load):
    train = load(lambda: (of_tensors(X, Y), (X, Y))).train
    batches = list(train_batches(train, batch_size=8, seed=0, epochs=2).as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [8, 8, 4] * 2


def test_the_function_is_given_what_it_names(load, tmp_path):
    given = {}

    def data(data_dir, seed, image_size=7):
        given.update(data_dir=data_dir, seed=seed, image_size=image_size)
        return (X, Y), (X, Y)

    load(data, data_dir=str(tmp_path), seed=5, image_size=9)
    assert given == {"data_dir": str(tmp_path), "seed": 5, "image_size": 9}


def fails():
    raise RuntimeError("no such table")


class Once:
    """What can be iterated once alone."""

    def __init__(self):
        self.left = iter(zip(X, Y, strict=True))

    def __call__(self):
        return self.left


TYPES = (tf.TensorSpec((3,), tf.float32), tf.TensorSpec((), tf.int64))
REFUSED = {
    "fails": (fails, "data_of_mine:data fails: RuntimeError: no such table"),
    "arguments": (lambda rows: None, "must take no arguments but .*Received: rows"),
    "nothing": (lambda: None, "must return .*Received: NoneType"),
    "one part": (lambda: ((X, Y),), "must return .*Received: tuple of 1"),
    "no labels": (lambda: (X, X), "must return .*Received as train: numpy.ndarray"),
    "sizes": (lambda: ((X, Y[:-1]), (X, Y)), "must have as many examples. Received: 20 in x, 19 in y"),
    "empty": (lambda: ((X[:0], Y[:0]), (X, Y)), "train must have at least one example"),
    "empty stream": (lambda: ((X, Y), of_tensors(X, Y).take(0)), "test must have at least one example"),
    "strings": (lambda: ((np.array(["a"] * 20), Y), (X, Y)), "x of train must be numbers"),
    "not a number": (lambda: ((X, Y), (np.where(X == 7, np.nan, X), Y)), "x of test .* nan in example 2"),
    "negative": (lambda: ((X, Y - 1), (X, Y)), "at least 0. Received: -1, y of train example 0"),
    "gap": (lambda: ((X, Y * 2), (X, Y * 2)), "without gaps. Received: 4, but no train example of class 1"),
    "one class": (lambda: ((X, Y * 0), (X, Y * 0)), "more than one class"),
    "few names": (lambda: ((X, Y), (X, Y), ["a", "b"]), "below the number of class names, 2. Received: 2"),
    "names": (lambda: ((X, Y), (X, Y), ["a", "a", "b"]), "no two alike"),
    "other form": (
        lambda: ((X, Y), (X[:, :2], Y)),
        r"same form. Received: float32 \[n, 3\] and float32 \[n, 2\]",
    ),
    "endless": (lambda: (of_tensors(X, Y).repeat(), (X, Y)), "train must have an end"),
    "fixed batch": (
        lambda: (of_tensors(X, Y).batch(4, drop_remainder=True), (X, Y)),
        "whether the first axis of train is the batch must be clear",
    ),
    "sequences": (
        lambda: (of_tensors(X, X.astype(np.int32)), (X, X.astype(np.int32))),
        r"batch\(n\) without drop_remainder .*Received: shapes \(3,\), \(3,\)",
    ),
    "lengths": (
        lambda: (
            tf.data.Dataset.from_generator(
                lambda: iter([(X[0], 0)]), output_signature=(tf.TensorSpec((None,)), TYPES[1])
            ),
            (X, Y),
        ),
        r"must have known shapes, but for .* Received: shapes \(None,\), \(\)",
    ),
    "no structure": (
        lambda: (tf.data.Dataset.from_generator(lambda: iter([(X[0], 0)]), (tf.float32, tf.int32)), (X, Y)),
        "must have known shapes, but for .* Received: shapes unknown, unknown",
    ),
    "ragged": (
        lambda: (of_tensors(tf.ragged.constant([[1.0], [2.0, 3.0]]), Y[:2]), (X, Y)),
        "dense tensors. Received: .*RaggedTensorSpec",
    ),
    "named elements": (
        lambda: (tf.data.Dataset.from_tensor_slices({"x": X, "y": Y}), (X, Y)),
        r"elements of train must be \(x, y\) or \(x, y, weights\). Received: dict of 2",
    ),
    "dates": (
        lambda: ((X, np.array(["2020-01-01"] * 20, "datetime64[D]")), (X, Y)),
        "y of train must be numb",
    ),
    "large labels": (lambda: ((X, Y * 2**31), (X, Y)), r"below 2\*\*31. Received: 4294967296"),
    "new class": (lambda: ((X, Y % 2), (X, Y)), "Received: 2, but no train example of class 2"),
    "an end": (lambda: sys.exit("usage"), "data_of_mine:data fails: SystemExit: usage"),
    "exhausted": (
        lambda: (tf.data.Dataset.from_generator(Once(), output_signature=TYPES), (X, Y)),
        "must give its examples in every pass",
    ),
    "PyDataset": (lambda: (keras.utils.PyDataset(), (X, Y)), "must return .*Received as train: .*PyDataset"),
}


@pytest.mark.parametrize(
    "message",
    [
        "{{function_node __wrapped__IteratorGetNext_device_/job:localhost}} ValueError: no row\n"
        'Traceback (most recent call last):\n  File "x.py", line 2, in rows\nValueError: no row\n '
        "[Op:IteratorGetNext] name: ",
        "Graph execution error:\n\nDetected at node PyFunc defined at (most recent call last):\n"
        '  File "x.py", '
        "line 3, in fit\n\n<stack traces unavailable>\nValueError: no row\n\t [[{{node PyFunc}}]]",
    ],
)
def test_what_tensorflow_says_of_data_is_without_its_graph(message):
    error = tf.errors.UnknownError(None, None, message)
    assert tensorflow_reason(error) == "ValueError: no row"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_dataset_is_one_line(load, name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        load(function)
    assert "\n" not in str(error.value)


def test_more_examples_than_there_are(load):
    for part in ((X, Y), of_tensors(X, Y)):
        with pytest.raises(ValueError, match="`train_examples` must be at most 20"):
            load(lambda part=part: (part, (X, Y)), train_examples=21)


def test_a_folder_that_the_function_does_not_take_is_refused(load, tmp_path):
    with pytest.raises(ValueError, match="`data_dir` has no effect: .* takes no argument data_dir"):
        load(lambda: ((X, Y), (X, Y)), data_dir=str(tmp_path))
