"""What tests of several packages need."""

import atexit
import collections
import gc
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from tests.support import quick_backend

# The compiler of JAX works longer on the small programs of the tests than these run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Many tests train by the same step: the processes of a run share what they compile, those on JAX that
    # tests on another backend start, too.
    compiled = tempfile.mkdtemp(prefix="tfprune_compiled_")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

CIFAR = ("cifar10", "cifar100")


def pytest_collection_modifyitems(items):
    """Puts the longest files first, by a guess: then no core waits long for the last one."""
    guess = collections.Counter()
    for item in items:
        guess[item.path] += 20 if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: -guess[item.path])


def pytest_collection_finish():
    """Spares what the imports left, half a million objects, from every later look for garbage."""
    if "keras" in sys.modules:
        quick_backend.prepare()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Starts each test with the same random numbers, those that Keras's initializers draw among them."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def cifar_data_dir():
    """Folder with CIFAR-10 and CIFAR-100 as prepared TFDS datasets."""
    given = os.environ.get("TFPRUNE_TEST_DATA_DIR")
    if given:
        return pathlib.Path(given)
    cache = pathlib.Path.home() / ".cache" / "tfprune" / "tests"
    if not all((cache / name).is_dir() for name in CIFAR):
        script = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "prepare_cifar.py"
        if not script.exists():
            pytest.skip(f"no CIFAR: TFPRUNE_TEST_DATA_DIR is not set and {script} is not there")
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(script), "--data_dir", str(cache)], check=True)
    return cache
