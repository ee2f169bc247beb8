"""Keras's private names stay in `tfprune/network`: read from the syntax trees."""

import ast
import functools
from pathlib import Path

import keras
import pytest

pytestmark = pytest.mark.one_backend

PACKAGE = Path(__file__).resolve().parents[2] / "tfprune"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "network"]
KERAS = Path(keras.__file__).parent / "src"
# Where the layers, models, optimizers and metrics get their attributes.
KERAS_FILES = [
    *KERAS.glob("layers/**/*.py"),
    *KERAS.glob("models/*.py"),
    *KERAS.glob("ops/*.py"),
    *KERAS.glob("optimizers/*.py"),
    *KERAS.glob("trainers/**/*.py"),
    *KERAS.glob("metrics/*.py"),
    *KERAS.glob("losses/*.py"),
    *KERAS.glob("backend/common/*.py"),
    *KERAS.glob("backend/*/layer.py"),
    *KERAS.glob("backend/*/trainer.py"),
    *KERAS.glob("backend/*/optimizer*.py"),
]
# tf-keras, the Keras of before: its optimizers are made to be subclassed by these.
OF_TF_KERAS = {"_momentums", "_velocities", "_index_dict", "_var_key"}
# Documented, for tools that look at threads.
OF_PYTHON = {"_current_exceptions"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name != "_"


def defined(tree):
    """The private names that the classes of a module define: attributes of theirs, and methods."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and of_self(node):
            names.add(node.attr)
        elif isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                    names.add(item.name)
                targets = getattr(item, "targets", [getattr(item, "target", None)])
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if is_private(name)}


def of_self(node):
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


@functools.cache
def names_of_keras():
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in KERAS_FILES if "_test" not in path.name)
    return frozenset().union(*map(defined, trees))


def used(tree):
    """Yields each private name that a module takes of something, and whether it is of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr, of_self(node)
        # `getattr(layer, "_layers")`, `vars(layer)["_layers"]`
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            names = [item.value for item in node.args[1:2] if isinstance(item, ast.Constant)]
            yield from ((name, False) for name in names if is_private(name))
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).startswith("vars("):
            if isinstance(node.slice, ast.Constant) and is_private(str(node.slice.value)):
                yield node.slice.value, False


def broken(source, of_another_library=frozenset()):
    """The names of Keras's, and of other modules' objects, that a module uses."""
    tree = ast.parse(source)
    own = defined(tree)
    found = set()
    for name, of_its_own in used(tree):
        allowed = name in own and (of_its_own or name not in names_of_keras())
        inherited = of_its_own and name not in names_of_keras()
        if not (allowed or inherited or name in of_another_library):
            found.add(name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "keras.src" in node.value:
            found.add("keras.src")
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        found |= {"keras.src" for module in modules if module.startswith("keras.src")}
    return found


@pytest.mark.slow
def test_the_names_of_keras_are_found():
    assert {"_layers", "_flatten_layers", "_nodes_by_depth", "_run_through_graph"} <= names_of_keras()
    assert {"_functional", "_tracker", "_inbound_nodes", "_losses_override"} <= names_of_keras()
    assert {"_trainable_variables", "_get_variable_index", "_loss_tracker"} <= names_of_keras()


@pytest.mark.parametrize(
    "source, names",
    [
        ("def f(model): return model._layers", {"_layers"}),
        ("class A:\n def __init__(self): self._layers = []\n def f(self, x): return x._layers", {"_layers"}),
        ("class A(keras.Model):\n def f(self): return self._loss_tracker", {"_loss_tracker"}),
        ("hasattr(model, '_functional')", {"_functional"}),
        ("vars(model)['_modules']", {"_modules"}),
        ("from keras.src.layers import Layer", {"keras.src"}),
        ("import keras.src.layers", {"keras.src"}),
        ("x.__module__.startswith('keras.src.ops.')", {"keras.src"}),
        ("runtime_model._arenas", {"_arenas"}),
        ("def f(part: list['_Part']): pass", set()),
        ("class A:\n def __init__(self): self._layers = []", set()),
        ("class A:\n _rate: int\n def f(self, other): return other._rate == self._rate", set()),
    ],
)
def test_the_walk_sees_each_way(source, names):
    assert broken(source) == names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_stay_where_they_are_owned(path):
    in_tfmot = path.parent.name == "tfmot"
    known = OF_PYTHON | (OF_TF_KERAS if in_tfmot else set())
    assert broken(path.read_text(encoding="utf-8"), known) == set()
