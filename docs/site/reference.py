"""The pages of the reference: a package each, with the names of its `__all__`."""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any, NamedTuple

import griffe

import tfprune


class Name(NamedTuple):
    """A public name.

    Attributes:
        path: The name as users import it, such as `tfprune.export.export_model`.
        thing: The function or class.
    """

    path: str
    thing: Any

    @property
    def home(self) -> str:
        """The name where it is defined, such as `tfprune.export.export.export_model`."""
        return f"{self.thing.__module__}.{self.thing.__qualname__}"

    @property
    def sentence(self) -> str:
        """The first sentence of the docstring."""
        paragraph = " ".join((inspect.getdoc(self.thing) or "").partition("\n\n")[0].split())
        return paragraph.partition(". ")[0].removesuffix(".").replace("|", "\\|") + "."


def public_packages() -> dict[str, list[Name]]:
    """Returns the packages that have an `__all__`, with the names in it, and in the modules among these."""
    packages = [
        importlib.import_module(f"tfprune.{found.name}")
        for found in pkgutil.iter_modules(tfprune.__path__)
        if found.ispkg
    ]
    return {package.__name__: list(_names(package)) for package in packages if hasattr(package, "__all__")}


def reference_pages() -> dict[str, str]:
    """Returns a page for each public package, in Markdown, by the package's name.

    A name that an earlier page describes, as those of `tfprune.tfmot`, is a link to it.
    """
    described: dict[str, str] = {}
    pages = {}
    for package, names in public_packages().items():
        new = [name for name in names if described.setdefault(name.home, name.path) == name.path]
        rows = [
            f"| [`{name.path.removeprefix(f'{package}.')}`][{described[name.home]}] | {name.sentence} |"
            for name in names
        ]
        table = "\n".join(["| name | what it is |", "|---|---|", *rows])
        entries = "\n\n".join(f"::: {name.path}" for name in new)
        pages[package] = f"# `{package}` {{ #{package} }}\n\n{_about(package)}\n\n{table}\n\n{entries}\n"
    return pages


class LazyNames(griffe.Extension):
    """Shows to Griffe, which reads the source, the public names that a package loads when they are used."""

    def on_package(self, *, pkg: griffe.Module, **_rest: Any) -> None:
        """Adds an alias for each name that Griffe did not find, or takes for the module of the same name."""
        for names in public_packages().values():
            # Before an alias takes the place of a module that leads to other names.
            found = [(name, _member(pkg, name.path), _member(pkg, name.home)) for name in names]
            for name, shown, meant in found:
                module, _, last = name.path.removeprefix("tfprune.").rpartition(".")
                if shown is None or shown is not meant:
                    target = name.home if meant is None else meant
                    pkg[module].set_member(last, griffe.Alias(last, target, parent=pkg[module]))


def _member(pkg: griffe.Module, path: str) -> Any:
    """Returns what Griffe read under a name; None if that is nothing."""
    try:
        return pkg[path.removeprefix("tfprune.")]
    except KeyError:
        return None


def _names(module: ModuleType) -> list[Name]:
    names = []
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.ismodule(thing):
            names += _names(thing)
        elif not name.startswith("__"):
            names.append(Name(f"{module.__name__}.{name}", thing))
    return names


def _about(package: str) -> str:
    return inspect.cleandoc(importlib.import_module(package).__doc__)
