"""Compiles networks ahead of time: a C library for a machine without Python."""
