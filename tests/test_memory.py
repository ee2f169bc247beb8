"""The memory that a process may still ask for: each of the limits, by made-up systems and by real ones."""

import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tfprune import memory
from tfprune.memory import available_bytes, size_text

pytestmark = pytest.mark.one_backend

MIB = 2**20
NO_LIMIT_V1 = 9223372036854771712


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Writes the files of a system with 1,000 MiB available, and those that are given."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: unlimited)

    def write(**files):
        files = {"proc/meminfo": f"MemTotal: 9999999 kB\nMemAvailable:  {1000 * 1024} kB\n"} | files
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(content))
        return tmp_path

    return write


def v2(path, **limits):
    """A unified hierarchy: the process's group, and for each group its limit, use and cache in MiB."""
    files = {
        "proc/self/cgroup": f"0::{path}\n",
        "proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n",
    }
    for group, (limit, used, inactive, active) in limits.items():
        folder = f"sys/fs/cgroup/{group}"
        files[f"{folder}/memory.max"] = limit if limit == "max" else limit * MIB
        files[f"{folder}/memory.current"] = f"{used * MIB}\n"
        files[f"{folder}/memory.stat"] = (
            f"anon 5\ninactive_file {inactive * MIB}\nactive_file {active * MIB}\n"
        )
    return files


def v1(path, mounted="/", **limits):
    files = {
        "proc/self/cgroup": f"5:cpu,cpuacct:/elsewhere\n4:memory:{path}\n1:name=systemd:/x\n0::/\n",
        "proc/self/mountinfo": (
            "30 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
            f"31 23 0:28 {mounted} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            "32 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        ),
        "sys/fs/cgroup/cpu/memory.limit_in_bytes": 1,
        "sys/fs/cgroup/cpu/memory.usage_in_bytes": 1,
    }
    for group, (limit, used, cached) in limits.items():
        folder = f"sys/fs/cgroup/memory/{group}"
        files[f"{folder}/memory.limit_in_bytes"] = limit
        files[f"{folder}/memory.usage_in_bytes"] = used * MIB
        files[f"{folder}/memory.stat"] = f"cache 7\ninactive_file 9\ntotal_inactive_file {cached * MIB}\n"
    return files


def test_the_machine(system):
    assert available_bytes(system()) == 1000 * MIB


def test_a_system_that_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "resource", None)
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}.get)
    assert available_bytes(tmp_path) == 7 * 4096
    monkeypatch.delattr(memory.os, "sysconf")
    assert available_bytes(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("limits", "mib"),
    [
        ({"a/b": (300, 100, 0, 0)}, 200),
        ({"a/b": (300, 290, 40, 20)}, 70),  # cached pages of files are given up
        ({"a/b": ("max", 100, 0, 0), "a": (500, 200, 0, 0)}, 300),  # the limit of a group around it
        ({"a/b": (400, 100, 0, 0), "a": (500, 480, 0, 0)}, 20),  # brothers use what is left
        ({"a/b": (300, 400, 0, 0)}, 0),  # beyond its limit, never below 0
        ({"a/b": (5000, 100, 0, 0)}, 1000),  # more than the machine has
        ({"a/c": (10, 1, 0, 0)}, 1000),  # another's
        ({"": (60, 10, 0, 0)}, 50),  # the outermost in a container
    ],
)
def test_control_groups(system, limits, mib):
    assert available_bytes(system(**v2("/a/b", **limits))) == mib * MIB


@pytest.mark.parametrize("path", ["/", "/../../outside"])
def test_the_group_is_the_mounted_one_where_its_path_is_outside(system, path):
    assert available_bytes(system(**v2(path, **{"": (60, 10, 0, 0)}))) == 50 * MIB


def test_the_first_version_of_control_groups(system):
    limits = {"a/b": (NO_LIMIT_V1, 100, 0), "a": (700 * MIB, 300, 30)}
    assert available_bytes(system(**v1("/a/b", **limits))) == 430 * MIB


def test_a_container_that_sees_the_path_on_its_host(system):
    limits = {"": (200 * MIB, 50, 0), "docker/1/in": (1, 0, 0), "in": (100 * MIB, 10, 0)}
    assert available_bytes(system(**v1("/docker/1/in", "/docker/1", **limits))) == 90 * MIB


@pytest.mark.parametrize(("name", "pages"), [("RLIMIT_AS", 1000), ("RLIMIT_DATA", 600)])
def test_limits_of_the_process(system, monkeypatch, name, pages):
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    limits = {getattr(resource, name): (100 * MIB, resource.RLIM_INFINITY)}
    monkeypatch.setattr(memory.resource, "getrlimit", lambda limit: limits.get(limit, unlimited))
    root = system(**{"proc/self/statm": "1000 500 10 5 0 600 0\n"})
    assert available_bytes(root) == 100 * MIB - pages * resource.getpagesize()


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_real_process_cannot_have_more(name):
    """What is left of a real limit can be had to within a few MiB, and not much more."""
    code = f"""
import mmap, resource
from tfprune.memory import available_bytes
resource.setrlimit(resource.{name}, (512 * 2**20, 512 * 2**20))
left = available_bytes()
assert 400 * 2**20 < left < 512 * 2**20, left
try:
    mmap.mmap(-1, int(left) + 8 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
except OSError:
    pass
else:
    raise AssertionError("more than is left")
mmap.mmap(-1, int(left) - 8 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
"""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_this_system():
    assert 0 < available_bytes() < 2**50


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (193_600, "194 kB"), (5_360_000, "5.36 MB"), (4.2e9, "4.20 GB")],
)
def test_sizes(number, text):
    assert size_text(number) == text
