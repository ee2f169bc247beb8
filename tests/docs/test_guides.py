"""The guides' Python blocks run, and print what the guides say.

A block is fenced by ```python and, behind it, words:

    all             runs on every backend that the document has blocks for
    jax, torch      runs on that backend, in a process of its own; other blocks run on TensorFlow
    port            runs on TensorFlow, and again with tfmot in the place of tfprune, the document's ```diff
                    being taken back
    raises=Error    ends in that error

The blocks of one document and backend run in order, in one namespace and one empty folder. A ```text block is
what the Python block before it prints. This file is also the script that the other processes run.
"""

import contextlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest

from scripts import make_notebook
from tests.support.photos import make_photos
from tfprune.sparsity import scores

ROOT = pathlib.Path(__file__).parents[2]
# README.md, CONTRIBUTING.md, and the guides; docs/README.md is only a map of them.
DOCUMENTS = {
    path.relative_to(ROOT).with_suffix("").as_posix(): path
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
}
GUIDES = {path.stem: path for path in DOCUMENTS.values() if "\n```python" in path.read_text(encoding="utf-8")}
BACKENDS = ("tensorflow", "jax", "torch")
FENCE = re.compile(r"^```(\w+) *(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
# (document, what it runs on) -> the environment of its process.
PROCESSES = {
    ("pruning", "jax"): {
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    },
    ("pruning", "torch"): {"KERAS_BACKEND": "torch"},
    ("coming_from_tfmot", "tfmot"): {"KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "1"},
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow",
        reason="runs once, and starts a process for each other backend",
    ),
]


class Block(NamedTuple):
    """One fenced Python block."""

    line: int
    words: tuple[str, ...]
    code: str
    output: str | None

    @property
    def runs_on(self):
        if "all" in self.words:
            return BACKENDS
        if "port" in self.words:
            return ("tensorflow", "tfmot")
        return tuple(word for word in self.words if word in BACKENDS) or ("tensorflow",)

    @property
    def error(self):
        return next((word.partition("=")[2] for word in self.words if word.startswith("raises=")), None)


def blocks_of(path):
    text = path.read_text(encoding="utf-8")
    blocks = []
    for match in FENCE.finditer(text):
        language, words, code = match.groups()
        if language == "python":
            line = text.count("\n", 0, match.start(3)) + 1
            blocks.append(Block(line, tuple(words.split()), code, None))
        elif language == "text":
            assert blocks[-1].output is None, f"two outputs for one block: {code}"
            blocks[-1] = blocks[-1]._replace(output=code)
    return blocks


def take_back_port(path, code):
    """The program before the change that the document's one diff shows."""
    (diff,) = [match[3] for match in FENCE.finditer(path.read_text(encoding="utf-8")) if match[1] == "diff"]
    (old,) = [line[1:] for line in diff.splitlines() if line.startswith("-")]
    (new,) = [line[1:] for line in diff.splitlines() if line.startswith("+")]
    assert code.splitlines().count(new) == 1
    return code.replace(new, old)


def run(path, backend):
    """Runs the blocks of one document that are for `backend`, in the present folder."""
    keras.utils.set_random_seed(0)
    namespace = {"__name__": f"guide_{path.stem}"}
    count = 0
    for block in blocks_of(path):
        if backend not in block.runs_on:
            continue
        count += 1
        place = f"{path.name}, line {block.line}"
        code = take_back_port(path, block.code) if backend == "tfmot" else block.code
        # The empty lines make errors point to the line in the document.
        program = compile("\n" * (block.line - 1) + code, str(path), "exec")
        printed = io.StringIO()
        error = None
        with contextlib.redirect_stdout(printed):
            try:
                exec(program, namespace)
            except Exception as caught:
                if type(caught).__name__ != block.error:
                    raise
                error = caught
        assert (error is None) == (block.error is None), f"{place}: no {block.error}"
        if block.output is not None:
            assert printed.getvalue() == block.output, f"{place}: prints something else"
    assert count, f"{path.name} has no block for {backend}"
    return namespace


@pytest.fixture(scope="module", autouse=True)
def processes(tmp_path_factory):
    """The other processes, which run while the blocks for TensorFlow do."""
    started = {}
    for (guide, backend), settings in PROCESSES.items():
        started[guide, backend] = subprocess.Popen(
            [sys.executable, __file__, GUIDES[guide], backend],
            cwd=tmp_path_factory.mktemp(backend),
            env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def tables_as_they_were():
    """Guides add to the library's tables, which other tests of this process read."""
    with mock.patch.dict(scores.SCORES):
        yield


@pytest.mark.parametrize("guide", [name for name in GUIDES if name != "your_model"])
def test_blocks_on_tensorflow(guide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(GUIDES[guide], "tensorflow")


def test_your_model_as_a_guide_and_as_a_notebook(tmp_path, monkeypatch):
    """The notebook is the guide; with smaller images and fewer epochs it prints what it says."""
    monkeypatch.chdir(tmp_path)
    guide = GUIDES["your_model"].read_text(encoding="utf-8")
    notebook = GUIDES["your_model"].with_suffix(".ipynb").read_text(encoding="utf-8")
    assert notebook == make_notebook.notebook_of(guide), "run scripts/make_notebook.py"
    make_photos(tmp_path / "photos")
    sizes = "SIZE, EPOCHS = 96, 3"
    assert guide.count(sizes) == 1
    short = tmp_path / "your_model.md"
    short.write_text(guide.replace(sizes, "SIZE, EPOCHS = 64, 2"), encoding="utf-8")
    found = run(short, "tensorflow")
    assert found["dense"] > 0.5 and found["ratio"] > 0
    assert found["pruned"].evaluate(found["test"], verbose=0, return_dict=True)["accuracy"] > 0.5


def test_the_notebook_has_the_guides_blocks():
    path = GUIDES["your_model"]
    cells = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.code.rstrip("\n") for block in blocks_of(path)]
    printed = [[out["text"] for out in cell["outputs"]] for cell in cells if cell["cell_type"] == "code"]
    assert ["".join(sum(texts, [])) for texts in printed] == [
        (block.output or "").rstrip("\n") for block in blocks_of(path)
    ]


@pytest.mark.parametrize(("guide", "backend"), PROCESSES)
def test_blocks_elsewhere(guide, backend, processes):
    process = processes[guide, backend]
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


@pytest.mark.parametrize("guide", GUIDES)
def test_every_block_runs_somewhere(guide):
    blocks = blocks_of(GUIDES[guide])
    assert len(blocks) == GUIDES[guide].read_text(encoding="utf-8").count("```python")
    run_on = {"tensorflow"} | {backend for name, backend in PROCESSES if name == guide}
    for block in blocks:
        unknown = [w for w in block.words if w not in (*BACKENDS, "all", "port") and "raises=" not in w]
        assert not unknown and run_on & set(block.runs_on), f"{guide}, line {block.line}"


WRONG = {
    "another output": "```python\nprint(1)\n```\n\n```text\n2\n```\n",
    "an error": "```python\n1 / 0\n```\n",
    "no error": "```python raises=ValueError\n1\n```\n",
    "another error": "```python raises=ValueError\n1 / 0\n```\n",
    "nothing for TensorFlow": "```python jax\n1\n```\n",
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_document_is_noticed(case, tmp_path):
    path = tmp_path / "guide.md"
    path.write_text(WRONG[case])
    with pytest.raises((AssertionError, ZeroDivisionError)):
        run(path, "tensorflow")


def anchors_of(path):
    """The anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_documents_that_people_enter_by_are_tested():
    assert {"README", "CONTRIBUTING", "docs/README", "docs/pruning"} <= set(DOCUMENTS)
    assert {"README", "CONTRIBUTING", "pruning", "coming_from_tfmot", "sparse_runtime"} <= set(GUIDES)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_within_the_project_lead_somewhere(document):
    path = DOCUMENTS[document]
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8"))
    assert links
    for file, anchor in links:
        target = path.parent / file if file else path
        assert target.exists(), file
        assert not anchor or anchor in anchors_of(target), f"{file}#{anchor}"


if __name__ == "__main__":
    found = run(pathlib.Path(sys.argv[1]), sys.argv[2])
    if sys.argv[2] == "tfmot":
        assert found["sparsity"].__name__.startswith("tensorflow_model_optimization"), found["sparsity"]
