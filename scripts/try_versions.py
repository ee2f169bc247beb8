"""Tries an installed tfprune with other versions of all that it needs, in fresh environments.

  python scripts/try_versions.py                    # all; writes the tables in docs/versions.md
  python scripts/try_versions.py --only=jax         # what has the word in its description; writes nothing

Builds the wheel, and makes an environment for each row of two tables:

- MATRIX, Python, Keras and its backends: nothing but the wheel, its extra [runtime], Keras and one backend,
  in which `tests/support/journey.py` prunes, fits, saves, goes on, strips, summarizes, exports and runs.
- ENDS, both ends of the ranges of each extra: the wheel with the extra, the lowest versions that
  `pyproject.toml` allows or the newest, in which `tests/support/extra_ways.py` does what the extra is for.

What cannot be installed is a row with its reason, never left out. Needs the Pythons of the rows as
`python3.11` and so on, and a package index.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
JOURNEY = ROOT / "tests" / "support" / "journey.py"
EXTRA_WAYS = ROOT / "tests" / "support" / "extra_ways.py"
DOCUMENT = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- Written by scripts/try_versions.py. -->", "<!-- End of what it writes. -->"
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Environment:
    """An environment in which several versions of Keras are tried, one after the other.

    Attributes:
        python: The version of Python, such as `"3.11"`.
        backend: Keras's backend.
        packages: What is installed, as pip takes it.
        keras: The versions of Keras; an empty one is the newest.
    """

    python: str
    backend: str
    packages: tuple[str, ...]
    keras: tuple[str, ...]

    def describe(self) -> str:
        """Returns the environment in words."""
        return f"Python {self.python}, {' '.join(self.packages)}"


# Both ends of each range in pyproject.toml, and what lies between. torch==2.13.0 alone is had without CUDA.
MATRIX = (
    Environment(
        "3.11",
        "jax",
        ("jax==0.4.30", "numpy==1.26.4"),
        ("3.5.0", "3.6.0", "3.7.0", "3.8.0", "3.9.2", "3.10.0"),
    ),
    Environment("3.11", "jax", ("jax",), ("3.10.0", "3.11.3", "3.12.4", "3.13.2", "3.14.1", "")),
    Environment("3.12", "jax", ("jax==0.4.38",), ("3.5.0", "3.11.3", "")),
    Environment("3.13", "jax", ("jax",), ("3.11.3", "")),
    Environment("3.11", "torch", ("torch==2.13.0",), ("3.5.0", "3.11.3", "")),
    Environment("3.13", "torch", ("torch==2.13.0",), ("",)),
    Environment("3.11", "tensorflow", ("tensorflow-cpu==2.16.1",), ("3.5.0", "3.8.0", "3.11.3", "")),
    Environment("3.12", "tensorflow", ("tensorflow-cpu==2.18.1",), ("3.8.0", "")),
    Environment("3.13", "tensorflow", ("tensorflow-cpu==2.21.0",), ("3.12.4", "")),
)


@dataclasses.dataclass(frozen=True)
class End:
    """One end of the ranges of an extra.

    Attributes:
        extra: The extra; empty for the library alone.
        lowest: Whether the lowest versions are tried, or the newest.
        python: The version of Python.
        backend: Keras's backend.
    """

    extra: str
    lowest: bool
    python: str
    backend: str

    def describe(self) -> str:
        """Returns the end in words."""
        return f"{self.name}, {self.end}, Python {self.python}"

    @property
    def name(self) -> str:
        """The extra as pip takes it."""
        return f"[{self.extra}]" if self.extra else "none"

    @property
    def end(self) -> str:
        """The end in a word."""
        return "lowest" if self.lowest else "newest"


# The backends of Keras with which the extras are tried; only JAX is none of their packages.
BACKEND_OF = {
    "": "jax",
    "plot": "jax",
    "runtime": "jax",
    "export": "tensorflow",
    "experiments": "tensorflow",
    "all": "tensorflow",
    "pretrained": "torch",
}
ENDS = tuple(
    End(extra, lowest, "3.11" if lowest else "3.13", backend)
    for extra, backend in BACKEND_OF.items()
    for lowest in (True, False)
)


@dataclasses.dataclass(frozen=True)
class Row:
    """What came of one version of Keras in one environment.

    Attributes:
        environment: The environment.
        keras: The version that was asked for.
        versions: Package -> version of all that was installed; empty where nothing could be.
        failure: Why the way was not gone to its end, in one line; empty if it was.
    """

    environment: Environment
    keras: str
    versions: dict[str, str]
    failure: str = ""

    def cells(self) -> list[str]:
        """Returns the row of the table."""
        backend = {"tensorflow": "tensorflow-cpu"}.get(self.environment.backend, self.environment.backend)
        version = self.versions.get(backend, "")
        return [
            self.versions.get("keras") or self.keras or "newest",
            f"{self.environment.backend} {version}" if version else " ".join(self.environment.packages),
            self.environment.python,
            self.versions.get("numpy", ""),
            self.failure or "yes",
        ]


class Sandbox:
    """A fresh virtual environment, outside of any project.

    Args:
        folder: Where it is made; does not exist.
        program: The Python that it is made with.
    """

    def __init__(self, folder: Path, program: str) -> None:
        """Makes the environment."""
        self.folder = folder
        self.python = folder / "bin" / "python"
        run([program, "-m", "venv", str(folder)])

    def install(self, *packages: str) -> None:
        """Installs packages, all in one resolution.

        Raises:
            RuntimeError: pip could not; the message is its reason.
        """
        run([str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])

    def go(self, backend: str, script: Path = JOURNEY, *arguments: str) -> None:
        """Goes the whole way, or that of another script.

        Raises:
            RuntimeError: The way ended before; the message is the last line of the traceback.
        """
        run([str(self.python), str(script), *arguments], cwd=self.folder, backend=backend)

    def versions(self) -> dict[str, str]:
        """Returns the versions of all that is installed, by their names as pip shows them."""
        listed = json.loads(run([str(self.python), "-m", "pip", "list", "--format=json"]))
        return {canonicalize_name(package["name"]): package["version"] for package in listed}

    def site_packages_bytes(self) -> int:
        """Returns the bytes of all files of site-packages, without pip and setuptools."""
        (packages,) = self.folder.glob("lib/python*/site-packages")
        files = [path for path in packages.rglob("*") if path.is_file() and not path.is_symlink()]
        own = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
        return sum(f.stat().st_size for f in files if not f.relative_to(packages).parts[0].startswith(own))


def run(command: list[str], cwd: Path = ROOT, backend: str = "") -> str:
    """Runs a command and returns what it printed.

    Raises:
        RuntimeError: It failed; the message is the last line that it printed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if backend:
        environment |= {
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "JAX_TRACEBACK_FILTERING": "off",
        }
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise RuntimeError(lines[-1].removeprefix("ERROR: ") if lines else f"exit status {done.returncode}")
    return done.stdout


def python_of(version: str) -> str:
    """Returns the program of a version of Python.

    Raises:
        FileNotFoundError: There is none here.
    """
    program = shutil.which(f"python{version}")
    if program is None:
        raise FileNotFoundError(f"there is no python{version} here")
    return program


def build_wheel(folder: Path) -> Path:
    """Builds the wheel of this tree into a folder, from a copy: what earlier builds left would be in it."""
    source = folder / "source"
    shutil.copytree(ROOT / "tfprune", source / "tfprune", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            str(folder),
            str(source),
        ]
    )
    (wheel,) = folder.glob("tfprune-*.whl")
    return wheel


def try_environment(environment: Environment, wheel: Path, folder: Path) -> list[Row]:
    """Tries each of an environment's versions of Keras; removes the environment."""
    rows = []
    try:
        for keras in environment.keras:
            versions: dict[str, str] = {}
            failure = ""
            try:
                if not rows:
                    sandbox = Sandbox(folder, python_of(environment.python))
                wanted = f"keras=={keras}" if keras else "keras"
                sandbox.install("--upgrade", f"{wheel}[runtime]", wanted, *environment.packages)
                versions = sandbox.versions()
                sandbox.go(environment.backend)
            except (OSError, RuntimeError) as error:
                failure = str(error)
            rows.append(Row(environment, keras, versions, failure))
            print(" | ".join(rows[-1].cells()), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def requirements(extra: str) -> Iterator[Requirement]:
    """Yields the requirements of the library, of an extra, and of the extras that it takes in."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    yield from map(Requirement, project["dependencies"])
    for requirement in map(Requirement, project["optional-dependencies"][extra] if extra else ()):
        if requirement.name == "tfprune":
            for part in sorted(requirement.extras):
                yield from requirements(part)
        else:
            yield requirement


def lowest_versions(extra: str) -> list[str]:
    """Returns the lowest version of each package of an extra and of the library, as pip takes it."""
    return sorted(
        {
            f"{requirement.name}=={part.version}"
            for requirement in requirements(extra)
            for part in requirement.specifier
            if part.operator == ">="
        }
    )


def try_end(end: End, wheel: Path, folder: Path) -> list[str]:
    """Returns the row of one end of an extra's ranges; removes the environment."""
    shown = sorted({requirement.name for requirement in requirements(end.extra)})
    installed, size, result = dict.fromkeys(shown, "?"), "", "yes"
    try:
        sandbox = Sandbox(folder, python_of(end.python))
        lowest = lowest_versions(end.extra) if end.lowest else []
        sandbox.install(f"{wheel}{end.name if end.extra else ''}", *lowest)
        size = f"{sandbox.site_packages_bytes() / MIB:,.0f} MiB"
        if end.backend == "jax":
            jax = "jax==0.4.30" if end.lowest else "jax"
            sandbox.install(f"{wheel}{end.name if end.extra else ''}", jax, *lowest)
        installed = sandbox.versions()
        if end.extra:
            sandbox.go(end.backend, EXTRA_WAYS, end.extra)
        else:
            sandbox.go(end.backend)
    except (OSError, RuntimeError) as error:
        result = str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    versions = ", ".join(f"{name} {installed[name]}" for name in shown)
    row = [end.name, end.end, end.python, size, versions, result]
    print(" | ".join(row), flush=True)
    return row


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_tables(document: Path, tables: list[str]) -> None:
    """Puts each table between its two marks of a document, in place of what is there."""
    before, *parts = document.read_text(encoding="utf-8").split(BEGIN)
    for table, part in zip(tables, parts, strict=True):
        before += f"{BEGIN}\n\n{table}\n\n{END}{part.partition(END)[2]}"
    document.write_text(before, encoding="utf-8")


def main() -> None:
    """Parses the command line and tries what it names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="a word of the rows to try; no table is written")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as folder:
        wheel, place = build_wheel(Path(folder)), Path(folder) / "environment"
        matrix = [each for each in MATRIX if only in each.describe()]
        rows = [row.cells() for each in matrix for row in try_environment(each, wheel, place)]
        ends = [try_end(end, wheel, place) for end in ENDS if only in end.describe()]
    tables = [
        markdown(["Keras", "backend", "Python", "NumPy", "the whole way"], rows),
        markdown(["extra", "versions", "Python", "site-packages", "packages", "what it is for"], ends),
    ]
    if only:
        print("\n\n".join(tables))
    else:
        write_tables(DOCUMENT, tables)
    sys.exit(any(row[-1] != "yes" for row in rows + ends))


if __name__ == "__main__":
    main()
