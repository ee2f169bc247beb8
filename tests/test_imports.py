"""The architecture, read from the syntax trees: who imports whom."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tfprune"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Package -> the project's packages and modules it may import besides itself. Imports point one way.
_LEAVES = {
    "errors",
    "quiet",
    "files",
    "text",
    "machine",
    "settings",
    "records",
    "reading",
    "lock",
    "memory",
    "extras",
    "named",
    "backend",
    "pictures",
    "timing",
    "arguments",
    "blas",
}
_LIBRARY = {"network", "sparsity", "data", "models", "training", *_LEAVES}
ALLOWED = {
    **{name: set() for name in _LEAVES},
    "blas": {"machine"},
    "reading": {"errors", "text"},
    "files": {"errors"},
    "extras": {"errors"},
    "pictures": {"extras", "files"},
    "backend": {"errors", "text"},
    "lock": {"errors", "extras", "files", "reading", "text"},
    "quiet": {"errors"},
    "settings": {"errors", "text"},
    "named": {"text"},
    "network": {"backend", "extras", "reading", "memory"},
    "channels": {"backend", "network"},
    # "compiler" for a budget of time in a search.
    "sparsity": {
        "arguments",
        "backend",
        "blas",
        "channels",
        "compiler",
        "extras",
        "files",
        "network",
        "pictures",
        "reading",
        "text",
    },
    # "benchmark" for a budget of time.
    "structured": {"backend", "benchmark", "channels", "extras", "network", "pictures", "sparsity", "text"},
    "data": {"extras", "files", "lock", "reading", "errors", "text", "memory", "machine", "named"},
    "tfmot": {"network", "sparsity"},
    "models": {"backend", "extras", "reading", "memory", "named", "network", "text"},
    "training": {"network", "files", "text", "settings", "reading", "lock", "errors", "named"},
    "runtime": {"extras", "files", "memory", "text"},
    "runs": {
        "training",
        "errors",
        "files",
        "settings",
        "records",
        "reading",
        "lock",
        "text",
        "named",
    },
    "experiments": _LIBRARY | {"runs", "channels", "structured", "sparse_training"},
    "compiler": {"backend", "channels", "errors", "network", "runtime", "text", "timing"},
    "sparse_training": {
        "backend",
        "errors",
        "extras",
        "memory",
        "network",
        "runtime",
        "sparsity",
        "text",
        "training",
    },
    "export": {"channels", "network", "sparsity", "runtime", "compiler", *_LEAVES},
    "compare": {"runs", *_LEAVES},
    "benchmark": {"compiler", "runtime", "export", *_LEAVES},
    "bin": _LIBRARY | {"runs", "runtime", "experiments", "export", "benchmark", "compare"},
}


def imported_modules(path: Path) -> set[str]:
    """Full names of all that a file imports, wherever in the file; relative imports resolved."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            # `from tfprune import data` names a package in `names`, so each name counts.
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def part_of(module: str) -> str | None:
    """The package below `tfprune` that a full module name lies in; None outside the project."""
    parts = module.split(".")
    return parts[1] if parts[0] == "tfprune" and len(parts) > 1 else None


def owner_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_the_walk_sees_the_project():
    owners = {owner_of(path) for path in MODULES}
    assert {"sparsity", "data", "models", "training", "experiments", "export", "compare", "bin"} <= owners
    assert "sparsity" in {part_of(name) for name in imported_modules(PACKAGE / "sparsity" / "prune.py")}


@pytest.mark.parametrize("source", ["import tensorflow as tf", "def f():\n    from tfprune.data import x"])
def test_the_walk_sees_imports_anywhere(source, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "module.py").write_text(source)
    assert imported_modules(tmp_path / "module.py") & {"tensorflow", "tfprune.data.x"}


def test_the_walk_resolves_relative_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    folder = tmp_path / "tfprune" / "sparsity"
    folder.mkdir(parents=True)
    (folder / "module.py").write_text(
        "from . import masks\nfrom ..data import pipeline\nfrom .. import errors"
    )
    assert imported_modules(folder / "module.py") == {
        "tfprune.sparsity.masks",
        "tfprune.data.pipeline",
        "tfprune.errors",
    }


def test_no_package_may_import_itself_through_others():
    TopologicalSorter(ALLOWED).prepare()  # Raises an error that names the circle.


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path):
    owner = owner_of(path)
    if owner == "__init__":
        allowed, used = set(), {part_of(name) for name in imported_modules(path)}
    else:
        assert owner in ALLOWED, f"tfprune/{owner} is not in the layout: say in ALLOWED what it may import"
        allowed = ALLOWED[owner] | {owner, "__version__"}
        used = {part_of(name) for name in imported_modules(path)}
    assert used - {None} <= allowed


@pytest.mark.parametrize("path", [p for p in MODULES if owner_of(p) in ("sparsity", "compare")], ids=name_of)
def test_sparsity_and_compare_import_no_backend(path):
    roots = {name.split(".")[0] for name in imported_modules(path)}
    assert not roots & {"tensorflow", "tf_keras", "tensorflow_model_optimization", "torch", "jax"}


@pytest.mark.parametrize("path", [p for p in MODULES if owner_of(p) != "bin"], ids=name_of)
def test_flags_are_read_in_binaries_only(path):
    assert not any(name == "absl.flags" or name.startswith("absl.flags.") for name in imported_modules(path))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_have_a_subject(path):
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")


def run_python(code: str, backend: str) -> str:
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_importing_the_library_loads_what_keras_loads_and_itself():
    """On another backend than TensorFlow, `import tfprune.sparsity` adds only its own modules."""
    code = (
        "import sys, keras; before = set(sys.modules); import tfprune.sparsity;"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    added = set(run_python(code, "jax").split())
    assert "tfprune" in added
    assert added - {"tfprune"} <= set(sys.stdlib_module_names)
