"""Keras without its backend: one line that says what to install or to set, wherever Keras is met first."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tfprune"

# What the library's user imports first.
DOORS = [
    "import tfprune.sparsity",
    "from tfprune.sparsity import prune_low_magnitude",
    "import tfprune.tfmot",
    "from tfprune.tfmot.sparsity import keras",
    "from tfprune.tfmot.python.core.sparsity.keras import prune",
    "from tfprune.export import export_sparse",
    "import tfprune.network.kinds",
    "import tfprune.compiler.compile",
    "import tfprune.models",
]
WITHOUT = """
import importlib.util, sys
find = importlib.util.find_spec
class Absent:
    def find_spec(name, path=None, target=None):
        if name in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent)
importlib.util.find_spec = lambda name, *rest: None if name in {absent!r} else find(name, *rest)
"""


def last_line(code, absent=(), **environment):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=absent) + code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stderr.splitlines()[-1].removeprefix("tfprune.backend.BackendError: ")


@pytest.mark.parametrize("code", DOORS)
@pytest.mark.slow
def test_each_door_of_the_library_says_what_the_backend_lacks(code):
    line = last_line(code, KERAS_BACKEND="torhc")
    assert line == "KERAS_BACKEND=torhc: must be tensorflow, jax or torch; did you mean torch?"


@pytest.mark.parametrize(
    ("absent", "environment", "line"),
    [
        (
            ("tensorflow", "jax", "torch"),
            {"KERAS_BACKEND": "tensorflow"},
            "tensorflow, the backend of Keras, is not installed: pip install tensorflow, or jax or "
            "torch and set KERAS_BACKEND to its name",
        ),
        (
            ("tensorflow",),
            {"KERAS_BACKEND": "tensorflow"},
            "tensorflow, the backend of Keras, is not installed: set KERAS_BACKEND=jax or torch, which is "
            "installed, or pip install tensorflow",
        ),
        (
            ("jax", "torch"),
            {"KERAS_BACKEND": "jax"},
            "jax, the backend of Keras, is not installed: set KERAS_BACKEND=tensorflow, which is "
            "installed, or pip install jax",
        ),
    ],
)
@pytest.mark.slow
def test_a_backend_that_is_not_installed(absent, environment, line):
    assert last_line("import tfprune.sparsity", absent, **environment) == line


@pytest.mark.slow
def test_a_backend_of_keras_own_configuration_that_is_none(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "theano"}')
    line = last_line("import tfprune.sparsity", KERAS_HOME=str(tmp_path))
    assert line == f"backend in {tmp_path / 'keras.json'}: theano: must be tensorflow, jax or torch"


@pytest.mark.slow
def test_another_package_that_is_missing_is_named_as_it_was():
    assert last_line("import tfprune.sparsity", ("namex", "rich", "optree")).startswith(
        "ModuleNotFoundError: "
    )


def imports(path):
    """What a module imports when it is loaded, inside `with`, too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [part for node in tree.body for part in (node.body if isinstance(node, ast.With) else [node])]
    return {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


def test_each_package_that_imports_keras_loads_the_backend_first():
    """Python imports the packages around a module first. The experiments alone import the training."""
    importers = [path for path in PACKAGE.rglob("*.py") if "keras" in imports(path)]
    packages = {path.relative_to(PACKAGE).parts[0] for path in importers}
    of_others = {"backend.py", "export", "tfmot", "training"}  # Tried above, but for the training.
    for name in packages - of_others:
        assert "tfprune.backend" in imports(PACKAGE / name / "__init__.py"), name
    assert {"network", "sparsity", "compiler", "models", "experiments"} <= packages
