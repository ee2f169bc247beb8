import numpy as np
import pytest
import tensorflow as tf

from tfprune.data import datasets
from tfprune.data.autoaugment import DRAWS, AutoAugment
from tfprune.data.pipeline import make_images, test_batches, train_batches
from tfprune.data.splits import Split


@pytest.fixture(scope="module")
def split():
    """22 real images whose labels are their numbers."""
    images = datasets.load("digits", train_examples=22).train.inputs
    return Split(images, np.arange(22, dtype=np.int32), available=22)


def arrays(batches):
    return list(batches.as_numpy_iterator())


def train(split, **changes):
    settings = {"image_size": 16, "batch_size": 5, "autoaugment": "cifar10", "seed": 3, "epochs": 3}
    return arrays(train_batches(split, **(settings | changes)))


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_types_shapes_and_cardinality(split):
    batches = train_batches(split, image_size=16, batch_size=5, autoaugment="none", seed=0, epochs=3)
    assert batches.cardinality() == 15
    assert batches.element_spec == (
        tf.TensorSpec((None, 16, 16, 3), tf.uint8),
        tf.TensorSpec((None,), tf.int32),
    )
    assert [len(labels) for _, labels in arrays(batches)] == [5, 5, 5, 5, 2] * 3


def test_batch_size_is_static_where_it_divides_the_split(split):
    batches = train_batches(split, image_size=16, batch_size=11, autoaugment="none", seed=0, epochs=1)
    assert batches.element_spec[0].shape == (11, 16, 16, 3)
    assert [len(labels) for _, labels in arrays(batches)] == [11, 11]


def test_every_epoch_is_its_own_permutation(split):
    batches = train(split)
    orders = [np.concatenate([labels for _, labels in batches[5 * e : 5 * e + 5]]) for e in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(22))
        assert not np.array_equal(order, np.arange(22))
    assert len({order.tobytes() for order in orders}) == 3


def test_images_belong_to_their_labels(split):
    for images, labels in train(split, autoaugment="none"):
        np.testing.assert_array_equal(images, make_images(split.inputs, labels, 16))


def test_every_epoch_has_its_own_augmentation(split):
    by_epoch = [{}, {}, {}]
    for number, (images, labels) in enumerate(train(split, image_size=8)):
        by_epoch[number // 5] |= {int(n): image for n, image in zip(labels, images, strict=True)}
    changed = [np.mean([np.any(e[n] != split.inputs[n]) for n in range(22)]) for e in by_epoch]
    assert min(changed) > 0.3
    assert any(np.any(by_epoch[0][n] != by_epoch[1][n]) for n in range(22))


def test_the_same_seed_gives_the_same_batches_and_another_does_not(split):
    assert_same(train(split), train(split))
    other = train(split, seed=4)
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(train(split), other, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_the_number_of_threads_does_not_matter(split, threads):
    batches = train_batches(split, image_size=16, batch_size=2, autoaugment="cifar10", seed=3, epochs=6)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    expected = train(split, batch_size=2, epochs=6)
    assert_same(arrays(batches.with_options(options)), expected)


@pytest.mark.parametrize("first_epoch", [1, 2, 3])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(split, first_epoch):
    assert_same(train(split, first_epoch=first_epoch), train(split)[5 * first_epoch :])


def test_augmentation_depends_on_the_example_not_on_the_batch(split):
    def images_by_label(batch_size):
        batches = train(split, batch_size=batch_size, epochs=1)
        return {int(n): image for images, labels in batches for n, image in zip(labels, images, strict=True)}

    small, large = images_by_label(3), images_by_label(22)
    for number in range(22):
        np.testing.assert_array_equal(small[number], large[number])


def test_test_batches_are_resized_only_and_in_order(split):
    batches = test_batches(split, image_size=16, batch_size=8)
    assert batches.cardinality() == 3
    images, labels = (np.concatenate(parts) for parts in zip(*arrays(batches), strict=True))
    np.testing.assert_array_equal(labels, np.arange(22))
    np.testing.assert_array_equal(images, make_images(split.inputs, np.arange(22), 16))
    unchanged = np.concatenate([part for part, _ in arrays(test_batches(split, image_size=8, batch_size=8))])
    np.testing.assert_array_equal(unchanged, split.inputs)


@pytest.mark.parametrize("batch_size", [6, 22, 18])
def test_shards_make_up_the_batch(split, batch_size):
    """The last batch is smaller, or is the only one."""
    shards = [(0, 2), (1, 2)]
    for of_shard in (
        lambda shard: train(split, batch_size=batch_size, shard=shard),
        lambda shard: arrays(test_batches(split, image_size=16, batch_size=batch_size, shard=shard)),
    ):
        together = [
            tuple(np.concatenate(parts) for parts in zip(*halves, strict=True))
            for halves in zip(*map(of_shard, shards), strict=True)
        ]
        assert_same(together, of_shard((0, 1)))


@pytest.mark.parametrize(
    "shard, batch_size, message",
    [
        ((2, 2), 6, "index from 0"),
        ((0, 0), 6, "index from 0"),
        ((0, 2), 5, "multiple"),
        ((0, 4), 8, "multiple"),
    ],
)
def test_shards_that_do_not_fit_are_refused(split, shard, batch_size, message):
    with pytest.raises(ValueError, match=message):
        train(split, batch_size=batch_size, shard=shard)
    with pytest.raises(ValueError, match=message):
        test_batches(split, image_size=16, batch_size=batch_size, shard=shard)


def test_make_images_augments_with_each_examples_draws(split):
    augment, draws = AutoAugment("imagenet"), np.random.default_rng(0).random((22, DRAWS))
    examples = np.array([4, 0, 21])
    made = make_images(split.inputs, examples, 8, augment, draws)
    for image, example in zip(made, examples, strict=True):
        np.testing.assert_array_equal(image, augment.apply(split.inputs[example], draws[example]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": -1}, "`image_size` must be at least 0. Received: image_size=-1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1. Received: batch_size=0"),
        ({"autoaugment": "mnist"}, "'mnist'.*cifar10, imagenet, svhn, none"),
        ({"seed": -1}, "`seed` must not be negative. Received: seed=-1"),
        ({"first_epoch": 4}, "first_epoch=4, epochs=3"),
        ({"first_epoch": -1}, "first_epoch=-1, epochs=3"),
    ],
)
def test_train_batches_refuses(split, changes, message):
    with pytest.raises(ValueError, match=message):
        train(split, **changes)


@pytest.mark.parametrize(("argument", "least"), [("image_size", 0), ("batch_size", 1)])
def test_test_batches_refuses(split, argument, least):
    with pytest.raises(ValueError, match=f"`{argument}` must be at least {least}. Received: {argument}=-2"):
        test_batches(split, **({"image_size": 8, "batch_size": 8} | {argument: -2}))


def test_an_empty_split_is_refused(split):
    with pytest.raises(ValueError, match="at least one example"):
        test_batches(Split(split.inputs[:0], split.labels[:0], available=22), image_size=8, batch_size=8)
