"""Python modules of this project in processes of their own."""

import os
import sys
from pathlib import Path


def command(module: str, *arguments: str) -> list[str]:
    """Returns the command that runs a module of this project.

    Args:
        module: Its full name.
        arguments: What it is called with.
    """
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Returns this process's environment, in which the command finds this project, installed or not."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
