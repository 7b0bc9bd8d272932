"""A golden-output conformance and benchmark harness for llama-family inference.

Importing this package is cheap and has no effect; the parts are imported by name, for example
``from harness.checkpoint import read`` or ``from harness.conformance.verify import check``.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
