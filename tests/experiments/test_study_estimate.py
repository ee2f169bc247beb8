"""States of runs and the time that they still take, from canned results."""

import dataclasses

import pytest

from tests.support.run_folders import round_result
from tests.support.study_runs import configs, finish, interrupt
from tfprune.errors import UserError
from tfprune.experiments.study.estimate import Place, Speeds, read_speeds, total_text, what_computes
from tfprune.experiments.study.state import read_state


@pytest.fixture
def by_name(tmp_path):
    return configs(tmp_path)


def test_a_run_without_a_folder_is_missing(by_name):
    state = read_state(by_name["iterative"])
    assert state.describe() == "missing"
    assert (state.finished, state.rounds_done, state.rounds_left, state.epochs_left) == (False, 0, 4, 15)
    assert state.accuracy_percent is None


def test_a_dense_run_trains_in_its_start(by_name):
    interrupt(by_name["base"], 0, epochs=3)
    state = read_state(by_name["base"])
    assert state.describe() == "0 of 1 round, then 3 of 10 epochs"
    assert (state.rounds_left, state.epochs_left) == (1, 7)
    finish(by_name["base"], 0)
    state = read_state(by_name["base"])
    assert state.describe() == "finished"
    assert (state.finished, state.rounds_left, state.epochs_left) == (True, 0, 0)
    assert state.accuracy_percent == 50


def test_a_pruned_runs_start_is_no_round_that_trains(by_name):
    config = by_name["iterative"]
    finish(config, 0)
    assert read_state(config).describe() == "0 of 3 rounds"
    assert read_state(config).epochs_left == 15
    finish(config, 1)
    interrupt(config, 2, epochs=2)
    state = read_state(config)
    assert state.describe() == "1 of 3 rounds, then 2 of 5 epochs"
    assert (state.rounds_done, state.rounds_left, state.epochs_left) == (1, 2, 9)
    assert state.accuracy_percent == 51


def test_a_checkpoint_that_a_kill_left_in_a_finished_round_counts_once(by_name):
    config = by_name["iterative"]
    finish(config, 0)
    finish(config, 1)
    interrupt(config, 1, epochs=4)
    assert read_state(config).epochs_left == 11


def test_damaged_files_are_named(by_name):
    interrupt(by_name["base"], 0, epochs=3)
    path = by_name["base"].folder / "round_00"
    (path / "checkpoint.json").write_text("{")
    with pytest.raises(
        UserError, match=f"{path / 'checkpoint.json'}: not a readable state of an unfinished fit"
    ):
        read_state(by_name["base"])
    (path / "result.json").write_text("{")
    with pytest.raises(UserError, match=f"{path / 'result.json'}: not a readable result of a round"):
        read_state(by_name["base"])


def seconds_left(config, backend="tensorflow", device_count=1, computes="P", engine="keras"):
    place = Place(backend, device_count, computes, engine)
    return read_speeds(config.folder.parent).seconds_left(read_state(config), place)


def test_nothing_is_assumed(by_name):
    finish(by_name["base"], 0, width=5)
    finish(by_name["one_shot"], 0)  # Trains nothing.
    assert seconds_left(by_name["one_shot"]) is None
    assert seconds_left(by_name["base"]) == 0


def test_time_left_is_images_over_measured_speed(by_name):
    finish(by_name["base"], 0)  # 10 epochs of 100 images in 20 s.
    assert seconds_left(by_name["one_shot"]) == pytest.approx(8 * 2)
    # As many images in the double time: a mean over images, not over runs.
    finish(by_name["other"], 0, epochs=10, train_seconds=40.0)
    assert seconds_left(by_name["one_shot"]) == pytest.approx(8 * 3)
    finish(by_name["one_shot"], 0)
    interrupt(by_name["one_shot"], 1, epochs=5)
    assert seconds_left(by_name["one_shot"]) == pytest.approx(3 * 3)


@pytest.mark.parametrize(
    "name, value",
    [("model", "resnet34"), ("width", 8), ("stem", "imagenet"), ("image_size", 9), ("batch_size", 51)]
    + [("mixed_precision", "bfloat16"), ("backend", "jax")],
)
def test_what_changes_the_speed_is_measured_apart(by_name, name, value):
    finish(by_name["base"], 0, **{name: value})
    assert seconds_left(by_name["one_shot"]) is None
    config = (
        by_name["one_shot"]
        if name == "backend"
        else dataclasses.replace(by_name["one_shot"], **{name: value})
    )
    assert seconds_left(config, value if name == "backend" else "tensorflow") == pytest.approx(16)


def test_so_does_the_number_of_devices(by_name):
    finish(by_name["base"], 0, device_count=2)
    assert seconds_left(by_name["one_shot"]) is None
    assert seconds_left(by_name["one_shot"], device_count=2) == pytest.approx(16)


def test_so_does_what_computes(by_name):
    finish(by_name["base"], 0, hardware={"processor": "P", "devices": ["H200", "H200"]})
    assert seconds_left(by_name["one_shot"]) is None
    assert seconds_left(by_name["one_shot"], computes="H200") == pytest.approx(16)
    assert what_computes({"processor": "P", "devices": ["cpu", "cpu"]}) == "P"


def test_so_does_what_trains(by_name):
    """Of zeros that are skipped a dense run tells nothing; `auto` may take either engine."""
    finish(by_name["base"], 0, training_engines=("sparse",))
    for engine in ("keras", "sparse", "auto"):
        assert seconds_left(by_name["one_shot"], engine=engine) is None
    half = {"sparsity": 0.5, "epochs": 8}
    one = dataclasses.replace(by_name["one_shot"], experiment="one")
    finish(one, 1, training_engines=("sparse",), train_seconds=4.0, **half)
    assert seconds_left(by_name["one_shot"]) is None
    assert seconds_left(by_name["one_shot"], engine="sparse") == pytest.approx(4)
    two = dataclasses.replace(by_name["one_shot"], experiment="two")
    finish(two, 1, training_engines=("keras",), train_seconds=12.0, **half)
    assert seconds_left(by_name["one_shot"], engine="auto") == pytest.approx(8)
    assert seconds_left(by_name["one_shot"], engine="sparse") == pytest.approx(4)
    assert seconds_left(by_name["one_shot"]) == pytest.approx(12)


def test_where_zeros_are_skipped_the_density_counts(by_name):
    """100 images take 2 s dense, and 1 s at sparsity 0.9."""
    config = by_name["iterative"]
    finish(by_name["base"], 0, training_engines=("sparse",), sparsity=0.0)
    finish(by_name["one_shot"], 1, training_engines=("sparse",), sparsity=0.9, epochs=8, train_seconds=8.0)
    speeds, place = read_speeds(config.folder.parent), Place("tensorflow", 1, "P", "sparse")

    def time(sparsity):
        return speeds.seconds_per_image(config, place, sparsity)

    assert [time(level) for level in (0.0, 0.45, 0.9)] == pytest.approx([0.02, 0.015, 0.01])
    # Nothing is known of a network far from those that were measured.
    assert time(0.94) == pytest.approx(0.01) and time(0.951) is None
    # Rounds of 4, 5 and 6 epochs.
    levels = [0.5, 0.45, 0.9, 0.9]
    assert speeds.seconds_left(read_state(config), place, levels) == pytest.approx(4 * 1.5 + 5 + 6)
    assert speeds.seconds_left(read_state(config), place, [0.5, 0.45, 0.9, 0.99]) is None
    assert speeds.seconds_left(read_state(config), place) == pytest.approx(15)  # The target is 0.9.
    keras = Place("tensorflow", 1, "P", "keras")
    assert speeds.seconds_left(read_state(config), keras, levels) is None


def test_so_does_a_teacher(by_name):
    finish(by_name["base"], 0)
    taught = dataclasses.replace(by_name["one_shot"], distill_from="base")
    assert seconds_left(taught) is None
    finish(by_name["other"], 0, distill_from="base", epochs=10, train_seconds=30.0)
    assert seconds_left(taught) == pytest.approx(8 * 3)
    assert seconds_left(by_name["one_shot"]) == pytest.approx(8 * 2)


def test_evaluation_and_pruning_count_where_they_were_recorded(by_name):
    finish(by_name["base"], 0, seconds={"prune": 1.0, "train": 30.0, "evaluate": 5.0})
    # 8 epochs at 100 / 3 images a second, and two rounds of 6 s.
    assert seconds_left(by_name["one_shot"]) == pytest.approx(8 * 3 + 2 * 6)
    finish(by_name["one_shot"], 0, seconds={"prune": 0.0, "train": 0.0, "evaluate": 2.0})
    assert seconds_left(by_name["one_shot"]) == pytest.approx(8 * 3 + 4)


def test_the_clock_of_an_interrupted_round_is_no_measurement(by_name):
    finish(by_name["base"], 0, seconds={"prune": 0.0, "train": 3.0, "evaluate": 0.0})
    assert seconds_left(by_name["one_shot"]) == pytest.approx(16)


def test_all_images_of_a_dataset(by_name):
    of_folder = dataclasses.replace(by_name["base"], dataset="image_folder", paper_section="")
    folder_of_77 = round_result(of_folder, 0, train_examples_available=77)

    def images(**flags):
        state = read_state(dataclasses.replace(by_name["base"], train_examples=0, **flags))
        return Speeds([folder_of_77]).images_left(state)

    assert images(dataset="cifar10") == 10 * 50_000
    assert images(dataset="digits") == 10 * 1437
    assert images(dataset="image_folder") == 770
    state = read_state(dataclasses.replace(by_name["base"], train_examples=0, dataset="image_folder"))
    assert Speeds([]).images_left(state) is None
    assert Speeds([]).seconds_left(state, Place("tensorflow", 1, "")) is None


def test_a_result_of_another_folder_that_is_damaged_tells_nothing(by_name, tmp_path):
    finish(by_name["base"], 0)
    (tmp_path / "strange" / "round_00").mkdir(parents=True)
    for content in ("{", "[]", "{}"):
        (tmp_path / "strange" / "round_00" / "result.json").write_text(content)
        assert seconds_left(by_name["one_shot"]) == pytest.approx(16)


@pytest.mark.parametrize(
    "seconds, text",
    [
        ([60, 60.0], "about 2 min"),
        ([120, None], "about 2 min, and 1 run not measured yet"),
        ([120, None, None], "about 2 min, and 2 runs not measured yet"),
        ([None, None], "not measured yet"),
        ([0.0, None], "not measured yet"),
    ],
)
def test_totals_in_words(seconds, text):
    assert total_text(seconds) == text
