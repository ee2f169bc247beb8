"""The binaries: each turns flags into a config and makes one call."""

import os

# Before TensorFlow loads: its start-up notes hide what a binary prints.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
