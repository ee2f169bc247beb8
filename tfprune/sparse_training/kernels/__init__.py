"""The kernels of the sparse trainer, written with the emitter of the sparse runtime."""

from tfprune.extras import extra

with extra("runtime"):  # Of all modules of the package, which Python imports after this one.
    import llvmlite as _llvmlite  # noqa: F401
