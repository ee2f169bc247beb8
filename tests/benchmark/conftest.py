import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

TESTS = pathlib.Path(__file__).resolve().parents[1]
# For `canned` here, the runtime's `networks` and `reference`, and the experiments' `small_experiments`.
for folder in ("benchmark", "runtime", "experiments"):
    sys.path.insert(0, str(TESTS / folder))
