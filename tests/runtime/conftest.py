import pathlib
import sys

import hypothesis

# For `reference` and `networks`, which other tests of the runtime use, too.
sys.path.insert(0, str(pathlib.Path(__file__).parent))

# The machine may be busy: no limit on an example's time.
hypothesis.settings.register_profile("runtime", deadline=None, max_examples=60)
hypothesis.settings.load_profile("runtime")
