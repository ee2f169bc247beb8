"""Runs a network on images, signals or vectors, without TensorFlow or Keras."""

import collections
import functools
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfprune.runtime import machine
from tfprune.runtime.ahead.beside import LibraryBinding, library_beside
from tfprune.runtime.batch import Batch, as_batch, as_results
from tfprune.runtime.crew import Crew
from tfprune.runtime.format.file import UndecodedFile, refusing
from tfprune.runtime.graph import Graph
from tfprune.runtime.kernels.program import COUNTER_WORDS
from tfprune.runtime.limits import allowed_bytes, require_memory
from tfprune.runtime.not_a_number import nan_outputs
from tfprune.runtime.plan.arena import aligned_zeros
from tfprune.runtime.plan.binding import Binding
from tfprune.runtime.plan.lowering import make_plan
from tfprune.runtime.plan.plan import Plan

# Each has counters and workers of its own.
_MOST_THREADS = 1024
# How often the call that does nothing is timed.
_EMPTY_CALLS = 10
# The seconds that the calling thread has computed: another process that takes its core does not count. The
# clock of Windows ticks too slowly.
thread_seconds = time.perf_counter if sys.platform == "win32" else time.thread_time


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
    """A compiled network, which is called with images, or whatever else it takes.

    Its kernels are compiled for this machine when it is made. A number of threads changes the time, not the
    result: every sum is made in the same order. Calls from several threads wait for one another. A call may
    be interrupted at any moment, such as by Ctrl-C: the next one works. A model can be copied, pickled and
    sent to another process, where it is compiled anew.

    Attributes:
        graph: The network; None for a model made of a plan.
        threads: The number of threads that a call uses.
        memory_bytes: The bytes of the weights, the tables and the values between the operations.
        compiled_ahead: Whether a library is used that was compiled before.
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
        self._graph, self._target = graph, target
        plan = make_plan(graph, target or machine.host(), allowed_bytes(memory_limit), arenas=threads)
        self._bind(Binding(plan), threads)

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
        model._graph = None
        model._bind(Binding(plan), threads)
        return model

    @classmethod
    def _of_library(cls, file: UndecodedFile, library: LibraryBinding, threads: int) -> "Model":
        model = cls.__new__(cls)
        model._graph, model._target = file, None
        model._bind(library, threads)
        return model

    def __reduce__(self) -> tuple:
        """Returns what a copy, perhaps in another process, is compiled from."""
        if self.graph is None:
            return Model.from_plan, (self._binding.plan, self.threads)
        return functools.partial(Model, target=self._target), (self.graph, self.threads)

    def _bind(self, binding: Binding | LibraryBinding, threads: int) -> None:
        self.threads = threads
        self._binding, self._frame = binding, binding.frame
        # One thread to an image, and all threads on one.
        self._alone = self._binding.steps(1)
        self._together = self._alone if threads == 1 else self._binding.steps(threads)
        self._shared = _Shared()

    @property
    def graph(self) -> Graph | None:
        """Returns the network; None for a model made of a plan.

        With a library it is read from the file's bytes when it is first asked for.
        """
        if isinstance(self._graph, UndecodedFile):
            self._graph = self._graph.graph()
        return self._graph

    @property
    def compiled_ahead(self) -> bool:
        """Returns whether the code is a library's, and nothing was compiled."""
        return isinstance(self._binding, LibraryBinding)

    @property
    def memory_bytes(self) -> int:
        """Returns the bytes of the weights, the tables and the values.

        A second image at a time doubles the bytes of the values.
        """
        images = max([1, *(len(tools.arenas) for tools in list(self._shared.spare))])
        return self._frame.constant_bytes + 4 * self._frame.arena_size * images

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of one example of each input, by name, in the order of a list of inputs."""
        return {port.name: port.shape for port in self._frame.inputs}

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of one example of each output, by name."""
        return {port.name: port.shape for port in self._frame.outputs}

    def __call__(self, images: Any) -> Any:
        """Runs the network.

        Args:
            images: Plain pixels `[n, height, width, channels]`, or what else the network takes: `[n, ...]` of
                its shape, any n. Of several inputs a list, or a dictionary by their names. Float32 or uint8;
                other numbers are converted where float32 holds each of them. A NaN is in all outputs that it
                reaches, through removed weights as well; these are left out by a model made of a plan.

        Returns:
            The network's output, float32 `[n, classes]` or of its shape; several as a dictionary by name.

        Raises:
            ValueError: The images have another shape or type.
        """
        images = as_batch(images, self._frame.inputs)
        outputs = [np.empty((images.count, port.size), np.float32) for port in self._frame.outputs]
        # As many images at a time as there are threads; what is left over, all threads together.
        side_by_side = images.count - images.count % self.threads
        shared = self._shared_here()
        with shared.lock:
            tools = self._tools(shared, self.threads if side_by_side else 1)
            if side_by_side:
                self._run_side_by_side(images, range(side_by_side), outputs, tools)
            for index in range(side_by_side, images.count):
                self._run_together(images, index, outputs, tools)
            shared.spare.append(tools)
        for index in images.without_sense() if self._graph is not None else ():
            for output, reached in zip(outputs, nan_outputs(self.graph, images.example(index)), strict=True):
                output[index, reached] = np.nan
        return as_results(outputs, self._frame.outputs)

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
        images = as_batch(images, self._frame.inputs)
        if not images.count or rounds < 1:
            raise ValueError(f"needs an image and a round. Received: {images.count} images, rounds={rounds}")
        shared = self._shared_here()
        with shared.lock:
            tools = self._tools(shared, 1)
            arena = tools.arenas[0]
            images.point(arena, 0)
            owners = np.array(self._frame.owners)
            spans = []
            for node in range(self._frame.nodes):
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

    def _seconds(self, span: tuple[int, int], arena: np.ndarray) -> float:
        """Returns the seconds of a call for some of the steps, first and count, on one thread."""
        first, count = span
        before = thread_seconds()
        self._binding.run(self._alone.address(first), count, arena.ctypes.data, None, 0, 1)
        return thread_seconds() - before

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
            arena = aligned_zeros(self._frame.arena_size)
            self._binding.prepare(arena)
            tools.arenas.append(arena)
        return tools

    def _take(self, arena: np.ndarray, outputs: list[np.ndarray], index: int) -> None:
        """Copies an example's results out of an arena."""
        for port, output in zip(self._frame.outputs, outputs, strict=True):
            output[index] = arena[port.place : port.place + port.size]

    def _run_side_by_side(
        self, images: Batch, examples: range, outputs: list[np.ndarray], tools: _Tools
    ) -> None:
        """Runs the network on examples, one at a time on each thread."""
        arenas = tools.arenas
        indices, finished = iter(examples), queue.SimpleQueue()

        def work(thread: int) -> None:
            arena = arenas[thread]
            for index in indices:
                try:
                    images.point(arena, index)
                    self._binding.run(
                        self._alone.address(0), self._alone.count, arena.ctypes.data, None, 0, 1
                    )
                    self._take(arena, outputs, index)
                except BaseException as error:
                    finished.put(error)
                    raise
                finished.put(None)

        try:
            tools.crew.run(work)
            for _ in examples:
                error = finished.get()
                if error is not None:
                    raise error
        finally:
            collections.deque(indices, maxlen=0)  # Nobody needs what an interrupted call has left.

    def _run_together(self, images: Batch, index: int, outputs: list[np.ndarray], tools: _Tools) -> None:
        """Runs the network on an example on all threads: each takes parts of each step.

        A thread that comes too late finds no part, and is not awaited.
        """
        arena = tools.arenas[0]
        counters = np.zeros((self._together.count, 1 + self.threads, COUNTER_WORDS), np.int64)
        # The threads hold what they work on, and the images, which the arena has the addresses of.
        held = (images, arena, counters)
        images.point(arena, index)

        def work(thread: int) -> None:
            _, arena, counters = held
            steps, count = self._together.address(0), self._together.count
            self._binding.run(steps, count, arena.ctypes.data, counters.ctypes.data, thread, self.threads)

        tools.crew.run(work)
        self._take(arena, outputs, index)


def _checked_threads(threads: int | None) -> int:
    if threads is None:
        return machine.available_cores()
    whole = isinstance(threads, int | np.integer) and not isinstance(threads, bool)
    if not whole or not 1 <= threads <= _MOST_THREADS:
        raise ValueError(
            f"`threads` must be a whole number from 1 to {_MOST_THREADS}. Received: threads={threads!r}"
        )
    return threads


def load(
    path: str | os.PathLike,
    threads: int | None = None,
    *,
    memory_limit: float | None = None,
    use_library: bool = True,
) -> Model:
    """Loads a network from a `model.tfprune` file, in time in proportion to its size whatever it says.

    Example:

    ```python
    from tfprune import runtime

    model = runtime.load("model.tfprune")
    logits = model(images)  # images: [n, height, width, 3], float32 or uint8
    ```

    Where `compile_library("model.tfprune")` has left a library beside the file that was made of it, by this
    version, for this machine, its code is used, and nothing is compiled. Of one that does not fit a warning
    says why. A library is code: who can write it can do what this process can.

    Args:
        path: The file.
        threads: From 1 to 1,024; None for the cores that the process may use.
        memory_limit: The bytes that the network may take, as of `Model`, and that reading it may; None for
            what this process may still have, by the machine's free memory, its own limits and its
            container's.
        use_library: Whether a library beside the file may be used.

    Returns:
        The network, compiled for this machine.

    Raises:
        FileFormatError: The file is not sound, or needs more memory than it may have: nothing large has been
            allocated then.
        OSError: It cannot be read.
        ValueError: `threads` or `memory_limit` is not such a number.
    """
    threads = _checked_threads(threads)  # The caller's mistake, not the file's.
    file = UndecodedFile(path, memory_limit)
    # Of the same bytes the library was made, and `compile_library` has checked them.
    library = library_beside(path, file.sha256) if use_library else None
    graph = file.graph() if library is None else None
    with refusing(path):
        if library is not None:
            require_memory(
                library.frame.constant_bytes + 4 * library.frame.arena_size * threads,
                allowed_bytes(memory_limit),
            )
            return Model._of_library(file, library, threads)
        return Model(graph, threads, memory_limit=memory_limit)
