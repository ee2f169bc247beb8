"""A thin layer over llvmlite's IR builder: parameters, loops and vectors of one kernel."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from llvmlite import ir

F32, I8, I32, I64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
POINTER = ir.PointerType()
FLOAT_BYTES = 4

Body = Callable[[ir.Value], None]
CarryingBody = Callable[[ir.Value, list[ir.Value]], Sequence[ir.Value]]


class Code(ir.Module):
    """A module in the making.

    Attributes:
        lanes: The float32 numbers in a vector.
        word: The type of whole numbers: 64 bits, or 32 for a machine whose registers have so many.
        constants: The memory that a kernel's constants lie in, their places in bytes from its start; None
            where the places are addresses.
    """

    def __init__(self, lanes: int, word: ir.IntType = I64) -> None:
        """Starts an empty module."""
        super().__init__("tfprune")
        self.lanes, self.word = lanes, word
        self.constants: ir.GlobalVariable | None = None


class Emitter:
    """Writes one function: numbers, addresses and loops.

    Attributes:
        word: The type of whole numbers, the module's.
        numbers: The type of a value's numbers: float32, or bytes within `of_numbers`.
    """

    def __init__(self, function: ir.Function) -> None:
        """Starts the function.

        Args:
            function: Without a body.
        """
        self.function = function
        self.word, self.numbers = function.module.word, F32
        self.b = ir.IRBuilder(function.append_basic_block("entry"))

    # Numbers and addresses

    def number(self, value: int) -> ir.Constant:
        """Returns a constant of the type of whole numbers."""
        return ir.Constant(self.word, value)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Returns the integer a * b + c."""
        return self.b.add(self.b.mul(a, b), c)

    def at(self, pointer: ir.Value, index: ir.Value, of: ir.Type | None = None) -> ir.Value:
        """Returns the address of an element."""
        return self.b.gep(pointer, [index], inbounds=True, source_etype=of or self.numbers)

    def load(self, pointer: ir.Value, of: ir.Type) -> ir.Value:
        """Loads a scalar."""
        return self.b.load(
            pointer, align=of.width // 8 if isinstance(of, ir.IntType) else FLOAT_BYTES, typ=of
        )

    def element(self, pointer: ir.Value, index: ir.Value, of: ir.Type | None = None) -> ir.Value:
        """Loads an element; one of 32 or 64 bits as a whole number."""
        of = of or self.numbers
        loaded = self.load(self.at(pointer, index, of), of)
        return self.as_word(loaded) if of in (I32, I64) else loaded

    def as_word(self, integer: ir.Value) -> ir.Value:
        """Returns a signed integer as a whole number."""
        width, words = integer.type.width, self.word.width
        if width == words:
            return integer
        return (self.b.sext if width < words else self.b.trunc)(integer, self.word)

    def constant_at(self, place: ir.Value) -> ir.Value:
        """Returns the address of a constant of the module."""
        constants = self.function.module.constants
        return self.b.inttoptr(place, POINTER) if constants is None else self.at(constants, place, I8)

    def store(self, value: ir.Value, pointer: ir.Value) -> None:
        """Stores a scalar or vector, of float32 or bytes, aligned as one of its numbers."""
        of = value.type.element if isinstance(value.type, ir.VectorType) else value.type
        self.b.store(value, pointer, align=1 if of == I8 else FLOAT_BYTES)

    def store_past_caches(self, value: ir.Value, pointer: ir.Value) -> None:
        """Stores a vector, aligned as a whole, that is not needed soon: its cache line is not read first."""
        store = self.b.store(value, pointer, align=FLOAT_BYTES * value.type.count)
        store.set_metadata("nontemporal", self.function.module.add_metadata([ir.Constant(I32, 1)]))

    def prefetch(self, pointer: ir.Value, to_write: bool = False) -> None:
        """Asks for a cache line that will be read, or written."""
        module, name = self.function.module, "llvm.prefetch.p0"
        function = module.globals.get(name) or ir.Function(
            module, ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32]), name
        )
        # For the second-level cache, of data.
        self.b.call(function, [pointer, *(ir.Constant(I32, number) for number in (int(to_write), 2, 1))])

    # Control flow

    def each(self, start: ir.Value, stop: ir.Value, body: Body) -> None:
        """Emits `for i in range(start, stop): body(i)`."""

        def carry_nothing(index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            body(index)
            return []

        self.fold(start, stop, [], carry_nothing)

    def fold(
        self, start: ir.Value, stop: ir.Value, initial: Sequence[ir.Value], body: CarryingBody
    ) -> list[ir.Value]:
        """Emits `for i in range(start, stop): values = body(i, values)` and returns the last values."""
        before = self.b.block
        head, inside, after = (self.function.append_basic_block(name) for name in ("head", "body", "after"))
        self.b.branch(head)
        self.b.position_at_end(head)
        index = self.b.phi(self.word)
        index.add_incoming(start, before)
        carried = [self.b.phi(value.type) for value in initial]
        for phi, value in zip(carried, initial, strict=True):
            phi.add_incoming(value, before)
        self.b.cbranch(self.b.icmp_signed("<", index, stop), inside, after)
        self.b.position_at_end(inside)
        following = body(index, carried)
        for phi, value in zip(carried, following, strict=True):
            phi.add_incoming(value, self.b.block)
        index.add_incoming(self.b.add(index, self.number(1)), self.b.block)
        self.b.branch(head)
        self.b.position_at_end(after)
        return carried

    def choose(
        self,
        condition: ir.Value,
        if_true: Callable[[], Sequence[ir.Value] | None],
        if_false: Callable[[], Sequence[ir.Value] | None],
    ) -> list[ir.Value]:
        """Emits `if_true() if condition else if_false()` and returns what the branch taken gives."""
        yes, no, after = (self.function.append_basic_block(name) for name in ("yes", "no", "joined"))
        self.b.cbranch(condition, yes, no)
        ends = []
        for block, branch in ((yes, if_true), (no, if_false)):
            self.b.position_at_end(block)
            values = list(branch() or ())
            ends.append((values, self.b.block))
            self.b.branch(after)
        self.b.position_at_end(after)
        joined = []
        for pair in zip(*(values for values, _ in ends), strict=True):
            phi = self.b.phi(pair[0].type)
            for value, (_, block) in zip(pair, ends, strict=True):
                phi.add_incoming(value, block)
            joined.append(phi)
        return joined

    def call_one_of(
        self,
        functions: Sequence[ir.Function],
        number: ir.Value,
        arguments: Sequence[ir.Value],
        first: int = 0,
    ) -> None:
        """Emits the call of the function with a number, counted from `first`; of another number none."""
        after = self.function.append_basic_block("called")
        switch = self.b.switch(number, after)
        for index, function in enumerate(functions, start=first):
            block = self.function.append_basic_block("function")
            switch.add_case(ir.Constant(number.type, index), block)
            self.b.position_at_end(block)
            self.b.call(function, arguments)
            self.b.branch(after)
        self.b.position_at_end(after)

    def repeat_while(
        self,
        start: ir.Value,
        condition: Callable[[ir.Value], ir.Value],
        body: Callable[[ir.Value], ir.Value],
    ) -> None:
        """Emits `x = start; while condition(x): x = body(x)`."""
        before = self.b.block
        head, inside, after = (self.function.append_basic_block(name) for name in ("head", "body", "after"))
        self.b.branch(head)
        self.b.position_at_end(head)
        x = self.b.phi(start.type)
        x.add_incoming(start, before)
        self.b.cbranch(condition(x), inside, after)
        self.b.position_at_end(inside)
        following = body(x)
        x.add_incoming(following, self.b.block)
        self.b.branch(head)
        self.b.position_at_end(after)

    @contextlib.contextmanager
    def writing(self, builder: ir.IRBuilder) -> Iterator[None]:
        """Lets what is emitted within go to another function of the module."""
        self.b, before = builder, self.b
        yield
        self.b = before

    def finish(self) -> None:
        """Ends the function."""
        self.b.ret_void()


class KernelEmitter(Emitter):
    """Writes one kernel: a function `void (parameters, part, arena)`.

    `parameters` points to whole numbers, the same for the whole step; `part` to those that say which part of
    the step to do; `arena` to the values between the operations.
    """

    def __init__(self, code: Code, name: str, parameters: Sequence[str]) -> None:
        """Starts the function.

        Args:
            code: Where to write it.
            name: Its name.
            parameters: Names of its parameters, in their order.
        """
        signature = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, POINTER])
        super().__init__(ir.Function(code, signature, name))
        self.lanes = code.lanes
        self.vector = ir.VectorType(F32, self.lanes)
        given, self._part, self.arena = self.function.args
        self._parameters = {
            name: self.load(self.at(given, self.number(i), self.word), self.word)
            for i, name in enumerate(parameters)
        }

    # Parameters

    def integer(self, name: str) -> ir.Value:
        """Returns a parameter that is a number."""
        return self._parameters[name]

    def pointer(self, name: str) -> ir.Value:
        """Returns the address of a parameter that is a constant."""
        return self.constant_at(self._parameters[name])

    def float_bits(self, name: str) -> ir.Value:
        """Returns a parameter whose lowest 32 bits are those of a float32."""
        number = self._parameters[name]
        return self.b.bitcast(number if self.word == I32 else self.b.trunc(number, I32), F32)

    def value(self, name: str) -> ir.Value:
        """Returns the address of a parameter that is an offset into the arena, counted in float32."""
        return self.at(self.arena, self._parameters[name], F32)

    def part(self, index: int) -> ir.Value:
        """Returns a number of the part that is to be done."""
        return self.load(self.at(self._part, self.number(index), self.word), self.word)

    # Vectors

    @contextlib.contextmanager
    def of_lanes(self, lanes: int) -> Iterator[None]:
        """Lets vectors that are emitted within have another number of lanes."""
        before = self.lanes, self.vector
        self.lanes, self.vector = lanes, ir.VectorType(F32, lanes)
        yield
        self.lanes, self.vector = before

    @contextlib.contextmanager
    def of_numbers(self, of: ir.Type) -> Iterator[None]:
        """Lets addresses and vectors that are emitted within be of bytes, or of float32."""
        before = self.numbers, self.vector
        self.numbers, self.vector = of, ir.VectorType(of, self.lanes)
        yield
        self.numbers, self.vector = before

    def load_vector(self, pointer: ir.Value, offset: int = 0) -> ir.Value:
        """Loads a vector from any number's address, a constant number of elements further on."""
        if offset:
            pointer = self.at(pointer, self.number(offset))
        return self.b.load(pointer, align=1 if self.numbers == I8 else FLOAT_BYTES, typ=self.vector)

    def load_bytes(self, pointer: ir.Value, offset: int = 0, lanes: int | None = None) -> ir.Value:
        """Loads a vector of bytes, a constant number of bytes further on."""
        of = ir.VectorType(I8, lanes or self.lanes)
        return self.b.load(self.at(pointer, self.number(offset), I8), align=1, typ=of)

    def round_steps(self, steps: ir.Value, largest: ir.Value) -> ir.Value:
        """Returns the nearest whole numbers from 0 to a largest, 255 at most, in the lowest 8 of 32 bits."""
        # The sum has them in its lowest bits.
        steps = self.b.fadd(
            self.maximum(self.minimum(steps, largest), self.constant(0)), self.constant(2.0**23)
        )
        return self.b.bitcast(steps, ir.VectorType(I32, self.lanes))

    def load_weights(self, pointer: ir.Value, of: ir.Type) -> ir.Value:
        """Loads a vector of weights, of 32 bits or of 8, as float32."""
        if of == F32:
            return self.load_vector(pointer)
        integers = self.b.load(pointer, align=1, typ=ir.VectorType(of, self.lanes))
        return self.b.sitofp(integers, self.vector)

    def multiply_picked(
        self, source: ir.Value, index: ir.Value, index_bits: int, weight: ir.Type, total: ir.Value
    ) -> ir.Value:
        """Returns a total plus a vector of weights times the numbers of a source that these are for.

        Args:
            source: The address of the numbers.
            index: The place of the vector in the kernel's parameters `values`, the weights, and `indices`,
                the places of the numbers.
            index_bits: The bits of an index.
            weight: The type of a weight.
            total: A vector.
        """
        first, of = self.b.mul(index, self.number(self.lanes)), ir.IntType(index_bits)
        place = self.at(self.pointer("indices"), first, of)
        indices = self.b.load(place, align=index_bits // 8, typ=ir.VectorType(of, self.lanes))
        picked = ir.Constant(self.vector, ir.Undefined)
        for lane in range(self.lanes):
            which = ir.Constant(I32, lane)
            one = self.element(source, self.as_word(self.b.extract_element(indices, which)))
            picked = self.b.insert_element(picked, one, which)
        values = self.load_weights(self.at(self.pointer("values"), first, weight), weight)
        return self.call("llvm.fmuladd", picked, values, total)

    def load_weight(self, pointer: ir.Value, of: ir.Type) -> ir.Value:
        """Loads a weight, of 32 bits or of 8, as float32."""
        loaded = self.load(pointer, of)
        return loaded if of == F32 else self.b.sitofp(loaded, F32)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """Returns a vector with one number in all lanes."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.b.insert_element(undefined, scalar, ir.Constant(I32, 0))
        lanes = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.b.shuffle_vector(first, undefined, lanes)

    def constant(self, number: float) -> ir.Constant:
        """Returns a vector constant with one number in all lanes."""
        return ir.Constant(self.vector, [float(number)] * self.lanes)

    def every_other(self, low: ir.Value, high: ir.Value, first: int) -> ir.Value:
        """Returns the elements first, first + 2, ... of two vectors one after the other."""
        picked = [first + 2 * i for i in range(self.lanes)]
        return self.b.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, self.lanes), picked))

    def keep(self, vector: ir.Value, mask: ir.Value) -> ir.Value:
        """Zeroes the lanes whose mask (a vector of all-one or all-zero bits) is zero."""
        bits = ir.VectorType(I8 if self.numbers == I8 else I32, self.lanes)
        return self.b.bitcast(
            self.b.and_(self.b.bitcast(vector, bits), self.b.bitcast(mask, bits)), self.vector
        )

    def call(self, name: str, *values: ir.Value) -> ir.Value:
        """Calls an LLVM intrinsic on vectors, such as `"llvm.fmuladd"`, or on scalars a C function."""
        of = values[0].type
        if name.startswith("llvm."):
            name += f".v{self.lanes}f32" if isinstance(of, ir.VectorType) else ".f32"
        module = self.function.module
        function = module.globals.get(name) or ir.Function(
            module, ir.FunctionType(of, [of] * len(values)), name
        )
        return self.b.call(function, values)

    def maximum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Returns the larger in each lane; a NaN in `a` gives `b`."""
        return self.b.select(self.b.fcmp_ordered(">", a, b), a, b)

    def largest(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Returns the larger in each lane; a NaN in either stays one.

        In a loop `b` is best what was carried: what `a` costs more need not wait for the last round.
        """
        return self.b.select(self.b.fcmp_unordered("uno", a, a), a, self.maximum(a, b))

    def minimum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Returns the smaller in each lane; a NaN in `a` gives `b`."""
        return self.b.select(self.b.fcmp_ordered("<", a, b), a, b)

    def smallest(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Returns the smaller in each lane; a NaN in either stays one."""
        return self.b.select(self.b.fcmp_unordered("uno", a, a), a, self.minimum(a, b))

    def horizontal(self, vector: ir.Value, combine: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
        """Combines all lanes to one number, half with half."""
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            order = [(i + lanes) % self.lanes for i in range(self.lanes)]
            swapped = self.b.shuffle_vector(
                vector, vector, ir.Constant(ir.VectorType(I32, self.lanes), order)
            )
            vector = combine(vector, swapped)
        return self.b.extract_element(vector, ir.Constant(I32, 0))
