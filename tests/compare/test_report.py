import csv
import dataclasses
import os
import re
import subprocess
import sys

import pytest

from tests.support.canned import canned_record
from tfprune.compare import words, write_comparison, write_page
from tfprune.compare.columns import COLUMNS
from tfprune.compare.text import ALONE_TITLE, NO_SECTION_TITLE, OTHER_SETTING_TITLE, PAPER_SETTING_TITLE
from tfprune.errors import UserError
from tfprune.files import write_json
from tfprune.lock import hold
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.metric import ACCURACY
from tfprune.runs.result import Channels, NetworkSize

DIGITS = {"dataset": "digits", "width": 8, "image_size": 16}


def write_small_cifar(folder, settings):
    folder.dense("small_dense", 62.5, "baseline", **settings)
    folder.one_shot("small_shot", "small_dense", 0.95, (10.2, 57.1), "4.3.2", **settings)


def write_paper_cifar(folder, settings):
    folder.dense("full_dense", 95.6, "baseline", **settings)
    folder.one_shot("full_shot", "full_dense", 0.95, (10.0, 95.0), "4.3.2", **settings)


def write_demo(folder):
    folder.dense("demo_dense", 97.0, **DIGITS)
    levels = [(0.632, 90.0, 96.5), (0.864, 60.0, 95.25), (0.95, 30.0, 94.0)]
    folder.iterative("demo_iterative", "demo_dense", levels, **DIGITS)


def write_export(folder, experiment):
    export = folder.path / experiment / "export"
    export.mkdir()
    artifacts = {"model.keras": {"bytes": 4_100}, "model.tfprune": {"bytes": 200}}
    write_json(export / "export.json", {"dense_weights_bytes": 4_000, "artifacts": artifacts})
    write_json(export / "benchmark.json", canned_record())


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
    assert files == {path.name for path in comparison.paths} | {".comparison.lock"}
    assert comparison.png_path.read_bytes().startswith(b"\x89PNG")
    # A second time over the first, the files not being taken for runs.
    assert write_comparison(folder.path).text == comparison.text


def test_without_a_counterpart_there_is_no_column_and_no_word_of_the_papers(folder):
    write_demo(folder)
    comparison = write_comparison(folder.path)
    assert comparison.text.splitlines()[0] == f"digits. {ALONE_TITLE}"
    markdown = comparison.markdown_path.read_text()
    page = write_page(folder.path).read_text().partition("<body>")[2]
    for text in (comparison.text, markdown, page):
        assert not re.search(
            r"\bpaper", re.sub(r"<pre>.*?</pre>|--paper\)|var\(--paper", "", text, flags=re.S)
        )
    assert any(
        line.split() == ["3/3", "94.0", "3.0", "0.9500", "30.0"] for line in comparison.text.splitlines()
    )
    assert "| demo_iterative | 2/3 | 95.2 | 1.8 | 0.8640 | 60.0 |" in markdown
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
        assert "width 16 (paper: 64)" in flat
        assert "against it: accuracy" not in text.lower()
    rows = read_csv(comparison)
    row = rows["small_shot", 1]
    assert row["in_paper_setting"] == "False"
    assert row["difference_percent_points"] == ""
    assert row["setting"].startswith("not the paper's setting: ")
    assert row["paper_after_pruning_is_chance"] == "True"
    assert row["paper_accuracy_after_pruning_percent"] == "10.0"
    assert (row["drop_percent_points"], row["excess_drop_percent_points"]) == ("5.4", "5.4")


def test_each_run_stands_in_its_own_table(folder, small_cifar, paper_cifar):
    write_small_cifar(folder, small_cifar)
    write_paper_cifar(folder, paper_cifar)
    write_demo(folder)
    text = write_comparison(folder.path).text
    full, rest = text.split(OTHER_SETTING_TITLE)
    small, demo = rest.split(NO_SECTION_TITLE)
    assert full.startswith(f"CIFAR-10. {PAPER_SETTING_TITLE}")
    for part, own in ((full, "full_"), (small, "small_"), (demo, "demo_")):
        names = set(re.findall(r"\b(full_|small_|demo_)(?=dense:|shot:|dense  |shot  |iterative  )", part))
        assert names == {own}
    shot = next(line for line in full.splitlines() if "full_shot" in line)
    assert (
        shot.split()
        == "4.3.2 full_shot 1/1 95.0 0.6 0.9500 10.0 96.0 0.0 0.950 chance -1.0 0.6 worse".split()
    )


def test_views_have_the_same_columns(folder, small_cifar):
    """Text, Markdown, CSV and page, with everything that there can be."""
    write_small_cifar(folder, small_cifar)
    write_export(folder, "small_shot")
    comparison = write_comparison(folder.path)
    titles = ["accuracy", "drop", "sparsity", "pruned", "file", "latency"]
    paper = ["accuracy", "drop", "sparsity", "pruned"]
    expected = [*titles, *paper, "drop is"]
    head = comparison.text.splitlines()[3]
    assert re.split(r" +(?!is)", head.strip())[3:] == expected
    groups = [*["ours"] * 6, *["the paper"] * 4, "against it"]
    markdown = next(
        line for line in comparison.markdown_path.read_text().splitlines() if line.startswith("|")
    )
    cells = [cell.strip().lower() for cell in markdown.strip("|").split("|")]
    assert cells[3:] == [f"{group}: {title}" for group, title in zip(groups, expected, strict=True)]
    page = write_page(folder.path).read_text().partition('id="rounds"')[2].partition("</section>")[0]
    tables = [
        re.findall(r"<th[^>]*>([^<]*)</th>", head) for head in re.findall(r"<thead>.*?</thead>", page, re.S)
    ]
    shown = [title for title in tables[1] if title in expected]
    assert shown == expected
    row = read_csv(comparison)["small_shot", 1]
    assert {column.in_csv(ACCURACY) for column in COLUMNS} <= row.keys()
    line = next(line for line in comparison.text.splitlines() if "small_shot" in line)
    assert line.split()[3:] == ("57.1 5.4 0.9500 10.2 200 B 10 ms 96.0 0.0 0.950 chance 5.4 worse".split())
    assert (row["file_bytes"], row["latency_ms"]) == ("200.0", "10.0")


def test_the_summary_says_what_for_what(folder, small_cifar):
    write_small_cifar(folder, small_cifar)
    write_export(folder, "small_shot")
    page = write_page(folder.path).read_text().partition('id="summary"')[2].partition("</section>")[0]
    heads = re.findall(r'<th(?: class="start")? scope="col">([^<]*)</th>', page)
    assert heads == ["accuracy", "drop", "sparsity", "file", "latency", "accuracy", "drop", "drop is"]
    text = re.sub(r"<[^>]*>", " ", page)
    assert "20× smaller" in text and "4.0× faster" in text


def test_every_setting_is_a_column_of_the_csv(folder):
    write_demo(folder)
    row = read_csv(write_comparison(folder.path))["demo_iterative", 3]
    names = {field.name for field in dataclasses.fields(ExperimentConfig)}
    assert names <= row.keys()
    assert (row["width"], row["epochs"], row["learning_rate"]) == ("8", "20", "1e-05")


def test_text_fits_the_terminal_and_keeps_long_names(folder, paper_cifar):
    name = "cifar10_iterative_995_with_a_name_that_is_longer_than_its_column"
    levels = [(0.9659, 96, 96), (0.9768, 94, 96)]
    folder.iterative(name, "", levels, "4.3.3", train_examples=100)
    folder.one_shot("x" * 70, "", 0.95, (10, 95), "4.3.2", train_examples=100)
    write_export(folder, "x" * 70)
    text = write_comparison(folder.path).text
    assert max(map(len, text.splitlines())) <= 120
    column = text.splitlines()[3].index("experiment")
    width = len(text.splitlines()[4][column:].split()[0])
    cells = [line[column : column + width].strip() for line in text.splitlines()[5:]]
    assert name in "".join(cells)
    assert "x" * 70 in "".join(cells)


def test_unfinished_rounds_are_named(folder):
    write_demo(folder)
    folder.unfinish("demo_iterative", 3)
    comparison = write_comparison(folder.path)
    assert "Unfinished: demo_iterative (round 3)." in comparison.text
    assert "Unfinished: demo_iterative (round 3)." in comparison.markdown_path.read_text()
    assert ("demo_iterative", 3) not in read_csv(comparison)


def test_only_the_start_is_finished(folder):
    write_demo(folder)
    folder.unfinish("demo_iterative", 1, 2, 3)
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


@pytest.mark.slow
def test_imports_no_framework_and_no_pyplot():
    code = (
        "import sys, tfprune.compare; "
        "print(sorted({'tensorflow', 'keras', 'torch', 'jax', 'matplotlib.pyplot'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, "one-shot, scope global"),
        ({"regime": "dense", "score": "taylor"}, "dense"),  # A dense run prunes nothing.
        (
            {"scope": "erk", "score": "taylor", "spare_ends": True},
            "one-shot, scope erk, ends spared, score taylor",
        ),
        ({"granularity": "channel"}, "one-shot, scope global, whole channels"),
        (
            {"block_size": (2, 4), "block_pooling_type": "MAX"},
            "one-shot, scope global, blocks of 2x4, block_pooling_type MAX",
        ),
        ({"sparsity_m_by_n": (2, 4)}, "one-shot, scope global, 2 of 4 weights zero"),
        (
            {"layer_sparsity": ("stem_conv:0.5", "head:0.1")},
            "one-shot, scope global, layer sparsity stem_conv:0.5 head:0.1",
        ),
        ({"pruning_engine": "tfmot"}, "one-shot, scope global, pruned by tfmot"),
        ({"regime": "sparse", "regrowth": "rigl"}, "sparse from the start (rigl), scope global"),
        (
            {"lr_schedule": "cosine", "warmup_epochs": 1.0},
            "one-shot, scope global, cosine learning rate, warm-up of 1 epoch",
        ),
        (
            {"distill_from": "dense", "distill_weight": 0.25},
            "one-shot, scope global, distilled from dense",
        ),
        (
            {"batchnorm_after_pruning": "recalibrate"},
            "one-shot, scope global, BatchNorm after pruning: recalibrate",
        ),
    ],
)
def test_a_setting_says_how_the_run_was_pruned_and_trained(folder, how, words):
    settings = {"model": "resnet18", "weights": "none", **DIGITS, **how}
    regime = settings.pop("regime", "one_shot")
    if regime == "dense":
        folder.dense("a", 90.0, **settings)
    else:
        folder.one_shot("a", "", 0.5, (10.0, 90.0), regime=regime, **settings)
    comparison = write_comparison(folder.path)
    setting = f"resnet18, width 8, imagenet stem, 16x16, 1,437 training images, 360 test images; {words}"
    assert read_csv(comparison)["a", 0 if regime == "dense" else 1]["setting"] == setting
    assert f"a: {setting}" in " ".join(comparison.text.split())
    assert f"- `a`: {setting}\n" in comparison.markdown_path.read_text()


def test_what_most_runs_do_not_have_is_named(folder):
    for name, rate in (("a", 1e-3), ("b", 1e-3), ("c", 3e-3)):
        folder.one_shot(name, "", 0.5, (10.0, 90.0), **DIGITS, learning_rate=rate)
    settings = {name: row["setting"] for (name, _), row in read_csv(write_comparison(folder.path)).items()}
    assert settings["c"].endswith(", learning_rate 0.003")
    assert settings["a"] == settings["b"] and "learning_rate" not in settings["a"]


def test_a_method_without_words_of_its_own_has_its_name(folder, monkeypatch):
    """A way of pruning that was registered and is not in the table of words yet."""
    monkeypatch.setattr(words, "_REGIMES", {})
    folder.one_shot("a", "", 0.5, (10.0, 90.0), **DIGITS)
    assert "one_shot" in write_comparison(folder.path).text


def test_two_comparisons_of_one_folder_are_told_of_each_other(folder):
    """A study holds the folder while it trains, and may be compared meanwhile."""
    write_demo(folder)
    with hold(folder.path, part="comparison"):
        for write in (write_comparison, write_page):
            with pytest.raises(UserError, match=rf"--output_dir=.* is in use by process {os.getpid()} on "):
                write(folder.path)
    with hold(folder.path):
        write_comparison(folder.path)
        write_page(folder.path)


@pytest.fixture
def cut(folder):
    """A dense network, zeros in half of it, and half of its channels cut out; then that on other data."""
    whole = NetworkSize(40_000, 3_000_000)
    small = {
        "size": NetworkSize(10_000, 1_200_000),
        "whole": whole,
        "channels": (Channels(("a", "b"), 4, 8),),
    }
    folder.dense("dense", 97.0, size=whole, whole=whole, **DIGITS)
    folder.one_shot("sparse", "dense", 0.5, (40.0, 95.0), size=whole, whole=whole, **DIGITS)
    asked = {"prune": "channels", "target_macs": 0.4, "target_left": 0.4}
    folder.one_shot("cut", "dense", 0.0, (30.0, 96.0), **asked, **small, **DIGITS)
    folder.dense("moved", 70.0, init_from="cut", **small, **{**DIGITS, "dataset": "cifar10"})
    write_export(folder, "cut")
    return folder


def test_cut_networks_stand_beside_sparse_ones_with_what_is_left(cut):
    comparison = write_comparison(cut.path)
    (text,) = [line for line in comparison.text.splitlines() if line.startswith("cut ")]
    assert "10.0 k of 40.0 k" in text and "1.20 M of 3.00 M" in text and " 1.0 " in text  # its drop, too
    (text,) = [line for line in comparison.text.splitlines() if line.startswith("sparse ")]
    assert "40.0 k" in text and " of " not in text and "0.5000" in text
    text = " ".join(comparison.text.split())
    assert "channels cut at once, scope global" in text and "to 40 % of the MACs" in text
    assert "transfer of a cut network" in text and words.SIZES_EXPLAINED in text
    row = read_csv(comparison)["cut", 1]
    assert [row[name] for name in ("parameters", "parameters_before", "macs", "macs_before")] == [
        "10000.0",
        "40000",
        "1200000.0",
        "3000000",
    ]
    assert (row["channels_asked"], row["prune"]) == ("0.4", "channels")


def test_the_page_says_what_is_left_of_a_cut_network(cut):
    page = write_page(cut.path).read_text()
    assert "4.0× fewer" in page and "2.5× fewer" in page  # parameters, MACs
    # The file, beside the whole network's weights.
    assert "80× smaller" in page
    assert "share of the weights removed" in page and "sparsity of the pruned kernels" not in page
    assert words.SIZES_EXPLAINED.split(";")[0].strip() in " ".join(page.split())


def test_no_sizes_stand_where_nothing_was_cut(folder):
    write_demo(folder)
    text = write_comparison(folder.path).text
    assert "MACs" not in text and "parameters" not in text


@pytest.mark.parametrize(
    "value, text",
    [
        (842, "842"),
        (9_999, "10.0 k"),
        (999.6, "1.00 k"),
        (21_282_122, "21.3 M"),
        (1.16e9, "1.16 G"),
        (133_400, "133 k"),
    ],
)
def test_an_amount_has_three_digits(value, text):
    assert words.amount(value) == text
