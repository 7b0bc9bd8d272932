"""Token ids and logits: numpy's program, bent in one place each, gets the verdict of that place."""

from __future__ import annotations

import sys

import pytest

from harness.adapters.implementation import ProcessImplementation
from harness.adapters.manifest import load
from harness.adapters.process import Limits
from harness.conformance.case import select
from harness.conformance.levels import merged
from harness.conformance.verify import verify_group
from harness.models import impls_dir, locate
from harness.results import Kind, Verdict

# Answers as impls/numpy does, but for what the function `bend` does to a reply; it may use `again` to ask itself.
BENT = """\
import subprocess, sys, os, time, struct
child = subprocess.Popen([{python!r}, {lines!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def again(line):
    child.stdin.write(line + b"\\n")
    child.stdin.flush()
    return child.stdout.readline()
def floats(words):
    raw = bytes.fromhex(words[-1].decode())
    return list(struct.unpack("<%df" % (len(raw) // 4), raw))
def hexed(values):
    return struct.pack("<%df" % len(values), *values).hex().encode()
def bend(number, verb, given, words):
{bend}
    return words
count = 0
for line in sys.stdin.buffer:
    count += 1
    number, verb, *given = line.split()
    words = again(line.rstrip()).split()
    sys.stdout.buffer.write(b" ".join(bend(number, verb, given, words)) + b"\\n")
    sys.stdout.buffer.flush()
"""
NAMES = ["gqa-greedy", "gqa-curly-quotes", "gqa-double-spaces", "gqa-nucleus-prompt-seed7"]


def bent(tmp_path, bend, *, levels='["TOKENS", "LOGITS"]', extra=""):
    indented = "\n".join("    " + line for line in bend.splitlines())
    lines = str(impls_dir() / "numpy" / "lines.py")
    (tmp_path / "bent.py").write_text(BENT.format(python=sys.executable, lines=lines, bend=indented))
    (tmp_path / "impl.toml").write_text(
        f'name = "bent"\nlevels = {levels}\nrun = ["true"]\nprotocol = ["{{python}}", "{{src}}/bent.py"]\n{extra}\n'
    )
    return ProcessImplementation(load(tmp_path)[0])


def verdicts(tmp_path, bend, names=NAMES, time_s=20.0, **options):
    cases = select(["core"], cases=names)
    found = verify_group(cases, bent(tmp_path, bend, **options), files=locate("gqa"), limits=Limits(time_s=time_s))
    return {verdict.case: verdict for verdict in found}


def at(verdict, level):
    return dict(verdict.levels)[level]


def test_a_right_program_is_exact_at_both_levels(tmp_path):
    for verdict in verdicts(tmp_path, "").values():
        assert verdict.levels == (("TOKENS", Kind.EXACT), ("LOGITS", Kind.EXACT))
        assert (verdict.kind, verdict.reason, verdict.tokenizer) == (Kind.EXACT, "", Kind.EXACT)
        assert verdict.n_judged > 20


def test_a_program_that_decodes_greedily_only_is_not_asked_to_sample(tmp_path):
    bend = "if verb == b'generate' and float(given[1]): return [number, b'error', b'greedy', b'only']"
    found = verdicts(tmp_path, bend, extra="greedy_only = true")
    assert found["gqa-greedy"].kind is Kind.EXACT
    sampled = found["gqa-nucleus-prompt-seed7"]
    assert (sampled.kind, sampled.reason) == (Kind.UNSUPPORTED, "decodes greedily only")


def test_a_wrong_token_is_a_mismatch_with_its_step(tmp_path):
    bend = "if verb == b'generate' and len(words) > 20: words[6 + 9] = b'300'"
    verdict = verdicts(tmp_path, bend, ["gqa-greedy"])["gqa-greedy"]
    assert (verdict.kind, at(verdict, "TOKENS"), at(verdict, "LOGITS")) == (Kind.MISMATCH, Kind.MISMATCH, Kind.EXACT)
    assert verdict.divergence.step == 8
    assert verdict.divergence.actual == 300
    assert verdict.divergence.regret > 1e3 * verdict.divergence.floor
    assert "generate" in verdict.reproduce


WRONG_TOKENIZER = """\
if verb == b'encode':
    sys.path.insert(0, {root!r})
    from harness.models import load, locate
    from harness.tokenizer.bpe import KNOWN_WRONG
    rules = next(rules for name, _, rules in KNOWN_WRONG if name == 'no-dummy-prefix')
    text = bytes.fromhex(given[2].decode().strip('-'))
    files = locate('gqa')
    ids = load(files.checkpoint, files.tokenizer).tokenizer.encode(text, rules=rules)
    return words[:4] + [b'%d' % i for i in [len(ids), *ids]]
"""


def test_a_wrong_tokenizer_is_named_over_all_prompts_and_the_forward_pass_acquitted(tmp_path):
    found = verdicts(tmp_path, WRONG_TOKENIZER.format(root=str(impls_dir().parent)))
    assert found["gqa-greedy"].kind is Kind.EXACT  # it has no prompt
    for name in NAMES[1:]:
        verdict = found[name]
        assert (verdict.kind, verdict.tokenizer, verdict.forward) == (Kind.MISMATCH, Kind.MISMATCH, Kind.EXACT)
        assert "tokenizer: no space is put before the text (no-dummy-prefix)" in verdict.reason
        assert "encode" in verdict.reproduce


@pytest.mark.parametrize(
    ("bend", "says"),
    [
        ("words[-1] = hexed([x / 2 for x in floats(words)])", "scaled by 0.5"),
        ("words[-1] = words[-1][4096:] + words[-1][:4096]", "each row is that of the next position"),
        ("f = floats(words); words[-1] = hexed(f[1:] + f[:1])", "displaced: the logit of id i stands at id i - 1"),
        ("words[-1] = bytes(words[-1][:-8]) + b'0000c07f'", "not finite"),
    ],
)
def test_wrong_logits_are_named(bend, says, tmp_path):
    verdict = verdicts(tmp_path, f"if verb == b'logits': {bend}", ["gqa-greedy"])["gqa-greedy"]
    assert (verdict.kind, at(verdict, "TOKENS")) == (Kind.MISMATCH, Kind.EXACT)
    assert f"LOGITS: {says}" in verdict.reason


def test_log_probabilities_are_a_green_convention(tmp_path):
    bend = (
        "import math\n"
        "if verb == b'logits':\n"
        "    f = floats(words)\n"
        "    rows = [f[i:i + 512] for i in range(0, len(f), 512)]\n"
        "    words[-1] = hexed([x - math.log(sum(map(math.exp, row))) for row in rows for x in row])"
    )
    verdict = verdicts(tmp_path, bend, ["gqa-greedy"])["gqa-greedy"]
    assert verdict.kind is Kind.EXACT
    assert verdict.conventions == ("gives log-probabilities",)


def test_a_crash_is_the_verdict_of_its_case_alone(tmp_path):
    found = verdicts(tmp_path, "if verb == b'generate' and given[4:] == [b'1']: os.kill(os.getpid(), 11)")
    kinds = {name: verdict.kind for name, verdict in found.items()}
    assert kinds == {**dict.fromkeys(NAMES, Kind.EXACT), "gqa-greedy": Kind.CRASHED}
    assert "SIGSEGV" in found["gqa-greedy"].reason


def test_a_hanging_program_blocks_the_rest_after_three_cases(tmp_path):
    bend = "if verb == b'encode': time.sleep(1000)"
    found = verdicts(tmp_path, bend, [*NAMES, "gqa-bytes"], time_s=3.0, levels='["TOKENS"]')
    assert sorted(verdict.kind for verdict in found.values()) == [Kind.BLOCKED] * 2 + [Kind.TIMED_OUT] * 3


@pytest.mark.parametrize(
    ("bend", "kind"),
    [
        ("if verb == b'generate': words[5] = b'12345'", Kind.PROTOCOL),
        ("if verb == b'generate': del words[-1]", Kind.PROTOCOL),
        ("if verb == b'load': words[2] = b'32000'", Kind.PROTOCOL),
        ("if verb == b'generate': return [number, b'unsupported']", Kind.UNSUPPORTED),
        ("if verb == b'generate': return [number, b'error', b'no', b'memory']", Kind.CRASHED),
    ],
)
def test_what_the_protocol_forbids_or_a_program_declines_is_the_verdict(bend, kind, tmp_path):
    verdict = verdicts(tmp_path, bend, ["gqa-greedy"], levels='["TOKENS"]')["gqa-greedy"]
    assert verdict.kind is kind


def test_a_line_too_many_after_the_last_reply_is_found(tmp_path):
    bend = "if verb == b'quit': words.append(b'\\n7 ok')"
    verdict = verdicts(tmp_path, bend, ["gqa-greedy"], levels='["TOKENS"]')["gqa-greedy"]
    assert verdict.kind is Kind.PROTOCOL


def test_without_an_encoder_the_forward_pass_is_judged_all_the_same(tmp_path):
    bend = "if verb == b'encode': return [number, b'unsupported']"
    verdict = verdicts(tmp_path, bend, ["gqa-double-spaces"])["gqa-double-spaces"]
    assert (verdict.kind, verdict.tokenizer, verdict.forward) == (Kind.EXACT, None, Kind.EXACT)


def test_an_eos_that_the_reference_does_not_choose_is_a_mismatch(tmp_path):
    bend = "if verb == b'generate': return words[:6] + [b'3', *words[7:9], b'2']"
    verdict = verdicts(tmp_path, bend, ["gqa-greedy"], levels='["TOKENS"]')["gqa-greedy"]
    assert verdict.kind is Kind.MISMATCH


def test_another_random_generator_is_found_and_excused(tmp_path):
    bend = (
        "if verb == b'generate' and given[1] != b'0':\n"
        "    seed = b'%d' % (int(given[3]) ^ 0x5bd1e995)\n"
        "    other = again(b' '.join([number, verb, *given[:3], seed, *given[4:]])).split()\n"
        "    return other[:5] + words[5:6] + other[6:]"
    )
    names = ["gqa-nucleus-prompt-seed7", "gqa-nucleus-seed42", "gqa-hot-seed-3000000000", "gqa-greedy"]
    found = verdicts(tmp_path, bend, names, levels='["TOKENS"]')
    assert found["gqa-greedy"].kind is Kind.EXACT
    for name in names[:3]:
        assert found[name].kind is Kind.UNSUPPORTED
        assert "another random generator" in found[name].reason


# ---- one verdict from several levels


def verdict(kind, reason="", **facts):
    return Verdict("case", "impl", "model", kind, reason, **facts)


def test_all_right_needs_no_words():
    found = merged({"TEXT": verdict(Kind.EXACT), "TOKENS": verdict(Kind.EXACT)})
    assert (found.kind, found.reason) == (Kind.EXACT, "")
    assert found.levels == (("TEXT", Kind.EXACT), ("TOKENS", Kind.EXACT))


def test_text_alone_stays_as_it_is():
    alone = verdict(Kind.TIE, "a tie")
    assert merged({"TEXT": alone}) == alone


def test_ids_decide_where_several_levels_fail_and_the_others_are_told():
    found = merged(
        {
            "TEXT": verdict(Kind.MISMATCH, "text parts"),
            "TOKENS": verdict(Kind.MISMATCH, "step 3"),
            "LOGITS": verdict(Kind.EXACT),
        }
    )
    assert found.kind is Kind.MISMATCH
    assert found.reason == "TOKENS: step 3; TEXT MISMATCH: text parts; LOGITS EXACT"


def test_a_text_that_fails_beside_right_ids_fails():
    found = merged({"TEXT": verdict(Kind.MISMATCH, "prints twice"), "TOKENS": verdict(Kind.EXACT)})
    assert (found.kind, found.reason) == (Kind.MISMATCH, "TEXT: prints twice; TOKENS EXACT")


def test_ids_excuse_a_text_that_says_too_little():
    found = merged({"TEXT": verdict(Kind.INCONCLUSIVE, "too short"), "TOKENS": verdict(Kind.TIE, "1 tie")})
    assert (found.kind, found.reason) == (Kind.TIE, "TOKENS: 1 tie; TEXT INCONCLUSIVE: too short")


def test_the_least_exact_of_the_green_ones_counts():
    found = merged({"TEXT": verdict(Kind.EXACT), "LOGITS": verdict(Kind.WITHIN, "noise of q8")})
    assert (found.kind, found.reason) == (Kind.WITHIN, "LOGITS: noise of q8")
