"""The numeric core of sparse training: forward and backward passes of a network, on all threads."""

import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfprune.runtime import machine
from tfprune.runtime.limits import allowed_bytes, require_memory
from tfprune.runtime.plan.arena import aligned_zeros
from tfprune.sparse_training.graph import Graph
from tfprune.sparse_training.kernels.loops import (
    HEADER_WORDS,
    IMAGES,
    IMAGES_ADDRESS,
    IMAGES_ARE_UINT8,
    STEP,
)
from tfprune.sparse_training.parameters import Parameters
from tfprune.sparse_training.plan import Moving, Plan
from tfprune.sparse_training.program import Code, Program, Runner, Step

_MOST_THREADS = 1024


class Share(NamedTuple):
    """The costs of the operations of a kind, of one training step.

    Attributes:
        kind: The kind, in words.
        seconds: The time.
        bytes: The bytes of values that they must read and write at least.
        multiply_adds: The products that they must add up at least.
    """

    kind: str
    seconds: float
    bytes: int
    multiply_adds: int


class Engine:
    """A network in training: its parameters, and compiled passes over a batch.

    Results do not depend on the number of threads. Calls from several threads wait for one another. A call
    may be interrupted at any moment, such as by Ctrl-C; the next one works.

    Attributes:
        graph: The network.
        plan: Its passes.
        batch_size: The most images of a batch.
        threads: The number of threads.
        slices: The part of each parameter in `values` and `gradients`, by name.
        step: The number of the next forward pass in training, which the numbers that dropout draws depend on.
            Each such pass raises it; it can be set.
        memory_bytes: The bytes of parameters, gradients, lists and values.
    """

    def __init__(
        self,
        graph: Graph,
        batch_size: int,
        threads: int | None = None,
        seed: int = 0,
        *,
        target: machine.Machine | None = None,
        memory_limit: float | None = None,
    ) -> None:
        """Plans and compiles the passes.

        Args:
            graph: The network.
            batch_size: The most images of a batch.
            threads: From 1 to 1,024; None for the cores that the process may use.
            seed: Of the numbers that dropout draws.
            target: The machine to compile for, if not the whole of this one.
            memory_limit: The bytes that `memory_bytes` may come to; None for what the process may still have.

        Raises:
            GraphError: The network needs more memory than it may have.
            ValueError: `batch_size`, `threads` or `memory_limit` is not such a number.
        """
        for name, number, most in (("batch_size", batch_size, None), ("threads", threads, _MOST_THREADS)):
            _check_whole(name, number, most)
        allowed = allowed_bytes(memory_limit)
        target = target or machine.host()
        self.graph, self.batch_size = graph, batch_size
        self.threads = machine.available_cores() if threads is None else threads
        self._parameters = Parameters(graph)
        self.slices = self._parameters.slices
        self.step = 0
        plan = self.plan = Plan(graph, batch_size, self._parameters, target, seed, allowed)
        self.memory_bytes = int(4 * plan.arena_size + plan.list_bytes + 2 * self._parameters.values.nbytes)
        require_memory(self.memory_bytes, allowed)
        self._target = target
        self._code = Code(plan.steps, target)
        self._arena = aligned_zeros(plan.arena_size)
        self._runner = Runner(self.threads)
        self._lock = threading.RLock()
        self._training, self._evaluation, self._backward, self._refresh = (
            Program(self._code, steps, self.threads, plan.tiles)
            for steps in (plan.training, plan.evaluation, plan.backward, plan.refresh)
        )
        shapes = graph.shapes()
        self._input_shape = shapes[0]
        self._output_layout = plan.layouts[-1]
        # The images of the last training pass; its backward pass has not been yet.
        self._ready = 0
        self._images = None
        self.refresh()

    @property
    def values(self) -> np.ndarray:
        """Returns the numbers that learn, float32; kernels' in the order of their positions.

        Whoever changes them calls `refresh`.
        """
        return self._settled(self._parameters.values)

    @property
    def gradients(self) -> np.ndarray:
        """Returns the gradients of the last backward pass, laid out as `values`."""
        return self._settled(self._parameters.gradients)

    def slice_of(self, name: str) -> slice:
        """Returns the part of `values` and `gradients` that a parameter has.

        Args:
            name: The parameter's name.
        """
        return self.slices[name]

    def moving(self, name: str) -> Moving:
        """Returns the moving mean and variance of a normalization, which can be changed.

        Args:
            name: `BatchNorm.moving_name`.
        """
        return self._settled(self.plan.moving[name])

    def forward(self, images: np.ndarray, training: bool = False) -> np.ndarray:
        """Computes the network's output.

        Args:
            images: uint8 or float32 `[n, height, width, channels]`, or `[n, channels]` where the input is a
                vector; n from 1 to `batch_size`.
            training: Whether statistics are the batch's and move, and dropout drops.

        Returns:
            float32 `[n, height, width, channels]`, or `[n, channels]` where the output is a vector.

        Raises:
            ValueError: The images have another shape or type.
        """
        images = self._checked(images)
        with self._lock:
            self._runner.finish()
            self._ready = 0
            self._images = images  # The arena has their address.
            self._set_header(images, self.step)
            self.run(self._training if training else self._evaluation)
            if training:
                self.step += 1
                self._ready = len(images)
            return self._unpacked(len(images))

    def backward(self, output_gradients: np.ndarray) -> None:
        """Fills `gradients` with those of the loss.

        Args:
            output_gradients: The loss's gradient with respect to what the last call, a `forward` in training,
                returned; float32, of its shape.

        Raises:
            ValueError: The gradients have another shape.
            RuntimeError: The last call was not a `forward` in training.
        """
        gradients = np.asarray(output_gradients, np.float32)
        with self._lock:
            if not self._ready:
                raise RuntimeError("`backward` must follow a `forward` in training")
            shape = self._output_shape(self._ready)
            if gradients.shape != shape:
                raise ValueError(
                    f"`output_gradients` must be {list(shape)}. Received: {list(gradients.shape)}"
                )
            self._runner.finish()
            count, self._ready = self._ready, 0
            if self.plan.output_gradient is None:
                return
            layout = self._output_layout
            batch = np.zeros((layout.tiles * layout.images, *layout.shape), np.float32)
            batch[:count] = gradients.reshape(count, *layout.shape)
            tiled = batch.reshape(layout.tiles, layout.images, *layout.shape)
            layout.view(self._arena[self.plan.output_gradient :])[:] = tiled.transpose(0, 2, 4, 3, 1)
            self.run(self._backward)

    def refresh(self) -> None:
        """Brings changed `values` to where the passes read them."""
        self.run(self._refresh)

    def program(self, steps: Sequence[Step]) -> Program:
        """Compiles further steps.

        Args:
            steps: Steps on arrays alone.
        """
        return Program(Code(steps, self._target), steps, self.threads)

    def run(self, program: Program) -> None:
        """Runs a program on the engine's threads.

        Args:
            program: The program.
        """
        with self._lock:
            self._runner.run(program, self._arena)

    def profile(self, rounds: int = 3) -> list[Share]:
        """Measures the operations of a training step, one by one, on the engine's threads.

        The images are those of the last call of `forward`, the loss's gradient is 1 / n for each output. The
        moving statistics and `step` stay as they are, `gradients` do not.

        Args:
            rounds: How often each is measured; the least time counts.

        Returns:
            What the operations of each kind take.

        Raises:
            RuntimeError: There were no images yet.
        """
        with self._lock:
            if self._images is None:
                raise RuntimeError("`profile` must follow a `forward`, whose images it takes")
            kept = [(pair, pair.mean.copy(), pair.variance.copy()) for pair in self.plan.moving.values()]
            number = self.step
            outputs = self.forward(self._images, training=True)
            self.backward(np.full_like(outputs, 1 / len(outputs)))
            costs: dict[str, list] = defaultdict(lambda: [0.0, 0, 0])
            for steps in (self.plan.training, self.plan.backward, self.plan.refresh):
                program = Program(self._code, steps, self.threads)
                seconds = [self._runner.time(program, self._arena) for _ in range(rounds)]
                for step, least in zip(program.steps, np.min(seconds, axis=0), strict=True):
                    of_kind = costs[step.kind]
                    for i, more in enumerate((float(least), step.bytes, step.multiply_adds)):
                        of_kind[i] += more
            for pair, mean, variance in kept:
                pair.mean[:], pair.variance[:] = mean, variance
            self.step = number
        return [Share(kind, *of_kind) for kind, of_kind in costs.items()]

    def _settled(self, state: Any) -> Any:
        """Returns what passes change, once an interrupted one is done."""
        with self._lock:
            self._runner.finish()
        return state

    def _checked(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        shape = tuple(self._input_shape)
        if shape[:2] == (1, 1) and images.ndim == 2:
            images = images[:, None, None]
        right = images.dtype in (np.float32, np.uint8) and images.shape[1:] == shape
        if not right or not 1 <= len(images) <= self.batch_size:
            raise ValueError(
                f"`images` must be float32 or uint8 [n, {', '.join(map(str, shape))}], n from 1 to"
                f" {self.batch_size}. Received: {images.dtype} {list(images.shape)}"
            )
        return np.ascontiguousarray(images)

    def _set_header(self, images: np.ndarray, step: int) -> None:
        header = self._arena[: 2 * HEADER_WORDS].view(np.int64)
        header[IMAGES_ADDRESS] = images.ctypes.data
        header[IMAGES_ARE_UINT8] = images.dtype == np.uint8
        header[IMAGES], header[STEP] = len(images), step
        layout = self._output_layout
        mask = self._arena[self.plan.mask :][: layout.tiles * layout.images]
        mask[: len(images)], mask[len(images) :] = 1, 0

    def _output_shape(self, count: int) -> tuple[int, ...]:
        shape = tuple(self._output_layout.shape)
        return (count, shape[2]) if shape[:2] == (1, 1) else (count, *shape)

    def _unpacked(self, count: int) -> np.ndarray:
        outputs = self._output_layout.unpack(self._arena[self.plan.output :])[:count]
        return np.ascontiguousarray(outputs).reshape(self._output_shape(count))


def _check_whole(name: str, number: int | None, most: int | None) -> None:
    if number is None and name == "threads":
        return
    whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
    if not whole or number < 1 or (most is not None and number > most):
        limit = f"from 1 to {most}" if most else "of at least 1"
        raise ValueError(f"`{name}` must be a whole number {limit}. Received: {name}={number!r}")
