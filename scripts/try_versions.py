"""Tries an installed tfprune with other versions of Python, Keras and its backends, in fresh environments.

  python scripts/try_versions.py                    # all of MATRIX; writes the table in docs/versions.md
  python scripts/try_versions.py --only=jax         # the environments whose description has the word
  python scripts/try_versions.py --sizes            # the size of site-packages with each extra

Builds the wheel, and for each row of the table makes an environment with nothing but the wheel, its extra
[runtime], Keras and one backend, in which `tests/support/journey.py` prunes, fits, saves, reloads, goes on,
strips, summarizes, exports and runs. What cannot be installed is a row with its reason, never left out. Needs
the Pythons of the matrix as `python3.11` and so on, and a package index.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
JOURNEY = ROOT / "tests" / "support" / "journey.py"
DOCUMENT = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- Written by scripts/try_versions.py. -->", "<!-- End of what it writes. -->"
SIZED = ("", "plot", "runtime", "export", "tfmot", "experiments", "all")
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
    Environment("3.11", "tensorflow", ("tensorflow-cpu==2.16.1",), ("3.5.0", "3.8.0", "3.11.3", "")),
    Environment("3.12", "tensorflow", ("tensorflow-cpu==2.18.1",), ("3.8.0", "")),
    Environment("3.13", "tensorflow", ("tensorflow-cpu==2.21.0",), ("3.12.4", "")),
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

    def go(self, backend: str) -> dict[str, str]:
        """Goes the whole way; returns the installed versions.

        Raises:
            RuntimeError: The way ended before; the message is the last line of the traceback.
        """
        printed = run([str(self.python), str(JOURNEY)], cwd=self.folder, backend=backend)
        return json.loads(printed.splitlines()[-1])

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
                versions = sandbox.go(environment.backend)
            except (OSError, RuntimeError) as error:
                failure = str(error)
            rows.append(Row(environment, keras, versions, failure))
            print(" | ".join(rows[-1].cells()), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def measure_sizes(wheel: Path, folder: Path) -> list[list[str]]:
    """Returns the size of site-packages with each extra, in fresh environments of the oldest Python."""
    rows = []
    for extra in SIZED:
        sandbox = Sandbox(folder / (extra or "library"), python_of("3.11"))
        sandbox.install(f"{wheel}[{extra}]" if extra else str(wheel))
        rows.append([f"[{extra}]" if extra else "none", f"{sandbox.site_packages_bytes() / MIB:,.0f} MiB"])
        print(" | ".join(rows[-1]), flush=True)
        shutil.rmtree(sandbox.folder)
    return rows


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_table(document: Path, table: str) -> None:
    """Puts a table between the two marks of a document, in place of what is there."""
    before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Parses the command line and tries the matrix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="a word of the environments to try; no table is written")
    parser.add_argument("--sizes", action="store_true", help="measure site-packages instead")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        if given.sizes:
            print(markdown(["extra", "site-packages"], measure_sizes(wheel, Path(folder))))
            return
        chosen = [environment for environment in MATRIX if given.only in environment.describe()]
        rows = [row for each in chosen for row in try_environment(each, wheel, Path(folder) / "environment")]
    table = markdown(["Keras", "backend", "Python", "NumPy", "the whole way"], [row.cells() for row in rows])
    if given.only:
        print(table)
    else:
        write_table(DOCUMENT, table)
    sys.exit(any(row.failure for row in rows))


if __name__ == "__main__":
    main()
