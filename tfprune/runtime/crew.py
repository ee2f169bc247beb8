"""Threads that help the one that calls, and that its interruption at any moment leaves in order.

A signal handler, such as Ctrl-C's, may raise in the thread that calls between any two instructions of Python,
inside the `threading` module too: a pool whose condition is left half acquired stops for ever. Here each
change of what threads share is one call of C, which no exception can split.
"""

import _thread
import collections
import queue
import weakref
from collections.abc import Callable


class Crew:
    """Threads that run what they are given, until the crew is garbage.

    An interrupted call drops its crew: the threads finish what they do, and end.
    """

    def __init__(self, size: int) -> None:
        """Starts the threads.

        Args:
            size: Their number, perhaps 0.

        Raises:
            RuntimeError: The system allows no more threads.
        """
        self._tasks: dict[int, queue.SimpleQueue] = {}
        self._idle: collections.deque[int] = collections.deque()
        for thread in range(1, size + 1):
            tasks = queue.SimpleQueue()
            # When the crew is garbage this reference itself becomes the thread's last task. A `__del__` would
            # be a function of Python: an interrupt inside it is lost.
            end = weakref.ref(self, tasks.put)
            _thread.start_new_thread(_serve, (thread, tasks, self._idle, end))
            self._tasks[thread] = tasks
            self._idle.append(thread)

    def run(self, work: Callable[[int], None]) -> None:
        """Runs work(0) on this thread, and work on each other that has come back from its last.

        The others are not awaited: they may come late, even after the return, or never, where an exception
        set from outside has ended one. `work` must therefore leave nothing to a certain thread.

        Args:
            work: Gets the number of its thread, from 0 to the crew's size.
        """
        for thread in [self._idle.popleft() for _ in range(len(self._idle))]:
            self._tasks[thread].put(work)
        work(0)


def _serve(
    thread: int, tasks: queue.SimpleQueue, idle: collections.deque[int], end: weakref.ref[Crew]
) -> None:
    while (work := tasks.get()) is not end:
        work(thread)
        del work  # A thread that waits keeps no arena alive.
        idle.append(thread)
