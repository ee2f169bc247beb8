import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from tfprune.data import datasets, pipeline, statistics
from tfprune.data import image_folder as image_folder_module
from tfprune.errors import FileError


def test_digits():
    dataset = datasets.load("digits")
    assert dataset.name == "digits"
    assert dataset.class_names == tuple("0123456789")
    assert dataset.train.inputs.shape == (1437, 8, 8, 3)
    assert dataset.test.inputs.shape == (360, 8, 8, 3)
    for split in (dataset.train, dataset.test):
        assert split.inputs.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert split.inputs.min() == 0
        assert split.inputs.max() == 255
        np.testing.assert_array_equal(split.inputs[..., 0], split.inputs[..., 2])
        # Stratified: every digit has its share of a tenth, to a percent.
        assert np.abs(np.bincount(split.labels) / len(split) - 0.1).max() < 0.01


def test_digits_are_scikit_learns_and_each_is_used_once():
    dataset = datasets.load("digits")

    def keys(images, labels):
        return sorted((int(label), image.tobytes()) for image, label in zip(images, labels, strict=True))

    source = load_digits()
    scaled = np.rint(source.images / 16 * 255).astype(np.uint8)
    images = np.concatenate([dataset.train.inputs, dataset.test.inputs])[..., 0]
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    assert keys(images, labels) == keys(scaled, source.target)


def test_subset_is_fixed_and_a_larger_one_begins_with_it():
    small = datasets.load("digits", train_examples=10, test_examples=4)
    large = datasets.load("digits", train_examples=50, test_examples=20)
    assert (len(small.train), len(small.test)) == (10, 4)
    assert (small.train.available, small.test.available) == (1437, 360)
    np.testing.assert_array_equal(large.train.inputs[:10], small.train.inputs)
    np.testing.assert_array_equal(large.test.labels[:4], small.test.labels)
    assert len(set(large.train.labels.tolist())) == 10
    assert small.mean != large.mean


def test_statistics_are_numpys():
    rng = np.random.default_rng(0)
    # More images than are counted at a time.
    images = rng.integers(0, 256, (statistics._CHUNK + 300, 5, 3, 3)).astype(np.uint8) // np.uint8([1, 2, 9])
    mean, std = statistics.channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2), dtype=np.float64), rtol=1e-13)
    np.testing.assert_allclose(std, images.std(axis=(0, 1, 2), dtype=np.float64), rtol=1e-12)
    assert statistics.channel_statistics(np.full((2, 4, 4, 3), 9, np.uint8)) == ((9, 9, 9), (0, 0, 0))


def test_statistics_are_of_the_training_examples_used():
    dataset = datasets.load("digits", train_examples=100)
    assert (dataset.mean, dataset.std) == statistics.channel_statistics(dataset.train.inputs)
    assert dataset.mean[0] == pytest.approx(dataset.train.inputs.mean())


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """Two classes of digits as PNG and JPEG files of several sizes and modes."""
    root = tmp_path_factory.mktemp("images")
    digits = datasets.load("digits", train_examples=40).train
    for number, (image, label) in enumerate(zip(digits.inputs, digits.labels, strict=True)):
        folder = root / ("test" if number % 4 == 0 else "train") / ("even" if label % 2 == 0 else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        side = 8 + number % 5
        picture = Image.fromarray(image).resize((side, 2 * side))
        if number % 3 == 0:
            picture.convert("L").save(folder / f"{number:02}.png")
        else:
            picture.save(folder / f"{number:02}.{'jpg' if number % 3 == 1 else 'png'}")
    return root


def test_image_folder(image_folder):
    dataset = datasets.load("image_folder", image_folder, image_size=16)
    assert dataset.class_names == ("even", "odd")
    assert dataset.train.inputs.shape == (30, 16, 16, 3)
    assert dataset.test.inputs.shape == (10, 16, 16, 3)
    for split, name in ((dataset.train, "train"), (dataset.test, "test")):
        for label, class_name in enumerate(dataset.class_names):
            count = len(list((image_folder / name / class_name).iterdir()))
            assert np.sum(split.labels == label) == count > 0
    assert dataset.train.labels.dtype == np.int32
    assert (dataset.mean, dataset.std) == statistics.channel_statistics(dataset.train.inputs)


def test_image_folder_images_are_their_files(image_folder):
    dataset = datasets.load("image_folder", image_folder, image_size=32)
    paths = sorted((image_folder / "test").glob("*/*"))
    for image, label, path in zip(dataset.test.inputs, dataset.test.labels, paths, strict=True):
        assert path.parent.name == dataset.class_names[label]
        pillow = Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        assert np.abs(image.astype(int) - np.asarray(pillow)).max() <= 1


def test_image_folder_subset(image_folder):
    dataset = datasets.load("image_folder", image_folder, train_examples=7, test_examples=3, image_size=8)
    assert (len(dataset.train), len(dataset.test)) == (7, 3)


@pytest.fixture
def copied_folder(image_folder, tmp_path):
    return shutil.copytree(image_folder, tmp_path / "copy")


def test_image_folder_without_test(copied_folder):
    shutil.rmtree(copied_folder / "test")
    with pytest.raises(ValueError, match="train and test. Missing: test"):
        datasets.load("image_folder", copied_folder, image_size=8)


def test_image_folder_with_other_classes(copied_folder):
    (copied_folder / "train" / "odd").rename(copied_folder / "train" / "strange")
    with pytest.raises(ValueError, match=r"same classes. Only in one: \['odd', 'strange'\]"):
        datasets.load("image_folder", copied_folder, image_size=8)


def test_image_folder_with_a_broken_image(copied_folder):
    path = next((copied_folder / "train" / "odd").glob("*.png"))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(FileError, match=f"^{path}: not a readable image: "):
        datasets.load("image_folder", copied_folder, image_size=8)


@pytest.mark.parametrize("split", ["train", "test"])
def test_image_folder_with_a_class_without_images(split, copied_folder):
    for name in ("train", "test"):
        (copied_folder / name / "strange").mkdir()
    other = {"train": "test", "test": "train"}[split]
    shutil.copy(next((copied_folder / other / "odd").iterdir()), copied_folder / other / "strange")
    with pytest.raises(FileError, match=f"^{copied_folder}/{split}/strange: a class without images"):
        datasets.load("image_folder", copied_folder, image_size=8)


def test_image_folder_without_images(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
    with pytest.raises(FileError, match=f"^{tmp_path}/train/cat: a class without images"):
        datasets.load("image_folder", tmp_path, image_size=8)


def test_images_that_the_memory_does_not_hold_are_read_when_they_are_used(image_folder, monkeypatch):
    """The batches, the statistics and what is told: half of the memory is a split's, and no more."""
    held = datasets.load("image_folder", image_folder, image_size=8)
    image = 8 * 8 * 3
    told = []
    for images_left, is_held in ((2 * 30, True), (2 * 30 - 1, False)):
        monkeypatch.setattr(image_folder_module, "available_bytes", lambda n=images_left: n * image)
        monkeypatch.setattr(image_folder_module, "_TOGETHER", 7 * image)
        loaded = datasets.load("image_folder", image_folder, image_size=8, log=told.append)
        assert isinstance(loaded.train.inputs, np.ndarray) == is_held
        assert isinstance(loaded.test.inputs, np.ndarray)
        assert loaded.is_images and loaded.spec == held.spec
        assert (loaded.mean, loaded.std) == (held.mean, held.std)
        options = {"image_size": 8, "batch_size": 7, "autoaugment": "cifar10", "seed": 1, "epochs": 2}
        for ours, theirs in zip(
            pipeline.train_batches(loaded.train, **options).as_numpy_iterator(),
            pipeline.train_batches(held.train, **options).as_numpy_iterator(),
            strict=True,
        ):
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_array_equal(ours[1], theirs[1])
    assert told == [
        "30 train images would take 5.76 kB of the 11.3 kB of memory that are left: each is read from its "
        "file when it is used"
    ]


def test_an_image_that_the_memory_does_not_hold(image_folder, monkeypatch):
    monkeypatch.setattr(image_folder_module, "available_bytes", lambda: 3e10 - 1)
    with pytest.raises(ValueError, match=r"must be smaller: an image takes 30.0 GB .*image_size=100000"):
        datasets.load("image_folder", image_folder, image_size=100_000)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_broken_image_is_found_when_the_folder_is_loaded(copied_folder, monkeypatch, split):
    monkeypatch.setattr(image_folder_module, "available_bytes", lambda: 8 * 8 * 3)
    path = next((copied_folder / split / "odd").glob("*.png"))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(FileError, match=f"^{path}: not a readable image: "):
        datasets.load("image_folder", copied_folder, image_size=8)


def test_image_folder_needs_a_folder_and_a_size(image_folder):
    with pytest.raises(ValueError, match="`data_dir` must name the folder"):
        datasets.load("image_folder", image_size=8)
    with pytest.raises(ValueError, match="`image_size` must be at least 1.*image_size=0"):
        datasets.load("image_folder", image_folder)
    with pytest.raises(ValueError, match="`image_size` must be at least 1.*image_size=0"):
        datasets.load("image_folder", image_folder, image_size=0)


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_a_folder_that_is_not_there(name, tmp_path):
    with pytest.raises(ValueError, match="`data_dir` must be an existing folder. .*nowhere"):
        datasets.load(name, tmp_path / "nowhere", image_size=8)


def test_unknown_dataset_lists_the_valid():
    with pytest.raises(ValueError, match="'mnist'.*cifar10, cifar100, digits, image_folder"):
        datasets.load("mnist")


@pytest.mark.parametrize(("argument", "available"), [("train_examples", 1437), ("test_examples", 360)])
def test_more_examples_than_there_are(argument, available):
    assert datasets.load("digits", **{argument: available}).name == "digits"
    with pytest.raises(ValueError, match=f"`{argument}` must be at most {available}.*={available + 1}"):
        datasets.load("digits", **{argument: available + 1})
    with pytest.raises(ValueError, match=f"`{argument}` must not be negative. Received: {argument}=-1"):
        datasets.load("digits", **{argument: -1})


def test_a_failed_download_says_how_to_prepare(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", offline)
    with pytest.raises(OSError, match="data_dir=.*no route to host.*tfds build cifar10") as caught:
        datasets.load("cifar10", tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_of_two_processes_one_downloads(tmp_path, monkeypatch):
    """The second one, here a thread, waits, then finds it done."""
    began, downloads = threading.Event(), []

    def download(builder):
        if not builder.data_path.exists():
            began.set()
            time.sleep(0.2)
            downloads.append(builder.data_path)
            builder.data_path.mkdir(parents=True)
        raise ConnectionError("enough")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)

    def load():
        with pytest.raises(OSError, match="enough"):
            datasets.load("cifar10", tmp_path)

    first = threading.Thread(target=load)
    first.start()
    began.wait()
    load()
    first.join()
    assert len(downloads) == 1


@pytest.fixture
def damaged_cifar(cifar_data_dir, tmp_path):
    """A copy of the prepared CIFAR-10 with the first records alone; `damage` changes the bytes of a file."""
    source = max((cifar_data_dir / "cifar10").glob("*.*.*"))
    folder = tmp_path / "cifar10" / source.name
    folder.mkdir(parents=True)
    for path in source.iterdir():
        with open(path, "rb") as file:
            (folder / path.name).write_bytes(file.read(100_000))

    def damage(pattern, change):
        for path in folder.glob(pattern):
            path.write_bytes(change(path.read_bytes()))

    return damage


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "change", "reason"),
    [
        ("*tfrecord*", lambda content: content, "truncated record"),
        ("*tfrecord*", lambda content: content[:5000] + b"\0" + content[5001:], "corrupted record"),
        ("*tfrecord*", lambda content: b"", "50000 elements but contained only 0"),
        ("dataset_info.json", lambda content: b"{", "JSON"),
        ("dataset_info.json", lambda content: b"[]", "do not match"),
    ],
)
def test_a_damaged_prepared_dataset(pattern, change, reason, damaged_cifar, tmp_path):
    damaged_cifar(pattern, change)
    with pytest.raises(FileError, match=f"^{tmp_path}/cifar10: not a readable dataset: .*{reason}") as caught:
        datasets.load("cifar10", tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert "prepare the dataset anew" in str(caught.value)


@pytest.mark.slow
def test_cifar10(cifar_data_dir):
    dataset = datasets.load("cifar10", cifar_data_dir)
    assert dataset.train.inputs.shape == (50000, 32, 32, 3)
    assert dataset.test.inputs.shape == (10000, 32, 32, 3)
    assert dataset.class_names[:3] == ("airplane", "automobile", "bird")
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    # The published figures, 0.4914, 0.4822, 0.4465 and 0.2470, 0.2435, 0.2616 of 255.
    np.testing.assert_allclose(np.array(dataset.mean) / 255, [0.4914, 0.4822, 0.4465], atol=1e-4)
    np.testing.assert_allclose(np.array(dataset.std) / 255, [0.2470, 0.2435, 0.2616], atol=1e-4)
    subset = datasets.load("cifar10", cifar_data_dir, train_examples=20, test_examples=3)
    examples = zip(dataset.train.inputs, dataset.train.labels, strict=True)
    whole = {image.tobytes(): label for image, label in examples}
    assert [whole[image.tobytes()] for image in subset.train.inputs] == subset.train.labels.tolist()


@pytest.mark.slow
def test_cifar100(cifar_data_dir):
    dataset = datasets.load("cifar100", cifar_data_dir, train_examples=64, test_examples=32)
    assert dataset.train.inputs.shape == (64, 32, 32, 3)
    assert len(dataset.class_names) == 100
    assert dataset.class_names[0] == "apple"
    assert dataset.train.labels.max() < 100


@pytest.mark.slow
def test_another_backend_reads_the_same_batches(image_folder):
    program = f"""
import json, keras
from tfprune.data import datasets, pipeline
from tfprune.errors import FileError
dataset = datasets.load("image_folder", {str(image_folder)!r}, image_size=8)
batches = pipeline.train_batches(
    dataset.train, image_size=16, batch_size=7, autoaugment="cifar10", seed=1, epochs=1
)
sums = [[int(images.sum()), labels.tolist()] for images, labels in batches.as_numpy_iterator()]
print(json.dumps([keras.backend.backend(), sums]))
"""
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    used, sums = json.loads(finished.stdout.splitlines()[-1])
    assert used == "jax"
    dataset = datasets.load("image_folder", image_folder, image_size=8)
    batches = pipeline.train_batches(
        dataset.train, image_size=16, batch_size=7, autoaugment="cifar10", seed=1, epochs=1
    )
    assert sums == [[int(images.sum()), labels.tolist()] for images, labels in batches.as_numpy_iterator()]
