"""The graph's activations and their derivatives, on vectors."""

from llvmlite import ir

from tfprune.runtime.kernels import activations
from tfprune.runtime.kernels.emitter import KernelEmitter

LINEAR = "linear"
# The others' derivatives follow from what the activation gave.
DERIVED_FROM_INPUT = ("silu", "hard_silu")


def activate(e: KernelEmitter, function: str, slope: float, x: ir.Value) -> ir.Value:
    """Emits an activation.

    Args:
        e: The kernel.
        function: One of the graph's `ACTIVATIONS`, or `LINEAR`.
        slope: Of `leaky_relu`.
        x: A vector.
    """
    if function == "leaky_relu":
        return e.b.select(_above(e, x, 0), x, e.b.fmul(x, e.constant(slope)))
    return activations.activate(e, function, x)


def backward(e: KernelEmitter, function: str, slope: float, at: ir.Value, gradient: ir.Value) -> ir.Value:
    """Emits the gradient with respect to an activation's input.

    Args:
        e: The kernel.
        function: One of the graph's `ACTIVATIONS`, or `LINEAR`.
        slope: Of `leaky_relu`.
        at: What the activation gave; for one `DERIVED_FROM_INPUT`, what it was given.
        gradient: With respect to what it gave.
    """
    b = e.b
    zero, one = e.constant(0), e.constant(1)
    match function:
        case "relu":
            return b.select(_above(e, at, 0), gradient, zero)
        case "relu6":
            return b.select(_within(e, at, 0, 6), gradient, zero)
        case "leaky_relu":
            return b.select(_above(e, at, 0), gradient, b.fmul(gradient, e.constant(slope)))
        case "sigmoid":
            return b.fmul(gradient, b.fmul(at, b.fsub(one, at)))
        case "tanh":
            return b.fmul(gradient, b.fsub(one, b.fmul(at, at)))
        case "hard_sigmoid":
            return b.select(_within(e, at, 0, 1), b.fmul(gradient, e.constant(1 / 6)), zero)
        case "silu":
            gate = activations.activate(e, "sigmoid", at)
            slant = b.fmul(b.fmul(at, gate), b.fsub(one, gate))
            return b.fmul(gradient, b.fadd(gate, slant))
        case "hard_silu":
            gate = activations.activate(e, "hard_sigmoid", at)
            slant = b.select(_within(e, at, -3, 3), b.fmul(at, e.constant(1 / 6)), zero)
            return b.fmul(gradient, b.fadd(gate, slant))
    return gradient


def _above(e: KernelEmitter, x: ir.Value, bound: float) -> ir.Value:
    return e.b.fcmp_ordered(">", x, e.constant(bound))


def _within(e: KernelEmitter, x: ir.Value, low: float, high: float) -> ir.Value:
    return e.b.and_(_above(e, x, low), e.b.fcmp_ordered("<", x, e.constant(high)))
