"""What is not Keras or NumPy belongs to an extra, and where it is missing the error names the extra."""

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tfprune.errors import UserError
from tfprune.extras import EXTRAS, MissingExtraError, extra

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tfprune"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

CORE = {"keras", "numpy", "tfprune", *sys.stdlib_module_names}
# No extra brings the benchmark's peers, which it looks for first, nor the backend that is running already.
PEERS = {"MNN", "_tools", "onnx", "onnxruntime", "torch"}
BACKENDS = {"jax", "torch"}
LOOKED_FOR = {
    **{f"benchmark/{name}.py": PEERS for name in ("contenders", "mnn_peer", "onnx_peer", "torch_peer")},
    **{f"experiments/{name}.py": BACKENDS for name in ("devices", "environment")},
    "network/fitting.py": {"tensorflow"},
    "network/tensorflow_variables.py": {"tensorflow"},
    "sparse_training/loss.py": {"tensorflow", "jax", "torch"},
}


def imported_roots(node):
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and not node.level:
        return {node.module.split(".")[0]}
    return set()


def guard_of(node):
    """The modules whose absence is told inside a statement: those of its extra, or all of a `try`'s."""
    if isinstance(node, ast.With):
        calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
        names = [call.args[0].value for call in calls if getattr(call.func, "id", "") == "extra"]
        return set().union(*(EXTRAS[name] for name in names))
    if isinstance(node, ast.Try) and any(
        getattr(handler.type, "id", "") in ("ImportError", "ModuleNotFoundError") for handler in node.handlers
    ):
        return set().union(*(imported_roots(part) for part in node.body))
    return set()


def unguarded(node, allowed):
    """The third-party modules that a piece of code imports where nothing would name their extra."""
    found = imported_roots(node) - allowed
    for part in ast.iter_child_nodes(node):
        found |= unguarded(part, allowed | guard_of(node))
    return found


def package_guards(path):
    """What the packages around a module import, inside `extra`, before Python imports the module itself."""
    guarded = set()
    for folder in path.relative_to(PACKAGE).parents:
        tree = ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8"))
        for node in tree.body:
            guarded |= guard_of(node) & set().union(*(imported_roots(part) for part in ast.walk(node)))
    return guarded


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_import_is_of_the_core_or_names_its_extra(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    looked_for = LOOKED_FOR.get(path.relative_to(PACKAGE).as_posix(), set())
    assert unguarded(tree, CORE | looked_for | package_guards(path)) == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import cv2", {"cv2"}),
        ("def f():\n    from matplotlib.figure import Figure", {"matplotlib"}),
        ("with extra('plot'):\n    import cv2", {"cv2"}),
        ("with extra('experiments'):\n    import cv2", set()),
        ("with quiet(), extra('experiments'):\n    from cv2 import x\nimport cv2", {"cv2"}),
        ("try:\n    import torch\nexcept ImportError:\n    raise ValueError", set()),
        ("try:\n    import torch\nexcept ValueError:\n    raise", {"torch"}),
        ("import os, keras.layers\nfrom . import x\nfrom tfprune import y", set()),
    ],
)
def test_the_walk_sees_what_is_not_guarded(source, found):
    assert unguarded(ast.parse(source), CORE) == found


def distributions(name):
    """The packages of an extra by name, those of the extras that it takes in among them."""
    found = set()
    for requirement in PROJECT["optional-dependencies"][name]:
        package = re.match(r"[\w-]+", requirement).group().lower()
        if package == "tfprune":
            inner = re.search(r"\[(.*)\]", requirement).group(1).split(",")
            found |= set().union(*(distributions(part) for part in inner))
        else:
            found.add(package)
    return found


_providers = functools.cache(importlib.metadata.packages_distributions)


def provider(module):
    """The package that brings a module here."""
    (package,) = {name.lower().replace("_", "-") for name in _providers()[module]}
    return package


@pytest.mark.parametrize("name", EXTRAS)
def test_the_project_has_each_extra_with_the_packages_of_its_modules(name):
    assert {provider(module) for module in EXTRAS[name]} <= distributions(name)


def test_the_extra_all_has_all_but_pytorch():
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {*EXTRAS, "all"}
    others = EXTRAS.keys() - {"pretrained"}
    assert distributions("all") == set().union(*(distributions(name) for name in others))


def test_the_pins_are_in_the_ranges():
    pins = {}
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if "==" in line:
                package, version = line.split("==")
                pins[package] = version
    ranges = PROJECT["dependencies"] + [r for part in PROJECT["optional-dependencies"].values() for r in part]
    for requirement in map(Requirement, ranges):
        assert requirement.name == "tfprune" or requirement.specifier.contains(pins[requirement.name])


def test_the_library_depends_on_keras_and_numpy_alone():
    assert [re.match(r"\w+", requirement).group() for requirement in PROJECT["dependencies"]] == [
        "keras",
        "numpy",
    ]


def test_a_module_of_the_extra_is_named_with_it():
    with pytest.raises(MissingExtraError) as caught, extra("plot"):
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
    assert str(caught.value) == "matplotlib is not installed: it comes with the extra tfprune[plot]"
    assert caught.value.name == "matplotlib"
    assert isinstance(caught.value, ModuleNotFoundError) and isinstance(caught.value, UserError)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'cv2'", name="cv2"),  # Of another extra.
        ModuleNotFoundError("No module named 'matplotlib.x'", name="matplotlib.x"),  # Installed, and broken.
        ImportError("libGL.so.1: cannot open shared object file", name="matplotlib"),
        ValueError("something else"),
    ],
)
def test_other_errors_are_as_they_were(error):
    with pytest.raises(type(error)) as caught, extra("plot"):
        raise error
    assert caught.value is error


def test_what_can_be_done_instead_ends_the_message():
    with pytest.raises(MissingExtraError) as caught, extra("pretrained", instead="pass a file"):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    assert str(caught.value) == (
        "torch is not installed: it comes with the extra tfprune[pretrained]; or pass a file"
    )


def test_the_innermost_extra_is_named():
    with pytest.raises(MissingExtraError, match=r"tfprune\[export\]"), extra("experiments"), extra("export"):
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")


_BLOCKER = """
import sys
class Blocker:
    def find_spec(name, path=None, target=None):
        if name in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker)
"""


def without(modules, code, **environment):
    """Runs code in a process without some modules; returns what it printed and its status."""
    done = subprocess.run(
        [sys.executable, "-c", _BLOCKER.format(modules=modules) + code],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr, done.returncode


def test_the_runtime_names_its_extra():
    printed, _ = without(["llvmlite"], "import tfprune.runtime")
    line = "llvmlite is not installed: it comes with the extra tfprune[runtime]"
    assert printed.splitlines()[-1] == f"tfprune.extras.MissingExtraError: {line}"


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
@pytest.mark.parametrize("command", ["train --flagfile=demo_dense", "reproduce --profile=tiny --dry_run"])
@pytest.mark.slow
def test_a_command_without_tensorflow_is_one_line(command, backend):
    name, *flags = command.split()
    code = f"sys.argv[1:] = {flags}; import tfprune.bin.{name} as binary; binary.run()"
    printed, status = without(["tensorflow"], code, KERAS_BACKEND=backend)
    assert printed == "error: tensorflow is not installed: it comes with the extra tfprune[experiments]\n"
    assert status == 2


@pytest.mark.slow
def test_a_command_without_a_package_that_it_needs_later_is_one_line(tmp_path):
    code = f"sys.argv[1:] = ['--output_dir={tmp_path}']; import tfprune.bin.compare as binary; binary.run()"
    printed, status = without(["jinja2"], code)
    assert printed == "error: jinja2 is not installed: it comes with the extra tfprune[experiments]\n"
    assert status == 2


@pytest.mark.slow
def test_the_library_needs_no_module_that_windows_lacks():
    code = "import tfprune.sparsity, tfprune.tfmot, tfprune.runtime; from tfprune.export import export_sparse"
    printed, status = without(["fcntl", "resource", "pwd", "grp", "termios"], code)
    assert status == 0, printed


@pytest.mark.slow
def test_the_library_names_the_extra_of_what_it_draws_and_exports():
    code = """
import keras
import tfprune.export
from tfprune.sparsity import summarize
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
calls = [
    lambda: summarize(model).plot("x.png"),
    lambda: tfprune.export.export_model,
]
for call in calls:
    try:
        call()
    except ImportError as error:
        print(error)
"""
    printed, _ = without(["matplotlib", "tensorflow", "ai_edge_litert"], code)
    assert printed.splitlines() == [
        "matplotlib is not installed: it comes with the extra tfprune[plot]",
        "ai_edge_litert is not installed: it comes with the extra tfprune[export]",
    ]
