"""Make a llama2.c checkpoint of Llama 2 7B's shape, 27 GB of float32, that takes little room on the disk.

    python tools/sparse_checkpoint.py 7B.bin
    harness inspect 7B.bin --no-run
    python tools/sparse_checkpoint.py --measure harness convert 7B.bin 7B-int8.bin --to llama2c-v2

All but the embedding's first rows, the first and the last layer, the norms and the classifier's first rows is a hole
in the file, which reads as zeros; conversion cannot know that and does all its work. --measure runs a command and
tells its time and the largest memory that it held, mapped pages of files included.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from harness import checkpoint
from harness.checkpoint import llama2c_bin
from harness.checkpoint.checkpoint import NORMS
from harness.model_config import ModelConfig

SHAPE = ModelConfig(4096, 11008, 32, 32, 32, 32000, 2048, is_tied=False)


def make(path: Path, config: ModelConfig = SHAPE, seed: int = 0) -> None:
    """Write the header, the size, and random values where the docstring says."""
    source = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(llama2c_bin._header(config, 0, None))
        file.truncate(checkpoint.file_bytes(config, version=0))
    mapped = np.memmap(path, np.uint8, "r+")
    last = f"layers.{config.n_layers - 1}."
    for name, shape, offset in llama2c_bin._layout(0, config, None, has_tables=True):
        is_norm = name.endswith(NORMS)
        is_end = name.startswith(("layers.0.", last)) or name in ("tok_embedding", "lm_head")
        if not is_norm and not is_end:
            continue
        rows = min(shape[0], 1024)
        values = (
            np.ones(shape, np.float32)
            if is_norm
            else source.standard_normal((rows, *shape[1:]), dtype=np.float32) / np.float32(shape[-1] ** 0.5)
        )
        mapped[offset : offset + values.nbytes] = values.ravel().view(np.uint8)
    mapped.flush()


def measure(command: list[str]) -> int:
    """Run a command; print its time and peak memory."""
    begun = time.perf_counter()
    status = subprocess.run(command, check=False).returncode
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{time.perf_counter() - begun:.1f} s, at most {peak / 1e9:.2f} GB of memory, exit status {status}")
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("path", type=Path, nargs="?", help="the file to write")
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help="a command to run and measure")
    options = parser.parse_args()
    if options.measure:
        return measure(options.measure)
    if options.path is None:
        parser.error("say what to write, or --measure COMMAND")
    make(options.path)
    print(
        f"{options.path}: {options.path.stat().st_size:,} bytes, {512 * options.path.stat().st_blocks:,} on the disk"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
