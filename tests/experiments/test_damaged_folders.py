"""Every kind of file in a run folder, damaged in every way: each reader returns, or says one line."""

import contextlib
import copy
import dataclasses
import json
import os
import shutil
import time

import numpy as np
import pytest

from tests.support.canned import canned_record
from tests.support.run_folders import RunFolders, write_round
from tests.support.study_runs import interrupt
from tfprune.bin.export import read_audit
from tfprune.compare.page.page import render
from tfprune.compare.page.view import make_view
from tfprune.compare.rows import compare, read_ancestors
from tfprune.compare.text import to_csv, to_markdown, to_text
from tfprune.errors import UserError
from tfprune.experiments.study.estimate import read_speeds
from tfprune.experiments.study.state import read_state
from tfprune.experiments.unfinished import read_unfinished
from tfprune.runs.folder import RunFolder, find_round, read_runs
from tfprune.runs.metric import ACCURACY
from tfprune.runs.result import LayerZeros
from tfprune.text import printable
from tfprune.training.checkpoint import write_history

pytestmark = [pytest.mark.slow, pytest.mark.one_backend]

AUDIT = {
    "parameters": 1000,
    "sparsity": 0.0,
    "dense_weights_bytes": 4000,
    "artifacts": {"model.tfprune": {"bytes": 300, "gzip_bytes": 200, "weights": "float16"}},
}
# A second is far more than any file of these needs.
LONGEST_SECONDS = 2.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of runs: dense, pruned, and one that was interrupted; the first two with exports."""
    path = tmp_path_factory.mktemp("whole")
    folders = RunFolders(path, dataset="digits", epochs=(2,))
    folders.dense("dense", 90.0, hardware={"processor": "P", "devices": ["cpu"]}, seconds={"train": 1.0})
    layers = (LayerZeros("stem_conv", 10, 9),)
    folders.one_shot("shot", "dense", 0.9, (50.0, 80.0), layers=layers, versions={"keras": "3"})
    for name in ("dense", "shot"):
        export = path / name / "export"
        export.mkdir()
        (export / "export.json").write_text(json.dumps(AUDIT))
        (export / "benchmark.json").write_text(json.dumps(canned_record()))
    row = {"epoch": 1, "loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}
    write_history(path / "shot/round_01", [row, {**row, "epoch": 2}])
    config = folders.config("part", regime="iterative", schedule="geometric", rounds=2, target_sparsity=0.9)
    write_round(config, 0)
    interrupt(config, 1, epochs=1)
    return path


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of the folder, to be damaged."""
    return shutil.copytree(whole, tmp_path / "runs")


@pytest.fixture
def configs(whole, folder):
    """The experiments of the copy, by name."""
    read = {name: RunFolder(whole / name).read_config() for name in ("dense", "shot", "part")}
    return {name: dataclasses.replace(config, output_dir=str(folder)) for name, config in read.items()}


def tables(path):
    runs = read_runs(path)
    found = compare(runs, read_ancestors(path, runs))
    for text in (to_text(found, runs), to_markdown(found, runs), to_csv(found)):
        assert "\x1b" not in text
    return found, runs


def page(path):
    found, runs = tables(path)
    assert "\x1b" not in render(make_view(found, runs))


def readers_of(folder, configs):
    """Returns the readers of records, by name: each is a function without arguments."""
    part = RunFolder(folder / "part").round(1)
    return {
        "tables": lambda: tables(folder),
        "flags": lambda: [RunFolder(folder / name).read_config() for name in configs],
        "results": lambda: [RunFolder(folder / "shot").round(number).check_network() for number in (0, 1)],
        "round": lambda: find_round(str(folder), "shot/round_01", "init_from"),
        "run": lambda: find_round(str(folder), "dense", "init_from"),
        "states": lambda: [read_state(config) for config in configs.values()],
        "speeds": lambda: read_speeds(folder),
        "unfinished": lambda: read_unfinished(configs["part"], part, ACCURACY),
        "audit": lambda: read_audit(folder / "dense" / "export"),
    }


def messages_of(readers):
    """Runs each reader; returns what those say that refuse. Anything but one line fails the test."""
    messages = {}
    for name, reader in readers.items():
        began = time.monotonic()
        try:
            reader()
        except UserError as error:
            messages[name] = str(error)
            assert printable(" ".join(str(error).split())) and "Traceback" not in str(error)
            assert len(str(error)) < 3000, name
        assert time.monotonic() - began < LONGEST_SECONDS, name
    return messages


FILES = [
    "shot/flags.txt",
    "shot/round_00/result.json",
    "shot/round_01/result.json",
    "shot/round_01/history.csv",
    "shot/export/export.json",
    "shot/export/benchmark.json",
    "dense/export/export.json",
    "part/round_01/checkpoint.json",
    "shot/round_01/model.keras",
]
RECORDS = FILES[:-1]


def in_its_place(path, what):
    """Puts something else in the place of a file."""
    path.unlink()
    {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "circle": lambda: path.symlink_to(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "lost link": lambda: path.symlink_to(path.with_name("nowhere")),
        "hole": lambda: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**40),
        "nothing": lambda: None,
    }[what]()


@pytest.mark.parametrize("what", ["folder", "pipe", "circle", "device", "lost link", "hole", "nothing"])
def test_something_else_in_its_place(folder, configs, what):
    for name in FILES:
        path = folder / name
        kept = path.read_bytes()
        in_its_place(path, what)
        messages = messages_of(readers_of(folder, configs))
        if what in ("folder", "pipe", "device", "hole"):
            named = any(str(path) in message for message in messages.values())
            assert named or name.endswith("history.csv"), name  # Which only the page reads.
        with contextlib.suppress(FileNotFoundError):
            path.rmdir() if what == "folder" else path.unlink()
        path.write_bytes(kept)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads any file")
def test_unreadable(folder, configs):
    for name in FILES:
        (folder / name).chmod(0)
        messages_of(readers_of(folder, configs))
        (folder / name).chmod(0o600)


@pytest.mark.parametrize("name", RECORDS)
def test_bytes_of_a_record(folder, configs, name):
    """Cut anywhere, single bits, other bytes, another encoding, nested too deeply."""
    path = folder / name
    kept, generator = path.read_bytes(), np.random.default_rng(len(name))
    damaged = [kept[: int(share * len(kept))] for share in (0, 0.001, 0.1, 0.5, 0.9, 0.999)]
    damaged += [b"\xff" + kept, kept + b"\xff", kept.decode().encode("utf-16"), b"\0" * 100, b"[" * 10**5]
    damaged += [b"", b"null", b"[]", b"{}", b"0", b'"text"', b"\n" * 1000, kept * 2, b'{"a":' * 10**4]
    for _ in range(25):
        flipped = bytearray(kept)
        for position in generator.integers(0, len(kept), 2):
            flipped[position] ^= 1 << int(generator.integers(8))
        damaged.append(bytes(flipped))
    readers = readers_of(folder, configs)
    for content in damaged:
        path.write_bytes(content)
        messages_of(readers)


VALUES = [None, True, -1, 0, 10**12, 2**63, 10**400, 1.5, "x", "\x1b[2J", "../x", [], {}, [None], {"a": []}]
NAN = "the place of a number that JSON does not have"


def places_in(value, place=()):
    """Yields the place of each value in a parsed JSON file, as a path of keys; of lists the first item."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, inner in items:
        yield (*place, key)
        if isinstance(inner, dict | list):
            yield from places_in(inner, (*place, key))


def changed(content, place, value):
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value == "removed":
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return json.dumps(content)


# The readers of each record whose values are changed.
READERS = {
    "shot/round_00/result.json": ("tables", "states", "speeds"),
    "shot/round_01/result.json": ("tables", "states", "round"),
    "shot/export/export.json": ("tables",),
    "shot/export/benchmark.json": ("tables",),
    "dense/export/export.json": ("audit",),
    "part/round_01/checkpoint.json": ("states", "unfinished"),
}


@pytest.mark.parametrize("name", READERS)
def test_values_of_a_record(folder, configs, name):
    """Another value at the place of each: what is believed can be shown."""
    path = folder / name
    content = json.loads(path.read_bytes())
    readers = {key: reader for key, reader in readers_of(folder, configs).items() if key in READERS[name]}
    refused = tried = 0
    for number, place in enumerate(places_in(content)):
        for value in (*VALUES[number % 5 :: 5], NAN, "removed"):
            text = changed(content, place, value)
            path.write_text(text.replace(json.dumps(NAN), "NaN"))
            tried += 1
            refused += bool(messages_of(readers))
    assert refused > tried / 4


def test_what_is_believed_can_be_shown_on_the_page(folder, configs):
    path = folder / "shot/round_01/result.json"
    content = json.loads(path.read_bytes())
    for number, place in enumerate(places_in(content)):
        path.write_text(changed(content, place, VALUES[number % len(VALUES)]))
        if not messages_of({"tables": lambda: tables(folder)}):
            with contextlib.suppress(UserError):
                page(folder)


def test_without_damage_every_reader_returns(folder, configs):
    assert not messages_of(readers_of(folder, configs))
    page(folder)
