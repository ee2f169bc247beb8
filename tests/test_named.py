"""Code of the user's own is found by its name, called with what it asks for, and blamed for what it does."""

import sys

import pytest

from tfprune.named import call_named, is_named, load_named

pytestmark = pytest.mark.one_backend

SOURCE = """
def nothing():
    return "made"

def some(classes, seed=7):
    return classes, seed

def anything(**arguments):
    return arguments

def demanding(classes, depth):
    return classes

def failing():
    raise KeyError("gone")

number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with modules, which is the current one; and a search path without it, as commands have."""
    (tmp_path / "of_mine").mkdir()
    (tmp_path / "of_mine" / "parts.py").write_text(SOURCE)
    (tmp_path / "of_mine" / "needy.py").write_text("import no_such_package_anywhere\n")
    (tmp_path / "of_mine" / "broken.py").write_text("x = (\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "of_mine"]:
        del sys.modules[name]


@pytest.mark.parametrize("text", ["a:b", "a.b.c:d", "_a1:_b2"])
def test_names_have_a_form(text):
    assert is_named(text)


@pytest.mark.parametrize(
    "text", ["a", "a:", ":b", "a/b:c", "a.b:c:d", "a b:c", "C:\\x", "1a:b", "x.keras", "a:b.c"]
)
def test_other_texts_are_no_names(text):
    assert not is_named(text)


def test_a_function_gets_the_arguments_that_it_names(here):
    offered = {"classes": 10, "seed": 1, "mean": None}
    for name, expected in (("nothing", "made"), ("some", (10, 1)), ("anything", offered)):
        text = f"of_mine.parts:{name}"
        assert call_named(text, load_named(text), offered) == expected
    assert call_named("x:some", load_named("of_mine.parts:some"), {"classes": 2}) == (2, 7)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("of_his.parts:f", ["no module 'of_his'"]),
        ("of_mine.elsewhere:f", ["no module 'of_mine.elsewhere'"]),
        ("of_mine.needy:f", ["cannot be imported", "no_such_package_anywhere", "needy.py, line 1"]),
        ("of_mine.broken:f", ["cannot be imported", "SyntaxError"]),
        ("of_mine.parts:failin", ["has no 'failin'", "did you mean failing?"]),
    ],
)
def test_what_cannot_be_loaded_is_one_line(here, text, parts):
    with pytest.raises(ValueError) as caught:
        load_named(text)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize(
    "name, parts",
    [
        ("number", ["must be a function", "int"]),
        ("demanding", ["of_mine.parts:demanding", "no arguments but classes, seed", "Received: depth"]),
        ("failing", ["of_mine.parts:failing fails: KeyError: 'gone'", "parts.py, line 15"]),
    ],
)
def test_what_cannot_be_called_is_one_line(here, name, parts):
    text = f"of_mine.parts:{name}"
    with pytest.raises(ValueError) as caught:
        call_named(text, load_named(text), {"classes": 10, "seed": 1})
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), caught.value
