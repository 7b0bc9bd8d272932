"""Settings of all tests."""

from hypothesis import settings

# An example's own deadline fails on a busy machine, and says nothing: a hang is ended by the limit of each test.
settings.register_profile("harness", deadline=None)
settings.load_profile("harness")
