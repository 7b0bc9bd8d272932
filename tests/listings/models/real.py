# ruff: noqa: F821  (it goes between the parts of a listing, which define the rest)
from harness import checkpoint, tokenizer
from harness.engine import Engine


class Model:
    name, threads = "real", 1

    def __init__(self, model, vocabulary):
        found = checkpoint.read(os.fsdecode(model))
        self.engine = Engine(found.config, found.tensors)
        self.vocab_size, self.seq_len = found.config.vocab_size, found.config.seq_len
        self.tokenizer = tokenizer.read(os.fsdecode(vocabulary), self.vocab_size)

    def encode(self, text, bos, eos):
        return self.tokenizer.encode(text, bos=bos, eos=eos)

    def decode(self, previous, token):
        return (
            self.tokenizer.decode([token])
            if previous < 0
            else self.tokenizer.decode([previous, token])[len(self.tokenizer.decode([previous])) :]
        )

    def forward(self, token, pos):
        if pos == 0:
            self.session = self.engine.session(capacity=self.seq_len)

        def tap(name, layer, values):
            trace(name, layer, pos, array("f", values.reshape(-1)))

        trace("token", -1, pos, array("f", [token]))
        return array("f", self.session.extend([token], tap=tap)[0])
