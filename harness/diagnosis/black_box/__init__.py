"""The black-box tracer: the first wrong sub-block of a program that only prints text.

A checkpoint can be cut behind any sub-block, by zeros in all that follows; and its classifier can be made so that
the token that a program prints is the angle of the hidden state there (`codebook`). What a right program's angles
are, and how far honest ones stray, the reference says (`states`, `probe`). The first sub-block whose angle is off is
where the program goes wrong (`tracer`); edits of the weights then say which of its operations it is (`surgery`,
`narrow`).
"""

from harness.diagnosis.black_box.codebook import VOCAB_SIZE, alphabet
from harness.diagnosis.black_box.craft import Subject
from harness.diagnosis.black_box.narrow import Narrowed, explaining, narrowed
from harness.diagnosis.black_box.tracer import LIMIT, Ask, Found, Tracer

__all__ = [
    "LIMIT",
    "VOCAB_SIZE",
    "Ask",
    "Found",
    "Narrowed",
    "Subject",
    "Tracer",
    "alphabet",
    "explaining",
    "narrowed",
]
