"""Docstrings: the first sentence begins with a verb or names the thing, and is no question."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "tfprune"
QUESTIONS = {
    "What",
    "Which",
    "Whether",
    "How",
    "Where",
    "Who",
    "Whose",
    "When",
    "Why",
    "Of",
    "It",
    "Its",
    "That",
}
DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def docstrings(tree):
    """(line, docstring) of the functions and classes of a module."""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield node, text


def is_property(node):
    names = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
    return any(name.endswith("property") for name in names)


def test_the_walk_sees_docstrings():
    tree = ast.parse('class A:\n    """How it is."""\n    def f(self):\n        """Returns it."""\n')
    assert [text for _, text in docstrings(tree)] == ["How it is.", "Returns it."]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_first_sentences_are_no_questions(path):
    """A property may say whether something holds: its name is read as a value."""
    found = [
        f"line {node.lineno}, {node.name}: {text.splitlines()[0]}"
        for node, text in docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if text.split()[0].rstrip(":,") in QUESTIONS
        and not (is_property(node) and text.startswith("Whether"))
    ]
    assert not found, "\n".join(found)
