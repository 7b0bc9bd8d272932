"""From one form of a model to another, with a check that shares nothing with the conversion, and what a file is.

compare   tensors of two checkpoints, bit for bit or within the stated rounding
suspects  the mistakes that conversions make, each as a change of a checkpoint
logits    a checkpoint's logits on a prompt, in the memory of one layer
convert   read, check, write, read back, check again, and only then give the result its name
"""

from __future__ import annotations

from harness.conversion.convert import Conversion, convert

__all__ = ["Conversion", "convert"]
