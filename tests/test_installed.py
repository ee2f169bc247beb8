"""The wheel, and a small corner of `scripts/try_versions.py`: Keras and JAX alone, in a fresh environment."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.try_versions import Sandbox, build_wheel, run

pytestmark = [pytest.mark.slow, pytest.mark.one_backend]

ROOT = Path(__file__).resolve().parent.parent


def pin(package):
    """The exact version that the tests use, as pip takes it."""
    lines = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-dev.txt").read_text()
    (line,) = (line for line in lines.splitlines() if line.startswith(f"{package}=="))
    return line


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--retries=1", "--timeout=20", f"--dest={folder}"]
    try:
        run([sys.executable, "-m", "pip", "download", *options, pin("keras")])
    except RuntimeError as error:
        pytest.skip(f"the package index cannot be reached: {error}")
    return build_wheel(folder)


@pytest.fixture(scope="module")
def sandbox(wheel, tmp_path_factory):
    """An environment of the wheel, Keras and JAX."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_COMPILE", "0")  # Half of the modules are never imported.
        sandbox = Sandbox(tmp_path_factory.mktemp("installed") / "environment", sys.executable)
        sandbox.install(str(wheel), pin("keras"), pin("jax"))
        yield sandbox


def python(sandbox, *arguments, **options):
    environment = {"PATH": os.environ["PATH"], "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [str(sandbox.python), *arguments], env=environment, capture_output=True, text=True, **options
    )
    return done.stdout + done.stderr


def test_keras_and_jax_alone_are_enough_for_the_library(sandbox):
    sandbox.go("jax")
    absent = {"tensorflow", "torch", "llvmlite", "matplotlib", "filelock", "ai-edge-litert", "scikit-learn"}
    assert not absent & set(sandbox.versions())


# What is run -> the module that is missing, and its extra.
MISSING = {
    "import tfprune.runtime": ("llvmlite", "runtime"),
    "from tfprune.export import export_sparse; export_sparse(None, 'x')": ("llvmlite", "runtime"),
    "from tfprune.export import export_model": ("llvmlite", "runtime"),
    "import tfprune.lock": ("filelock", "export"),
    "import tfprune.compare": ("markupsafe", "experiments"),
    "import tfprune.data.pipeline": ("cv2", "experiments"),
    "import tfprune.experiments.run": ("tensorflow", "experiments"),
    "import keras; from tfprune.sparsity import summarize;"
    "summarize(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])).plot('x.png')": (
        "matplotlib",
        "plot",
    ),
}


@pytest.fixture(scope="module")
def printed_without_extras(sandbox, tmp_path_factory):
    """The last line that each prints, all in one process that forgets tfprune between them."""
    program = """
import json, sys, traceback
last = {}
for code in json.loads(sys.argv[1]):
    for name in [name for name in sys.modules if name.split(".")[0] == "tfprune"]:
        del sys.modules[name]
    try:
        exec(code, {})
        last[code] = "nothing is missing"
    except BaseException:
        last[code] = traceback.format_exc().splitlines()[-1]
print(json.dumps(last))
"""
    printed = python(sandbox, "-c", program, json.dumps(list(MISSING)), cwd=tmp_path_factory.mktemp("extras"))
    return json.loads(printed.splitlines()[-1])


@pytest.mark.parametrize("code", MISSING)
def test_a_missing_extra_is_named(code, printed_without_extras):
    module, extra = MISSING[code]
    line = f"{module} is not installed: it comes with the extra tfprune[{extra}]"
    assert printed_without_extras[code] == f"tfprune.extras.MissingExtraError: {line}"


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        # The others look for a finished run first, which needs no extra.
        ("train", ["--experiment=e"]),
        ("compare", ["--output_dir=."]),
        *((command, []) for command in ("reproduce", "demo")),
    ],
)
def test_a_command_names_the_extra_in_one_line(sandbox, command, flags, tmp_path):
    printed = python(sandbox, "-m", f"tfprune.bin.{command}", *flags, cwd=tmp_path)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "it comes with the extra tfprune[" in errors[0]
    assert "Traceback" not in printed


def test_the_runtime_needs_one_package_more(sandbox, wheel):
    """The last test: what it installs stays."""
    sandbox.install(f"{wheel}[runtime]")
    sandbox.go("jax")
    versions = set(sandbox.versions())
    assert "llvmlite" in versions
    assert not {"tensorflow", "torch", "matplotlib", "filelock", "ai-edge-litert"} & versions


def test_the_wheel_holds_the_flagfiles_and_its_types(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    package = tmp_path / "installed" / "tfprune"
    own = {path.relative_to(ROOT) for path in (ROOT / "tfprune").rglob("*.flags")}
    assert {path.relative_to(package.parent) for path in package.rglob("*.flags")} == own
    assert (package / "py.typed").exists()
    assert (package / "compare" / "page" / "page.css").exists()
    code = (
        "from tfprune.bin.flagfiles import *;"
        "print(experiment_from_flagfiles(['demo_one_shot']).init_from, *profile_names(), FLAGS_FOLDER)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
    )
    assert printed.stdout.split() == [
        "demo_dense",
        "cpu",
        "full",
        "pretrained",
        "scratch",
        "small",
        "tiny",
        f"{package / 'flags'}",
    ]
