"""Classifies images with a network, without TensorFlow or Keras."""

import collections
import functools
import os
import queue
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from tfprune.runtime import machine
from tfprune.runtime.crew import Crew
from tfprune.runtime.format.file import read_file, refusing
from tfprune.runtime.graph import Graph
from tfprune.runtime.kernels.planes import IMAGE_ADDRESS, IMAGE_IS_UINT8
from tfprune.runtime.kernels.program import COUNTER_WORDS
from tfprune.runtime.limits import allowed_bytes, require_memory
from tfprune.runtime.not_a_number import nan_logits
from tfprune.runtime.plan.arena import aligned_zeros
from tfprune.runtime.plan.binding import Binding
from tfprune.runtime.plan.lowering import make_plan
from tfprune.runtime.plan.plan import Plan

# Each has counters and workers of its own.
_MOST_THREADS = 1024
# How often the call that does nothing is timed.
_EMPTY_CALLS = 10


@dataclass
class _Tools:
    """The tools of one call: an arena for each image at a time, and the threads beside the caller's."""

    crew: Crew
    arenas: list[np.ndarray] = field(default_factory=list)


@dataclass
class _Shared:
    """The things that the calls in one process share; threads and locks do not outlive a fork.

    Attributes:
        process: The process.
        lock: Held by a call. A signal handler may call within a call.
        spare: The tools, while no call has them. A call that does not end, for whatever reason, never gives
            them back: its threads may still write what they hold, and the next call makes new ones.
    """

    process: int = field(default_factory=os.getpid)
    lock: threading.RLock = field(default_factory=threading.RLock)
    spare: collections.deque[_Tools] = field(default_factory=lambda: collections.deque(maxlen=1))


class Model:
    """A compiled network, which is called with images.

    Its kernels are compiled for this machine when it is made. A number of threads changes the time, not the
    result: every sum is made in the same order. Calls from several threads wait for one another. A call may
    be interrupted at any moment, such as by Ctrl-C: the next one works. A model can be copied, pickled and
    sent to another process, where it is compiled anew.

    Attributes:
        graph: The network; None for a model made of a plan.
        threads: The number of threads that a call uses.
        memory_bytes: The bytes of the weights, the tables and the values between the operations.
    """

    def __init__(
        self,
        graph: Graph,
        threads: int | None = None,
        *,
        target: machine.Machine | None = None,
        memory_limit: float | None = None,
    ) -> None:
        """Compiles a network.

        Args:
            graph: The network.
            threads: From 1 to 1,024; None for the cores that the process may use.
            target: The machine to compile for, if not the whole of this one: one that this one can stand in
                for, with fewer instruction sets.
            memory_limit: The bytes that `memory_bytes` may come to, when as many images are classified at a
                time as there are threads; None for what this process may still have.

        Raises:
            GraphError: The graph breaks a rule, or needs more memory than it may have.
            ValueError: `threads` or `memory_limit` is not such a number.
        """
        threads = _checked_threads(threads)
        self.graph, self._target = graph, target
        self._bind(
            make_plan(graph, target or machine.host(), allowed_bytes(memory_limit), arenas=threads), threads
        )

    @classmethod
    def from_plan(cls, plan: Plan, threads: int | None = None) -> "Model":
        """Binds a plan, perhaps one that another process made, to this process.

        Args:
            plan: The plan, made for this machine or for one that this machine can stand in for.
            threads: As of `Model`.

        Returns:
            The network; its `graph` is None.

        Raises:
            GraphError: The network needs more memory than this process may have.
            ValueError: `threads` is not such a number.
        """
        threads = _checked_threads(threads)
        require_memory(4 * plan.arena_size * threads, allowed_bytes(None))
        model = cls.__new__(cls)
        model.graph = None
        model._bind(plan, threads)
        return model

    def __reduce__(self) -> tuple:
        """Returns what a copy, perhaps in another process, is compiled from."""
        if self.graph is None:
            return Model.from_plan, (self._plan, self.threads)
        return functools.partial(Model, target=self._target), (self.graph, self.threads)

    def _bind(self, plan: Plan, threads: int) -> None:
        self.threads = threads
        self._plan = plan
        self._binding = Binding(plan)
        # One thread to an image, and all threads on one.
        self._alone = self._binding.steps(1)
        self._together = self._alone if threads == 1 else self._binding.steps(threads)
        self._shared = _Shared()

    @property
    def memory_bytes(self) -> int:
        """Returns the bytes of the weights, the tables and the values.

        A second image at a time doubles the bytes of the values.
        """
        images = max([1, *(len(tools.arenas) for tools in list(self._shared.spare))])
        return self._plan.constant_bytes + 4 * self._plan.arena_size * images

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Classifies images.

        Args:
            images: Plain pixels `[n, height, width, channels]`, float32 or uint8, any n. A NaN is in all
                logits that it reaches, through removed weights as well; these are left out by a model made
                of a plan.

        Returns:
            The network's output, float32 `[n, classes]`.

        Raises:
            ValueError: The images have another shape or type.
        """
        images = self._checked(images)
        logits = np.empty((len(images), self._plan.classes), np.float32)
        # As many images at a time as there are threads; what is left over, all threads together.
        side_by_side = len(images) - len(images) % self.threads
        shared = self._shared_here()
        with shared.lock:
            tools = self._tools(shared, self.threads if side_by_side else 1)
            if side_by_side:
                self._classify_side_by_side(images[:side_by_side], logits, tools)
            for index in range(side_by_side, len(images)):
                self._classify_together(images[index], logits[index], tools)
            shared.spare.append(tools)
        if self.graph is not None and images.dtype == np.float32 and images.size and np.isnan(images.min()):
            for index in np.flatnonzero(np.isnan(images).any(axis=(1, 2, 3))):
                logits[index, nan_logits(self.graph, images[index])] = np.nan
        return logits

    def time_nodes(self, images: np.ndarray, rounds: int = 10) -> list[float]:
        """Measures each operation on its own, on one thread.

        Args:
            images: As for a call; the first is used.
            rounds: How often the whole network is run.

        Returns:
            Microseconds of each node of the graph, the median over the rounds.

        Raises:
            ValueError: The images have another shape or type, or there is none; or `rounds` is below 1.
        """
        images = self._checked(images)
        if not len(images) or rounds < 1:
            raise ValueError(f"needs an image and a round. Received: {len(images)} images, rounds={rounds}")
        shared = self._shared_here()
        with shared.lock:
            tools = self._tools(shared, 1)
            arena = tools.arenas[0]
            _point_to_image(arena, images[0])
            owners = np.array([step.node for step in self._plan.steps])
            spans = []
            for node in range(self._plan.nodes):
                found = np.flatnonzero(owners == node)
                spans.append((int(found[0]), len(found)) if len(found) else (0, 0))
            times = np.zeros((rounds, len(spans)))
            for row in times:
                for node, span in enumerate(spans):
                    row[node] = self._seconds(span, arena)
            # A call that does nothing takes time, too, which is not the operations'. Its least is taken:
            # one that lost its core would hide them all.
            nothing = min(self._seconds((0, 0), arena) for _ in range(_EMPTY_CALLS))
            shared.spare.append(tools)
        return (1e6 * np.maximum(np.median(times, axis=0) - nothing, 0)).tolist()

    @property
    def _output(self) -> slice:
        return slice(self._plan.output, self._plan.output + self._plan.classes)

    def _seconds(self, span: tuple[int, int], arena: np.ndarray) -> float:
        """Returns the seconds of a call for some of the steps, first and count, on one thread."""
        first, count = span
        before = time.perf_counter()
        self._binding.run(self._alone.address(first), count, arena.ctypes.data, None, 0, 1)
        return time.perf_counter() - before

    def _checked(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.dtype not in (np.float32, np.uint8) or images.shape[1:] != self._plan.input_shape:
            raise ValueError(
                f"`images` must be float32 or uint8 [n, {', '.join(map(str, self._plan.input_shape))}]."
                f" Received: {images.dtype} {list(images.shape)}"
            )
        return np.ascontiguousarray(images)

    def _shared_here(self) -> _Shared:
        if self._shared.process != os.getpid():
            self._shared = _Shared()
        return self._shared

    def _tools(self, shared: _Shared, arenas: int) -> _Tools:
        """Takes the tools, or makes them."""
        try:
            tools = shared.spare.pop()
        except IndexError:
            tools = _Tools(Crew(self.threads - 1))
        while len(tools.arenas) < arenas:
            tools.arenas.append(aligned_zeros(self._plan.arena_size))
        return tools

    def _classify_side_by_side(self, images: np.ndarray, logits: np.ndarray, tools: _Tools) -> None:
        """Classifies images, one at a time on each thread."""
        output, arenas = self._output, tools.arenas
        indices, finished = iter(range(len(images))), queue.SimpleQueue()

        def work(thread: int) -> None:
            arena = arenas[thread]
            for index in indices:
                try:
                    _point_to_image(arena, images[index])
                    self._binding.run(
                        self._alone.address(0), self._alone.count, arena.ctypes.data, None, 0, 1
                    )
                    logits[index] = arena[output]
                except BaseException as error:
                    finished.put(error)
                    raise
                finished.put(None)

        try:
            tools.crew.run(work)
            for _ in range(len(images)):
                error = finished.get()
                if error is not None:
                    raise error
        finally:
            collections.deque(indices, maxlen=0)  # Nobody needs what an interrupted call has left.

    def _classify_together(self, image: np.ndarray, logits: np.ndarray, tools: _Tools) -> None:
        """Classifies an image on all threads: each takes parts of each step.

        A thread that comes too late finds no part, and is not awaited.
        """
        arena = tools.arenas[0]
        counters = np.zeros((self._together.count, 1 + self.threads, COUNTER_WORDS), np.int64)
        # The threads hold what they work on, and the image, which the arena has the address of.
        held = (image, arena, counters)
        _point_to_image(arena, image)

        def work(thread: int) -> None:
            _, arena, counters = held
            steps, count = self._together.address(0), self._together.count
            self._binding.run(steps, count, arena.ctypes.data, counters.ctypes.data, thread, self.threads)

        tools.crew.run(work)
        logits[:] = arena[self._output]


def _checked_threads(threads: int | None) -> int:
    if threads is None:
        return machine.available_cores()
    whole = isinstance(threads, int | np.integer) and not isinstance(threads, bool)
    if not whole or not 1 <= threads <= _MOST_THREADS:
        raise ValueError(
            f"`threads` must be a whole number from 1 to {_MOST_THREADS}. Received: threads={threads!r}"
        )
    return threads


def _point_to_image(arena: np.ndarray, image: np.ndarray) -> None:
    header = arena[: 2 * 2].view(np.int64)
    header[IMAGE_ADDRESS], header[IMAGE_IS_UINT8] = image.ctypes.data, image.dtype == np.uint8


def load(path: str | os.PathLike, threads: int | None = None, *, memory_limit: float | None = None) -> Model:
    """Loads a network from a `model.tfprune` file, in time in proportion to its size whatever it says.

    Example:

    ```python
    from tfprune import runtime

    model = runtime.load("model.tfprune")
    logits = model(images)  # images: [n, height, width, 3], float32 or uint8
    ```

    Args:
        path: The file.
        threads: From 1 to 1,024; None for the cores that the process may use.
        memory_limit: The bytes that the network may take, as of `Model`, and that reading it may; None for
            what this process may still have, by the machine's free memory, its own limits and its
            container's.

    Returns:
        The network, compiled for this machine.

    Raises:
        FileFormatError: The file is not sound, or needs more memory than it may have: nothing large has been
            allocated then.
        OSError: It cannot be read.
        ValueError: `threads` or `memory_limit` is not such a number.
    """
    _checked_threads(threads)  # The caller's mistake, not the file's.
    graph = read_file(path, memory_limit)
    with refusing(path):
        return Model(graph, threads, memory_limit=memory_limit)
