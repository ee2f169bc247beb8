"""The binaries: each turns flags into a config and makes one call."""

from tfprune.extras import extra

with extra("experiments"):  # Of all modules of the package, which Python imports after this one.
    import absl as _absl  # noqa: F401
