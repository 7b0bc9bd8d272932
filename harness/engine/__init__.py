"""The numpy reference engine: arrays in, arrays out; it knows no file and no text.

engine = Engine(checkpoint.config, checkpoint.tensors, dtype=np.float64)
ids = list(generate(engine, [1, 403, 407], steps=64))
"""

from harness.engine.consumers import Judged, TopTwo
from harness.engine.generate import clamp_steps, generate
from harness.engine.model import Engine, Lockstep, Session
from harness.engine.ops import LIBRARY, STRICT, Ops, Step
from harness.engine.threads import blas_threads

__all__ = [
    "LIBRARY",
    "STRICT",
    "Engine",
    "Judged",
    "Lockstep",
    "Ops",
    "Session",
    "Step",
    "TopTwo",
    "blas_threads",
    "clamp_steps",
    "generate",
]
