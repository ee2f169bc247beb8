import hypothesis

# The machine may be busy: no limit on an example's time.
hypothesis.settings.register_profile("runtime", deadline=None, max_examples=60)
hypothesis.settings.load_profile("runtime")
