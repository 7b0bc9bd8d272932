"""A small right program of the line protocol, without a model, and its flaws: lines.py [FLAW].

It has 300 ids and 64 positions. A text's ids are its bytes plus 3; after an id comes its triple plus 8, modulo 290,
plus 3; the logits of that one are 1, all others 0.
"""

import os
import signal
import struct
import sys
import time

VOCAB, SEQ_LEN = 300, 64
FLAW = sys.argv[1] if len(sys.argv) > 1 else ""


def after(token):
    return (3 * token + 8) % 290 + 3


def listed(ids):
    return " ".join(map(str, [len(ids), *ids]))


def hexed(raw):
    return raw.hex() or "-"


def answer(verb, words):
    if verb == "info":
        return f"ok llama-lines 1 miniature {VOCAB} {SEQ_LEN} 1 info load encode decode generate logits quit"
    if verb == "load":
        return f"ok {VOCAB} {SEQ_LEN}"
    if verb == "quit":
        return "ok"
    if verb == "encode":
        bos, eos, text = words
        ids = [1] * int(bos) + [byte + 3 for byte in bytes.fromhex(text.strip("-"))] + [2] * int(eos)
        return f"ok {bos} {eos} {listed(ids)}"
    if verb == "decode":
        return f"ok {len(words)} {hexed(bytes(int(word) - 3 for word in words if int(word) > 2))}"
    if verb == "generate":
        n, ids = int(words[0]), [int(word) for word in words[4:]]
        for _ in range(min(n, SEQ_LEN + 1 - len(ids))):
            ids.append(after(ids[-1]))
        return f"ok {' '.join(words[:4])} {listed(ids[len(words) - 4 :])}"
    if verb == "logits":
        first, ids = int(words[0]), [int(word) for word in words[1:]]
        rows = [[float(i == after(token)) for i in range(VOCAB)] for token in ids[first:]]
        raw = b"".join(struct.pack(f"<{VOCAB}f", *row) for row in rows)
        return f"ok {first} {len(rows)} {VOCAB} {hexed(raw)}"
    return "unsupported"


def put(raw):
    while raw:
        raw = raw[os.write(1, raw) :]


def flawed(number, verb, words, count):
    """Return the bytes of the reply; count: of requests so far, this one included."""
    reply = answer(verb, words)
    right = f"{number} {reply}\n".encode()
    about = {"encode", "decode", "generate", "logits"}
    if FLAW == "garbage" and verb == "generate":
        return bytes(range(256)) + b"\n"
    if FLAW == "crlf":
        return right.replace(b"\n", b"\r\n")
    if FLAW == "two_spaces":
        return right.replace(b" ok ", b" ok  ")
    if FLAW == "trailing_space":
        return right.replace(b"\n", b" \n")
    if FLAW == "no_number":
        return right.partition(b" ")[2]
    if FLAW == "empty_line":
        return b"\n"
    if FLAW == "shouts":
        return right.replace(b" ok ", b" OK ")
    if FLAW == "utf8_error" and verb in about:
        return f"{number} error kein Gedächtnis\n".encode()
    if FLAW == "bare_error" and verb in about:
        return f"{number} error\n".encode()
    if FLAW == "parrot":
        return f"{number} {verb} {' '.join(words)}\n".encode()
    if FLAW == "one_behind":
        return f"{int(number) - 1} {reply}\n".encode()
    if FLAW == "renumbers":
        return f"{count - (count > 3)} {reply}\n".encode()
    if FLAW == "no_temperature" and verb == "generate":
        return right.replace(b" 0.5 ", b" 0 ", 1)
    if FLAW == "clamps_topp" and verb == "generate":
        return right.replace(b" 0.9 ", b" 1 ", 1)
    if FLAW == "own_seed" and verb == "generate":
        return right.replace(b" 7 ", b" 1234 ", 1)
    if FLAW == "clamps_n" and verb == "generate":
        words = ["4", *words[1:]]
        return f"{number} {answer(verb, words)}\n".encode()
    if FLAW == "forgets_bos" and verb == "encode":
        return f"{number} {answer(verb, ['0', *words[1:]])}\n".encode()
    if FLAW == "half_the_rows" and verb == "logits":
        return f"{number} {answer(verb, [str(int(words[0]) + 1), *words[1:]])}\n".encode()
    if FLAW == "one_id_short" and verb == "generate":
        return right.rpartition(b" ")[0] + b"\n"
    if FLAW == "one_id_more" and verb == "generate":
        return f"{number} {answer(verb, [str(int(words[0]) + 1), *words[1:]])}\n".encode().replace(b" 9 ", b" 8 ", 1)
    if FLAW == "stops_early" and verb == "generate":
        few = answer(verb, ["5", *words[1:]]).replace("ok 5 ", f"ok {words[0]} ", 1)
        return f"{number} {few}\n".encode()
    if FLAW == "id_out_of_range" and verb == "generate":
        return right.rpartition(b" ")[0] + b" 300\n"
    if FLAW == "negative_id" and verb == "generate":
        return right.rpartition(b" ")[0] + b" -1\n"
    if FLAW == "huge_id" and verb == "generate":
        return right.rpartition(b" ")[0] + b" " + b"9" * 500 + b"\n"
    if FLAW == "odd_hex" and verb == "decode":
        return right.replace(b"\n", b"a\n")
    if FLAW == "plain_text" and verb == "decode":
        return f"{number} ok {len(words)} Hi\n".encode()
    if FLAW == "short_row" and verb == "logits":
        return right[:-9] + b"\n"
    if FLAW == "decimal_logits" and verb == "logits":
        head = b" ".join(right.split(b" ")[:5])
        return head + b" " + b"0.5 " * 299 + b"0.5\n"
    if FLAW == "other_version" and verb == "info":
        return right.replace(b"lines 1 ", b"lines 2 ")
    if FLAW == "other_model" and verb == "info":
        return right.replace(b" 300 ", b" 32000 ")
    if FLAW == "extra_reply" and verb == "decode":
        return right + right
    if FLAW == "extra_after_last" and verb == "quit":
        return right + b"goodbye\n"
    if FLAW == "offers_nothing" and verb in about:
        return f"{number} unsupported\n".encode()
    if FLAW == "refuses" and verb == "generate":
        return f"{number} error out of memory\n".encode()
    return right


def misbehave(verb, count, last):
    """Do what is no reply, instead of one or before it."""
    if FLAW == "mute" or (FLAW == "mute_at_logits" and verb == "logits"):
        time.sleep(1000)
    if FLAW == "dies_at_3" and count == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    if FLAW == "exits_at_generate" and verb == "generate":
        sys.exit(3)
    if FLAW == "exits_well" and verb == "generate":
        sys.exit(0)
    if FLAW == "closes_stdout" and verb == "generate":
        os.close(1)
        time.sleep(1000)
    if FLAW == "half_a_line" and verb == "generate":
        put(last[:12])
        time.sleep(1000)
    if FLAW == "half_a_line_and_dies" and verb == "generate":
        put(last[:12])
        os._exit(1)
    if FLAW == "drips" and verb == "generate":
        while True:
            put(b"1")
            time.sleep(0.05)
    if FLAW == "floods" and verb == "generate":
        while True:
            put(b"1 " * 10000)
    if FLAW == "eats_memory" and verb == "generate":
        kept = []
        while True:
            kept.append(bytearray(8 << 20))
    if FLAW == "floods_stderr" and verb == "generate":
        for _ in range(32):
            os.write(2, b"e" * (1 << 20))
    if FLAW == "never_reads":
        time.sleep(1000)


def main():
    if FLAW == "greets":
        put(b"Loading the model ...\n")
    if FLAW == "never_reads":
        time.sleep(1000)
    for count, line in enumerate(sys.stdin, 1):
        number, verb, *words = line.split()
        raw = flawed(number, verb, words, count)
        misbehave(verb, count, raw)
        put(raw)
        if FLAW == "ends_each_time":
            return
        if verb == "quit":
            return


main()
