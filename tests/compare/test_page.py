import html.parser
import json
import re
import subprocess
import sys

import pytest

from tests.support.canned import canned_record
from tfprune.compare.page.page import write_page
from tfprune.errors import UserError
from tfprune.runs.result import LayerZeros

VOID = {"meta", "br", "wbr"}


class Checker(html.parser.HTMLParser):
    """Fails on unbalanced elements; gathers tables as rows of texts, and what refers to other files."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tables, self.references, self.texts = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass  # SVG's

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.tables[-1][-1][-1] = self.tables[-1][-1][-1].strip()

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            cells = self.tables[-1][-1]
            cells[-1] = re.sub(r"\s+", " ", cells[-1] + data).lstrip()

    def summary(self, experiment):
        """The figures of an experiment in the summary."""
        (row,) = [
            row for table in self.tables for row in table if re.search(rf"[ \d)a-z]{experiment}$", row[0])
        ]
        return row[1:]

    def rounds(self, experiment):
        """The rows below an experiment's heading."""
        for table in self.tables:
            for index, row in enumerate(table):
                if len(row) == 1 and re.search(rf"\b{experiment} ", row[0]):
                    return table[index + 1 :]
        raise AssertionError(experiment)

    def row(self, *first):
        """The cells of the one row that begins with the given cells."""
        rows = [row for table in self.tables for row in table if tuple(row[: len(first)]) == first]
        assert len(rows) == 1, rows
        return rows[0]


def read(path):
    return Checker(path.read_text(encoding="utf-8"))


def flat(page):
    return " ".join("".join(page.texts).split())


def write_study(folder, settings, seeds=1):
    """Two baselines and three sections; each seed half a point above the one before."""
    for seed in range(seeds):
        s, more = (f"_seed{seed}" if seed else ""), 0.5 * seed
        own = {**settings, "seed": seed}
        folder.dense(f"base{s}", 90.0 + more, "baseline", **own)
        folder.one_shot(f"shot995{s}", f"base{s}", 0.995, (10.0, 82.5 + more), "4.3.1", **own)
        folder.one_shot(f"shot95{s}", f"base{s}", 0.95, (10.0, 88.75 + more), "4.3.2", **own)
        levels = [(0.9659, 85, 89.5 + more), (0.9768, 80, 89.0), (0.9842, 70, 88.0), (0.9892, 60, 87.5)]
        levels += [(0.9927, 50, 87.0), (0.995, 45, 86.5 + 2 * more)]
        folder.iterative(f"iterative{s}", f"shot95{s}", levels, "4.3.3", **own)
        erk = {**own, "scope": "erk"}
        folder.one_shot(f"erk{s}", f"base{s}", 0.995, (10.0, 84.0 + more), **erk)


def test_a_self_contained_page_in_one_file(folder, small_cifar):
    write_study(folder, small_cifar)
    path = write_page(folder.path)
    assert path == folder.path / "index.html"
    files = {path.name for path in folder.path.iterdir() if path.is_file()}
    assert files == {"index.html", ".comparison.lock"}
    page = read(path)
    assert page.references and all(reference.startswith("#") for reference in page.references)
    text = path.read_text()
    # A clip path of a picture is in the page itself.
    assert not re.search(r"https?://(?!www.w3.org)|@import|url\((?!#)|<script|<link|<img", text)
    assert text.count("<svg") >= 4
    assert "http-equiv" not in text


def test_other_settings_are_not_a_reproduction(folder, small_cifar):
    write_study(folder, small_cifar)
    page = read(write_page(folder.path))
    assert "Not a reproduction of the paper. All 4 experiments with a section" in flat(page)
    assert "One further experiment lies outside" in flat(page)
    assert page.row("width") == ["width", "16", "64"]
    assert page.row("image_size") == ["image_size", "32", "224"]
    # No difference of accuracies, which would measure the setting.
    assert not any(row.count("accuracy") > 2 for table in page.tables for row in table)
    # 90 - 82.5 beside the paper's 7.
    assert page.summary("shot995") == ["82.5", "7.5", "0.9950", "89.0", "7.0", "✓ 0.5 worse"]
    # 1.25 below its dense network, where the paper's loses nothing.
    assert page.summary("shot95") == ["88.8", "1.2", "0.9500", "96.0", "0.0", "✗ 1.2 worse"]


def test_sections_run_on_another_dataset_are_in_the_summary(folder):
    own = {"dataset": "digits", "train_examples": 500}
    folder.dense("base", 90.0, "baseline", **own)
    folder.one_shot("shot", "base", 0.995, (10.0, 82.5), "4.3.1", **own)
    page = read(write_page(folder.path))
    assert page.row("dataset") == ["dataset", "digits", "cifar10,cifar100; cifar10"]
    assert not [row for table in page.tables for row in table if row[0] == "train_examples"]
    assert page.summary("shot") == ["82.5", "7.5", "0.9950"]
    assert "4.3.1 digits" in flat(page)


def test_a_reproduction_has_differences(folder, paper_cifar):
    write_study(folder, paper_cifar)
    page = read(write_page(folder.path))
    assert "A reproduction of the paper’s setting." in flat(page)
    assert page.summary("shot995") == ["82.5", "7.5", "0.9950", "89.0", "7.0", "−6.5", "✓ 0.5 worse"]
    assert page.row("6/6")[-2:] == ["−8.0", "✗ 2.0 worse"]


def test_one_of_each_kind(folder, small_cifar, paper_cifar):
    folder.dense("full", 95.0, "baseline", **paper_cifar)
    folder.one_shot("small", "small_base", 0.95, (10, 80), "4.3.2", **small_cifar)
    page = read(write_page(folder.path))
    assert "In part a reproduction of the paper. In its setting: full. Not in it" in flat(page)


def test_rounds_of_an_iterative_run(folder, small_cifar):
    write_study(folder, small_cifar)
    page = read(write_page(folder.path))
    assert page.row("1/6") == (
        ["1/6", "89.5", "0.5", "0.9659", "85.0", "96.0", "0.0", "0.966", "96.0", "✓ 0.5 worse"]
    )
    (shot,) = [row for table in page.tables for row in table if row[:2] == ["1/1", "88.8"]]
    assert (shot[4], shot[8]) == ("10.0", "chance")


def test_iterative_against_one_shot(folder, small_cifar):
    write_study(folder, small_cifar, seeds=3)
    text = flat(read(write_page(folder.path)))
    # Within the seeds 4.0, 4.5 and 5.0.
    assert (
        "Iterative is above one-shot, CIFAR-10 at 0.995, 4.3.3 against 4.3.1: 87.5 ± 1.0 against 83.0 ± 0.5, "
        "+4.5 ± 0.5 points, above in 3 of 3 seeds (the paper: 94.5 against 89, +5.5)" in text
    )
    assert "CIFAR-100" not in text


def test_what_the_papers_sections_lack_stands_beside_them(folder, small_cifar):
    write_study(folder, small_cifar, seeds=2)
    page = read(write_page(folder.path))
    assert (
        "Beyond the paper, against 4.3.1 (CIFAR-10, one-shot to 0.995), in points: erk +1.5 ± 0.0."
        in flat(page)
    )
    assert page.rounds("erk")[0][3] == "+1.5 ± 0.0"


def test_mean_and_spread_over_seeds(folder, small_cifar):
    write_study(folder, small_cifar, seeds=3)
    page = read(write_page(folder.path))
    assert "shot995 one-shot, scope global; seeds 0, 1, 2" in flat(page)
    assert "figures are their mean ± sample standard deviation" in flat(page)
    assert page.summary("shot995")[:5] == ["83.0 ± 0.5", "7.5 ± 0.0", "0.9950", "89.0", "7.0"]
    assert page.row("shot995_seed2", "2", "83.50") == ["shot995_seed2", "2", "83.50"]


@pytest.mark.slow
def test_part_of_a_study(folder, small_cifar):
    write_study(folder, small_cifar, seeds=2)
    folder.unfinish("iterative", 5, 6)
    folder.unfinish("iterative_seed1", 3, 4, 5, 6)
    folder.one_shot("new", "", 0.95, (10, 80), "4.3.4", **small_cifar | {"dataset": "cifar100"})
    folder.unfinish("new", 0, 1)
    page = read(write_page(folder.path))
    assert "4.3.3 against 4.3.1: not finished (the paper: 94.5" in flat(page)
    assert page.row("2/6")[1] == "89.0 ± 0.0"
    assert page.row("4/6 (1 of 2)")[1] == "87.5"
    row = page.row("6/6 (0 of 2)")
    assert (row[1], row[5], row[7]) == ("not finished", "94.5", "0.995")
    assert "0 of 2 seeds finished; figures of 1 seed after round 4 of 6" in flat(page)
    rows = [row[0] for row in page.tables[1]]
    assert "4.3.4 CIFAR-100, one-shot to 0.95no round finished yet" in rows
    assert any(row.startswith("4.3.5 ") and row.endswith("not run") for row in rows)
    assert page.row("new", "–")[1:] == ["–"] * 8


def test_unfinished_outside_the_paper_stands_where_it_will(folder, small_cifar):
    write_study(folder, small_cifar)
    folder.unfinish("erk", 1)
    page = read(write_page(folder.path))
    assert "without a counterpart" not in flat(page)
    assert page.rounds("erk")[0][1] == "not finished"
    # The start is no round: neither done nor to do.
    assert page.row("erk", "0")[2] == "0 of 1"
    assert page.row("iterative", "0")[2] == "6 of 6"


def test_text_of_files_is_escaped(folder, small_cifar):
    """Whatever a file of a run folder says, it stays text."""
    evil = "</title></style><script>alert(1)</script>&\"'"
    more = {"hardware": {"processor": evil}, "versions": {evil: evil}}
    more["layers"] = (LayerZeros(evil, 100, 95),)
    path = folder.one_shot("good", "", 0.95, (10, 80), "4.3.2", **small_cifar, **more)
    content = json.loads(path.read_text())
    content["config"] |= {"model": evil, "init_from": evil, "weights": evil}
    content["differences"] = [{"setting": evil, "ours": evil, "paper": evil}]
    path.write_text(json.dumps(content))
    (folder.path / "good/flags.txt").write_text(f"# {evil}\n")
    (folder.path / "good/export").mkdir()
    artifacts = {"artifacts": {evil: {"bytes": 5, "weights": evil}}}
    (folder.path / "good/export/export.json").write_text(json.dumps(artifacts))
    record = canned_record()
    record["machine"]["processor"] = record["contenders"][0]["title"] = evil
    (folder.path / "good/export/benchmark.json").write_text(json.dumps(record))
    (folder.path / "a<b>&'$x$/round_00").mkdir(parents=True)
    page = write_page(folder.path, status=[(evil, "failed", evil)])
    text = page.read_text()
    assert "<script" not in text and "<b>&" not in text and text.count("</style>") == 1
    assert f"# {evil}" in flat(read(page))


def test_nothing_is_invented(folder):
    folder.dense("bare", 97.0, dataset="digits", epochs=(3,), train_seconds=12.0)
    page = read(write_page(folder.path))
    assert page.row("bare", "0") == (
        ["bare", "0", "1 of 1", "12 s", "–", "–", "tensorflow", "float32", "not recorded"]
    )
    assert "Versions: not recorded." in flat(page)
    told = flat(page).partition("Networks pruned")[2].partition("Flags of")[0]
    assert "reproduction" not in told and "paper" not in told
    assert "Sparsity of each layer" not in flat(page)


def test_layers_hardware_and_files(folder, small_cifar):
    layers = (LayerZeros("stem_conv", 100, 50), LayerZeros("stage1_block1_conv1", 1000, 995))
    hardware = {"processor": "A processor", "cores": 8, "memory_gib": 31.7, "devices": ["NVIDIA H200"]}
    more = {"layers": layers, "hardware": hardware, "data_wait_percent": 2.25, "device_count": 2}
    more |= {"train_seconds": 90.0, "images_per_second": 222.0, "backend": "jax"}
    more |= {"training_engines": ("keras", "sparse")}
    folder.one_shot("a", "", 0.95, (10, 80), "4.3.2", **small_cifar, **more)
    page = read(write_page(folder.path))
    assert page.row("stem_conv") == ["stem_conv", "0.5000"]
    assert page.row("stage1_block1_conv1") == ["stage1_block1_conv1", "0.9950"]
    row = page.row("a", "0")
    assert row[4:7] == ["222", "2.2 %", "jax, trained by keras and sparse"]
    assert row[-1] == "A processor, 8 cores, 32 GiB; NVIDIA H200, batches shared by 2 devices"


def test_all_bars_of_latencies_have_one_scale(folder):
    for name, times in (("fast", 1), ("slow", 4)):
        folder.one_shot(name, "", 0.5, (10, 80), dataset="digits")
        (folder.path / name / "export").mkdir()
        record = canned_record()
        for setting in record["latency"]:
            for row in setting["rows"]:
                if row.get("milliseconds"):
                    row["milliseconds"] = {key: times * ms for key, ms in row["milliseconds"].items()}
        (folder.path / name / "export/benchmark.json").write_text(json.dumps(record))
    text = write_page(folder.path).read_text().partition('id="latencies"')[2]
    rows = re.findall(r'class="bar" style="left:0.00%;width:([\d.]+)%".*?<td>([\d.]+) ms', text)
    shares = {round(float(width) / float(ms), 2) for width, ms in rows}
    assert len(rows) == 32 and max(shares) - min(shares) <= 0.05 * max(shares)
    assert max(float(width) for width, _ in rows) <= 100


def test_status_alone(tmp_path):
    rows = [("base", "running", "epoch 2 of 20"), ("shot", "waiting", "")]
    path = write_page(tmp_path / "new", ["base", "shot"], refresh_seconds=20, status=rows)
    text = path.read_text()
    assert '<meta http-equiv="refresh" content="20">' in text
    page = flat(read(path))
    assert "Progress: 1 running and 1 waiting" in page
    assert "epoch 2 of 20" in page
    assert "reproduction" not in page


def test_status_above_results(folder, small_cifar):
    write_study(folder, small_cifar)
    page = flat(read(write_page(folder.path, ["base", "absent"], status=[("base", "finished", "90 %")])))
    assert page.index("Progress: 1 finished") < page.index("Not a reproduction")


def test_errors(folder, small_cifar):
    with pytest.raises(UserError, match="there is no run folder"):
        write_page(folder.path)
    (folder.path / "fresh/round_00").mkdir(parents=True)
    with pytest.raises(UserError, match="no round has finished yet of fresh"):
        write_page(folder.path)
    with pytest.raises(ValueError, match="states out of finished, running.*state='done'"):
        write_page(folder.path, status=[("a", "done", "")])
    with pytest.raises(ValueError, match="Received: refresh_seconds=0"):
        write_page(folder.path, refresh_seconds=0, status=[])
    folder.dense("a", 90, **small_cifar)
    path = write_page(folder.path)
    before = path.read_bytes()
    (folder.path / "a/round_00/result.json").write_text("{")
    with pytest.raises(UserError, match="not a readable result of a round"):
        write_page(folder.path)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_imports_no_framework():
    code = (
        "import sys, tfprune.compare.page.page; "
        "print(sorted({'tensorflow', 'keras', 'torch', 'jax', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
