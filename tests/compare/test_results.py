import json

import pytest

from tfprune.compare.results import read_runs
from tfprune.errors import UserError


def test_reads_rounds_in_order(folder):
    folder.iterative("b", "a", [(0.5, 40, 80), (0.75, 30, 70)], dataset="digits")
    folder.dense("a", 90.5, dataset="digits", versions={"keras": "3.15.1"})
    (folder.path / "not_a_run").mkdir()
    (folder.path / "README.md").write_text("")
    runs = read_runs(folder.path)
    assert [run.experiment for run in runs] == ["a", "b"]
    assert all(run.finished for run in runs)
    assert runs[0].rounds[0].accuracy_percent == 90.5
    assert runs[0].rounds[0].versions == {"keras": "3.15.1"}
    assert [result.sparsity for result in runs[1].rounds] == [0.0, 0.5, 0.75]
    assert runs[1].rounds[2].init_from == "a"


def test_selects_experiments(folder):
    for name in "abc":
        folder.dense(name, 90, dataset="digits")
    assert [run.experiment for run in read_runs(folder.path, ["c", "a"])] == ["c", "a"]


def test_unknown_experiment_lists_those_present(folder):
    folder.dense("a", 90, dataset="digits")
    folder.dense("b", 90, dataset="digits")
    with pytest.raises(UserError, match=r"--experiments=c: .* There are: a, b"):
        read_runs(folder.path, ["a", "c"])


def test_no_folder_and_no_run(tmp_path):
    with pytest.raises(UserError, match=r"--output_dir=.*absent: No such file"):
        read_runs(tmp_path / "absent")
    with pytest.raises(UserError, match="there is no run folder"):
        read_runs(tmp_path)


def test_unfinished_rounds(folder):
    folder.iterative("x", "a", [(0.5, 40, 80), (0.75, 30, 70), (0.9, 20, 60)], dataset="digits")
    (folder.path / "x/round_02/result.json").unlink()
    (folder.path / "x/round_03/result.json").unlink()
    (folder.path / "x/round_03").rmdir()
    (folder.path / "fresh").mkdir()
    (folder.path / "fresh/flags.txt").write_text("")
    fresh, run = read_runs(folder.path)
    assert not run.finished
    assert [result.round for result in run.rounds] == [0, 1]
    # Round 2 was started; round 3 was only announced by `rounds`.
    assert run.unfinished_rounds == (2, 3)
    assert (fresh.rounds, fresh.unfinished_rounds) == ((), (0,))


def test_layers(folder):
    layers = [{"layer": "stem_conv", "weights": 9, "zeros": 0}, {"layer": "b", "weights": 4, "zeros": 4}]
    folder.dense("a", 90.5, dataset="digits", layers=layers)
    read = read_runs(folder.path)[0].rounds[0].layers
    assert [(layer.layer, layer.weights, layer.zeros) for layer in read] == [("stem_conv", 9, 0), ("b", 4, 4)]


@pytest.mark.parametrize(
    "layers",
    [
        {},
        ["stem_conv"],
        [{"layer": "a", "weights": 4}],
        [{"layer": "a", "weights": 4, "zeros": 5}],
        [{"layer": "a", "weights": 4, "zeros": True}],
    ],
)
def test_layers_are_checked(folder, layers):
    folder.dense("a", 90.5, dataset="digits", layers=layers)
    with pytest.raises(UserError, match="`layers` must be a list of {layer, weights, zeros}"):
        read_runs(folder.path)


def test_optional_keys_may_miss_or_be_null(folder):
    folder.write("a", 0, dataset="digits", regime="dense", width=None)
    result = read_runs(folder.path)[0].rounds[0]
    assert result.width is None
    assert result.accuracy_percent is None
    assert result.paper_setting is False
    assert result.paper_setting_differences == ()


def test_how_a_run_was_pruned(folder):
    how = {
        "layer_sparsity": ["stem_conv:0.5", "head:0.1"],
        "spare_ends": False,
        "score": "taylor",
        "granularity": "weight",
        "block_size": [2, 4],
        "block_pooling_type": "MAX",
        "sparsity_m_by_n": [],
        "regrowth": "none",
        "pruning_engine": "tfprune",
    }
    folder.one_shot("new", "", 0.5, (1, 2), dataset="digits", **how)
    folder.one_shot("old", "", 0.5, (1, 2), dataset="digits")
    new, old = (run.rounds[1] for run in read_runs(folder.path))
    for name, value in how.items():
        assert getattr(new, name) == (tuple(value) if isinstance(value, list) else value)
        assert getattr(old, name) is None


@pytest.mark.parametrize("content", ['{"experiment": "a", "rou', "", "[1]", "\x00", '{"round": NaN}'])
def test_broken_json_names_the_file(folder, content):
    folder.dense("a", 90, dataset="digits").write_text(content)
    with pytest.raises(UserError, match=r"a/round_00/result\.json: "):
        read_runs(folder.path)


def test_bytes_that_are_no_text_name_the_file(folder):
    folder.dense("a", 90, dataset="digits").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match=r"a/round_00/result\.json: "):
        read_runs(folder.path)


@pytest.mark.parametrize("key", ["dataset", "regime", "round"])
def test_required_keys(folder, key):
    folder.write("a", 0, **{"dataset": "digits", "regime": "dense", key: None})
    with pytest.raises(UserError, match=f"result.json: `{key}` is missing"):
        read_runs(folder.path)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("width", "16", "whole number"),
        ("width", 16.5, "whole number"),
        ("seed", True, "whole number"),
        ("epochs", -1, "whole number"),
        ("sparsity", "0.5", "finite number"),
        ("sparsity", 1.5, r"in \[0, 1\]"),
        ("accuracy_percent", float("nan"), "finite number"),
        ("accuracy_percent", 101, r"in \[0, 100\]"),
        ("accuracy_percent", [90], "finite number"),
        ("paper_setting", "yes", "true or false"),
        ("paper_setting_differences", "width=16", "list of strings"),
        ("paper_setting_differences", [16], "list of strings"),
        ("versions", "3.15", "object"),
        ("layer_sparsity", "stem_conv:0.5", "list of strings"),
        ("block_size", "2,2", "list of whole numbers"),
        ("block_size", [2, True], "list of whole numbers"),
        ("sparsity_m_by_n", [-2, 4], "list of whole numbers"),
        ("spare_ends", 1, "true or false"),
        ("model", 34, "string"),
        ("regime", "magic", "one of dense, one_shot, iterative, gradual, sparse"),
        ("paper_section", "4.3.9", "4.3.8"),
        ("round", 1, "must be 0, as the folder says"),
    ],
)
def test_wrong_values_name_file_and_key(folder, key, value, rule):
    path = folder.dense("a", 90, dataset="digits")
    path.write_text(json.dumps({"dataset": "digits", "regime": "dense", "round": 0, key: value}))
    with pytest.raises(UserError, match=rf"result\.json: `{key}` .*{rule}.*Received: {key}="):
        read_runs(folder.path)
