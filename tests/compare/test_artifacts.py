import json

import pytest

from tests.support.canned import canned_record
from tfprune.compare.artifacts import (
    read_export,
    read_flags,
    read_history,
    read_latencies,
    read_machine,
)
from tfprune.errors import UserError
from tfprune.runs.folder import read_runs
from tfprune.runs.metric import ACCURACY

EXPORT = {
    "dense_weights_bytes": 4200,
    "artifacts": {
        "model.keras": {
            "weights": "float32",
            "bytes": 4000,
            "gzip_bytes": 900,
            "equal_predictions_percent": 100.0,
        },
        "model.tfprune": {"bytes": 300},
    },
}


@pytest.fixture
def run(folder):
    folder.dense("a", 90.0, dataset="digits")
    (folder.path / "a/export").mkdir()

    def write(name, content):
        path = folder.path / "a" / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_runs(folder.path)[0]

    return write


def test_nothing_recorded_is_nothing(run):
    bare = run("flags.txt", "")
    assert (read_export(bare), read_latencies(bare), read_history(bare, 0, ACCURACY), read_machine(bare)) == (
        [],
        [],
        [],
        "",
    )


def test_flags(run):
    assert read_flags(run("flags.txt", "--seed=1\n")) == "--seed=1\n"


def test_history_without_every_evaluation(run):
    text = "epoch,accuracy,loss,val_accuracy,val_loss\n1,0.5,1.25,,\n2,0.75,nan,0.6,1.5\n"
    first, second = read_history(run("round_00/history.csv", text), 0, ACCURACY)
    assert (first.metric, first.loss, first.test_metric) == (50.0, 1.25, None)
    assert (second.loss, second.test_metric, second.test_loss) == (None, 60.0, 1.5)


def test_export(run):
    keras, sparse = read_export(run("export/export.json", EXPORT))
    assert (keras.name, keras.raw_bytes, keras.gzip_bytes) == ("model.keras", 4000, 900)
    assert (keras.times_smaller, sparse.times_smaller) == (1.05, 14.0)
    assert (sparse.weights, sparse.gzip_bytes, sparse.equal_predictions_percent) == ("", None, None)


def test_latencies_of_a_real_record(run):
    benchmarked = run("export/benchmark.json", canned_record())
    latencies = read_latencies(benchmarked)
    # Two counts of threads, two batch sizes, four runtimes; those that failed are left out.
    assert len(latencies) == 16
    ours = latencies[0]
    assert (ours.contender, ours.threads, ours.batch_size) == ("tfprune sparse", 1, 1)
    assert (ours.median_ms, ours.times_fastest_dense) == (pytest.approx(10.0), pytest.approx(4.0))
    assert read_machine(benchmarked) == "A processor, 2 cores"


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("export/export.json", "{", read_export),
        ("export/export.json", "[]", read_export),
        ("export/export.json", {"artifacts": {"a": {}}}, read_export),
        ("export/benchmark.json", {"latency": [{}]}, read_latencies),
        ("round_00/history.csv", "epoch,loss\n1,x\n", lambda run: read_history(run, 0, ACCURACY)),
    ],
)
def test_damaged_files_are_named(run, name, content, read):
    with pytest.raises(UserError, match=name.rpartition("/")[2]):
        read(run(name, content))
