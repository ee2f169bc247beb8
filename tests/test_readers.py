"""The structure of reading: no module opens a file outside of the door, but those listed, with a reason."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tfprune"

# Functions and methods that open a file to read it, whosever they are.
OPENERS = {"read_text", "read_bytes", "safe_open", "load_file", "ZipFile", "is_zipfile", "fromfile", "memmap"}
OPENERS |= {"text_of", "json_of"}
# Functions of modules.
MODULE_OPENERS = {"np.load", "torch.load", "json.load", "h5py.File", "Image.open"}
MODULE_OPENERS |= {"keras.models.load_model", "keras.saving.load_model"}

OWN = "a file that this process has just written"
SYSTEM = "the system's"
BESIDE = "whatever is wrong with a library beside a file is a warning, and the file is used without it"
INSIDE = "called inside `reading`, by `load_backbone`"
# File and function -> why it needs no door.
ALLOWED = {
    "benchmark/contenders.py:load": OWN,
    "benchmark/memory.py:main": "the array that the parent has just written",
    "benchmark/memory.py:own_peak_bytes": SYSTEM,
    "compare/figures.py:colors": "a file of this package",
    "compare/page/page.py:render": "a file of this package",
    "bin/export.py:_arrays": "called inside `reading`",
    "export/browser.py:webassembly": OWN,
    "export/browser.py:write_page": "a file of this package",
    "export/formats/c_library.py:findings": OWN,
    "export/formats/c_library.py:kernels": OWN,
    "export/formats/keras_file.py:_loaded": OWN,
    "export/formats/keras_file.py:load": OWN,
    "export/formats/tflite.py:_without_encoding": OWN,
    "export/formats/tflite.py:kernels": OWN,
    "export/sizes.py:compressed_bytes": OWN,
    "files.py:digest": "bytes alone, which are not understood; a run's are read inside `reading`",
    "machine.py:processor_name": SYSTEM,
    "memory.py:_text": SYSTEM,
    "models/weights.py:_check_pth_sizes": INSIDE,
    "models/weights.py:_safetensors": INSIDE,
    "models/weights.py:read": INSIDE,
    "reading.py:json_of": "a part of the door",
    "reading.py:text_of": "a part of the door",
    "runtime/ahead/sources.py:filled": "a file of this package",
    "runtime/ahead/loaded.py:load_object": BESIDE,
    "runtime/ahead/description.py:read_description": BESIDE,
    "runtime/format/file.py:_map_file": "the runtime's own door, because it imports nothing of the rest",
    "runtime/machine.py:_l1_bytes": SYSTEM,
}


def calls_outside_of_the_door(path):
    """Yields the function and the call of each opener that is not in a block `with reading(...)`."""
    found = []

    def opens(node):
        name = ast.unparse(node.func)
        return name == "open" or name in MODULE_OPENERS or name.rpartition(".")[2] in OPENERS

    def writes(node):
        modes = [
            *(argument for argument in node.args[1:2] if isinstance(argument, ast.Constant)),
            *(keyword.value for keyword in node.keywords if keyword.arg == "mode"),
        ]
        return any(set(str(getattr(mode, "value", ""))) & set("wax") for mode in modes)

    def visit(node, function, inside):
        if isinstance(node, ast.FunctionDef):
            function, inside = node.name, False
        if isinstance(node, ast.With):
            for item in node.items:
                visit(item, function, inside)
            called = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
            door = any("reading" in ast.unparse(call.func) for call in called)
            for inner in node.body:
                visit(inner, function, inside or door)
            return
        if isinstance(node, ast.Call) and opens(node) and not writes(node) and not inside:
            found.append((function, ast.unparse(node)))
        for inner in ast.iter_child_nodes(node):
            visit(inner, function, inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), "<module>", False)
    return found


def all_calls():
    for path in sorted(PACKAGE.rglob("*.py")):
        for function, call in calls_outside_of_the_door(path):
            yield f"{path.relative_to(PACKAGE)}:{function}", call


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(p):\n    return open(p).read()", [("f", "open(p)")]),
        ("def f(p):\n    open(p, 'wb')", []),
        ("def f(p):\n    with reading(p, 'k', 'a'):\n        return json.loads(p.read_text())", []),
        ("def f(p):\n    with self._reading():\n        with zipfile.ZipFile(p) as z:\n            pass", []),
        ("x = np.load('a')", [("<module>", "np.load('a')")]),
        ("with reading(p):\n    def f():\n        return p.read_bytes()", [("f", "p.read_bytes()")]),
    ],
)
def test_the_walk_sees_readers(code, expected, tmp_path):
    (tmp_path / "m.py").write_text(code)
    assert calls_outside_of_the_door(tmp_path / "m.py") == expected


def test_every_file_is_read_through_the_door():
    outside = [f"{place}: {call}" for place, call in all_calls() if place not in ALLOWED]
    assert not outside, "\n".join(outside)


def test_what_is_excepted_is_there():
    assert not ALLOWED.keys() - {place for place, _ in all_calls()}
