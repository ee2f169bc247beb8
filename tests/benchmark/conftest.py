import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

TESTS = pathlib.Path(__file__).resolve().parents[1]
