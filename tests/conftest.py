"""Settings of all tests."""

try:
    from hypothesis import settings
except ModuleNotFoundError:  # the environment of tests/oracles does without
    pass
else:
    # An example's own deadline fails on a busy machine, and says nothing: a hang is ended by the limit of each test.
    settings.register_profile("harness", deadline=None)
    settings.load_profile("harness")
