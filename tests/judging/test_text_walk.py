import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine.sampler import sample
from harness.judging.printing import printings
from harness.judging.text_walk import Floors, Greedy, Sampled, walk
from harness.results import Kind
from tests.judging.toy import BOS, BYTES, PIECES, Table, row

ALL = printings(PIECES, BYTES)
LLAMA2C = ALL[0]
FLOOR = 1e-4
SPACE, A, B, AB, SPACE_A, SPACE_AB = 7, 8, 9, 10, 11, 12
C3 = 4


def greedy(floor=FLOOR, declared=None):
    return Greedy(lambda logits: int(logits.argmax()), Floors(lambda ids: floor, floor, declared))


def sampled(coins, *, temperature=1.0, topp=0.9, declared=None):
    def draw(logits, coin):
        return sample(logits, temperature=temperature, topp=topp, coin=coin)

    return Sampled(draw, coins, temperature, topp, Floors(lambda ids: FLOOR, FLOOR, declared))


def story(table, rule, n, *, pick=None):
    """n tokens as the rule has them, or as `pick(logits, step)` says."""
    ids = [BOS]
    for step in range(n):
        logits = table.logits(ids)
        ids.append(pick(logits, step) if pick else rule.choose(ids, logits, range(len(logits)), step).expected)
    return ids


def without_silent_end(ids, printing):
    """What a text can tell of ids: not those at the end that print nothing."""
    ids = list(ids)
    while len(ids) > 1 and not printing.of(ids[-2], ids[-1]):
        ids.pop()
    return ids


# ---- Examples worked by hand


def test_a_text_of_the_references_own_choices_is_exact():
    table = Table({(): row(_10=5.0), (AB,): row(_8=5.0), (AB, A): row(_2=9.0)})
    path = walk(b"aba", [BOS], session=table, printing=LLAMA2C, rule=greedy())
    assert (path.kind, path.ids, path.used, path.next_id) == (Kind.EXACT, [BOS, AB, A], 3, 2)
    assert path.certificates == []


def test_a_wrong_token_is_named_with_its_regret():
    table = Table({(): row(_10=5.0), (AB,): row(_8=5.0, _9=2.0)})
    path = walk(b"abb", [BOS], session=table, printing=LLAMA2C, rule=greedy())
    assert path.kind is Kind.MISMATCH
    assert (path.ids, path.wrong.token, path.wrong.expected, path.wrong.regret) == ([BOS, AB], B, A, 3.0)
    assert path.wrong.floor == FLOOR


def test_bytes_that_no_piece_prints_are_wrong():
    path = walk(b"z", [BOS], session=Table(), printing=ALL[13], rule=greedy())  # every piece prints something
    assert (path.wrong.token, path.wrong.regret) == (None, math.inf)


def test_a_near_tie_gets_a_certificate():
    table = Table({(): row(_8=5.0, _9=4.99985), (B,): row(_9=5.0)})
    path = walk(b"bb", [BOS], session=table, printing=LLAMA2C, rule=greedy())
    assert path.kind is Kind.TIE
    [proof] = path.certificates
    assert (proof.position, proof.actual, proof.expected, proof.floor) == (1, B, A, FLOOR)
    assert proof.regret == pytest.approx(1.5e-4)


@pytest.mark.parametrize(("behind", "kind"), [(1.9e-4, Kind.TIE), (2.1e-4, Kind.MISMATCH)])
def test_a_tie_is_a_regret_of_at_most_two_floors(behind, kind):
    table = Table({(): row(_8=5.0, _9=5.0 - behind)})
    assert walk(b"b", [BOS], session=table, printing=LLAMA2C, rule=greedy()).kind is kind


def test_what_only_the_declared_precision_explains_is_within():
    table = Table({(): row(_8=5.0, _9=4.9)})
    path = walk(b"b", [BOS], session=table, printing=LLAMA2C, rule=greedy(declared=0.06))
    assert (path.kind, path.certificates[0].floor) == (Kind.WITHIN, 0.06)
    assert walk(b"b", [BOS], session=table, printing=LLAMA2C, rule=greedy(declared=0.04)).kind is Kind.MISMATCH


def test_a_tie_whose_reading_leads_nowhere_is_read_the_other_way():
    """ "ab" is "a" and "b" or one piece, both nearly as good; only the second goes on with what follows."""
    table = Table(
        {
            (): row(_8=5.0, _10=4.9999),
            (A,): row(_2=9.0),  # after "a" anything but EOS is wrong
            (AB,): row(_12=5.0),
        }
    )
    path = walk(b"ab ab", [BOS], session=table, printing=LLAMA2C, rule=greedy())
    assert (path.kind, path.ids) == (Kind.TIE, [BOS, AB, SPACE_AB])


def test_when_no_reading_holds_the_one_that_got_furthest_is_told():
    table = Table({(): row(_8=5.0, _10=4.9999), (A,): row(_2=9.0), (AB,): row(_12=5.0), (AB, SPACE_AB): row(_2=9.0)})
    path = walk(b"ab abb", [BOS], session=table, printing=LLAMA2C, rule=greedy())
    assert (path.kind, path.ids, path.wrong.expected) == (Kind.MISMATCH, [BOS, AB, SPACE_AB], 2)


def test_a_text_may_have_left_the_golden_before_it_shows():
    """The golden goes on with " " and the text with " ab", a near tie: the bytes part one token later."""
    table = Table({(A,): row(_7=5.0, _12=4.9999), (A, SPACE): row(_3=9.0), (A, SPACE_AB): row(_9=5.0)})
    path = walk(b"a abb", [BOS], agreed=[A, SPACE], session=table, printing=LLAMA2C, rule=greedy())
    assert (path.kind, path.ids) == (Kind.TIE, [BOS, A, SPACE_AB, B])
    assert [proof.position for proof in path.certificates] == [2]


def test_agreed_ids_are_no_excuse_where_nothing_is_near():
    table = Table({(A,): row(_7=5.0, _12=4.0), (A, SPACE): row(_3=9.0), (A, SPACE_AB): row(_9=5.0)})
    path = walk(b"a abb", [BOS], agreed=[A, SPACE], session=table, printing=LLAMA2C, rule=greedy())
    assert path.kind is Kind.MISMATCH
    assert path.ids == [BOS, A, SPACE]


def test_dropped_bytes_are_passed_over_at_no_width():
    table = Table({(): row(_4=5.0), (C3,): row(_5=5.0), (C3, 5): row(_8=5.0)})
    path = walk(b"a", [BOS], session=table, printing=LLAMA2C, rule=greedy())
    assert (path.kind, path.ids) == (Kind.EXACT, [BOS, C3, 5, A])


def test_a_model_that_would_drop_bytes_for_ever_does_not_excuse_any_text():
    table = Table({tuple([C3] * n): row(_4=5.0, _8=0.0) for n in range(200)})
    path = walk(b"a", [BOS], session=table, printing=LLAMA2C, rule=greedy(), max_positions=400)
    assert path.kind is Kind.MISMATCH
    assert len(path.ids) < 100


def test_text_beyond_the_context_is_wrong():
    table = Table({tuple([A] * n): row(_8=5.0) for n in range(9)})
    rule = greedy()
    assert walk(b"aaaa", [BOS], session=table, printing=LLAMA2C, rule=rule, max_positions=4).kind is Kind.EXACT
    path = walk(b"aaaaa", [BOS], session=table, printing=LLAMA2C, rule=rule, max_positions=4)
    assert (path.kind, path.wrong.token, path.wrong.expected) == (Kind.MISMATCH, None, BOS)
    full = walk(b"b", [BOS, A, A, A, A], session=table, printing=LLAMA2C, rule=rule, max_positions=4)
    assert full.kind is Kind.MISMATCH


def test_where_a_text_ends_the_next_choice_is_told():
    path = walk(b"", [BOS, A], session=Table({(A,): row(_1=5.0)}), printing=LLAMA2C, rule=greedy())
    assert (path.kind, path.next_id, path.choices) == (Kind.EXACT, BOS, [])


def test_dropped_bytes_behind_the_text_are_counted():
    table = Table({(A,): row(_4=5.0), (A, C3): row(_5=5.0), (A, C3, 5): row(_8=5.0)})
    path = walk(b"", [BOS, A], session=table, printing=LLAMA2C, rule=greedy())
    assert (path.ids, path.n_silent, path.next_id) == ([BOS, A], 2, A)


def test_a_silence_behind_the_text_is_bounded():
    table = Table({(A, *[C3] * n): row(_4=5.0) for n in range(200)})
    assert walk(b"", [BOS, A], session=table, printing=LLAMA2C, rule=greedy(), max_positions=9).n_silent == 7
    assert walk(b"", [BOS, A], session=table, printing=LLAMA2C, rule=greedy(), max_positions=400).n_silent == 64


def test_each_generated_token_uses_its_own_coin():
    # probabilities 0.5 and 0.5: coin 0.2 draws "a", coin 0.7 "b"
    rows = {key: row(_8=5.0, _9=5.0) for key in [(), (A,), (A, B)]}
    coins = [np.float32(0.2), np.float32(0.7)]
    assert walk(b"ab", [BOS], session=Table(rows), printing=LLAMA2C, rule=sampled(coins, topp=1.0)).kind is Kind.EXACT
    path = walk(b"aa", [BOS], session=Table(rows), printing=LLAMA2C, rule=sampled(coins, topp=1.0))
    assert (path.kind, path.ids) == (Kind.MISMATCH, [BOS, A])
    late = walk(b"b", [BOS, A], session=Table(rows), printing=LLAMA2C, rule=sampled(coins, topp=1.0), n_generated=1)
    assert late.kind is Kind.EXACT


def test_a_coin_on_the_border_of_two_tokens_is_a_tie():
    rows = {(): row(_8=5.0, _9=5.0)}
    path = walk(b"a", [BOS], session=Table(rows), printing=LLAMA2C, rule=sampled([np.float32(0.5)], topp=1.0))
    assert path.kind is Kind.TIE
    [proof] = path.certificates
    assert (proof.actual, proof.expected, proof.actual_logit, proof.expected_logit) == (A, B, 5.0, 5.0)


def test_a_hopeless_text_costs_little():
    table = Table(scale=0.0)  # every choice is a tie with every other
    text = b"ab" * 40 + b"z"
    path = walk(text, [BOS], session=table, printing=LLAMA2C, rule=greedy(), max_positions=200)
    assert path.kind is Kind.MISMATCH
    assert table.n_fed <= 200 + 512 + 200


# ---- Properties


def opening(random):
    """Logits after BOS that make each example another story; BOS itself never comes."""
    logits = random.normal(size=len(PIECES))
    logits[BOS] = -50.0
    return logits


LENGTHS = st.integers(1, 24)
SEEDS = st.integers(0, 10**6)


@settings(max_examples=150)
@given(st.sampled_from(ALL), LENGTHS, SEEDS)
def test_the_references_own_text_is_exact_under_every_printing(printing, n, seed):
    table = Table({(): opening(np.random.default_rng(seed))})
    ids = story(table, greedy(), n)
    path = walk(b"".join(printing.render(ids)), [BOS], session=table, printing=printing, rule=greedy())
    assert path.kind is Kind.EXACT
    assert path.ids == without_silent_end(ids, printing)


@settings(max_examples=100)
@given(st.sampled_from(ALL), LENGTHS, SEEDS, st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_a_seeded_text_is_exact_under_every_printing(printing, n, seed, topp):
    random = np.random.default_rng(seed)
    coins = [np.float32(int(c) / 2**24) for c in random.integers(0, 2**24, n)]
    table = Table({(): opening(random)})
    rule = sampled(coins, topp=topp)
    ids = story(table, rule, n)
    path = walk(b"".join(printing.render(ids)), [BOS], session=table, printing=printing, rule=rule)
    assert path.wrong is None
    # a coin on a border aside, the very ids are found
    assert path.kind is Kind.TIE or path.ids == without_silent_end(ids, printing)


@settings(max_examples=150)
@given(st.sampled_from(ALL), st.integers(2, 24), SEEDS, st.data())
def test_a_text_that_parts_at_ties_is_a_tie(printing, n, seed, data):
    """Equal logits everywhere in twos: taking any of the two at any step is explained, from the golden on too."""
    flips = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    random = np.random.default_rng(seed)

    class Twins(Table):
        def logits(self, ids):
            return np.floor(super().logits(ids) * 4)  # few values: many exact ties

    table = Twins({(): opening(random)})

    def pick(logits, step):
        best = np.flatnonzero(logits == logits.max())
        return int(best[-1] if flips[step] else best[0])

    ids, golden = story(table, None, n, pick=pick), story(table, greedy(), n)
    text = b"".join(printing.render(ids))
    shown = printing.render(golden)
    n_agreed = used = 0
    while n_agreed < n and text.startswith(shown[n_agreed], used):
        used += len(shown[n_agreed])
        n_agreed += 1
    path = walk(
        text,
        [BOS],
        agreed=golden[1 : n_agreed + 1],
        session=table,
        printing=printing,
        rule=greedy(),
        max_positions=64,
    )
    assert path.wrong is None
    assert path.used == len(text)
    assert all(proof.regret == 0 for proof in path.certificates)


@settings(max_examples=100)
@given(st.sampled_from(ALL), st.integers(3, 24), SEEDS, st.data())
def test_what_is_called_right_is_right(printing, n, seed, data):
    """Whatever text is given: each token of the path prints its bytes and is a best one, or has its certificate."""
    table = Table({(): opening(np.random.default_rng(seed))})
    ids = story(table, greedy(), n)
    at = data.draw(st.integers(1, n))
    ids[at] = data.draw(st.sampled_from([0, *range(2, len(PIECES))]))
    text = b"".join(printing.render(ids))
    path = walk(text, [BOS], session=table, printing=printing, rule=greedy())
    assert text.startswith(b"".join(printing.render(path.ids)))
    for position in range(1, len(path.ids)):
        logits = table.logits(path.ids[:position])
        assert logits[path.ids[position]] >= logits.max() - 2 * FLOOR
    if path.wrong is None:
        assert path.used == len(text)
