"""The result of a round as a file: what is written is read, and what no round can have is refused."""

import json

import pytest

from tests.support.run_folders import RunFolders, round_result, write_round
from tfprune.errors import FileError
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.metric import Metric
from tfprune.runs.paper import Difference
from tfprune.runs.result import FORMAT, LayerZeros, RoundResult

# What design and readers of the file rely on.
AT_LEAST = (
    "experiment paper_section dataset regime round backend seed target_sparsity sparsity "
    "sparsity_all_parameters metric metric_before metric_after_pruning metric_at_end figures epochs "
    "steps train_seconds images_per_second versions"
).split()


@pytest.fixture
def folders(tmp_path):
    return RunFolders(tmp_path, dataset="digits")


def read(path):
    """Reads a result by its file, as every reader does."""
    from tfprune.runs.folder import RoundFolder

    return RoundFolder(path.parent, int(path.parent.name.removeprefix("round_"))).read_result()


def change(path, **values):
    """Changes a result's file; a key that names a setting is one of `config`. None removes a key."""
    content = json.loads(path.read_text())
    for key, value in values.items():
        place = content if key in content or key not in content["config"] else content["config"]
        if value is None:
            del place[key]
        else:
            place[key] = value
    path.write_text(json.dumps(content))


def test_a_result_is_read_as_it_was_written():
    config = ExperimentConfig(
        "e",
        paper_section="4.3.2",
        regime="one_shot",
        target_sparsity=0.9,
        epochs=(3,),
        block_size=(2, 4),
        layer_sparsity=("stem_conv:0.5", "head:0.1"),
    )
    result = round_result(
        config,
        1,
        sparsity=0.4,
        metric_after_pruning=10.0,
        layers=(LayerZeros("stem_conv", 6, 0), LayerZeros("b", 4, 4)),
        versions={"keras": "3.15.1"},
        seconds={"train": 3.5},
        hardware={"processor": "P", "devices": ["cpu"]},
        training_engines=("keras", "sparse"),
        engine_speedup=3.25,
        engine_reason="8 steps are too few",
    )
    assert result.differences  # Of another sparsity, number of epochs and start.
    content = json.loads(json.dumps(result.to_json()))
    assert RoundResult.from_json(content) == result


def test_the_file_has_every_setting_and_the_differences_as_data(folders):
    config = folders.config("e", dataset="cifar10", paper_section="baseline", width=16, epochs=(20,))
    content = json.loads(write_round(config, 0).read_text())
    assert content["format"] == FORMAT
    assert ExperimentConfig.from_json(content["config"]) == config
    differences = {one["setting"]: (one["ours"], one["paper"]) for one in content["differences"]}
    assert differences == {"width": (16, 64), "head_learning_rate": (0.0, 1e-4)}
    assert set(AT_LEAST) <= content.keys() | content["config"].keys()


def test_a_difference_is_read_as_it_was_written():
    inherited = Difference("width", 16, 64)
    start = {"section": "baseline", "dataset": "cifar10", "round": None}
    difference = Difference("init_from", "base", start, (inherited,))
    assert Difference.from_json(json.loads(json.dumps(difference.to_json()))) == difference


@pytest.mark.parametrize(
    "value",
    [
        None,
        "width=16 (paper: 64)",
        {"setting": "width"},
        {"ours": 1, "paper": 2},
        {"setting": 1, "ours": 1, "paper": 2},
        {"setting": "width", "ours": {}, "paper": 64},
        {"setting": "width", "ours": [[1]], "paper": 64},
        {"setting": "init_from", "ours": "a", "paper": {"section": "4.3.2"}},
        {"setting": "init_from", "ours": "a", "paper": {"section": 1, "dataset": "d", "round": None}},
        {"setting": "init_from", "ours": "a", "paper": {"section": "s", "dataset": "d", "round": "1"}},
        {"setting": "init_from", "ours": "a", "paper": None, "inherited": [1]},
        {"setting": "init_from", "ours": "a", "paper": None, "inherited": {}},
    ],
)
def test_what_is_no_difference(value, folders):
    path = folders.dense("a", 90.0)
    change(path, differences=[value])
    with pytest.raises(FileError, match=r"a/round_00/result\.json: .*difference must"):
        read(path)


def test_a_file_of_an_older_format_says_what_to_do(tmp_path):
    path = tmp_path / "round_00" / "result.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"experiment": "e", "dataset": "digits", "regime": "dense", "round": 0}))
    with pytest.raises(FileError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert "format 1" in message and "another --output_dir" in message and "version" in message


def test_a_file_of_a_newer_format_says_so(folders):
    path = folders.dense("a", 90.0)
    change(path, format=FORMAT + 1)
    with pytest.raises(FileError, match=rf"a/round_00/result\.json: .*format {FORMAT + 1}"):
        read(path)


@pytest.mark.parametrize("content", ['{"format": 2, "rou', "", "[1]", "\x00", '{"round": NaN}', "[" * 10_000])
def test_broken_json_names_the_file(folders, content):
    path = folders.dense("a", 90.0)
    path.write_text(content)
    with pytest.raises(FileError, match=r"a/round_00/result\.json: "):
        read(path)


def test_bytes_that_are_no_text_name_the_file(folders):
    path = folders.dense("a", 90.0)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(FileError, match=r"a/round_00/result\.json: "):
        read(path)


@pytest.mark.parametrize("key", ["round", "sparsity", "metric_at_end", "backend", "train_examples"])
def test_what_every_round_has_may_not_miss(folders, key):
    path = folders.dense("a", 90.0)
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(FileError, match=f"result.json: .*`{key}` is missing"):
        read(path)


def test_what_a_round_did_not_do_may_miss(folders):
    path = folders.dense("a", 90.0)
    change(path, images_per_second=None, metric_before=None, width=None)
    result = read(path)
    assert result.images_per_second is None and result.metric_before is None
    assert result.config.width == 64  # A setting that is younger than the file has its default.


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("width", "16", "of type int"),
        ("width", 16.5, "of type int"),
        ("seed", True, "of type int"),
        ("seed", -1, "at least 0"),
        ("spare_ends", 1, "of type bool"),
        ("model", 34, "of type str"),
        ("layer_sparsity", "stem_conv:0.5", "list of str"),
        ("block_size", "2,2", "list of int"),
        ("block_size", [2, True], "list of int"),
        ("sparsity_m_by_n", [-2, 4], "M at least 1"),
        ("seed", 2**32, r"below 2\*\*32"),
        ("train_examples", True, "whole number"),
        ("frequency", True, "of type int"),
        ("rounds", 10**9, "at least 1 and at most 9999"),
        ("prune_layers", "(", "a regular expression"),
        ("experiment", "\x1b[2J", "a folder name"),
        ("experiment", "b", "must be a, as the folder says"),
        ("regime", "magic", "one of dense, one_shot, iterative, gradual, sparse"),
        ("paper_section", "4.3.9", "4.3.8"),
        ("steps", -1, "at least 0"),
        ("steps", None, "whole number"),
        ("steps", 1.5, "whole number"),
        ("sparsity", "0.5", "number"),
        ("sparsity", True, "number"),
        ("sparsity", 150, r"in \[0, 1\]"),
        ("sparsity_all_parameters", -1e-9, r"in \[0, 1\]"),
        ("target_sparsity", 1.01, r"in \[0, 1\]"),
        ("metric_at_end", -3, r"in \[0, 100\]"),
        ("metric_at_end", 101, r"in \[0, 100\]"),
        ("metric_at_end", [90], "number"),
        ("metric_before", -0.1, r"in \[0, 100\]"),
        ("metric_after_pruning", "10", "number"),
        ("data_wait_percent", 100.5, r"in \[0, 100\]"),
        ("train_seconds", -1, "at least 0"),
        ("images_per_second", -1, "at least 0"),
        ("device_count", 0, "at least 1"),
        ("training_engines", "keras", "a list of strings"),
        ("training_engines", ["Keras"], "names in lower case"),
        ("engine_speedup", -1.0, "at least 0"),
        ("test_examples", 0, "at least 1"),
        ("train_examples_available", 0, "at least 1"),
        ("test_examples", 361, "at most test_examples_available, 360"),
        ("ancestry", "../x", "16 hexadecimal digits"),
        ("backend", "\x1b[2J", "a name"),
        ("backend", 3, "a string"),
        ("differences", "width=16", "list"),
        ("versions", "3.15", "object"),
        ("versions", {"keras": 3.15}, "object of strings"),
        ("seconds", {"train": -1}, "at least 0 each"),
        ("seconds", {"train": "1"}, "object of numbers"),
        ("figures", {"loss": "1"}, "object of numbers"),
        ("metric", "accuracy", "{name, in_percent, higher_is_better}"),
        ("metric", {"name": "", "in_percent": True, "higher_is_better": True}, "{name, in_percent"),
        ("metric", {"name": "mae", "in_percent": 1, "higher_is_better": True}, "{name, in_percent"),
        ("metric", {"name": "mae", "in_percent": True}, "{name, in_percent"),
        ("seconds", [1], "object"),
        ("hardware", {"cores": {"many": 1}}, "object of numbers, strings and lists"),
        ("hardware", {"devices": [["cpu"]]}, "object of numbers, strings and lists"),
        ("round", 1, "at most 0"),
        ("layers", {}, "list of {layer, weights, zeros}"),
        ("layers", ["stem_conv"], "list of {layer, weights, zeros}"),
        ("layers", [{"layer": "a", "weights": 4}], "list of {layer, weights, zeros}"),
        ("layers", [{"layer": "a", "weights": 4, "zeros": 5}], "list of {layer, weights, zeros}"),
        ("layers", [{"layer": "a", "weights": 4, "zeros": True}], "list of {layer, weights, zeros}"),
        ("layers", [{"layer": "a", "weights": 4.0, "zeros": 1}], "list of {layer, weights, zeros}"),
        ("layers", [{"layer": 1, "weights": 4, "zeros": 1}], "list of {layer, weights, zeros}"),
    ],
)
def test_wrong_values_name_file_and_key(folders, key, value, rule):
    path = folders.dense("a", 90.0)
    content = json.loads(path.read_text())
    (content if key in content else content["config"])[key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(FileError, match=rf"result\.json: .*`{key}` .*{rule}.*Received: {key}="):
        read(path)


def test_a_metric_that_is_no_share_has_values_of_any_size_and_sign(folders):
    error = Metric("mean_absolute_error", in_percent=False, higher_is_better=False)
    values = {"metric_before": -3.5, "metric_after_pruning": 2e6, "metric_at_end": 101.0}
    path = folders.dense("a", 0.0, metric=error, figures={"loss": -2.0, error.name: 101.0}, **values)
    result = read(path)
    assert result.metric == error
    assert {name: getattr(result, name) for name in values} == values
    assert result.figures == {"loss": -2.0, "mean_absolute_error": 101.0}
    change(path, metric={"name": "precision", "in_percent": True, "higher_is_better": True})
    with pytest.raises(FileError, match=r"`metric_after_pruning` must be in \[0, 100\]"):
        read(path)


@pytest.mark.parametrize("key", ["learning_rate", "metric_at_end", "train_examples", "steps"])
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("NaN", "NaN is not a finite number"),
        ("-Infinity", "-Infinity is not a finite number"),
        ("1e999", "1e999 is not a finite number"),
        ("9223372036854775808", "9223372036854775808 is too large a number"),
        ("1" * 5000, "integer string conversion"),
    ],
)
def test_numbers_that_no_result_has(folders, key, number, reason):
    path = folders.dense("a", 90.0)
    change(path, **{key: "here"})
    path.write_text(path.read_text().replace('"here"', number))
    with pytest.raises(FileError, match=rf"result\.json: not a readable result of a round: .*{reason}"):
        read(path)


def test_a_sparsity_that_the_layers_do_not_have(folders):
    path = folders.dense("a", 90.0)
    change(path, layers=[{"layer": "a", "weights": 4, "zeros": 1}], sparsity=0.25)
    assert read(path).sparsity == 0.25
    change(path, sparsity=0.5)
    with pytest.raises(FileError, match=r"`sparsity` must be that of the layers, 0\.25"):
        read(path)


def test_a_setting_that_is_none(folders):
    path = folders.dense("a", 90.0)
    content = json.loads(path.read_text())
    content["config"]["widht"] = 4
    path.write_text(json.dumps(content))
    with pytest.raises(FileError, match=r"result\.json: .*does not know: widht"):
        read(path)


def test_a_result_in_another_rounds_folder(folders):
    path = folders.one_shot("a", "", 0.5, (1.0, 2.0))
    (path.parent / "result.json").write_bytes((path.parents[1] / "round_00/result.json").read_bytes())
    with pytest.raises(FileError, match=r"round_01/result\.json: .*`round` must be 1, as the folder says"):
        read(path)
