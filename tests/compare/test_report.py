import csv
import re
import subprocess
import sys

import matplotlib.image
import pytest

from tfprune.compare import write_comparison
from tfprune.compare.layout import NO_SECTION_TITLE, OTHER_SETTING_TITLE, PAPER_SETTING_TITLE
from tfprune.errors import UserError


def write_small_cifar(folder, settings):
    folder.dense("small_dense", 62.5, "baseline", **settings)
    folder.one_shot("small_shot", "small_dense", 0.95, (10.2, 57.1), "4.3.2", **settings)


def write_paper_cifar(folder, settings):
    folder.dense("full_dense", 95.6, "baseline", **settings)
    folder.one_shot("full_shot", "full_dense", 0.95, (10.0, 95.0), "4.3.2", **settings)


def write_demo(folder):
    settings = {"dataset": "digits", "width": 8, "image_size": 16, "model": "resnet34"}
    folder.dense("demo_dense", 97.0, **settings)
    levels = [(0.632, 90.0, 96.5), (0.864, 60.0, 95.25), (0.95, 30.0, 94.0)]
    folder.iterative("demo_iterative", "demo_dense", levels, **settings)


def read_csv(comparison):
    with comparison.csv_path.open(newline="") as stream:
        return {(row["experiment"], int(row["round"])): row for row in csv.DictReader(stream)}


def test_writes_three_files_and_nothing_else(folder):
    write_demo(folder)
    comparison = write_comparison(folder.path)
    assert [path.name for path in comparison.paths] == [
        "comparison.md",
        "comparison.csv",
        "comparison.png",
    ]
    files = {path.name for path in folder.path.iterdir() if path.is_file()}
    assert files == {path.name for path in comparison.paths}
    assert comparison.png_path.read_bytes().startswith(b"\x89PNG")
    # A second time over the first, the files not being taken for runs.
    assert write_comparison(folder.path).text == comparison.text


def test_demo_has_no_column_of_the_papers(folder):
    write_demo(folder)
    comparison = write_comparison(folder.path)
    lines = comparison.text.splitlines()
    assert lines[0] == NO_SECTION_TITLE
    assert not re.search(r"\bpaper\b", "\n".join(lines[1:]))
    assert any(line.split() == ["3/3", "0.9500", "0.9500", "30.0", "94.0", "3.0"] for line in lines)
    assert "| digits | demo_iterative | 2/3 | 0.8640 | 0.8640 | 60.0 | 95.2 | 1.8 |" in (
        comparison.markdown_path.read_text()
    )
    row = read_csv(comparison)["demo_iterative", 2]
    assert (row["drop_percent_points"], row["baseline_experiment"]) == ("1.75", "demo_dense")
    assert row["paper_accuracy_percent"] == ""


def test_other_settings_are_never_a_reproduction(folder, small_cifar):
    write_small_cifar(folder, small_cifar)
    comparison = write_comparison(folder.path)
    for text in (comparison.text, comparison.markdown_path.read_text()):
        assert PAPER_SETTING_TITLE + "\n" not in text
        assert OTHER_SETTING_TITLE in text
        flat = " ".join(text.split())
        assert "not the paper's setting: resnet34, width 16, cifar stem, 32x32" in flat
        assert "10,000 of 50,000 training images" in flat
        assert "width=16 (paper: 64)" in flat
        assert "diff" not in text.split("Accuracies are")[0].replace("differs", "")
    rows = read_csv(comparison)
    assert rows["small_shot", 1]["in_paper_setting"] == "False"
    assert rows["small_shot", 1]["difference_percent_points"] == ""
    assert rows["small_shot", 1]["setting"].startswith("not the paper's setting: ")
    assert rows["small_shot", 1]["paper_after_pruning_is_chance"] == "True"
    assert rows["small_shot", 1]["paper_accuracy_after_pruning_percent"] == "10.0"
    assert rows["small_shot", 1]["drop_percent_points"] == "5.4"


def test_each_run_stands_in_its_own_table(folder, small_cifar, paper_cifar):
    write_small_cifar(folder, small_cifar)
    write_paper_cifar(folder, paper_cifar)
    write_demo(folder)
    text = write_comparison(folder.path).text
    full, rest = text.split(OTHER_SETTING_TITLE)
    small, demo = rest.split(NO_SECTION_TITLE)
    assert full.startswith(PAPER_SETTING_TITLE)
    for part, own in ((full, "full_"), (small, "small_"), (demo, "demo_")):
        names = set(re.findall(r"\b(full_|small_|demo_)", part))
        assert names == {own}
    shot = next(line for line in full.splitlines() if "full_shot" in line)
    assert shot.split() == (
        "4.3.2 CIFAR-10 full_shot 1 0.9500 0.9500 0.950 10.0 chance 95.0 96.0 -1.0 0.6 0.0".split()
    )


def test_text_fits_the_terminal_and_keeps_long_names(folder, paper_cifar):
    name = "cifar10_iterative_995_with_a_name_that_is_longer_than_its_column"
    levels = [(0.9659, 96, 96), (0.9768, 94, 96)]
    folder.iterative(name, "", levels, "4.3.3", **paper_cifar)
    folder.one_shot("x" * 70, "", 0.95, (10, 95), "4.3.2", **paper_cifar)
    text = write_comparison(folder.path).text
    assert max(map(len, text.splitlines())) <= 120
    column = text.splitlines()[3].index("experiment")
    width = len(text.splitlines()[4][column:].split()[0])
    cells = [line[column : column + width].strip() for line in text.splitlines()[5:]]
    assert name in "".join(cells)
    assert "x" * 70 in "".join(cells)


def test_unfinished_rounds_are_named(folder):
    write_demo(folder)
    (folder.path / "demo_iterative/round_03/result.json").unlink()
    comparison = write_comparison(folder.path)
    assert "Unfinished: demo_iterative (round 3)." in comparison.text
    assert "Unfinished: demo_iterative (round 3)." in comparison.markdown_path.read_text()
    assert ("demo_iterative", 3) not in read_csv(comparison)


def test_only_the_start_is_finished(folder):
    write_demo(folder)
    for number in (1, 2, 3):
        (folder.path / f"demo_iterative/round_{number:02d}/result.json").unlink()
    comparison = write_comparison(folder.path, ["demo_iterative"])
    assert "Unfinished: demo_iterative (round 1, 2, 3)." in comparison.text
    assert list(read_csv(comparison)) == [("demo_iterative", 0)]


def test_nothing_finished_is_an_error(folder):
    (folder.path / "fresh/round_00").mkdir(parents=True)
    with pytest.raises(UserError, match="no round has finished yet of fresh"):
        write_comparison(folder.path)


def test_an_error_leaves_the_old_files(folder):
    write_demo(folder)
    comparison = write_comparison(folder.path)
    before = [path.read_bytes() for path in comparison.paths]
    (folder.path / "demo_dense/round_00/result.json").write_text("{")
    with pytest.raises(UserError, match="demo_dense"):
        write_comparison(folder.path)
    assert [path.read_bytes() for path in comparison.paths] == before


def test_picture_is_a_thousand_pixels_wide(folder, small_cifar):
    write_demo(folder)
    one = matplotlib.image.imread(write_comparison(folder.path).png_path)
    write_small_cifar(folder, small_cifar)
    two = matplotlib.image.imread(write_comparison(folder.path).png_path)
    assert (one.shape[1], two.shape[1]) == (1000, 1000)
    assert two.shape[0] == 2 * one.shape[0]


def test_imports_no_framework_and_no_pyplot():
    code = (
        "import sys, tfprune.compare; "
        "print(sorted({'tensorflow', 'keras', 'torch', 'jax', 'matplotlib.pyplot'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, ""),
        ({"regime": "dense", "score": "taylor"}, ""),  # A dense run prunes nothing.
        (
            {"scope": "global", "score": "magnitude", "granularity": "weight", "block_size": [1, 1]}
            | {"sparsity_m_by_n": [], "layer_sparsity": [], "spare_ends": False, "regrowth": "none"}
            | {"pruning_engine": "tfprune"},
            "",
        ),
        ({"scope": "erk", "score": "taylor", "spare_ends": True}, "scope erk, score taylor, ends spared"),
        ({"granularity": "channel"}, "whole channels"),
        ({"block_size": [2, 4], "block_pooling_type": "MAX"}, "blocks of 2x4 (MAX)"),
        ({"sparsity_m_by_n": [2, 4]}, "2 of 4 weights zero"),
        ({"layer_sparsity": ["stem_conv:0.5", "head:0.1"]}, "layer sparsity stem_conv:0.5 head:0.1"),
        ({"pruning_engine": "tfmot"}, "pruned by tfmot"),
        ({"regime": "sparse", "regrowth": "rigl"}, "sparse from the start (rigl)"),
        ({"lr_schedule": "step", "warmup_epochs": 0, "batchnorm_after_pruning": "keep"}, ""),
        ({"lr_schedule": "cosine", "warmup_epochs": 1}, "cosine learning rate, warm-up of 1 epoch"),
        (
            {"distill_from": "dense", "distill_weight": 0.5, "distill_temperature": 4.0},
            "distilled from dense (weight 0.5, temperature 4)",
        ),
        ({"batchnorm_after_pruning": "recalibrate"}, "BatchNorm after pruning: recalibrate"),
    ],
)
def test_a_setting_says_how_the_run_was_pruned_and_trained(folder, how, words):
    settings = {"dataset": "digits", "rounds": 1, "model": "resnet18", "accuracy_percent": 90.0}
    regime = how.pop("regime", "one_shot")
    number = 0 if regime == "dense" else 1
    folder.write("a", number, regime=regime, sparsity=0.5, **settings, **how)
    comparison = write_comparison(folder.path)
    setting = ", ".join(["resnet18", *filter(None, [words])])
    assert read_csv(comparison)["a", number]["setting"] == setting
    assert f"  a: {setting}" in comparison.text.splitlines()
    assert f"- `a`: {setting}\n" in comparison.markdown_path.read_text()
