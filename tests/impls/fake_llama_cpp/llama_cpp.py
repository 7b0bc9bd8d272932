"""Stands in for llama-cpp-python: the functions that impls/llama-cpp/run.py calls, over the reference engine.

It reads the GGUF file that the manifest's `prepare` makes, tokenizer included, so a test with it shows that the file
is whole and that the loop around llama.cpp is right; nothing of llama.cpp itself. Where FAKE_TILES is set it has AMX,
and dies as llama.cpp does where tiles cannot be loaded.
"""

import ctypes
import os
import sys
from types import SimpleNamespace

import numpy as np

from harness import formats
from harness.engine import Engine

GGML_TYPE_F32, LLAMA_FLASH_ATTN_TYPE_DISABLED = 0, 0
llama_token = ctypes.c_int32


def llama_log_callback(function):
    return function


def llama_log_set(callback, data):
    pass


def llama_backend_init():
    pass


def llama_print_system_info():
    return b"CPU : AMX_INT8 = 1 | " if os.environ.get("FAKE_TILES") else b"CPU : AVX2 = 1 | "


llama_model_default_params = llama_context_default_params = SimpleNamespace


def llama_model_load_from_file(path, params):
    try:
        checkpoint = formats.format_named("gguf").read(os.fsdecode(path))
    except formats.CheckpointError:
        return None
    return SimpleNamespace(checkpoint=checkpoint, words=formats.read_tokenizer(os.fsdecode(path)))


def llama_model_get_vocab(model):
    return model.words


def llama_vocab_n_tokens(words):
    return words.vocab_size


def llama_model_n_ctx_train(model):
    return model.checkpoint.config.seq_len


def llama_vocab_bos(words):
    return words.bos_id


def llama_vocab_eos(words):
    return words.eos_id


def llama_vocab_is_eog(words, token):
    return token in words.stop_ids


def llama_init_from_model(model, params):
    config = model.checkpoint.config
    session = Engine(config, model.checkpoint.tensors).session(capacity=config.seq_len)
    return SimpleNamespace(session=session, params=params, rows=[])


def llama_batch_init(n, embedded, n_sequences):
    one = SimpleNamespace(token=[0] * n, pos=[0] * n, n_seq_id=[0] * n, seq_id=[[0] for _ in range(n)])
    one.logits = [False] * n
    return one


def llama_batch_free(batch):
    pass


llama_free = llama_model_free = llama_get_memory = lambda it: it


def llama_memory_clear(context, data):
    context.session.truncate(0)


def llama_decode(context, batch):
    some = batch.token[: batch.n_tokens]
    n_before = len(context.session)
    assert batch.pos[: batch.n_tokens] == [*range(n_before, n_before + len(some))]
    assert len(some) <= context.params.n_batch
    if n_before + len(some) > context.params.n_ctx:
        return 1
    if len(some) > 1 and os.environ.get("FAKE_TILES"):
        sys.exit("a tile was loaded")
    rows = context.session.extend(some, all_logits=True)
    wanted = batch.logits[: batch.n_tokens]
    context.rows = [row.astype(np.float32) if want else None for row, want in zip(rows, wanted, strict=True)]
    return 0


def llama_get_logits_ith(context, i):
    row = context.rows[i]
    return None if row is None else row.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def llama_tokenize(words, text, n_text, room, n_room, add_special, parse_special):
    assert not add_special
    assert not parse_special
    ids = words.encode(text[:n_text], bos=False)
    room[: len(ids)] = ids
    return len(ids)


def llama_token_to_piece(words, token, room, n_room, lstrip, special):
    assert special
    piece = words.decode_piece(0, token)
    if len(piece) > n_room:
        return -len(piece)
    ctypes.memmove(room, piece, len(piece))
    return len(piece)
