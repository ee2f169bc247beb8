"""The memory that this process may still ask for, and sizes in words."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # Windows has no such limits.
    resource = None

# How the two versions of Linux's control groups name a limit, what is used, and the cached pages of files
# among it, which are given up when memory is asked for.
_FILES = {
    "cgroup2": ("memory.max", "memory.current", "inactive_file", "active_file"),
    "cgroup": (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
        "total_active_file",
    ),
}


def available_bytes(root: str | os.PathLike[str] = "/") -> float:
    """Returns the number of bytes that this process may still allocate.

    It is the least of the machine's memory that is available, the limits of the process's control group and
    of all groups around it (a container's) less what they use, and the process's own limits (`ulimit -v`,
    `ulimit -d`) less what it has mapped. Swap is not counted.

    Args:
        root: The folder that holds the system's `proc` and `sys`.

    Returns:
        A whole number, at least 0; infinity where the system tells none of these.
    """
    root = Path(root)
    return max(0, min(_machine_bytes(root), _group_bytes(root), _process_bytes(root)))


def size_text(number_of_bytes: float) -> str:
    """Returns `5.36 MB` of 10^6 bytes, `194 kB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number_of_bytes >= 0.9995 * factor:
            amount = number_of_bytes / factor
            return f"{amount:.{max(0, 2 - int(math.log10(max(amount, 1))))}f} {unit}"
    return f"{number_of_bytes} B"


def _machine_bytes(root: Path) -> float:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return 1024 * int(amount.split()[0])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def _group_bytes(root: Path) -> float:
    return min((_left(folder, kind) for folder, kind in _groups(root)), default=math.inf)


def _groups(root: Path) -> Iterator[tuple[Path, str]]:
    """Yields the folder and the kind of file system of the process's control groups, and of those around."""
    paths = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            paths["cgroup2"] = path
        elif "memory" in controllers.split(","):
            paths["cgroup"] = path
    for line in _text(root / "proc/self/mountinfo").splitlines():
        # ID, parent, device, the part of the file system that is mounted, where; behind " - " the kind, the
        # source and the options.
        place, _, kind = line.partition(" - ")
        kind, _, *options = kind.split()
        if kind not in paths or kind == "cgroup" and "memory" not in options[-1].split(","):
            continue
        mounted, where = place.split()[3:5]
        top = root / where.lstrip("/")
        # In a container the path may be the host's, of which only the container's own part is mounted.
        inside = os.path.relpath(paths[kind], mounted)
        folder = top if inside.startswith("..") else top / inside
        while True:
            yield folder, kind
            if folder == top:
                break
            folder = folder.parent


def _left(folder: Path, kind: str) -> float:
    limit_file, used_file, *cached = _FILES[kind]
    limit, used = _text(folder / limit_file).strip(), _text(folder / used_file).strip()
    if not limit.isdigit() or not used.isdigit():  # "max", or no such file in the outermost group.
        return math.inf
    statistics = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
    return int(limit) - int(used) + sum(int(statistics.get(name, 0)) for name in cached)


def _process_bytes(root: Path) -> float:
    if resource is None:
        return math.inf
    # Pages mapped, resident, shared, of code, unused, of data.
    pages = _text(root / "proc/self/statm").split()
    mapped, data = (int(pages[i]) * resource.getpagesize() if pages else 0 for i in (0, 5))
    limits = []
    for name, used in (("RLIMIT_AS", mapped), ("RLIMIT_DATA", data)):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY:
            limits.append(limit - used)
    return min(limits, default=math.inf)


def _text(path: Path) -> str:
    """Returns what the system says; nothing where it does not."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
