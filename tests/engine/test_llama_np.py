"""llama_np: choices worked by hand, and the texts of stories260K that its project publishes."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from harness import checkpoint, tokenizer
from harness.checkpoint import Checkpoint
from harness.engine import Engine
from harness.engine.llama_np import choose, generate_uniform
from tests.derived_models import published

PROMPTS = {
    "p1": ("It is easy", 48),
    "p2": ("There are three red balls and four blue balls in a bag. If I take one ball", 96),
    "p3": ("List all the prime numbers between 100 and 200. They are", 96),
    "p4": ("你好", 72),
    "p5": ("The US president in 2020 is", 72),
}
# Temperature 0.6, top-p 0.9, seed 34: the new ids only. c0 is numpy's arithmetic; for c1 the weights of every matrix
# product, the classifier's among them, were cut to their upper 16 bits.
PUBLISHED = {
    ("p1", "c0"): (
        "426 359 413 286 399 272 412 356 426 410 447 419 281 286 280 414 341 432 281 394 261 262 423 388 270 "
        "290 421 335 284 303 422 268 347 433 419 426 291 268 347 433 "
    ),
    ("p1", "c1"): (
        "426 359 413 286 399 272 412 356 426 410 447 419 281 286 262 411 411 410 447 416 416 412 432 261 280 "
        "260 285 431 425 421 400 428 395 392 412 444 426 392 412 444 "
    ),
    ("p2", "c0"): (
        "419 432 265 268 388 414 289 286 297 309 397 354 261 416 422 289 411 426 359 413 391 266 267 284 412 "
        "354 265 423 280 414 341 426 13 436 441 415 297 414 443 436 265 268 388 414 289 262 415 408 266 426 "
        "13 434 260 268 388 263 377 "
    ),
    ("p2", "c1"): (
        "419 432 265 268 388 414 289 286 268 425 420 416 299 279 327 416 265 352 414 287 426 291 352 266 268 "
        "388 414 289 419 391 266 267 259 420 422 265 268 388 269 272 417 264 261 270 414 305 426 13 441 416 "
        "411 328 432 261 268 315 418 "
    ),
    ("p3", "c0"): (
        "284 414 276 272 379 416 422 269 410 276 412 421 417 451 411 299 426 13 441 416 411 328 432 261 376 "
        "268 414 422 280 314 411 322 413 414 265 349 414 276 426 346 394 261 262 415 271 422 262 415 414 411 "
        "335 261 284 411 303 298 295 418 302 426 346 336 432 "
    ),
    ("p4", "c0"): (
        "299 432 410 459 363 289 411 401 396 267 352 379 261 420 277 264 426 346 286 399 259 388 269 286 261 "
        "262 423 295 413 426 410 13 441 416 411 328 432 410 447 272 293 415 263 377 267 265 410 449 379 428 "
        "305 426 410 459 363 328 432 410 447 264 422 381 261 268 380 "
    ),
    ("p4", "c1"): (
        "299 432 410 459 363 289 411 401 396 267 352 379 261 420 277 264 269 298 414 410 408 419 292 411 426 "
        "346 286 261 410 276 356 269 397 355 267 352 292 411 345 282 417 411 421 419 426 385 328 432 281 279 "
        "411 429 292 266 267 284 412 354 261 284 411 412 419 293 426 "
    ),
    ("p5", "c0"): (
        "265 284 303 263 415 414 263 290 421 344 444 427 421 414 276 426 385 328 432 410 458 411 423 414 284 "
        "316 261 262 415 271 422 282 412 421 412 331 373 263 415 414 381 261 282 417 429 413 425 276 373 261 "
        "280 294 426 346 336 "
    ),
    ("p5", "c1"): (
        "265 284 303 263 415 414 263 290 421 344 444 427 421 414 276 426 385 328 432 262 287 316 415 299 318 "
        "416 411 444 427 411 429 413 266 365 302 266 426 301 425 418 418 302 421 422 432 301 425 419 417 411 "
        "286 272 421 422 299 "
    ),
}
PUBLISHED["p3", "c1"] = PUBLISHED["p3", "c0"]


@pytest.fixture(scope="module")
def stories():
    return checkpoint.read(published("stories260K.bin")), tokenizer.read(published("tok512.bin"))


def truncated(whole: Checkpoint) -> Checkpoint:
    """The same model with the weights of matrix products cut to bfloat16; the embedding and the norms are not."""
    tensors = {**whole.tensors, "lm_head": whole.classifier}
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and name != "tok_embedding":
            tensors[name] = (np.asarray(tensor).view(np.uint32) & 0xFFFF0000).view(np.float32)
    return Checkpoint(replace(whole.config, is_tied=False), tensors)


# ---- worked by hand


def test_the_id_at_which_the_sum_reaches_top_p_is_kept():
    logits = np.log(np.array([0.125, 0.5, 0.25, 0.125], np.float32))
    for topp, kept in ((0.4, [1]), (0.5, [1]), (0.51, [1, 2]), (0.76, [1, 2, 0]), (1.0, [1, 2, 0, 3])):
        choice = choose(logits, 1.0, topp, random.Random(1))
        assert choice.candidates.tolist() == kept
        np.testing.assert_allclose(choice.probabilities, np.exp(logits)[kept], rtol=1e-6)


def test_the_choice_is_uniform_whatever_the_probabilities():
    logits = np.log(np.array([0.9, 0.09, 0.01], np.float32))
    drawn = random.Random(34)
    expected = [drawn.randint(0, 2) for _ in range(50)]
    source = random.Random(34)
    assert [choose(logits, 1.0, 1.0, source).token for _ in range(50)] == expected


def test_temperature_0_takes_the_likeliest_and_draws_nothing():
    source = random.Random(5)
    state = source.getstate()
    choice = choose(np.array([0.0, 2.0, 1.0], np.float32), 0.0, 0.9, source)
    assert (choice.token, choice.candidates.tolist()) == (1, [1])
    assert source.getstate() == state


# ---- published


@pytest.mark.parametrize(("prompt", "arithmetic"), PUBLISHED, ids="".join)
def test_the_published_ids(stories, prompt, arithmetic):
    whole, words = stories
    text, length = PROMPTS[prompt]
    model = whole if arithmetic == "c0" else truncated(whole)
    engine = Engine(model.config, model.tensors)
    choices = generate_uniform(engine, words.encode(text), length=length, seed=34)
    assert [choice.token for choice in choices] == [int(id_) for id_ in PUBLISHED[prompt, arithmetic].split()]


# ---- properties


@pytest.mark.parametrize("cache", ["in-place", "concat", "none"])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_every_cache_and_either_way_of_feeding_chooses_alike(stories, cache, one_by_one):
    whole, words = stories
    engine = Engine(whole.config, whole.tensors)
    choices = generate_uniform(
        engine, words.encode("It is easy"), length=48, seed=34, cache=cache, one_by_one=one_by_one
    )
    assert [choice.token for choice in choices] == [int(id_) for id_ in PUBLISHED["p1", "c0"].split()]


@pytest.mark.parametrize(("length", "n_new"), [(1, 1), (9, 1), (10, 2), (20, 12)])
def test_the_prompt_counts_as_one_step(stories, length, n_new):
    whole, words = stories
    ids = words.encode("It is easy")
    assert len(ids) == 9
    engine = Engine(whole.config, whole.tensors)
    assert len(list(generate_uniform(engine, ids, length=length, seed=34))) == n_new


def test_the_length_may_exceed_the_trained_context(stories):
    whole, words = stories
    config = replace(whole.config, seq_len=16)
    engine = Engine(config, whole.tensors)
    choices = generate_uniform(engine, words.encode("It is easy"), length=48, seed=34)
    assert [choice.token for choice in choices] == [int(id_) for id_ in PUBLISHED["p1", "c0"].split()]
