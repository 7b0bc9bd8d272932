"""impls/numpy's program of the line protocol with one fault of the catalogue, which FAULT names; empty: none."""

import os
import sys
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "impls" / "numpy"))

import lines
import numpy as np
import run

from harness.diagnosis import by_name
from harness.diagnosis.fault import faulted
from harness.diagnosis.port import Port, Request
from harness.models import load


class Faulty(lines.Program):
    """What is loaded is run by a port with the fault."""

    def __init__(self):
        name = os.environ.get("FAULT", "")
        self.port = faulted(by_name(name)) if name else Port()

    def answer(self, verb, words):
        if verb == b"load":
            self.model = load(*(os.fsdecode(lines.text(word)) for word in words))
            self.engine, self.vocabulary = self.port.engine(self.model), self.model.tokenizer
            config = self.model.checkpoint.config
            return b"ok %d %d" % (config.vocab_size, config.seq_len)
        if verb == b"encode" and self.engine is not None and words[:2] == [b"1", b"0"]:
            return b"ok 1 0 " + lines.listed(self.port.prompt_ids(self.model, lines.text(words[2])))
        if verb == b"generate" and self.engine is not None:
            n, temperature, topp, seed = int(words[0]), float(words[1]), float(words[2]), int(words[3])
            prompt = list(map(int, words[4:]))
            session = self.engine.session(capacity=self.model.checkpoint.config.seq_len)
            asked = Request(steps=len(prompt) - 1 + n, temperature=temperature, topp=topp, seed=seed)
            # `steps` of 0 or too many are the whole context to the port, as to llama2.c.
            chosen = self.port.choices(self.model, prompt, asked, lambda at, token: session.extend([token])[0])
            found = list(islice(chosen, len(prompt) - 1, None))[:n]
            return b"ok %d %.9g %.9g %d %b" % (n, temperature, topp, seed, lines.listed(found))
        return super().answer(verb, words)


if __name__ == "__main__":
    lines.Program = Faulty
    with np.errstate(all="ignore"):  # many a fault divides by zero
        lines.main()
    assert run
