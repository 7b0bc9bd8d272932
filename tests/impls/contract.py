"""What every compiled program with llama2.c's command line keeps, written once.

A test module that inherits these classes gives the fixtures `program` (a build as it is used) and `checked` (one that
ends loudly when it touches what is not its own).
"""

import hashlib
import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest

from harness.adapters.manifest import expand_text
from harness.models import cache_dir

from .llama2c_goldens import GOLDENS, quantize_checkpoint
from .tiny import (
    FIRST_LETTER_ID,
    HOSTILE_GROUPS,
    HOSTILE_INTS,
    HOSTILE_LENGTHS,
    INCONSISTENT,
    NOT_NUMBERS,
    TINY,
    cuts,
    filled,
    header,
    tiny_pieces,
    tiny_v0,
    tiny_v1,
    tokenizer_file,
    with_int,
)

HERE = Path(__file__).parent
IMPLS = HERE.parents[1] / "impls"
GOLDEN = {golden.name: golden for golden in GOLDENS}

# A signal, a sanitizer report and an honest error must not look alike.
SANITIZER_EXIT = 99
ENVIRONMENT = os.environ | {
    "ASAN_OPTIONS": f"exitcode={SANITIZER_EXIT}:allocator_may_return_null=1:detect_leaks=0",
    "UBSAN_OPTIONS": f"exitcode={SANITIZER_EXIT}",
    "OMP_WAIT_POLICY": "passive",  # spinning threads starve each other on a busy machine
}
ENVIRONMENT.pop("RUN_PATH", None)


def environment_of(manifest, out):
    """The variables that a manifest sets for a build in `out`."""
    places = {"out": os.fsencode(out), "cache": os.fsencode(cache_dir() / "runtime")}
    return {key: os.fsdecode(expand_text(value, places)) for key, value in manifest.env.items()}


def run(program, *args, stdin="", cwd=None, **env):
    command = [str(program), *map(os.fsencode, map(str, args))]
    return subprocess.run(
        command, input=stdin.encode(), capture_output=True, timeout=60, env=ENVIRONMENT | env, cwd=cwd, check=False
    )


def assert_rejected(done, *words, name="run"):
    """Exit status 1, one line on stderr that holds the words, nothing on stdout."""
    stderr = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b""), stderr
    assert re.fullmatch(rf"{name}: [^\n]+\n", stderr), stderr
    for word in words:
        assert word in stderr


def assert_golden(done, golden):
    """The text of llama2.c to the byte, and its line of speed where it has one."""
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).hexdigest() == golden.sha256, done.stdout.decode(errors="replace")
    if "chat" in golden.args:
        assert done.stderr == b""
    else:
        assert re.fullmatch(rb"achieved tok/s: (\d+\.\d{6}|inf)\n", done.stderr)


def run_golden(program, golden, model_path, tok512, *args, **env):
    return run(program, model_path(golden.model), "-z", tok512, *golden.args, *args, stdin=golden.stdin, **env)


SAME_RUNS = {  # arguments: others that must print the same
    ("-t", "0", "-n", "0"): [
        ("-t", "0", "-n", "abc"),
        ("-t", "0", "-n", "-5"),
        ("-t", "0", "-n", "99999"),
        ("-t", "0", "-n", "4294967296"),
        ("-t", "abc"),
        ("-t", "-1"),
        ("-t", "0", "-i", ""),
        ("-t", "1", "-t", "0"),
        ("-t", " +0x0p1rest"),
        ("-p", "nan", "-s", "3"),  # falls back to the likeliest token
    ],
    ("-s", "7", "-p", "0.9"): [
        ("-s", "7"),
        ("-s", "7.9", "-t", "1.0"),
        ("-s", "4294967303"),
        ("-s", "7", "-p", "1.5"),
        ("-s", "7", "-p", "-0.1"),
    ],
    ("-s", "7", "-p", "0"): [("-s", "7", "-p", "1"), ("-s", "7", "-p", "abc")],
    ("-s", "3000000000"): [("-s", "-1294967296")],
}


class CommandLine:
    flags = "tpsnizmy"

    def test_no_arguments_print_the_usage(self, program):
        done = run(program)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(b"usage: ")
        for flag in self.flags:
            assert f"-{flag} " in done.stderr.decode()

    @pytest.mark.parametrize(
        "args", [["-t"], ["-t", "0", "-n"], ["t", "0"], ["-tt", "0"], ["--temperature", "0"], ["-q", "0"], ["", "0"]]
    )
    def test_bad_flags_print_the_usage_before_any_file_is_opened(self, program, args):
        done = run(program, "/nonexistent", *args)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(b"usage: ")

    @pytest.mark.parametrize("path", ["/nonexistent", "--help", "-t"])
    def test_the_first_argument_is_always_the_checkpoint(self, program, path):
        assert_rejected(run(program, path), "open", path)

    def test_files_that_cannot_be_used_are_named(self, program, tiny, tmp_path):
        model, *_ = tiny()
        assert_rejected(run(program, tmp_path), str(tmp_path))
        assert_rejected(run(program, "/dev/null"), "/dev/null")
        assert_rejected(run(program, model, "-z", tmp_path), str(tmp_path))
        assert_rejected(run(program, model, "-z", "/nonexistent"), "open", "/nonexistent")

    def test_the_tokenizer_is_looked_for_in_the_working_directory(self, program, tiny, tmp_path):
        model, *_ = tiny()
        assert run(program, model, "-t", "0", cwd=tmp_path).returncode == 0
        (tmp_path / "tokenizer.bin").unlink()
        assert_rejected(run(program, model, cwd=tmp_path), "open", "tokenizer.bin")

    def test_an_unknown_mode_is_noticed_after_the_files(self, program, tiny):
        done = run(program, *tiny(), "-m", "poem")
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(b"run: unknown mode: poem\nusage: ")
        assert_rejected(run(program, "/nonexistent", "-m", "poem"), "open")

    @pytest.mark.parametrize(
        ("args", "same"), [(args, same) for args, sames in SAME_RUNS.items() for same in sames], ids=" ".join
    )
    def test_numbers_are_read_as_c_reads_them(self, checked, tiny, args, same):
        files = tiny()
        done, other = run(checked, *files, *args), run(checked, *files, *same)
        assert (done.returncode, other.returncode) == (0, 0)
        assert other.stdout == done.stdout

    def test_seed_zero_is_not_the_stuck_generator(self, program, tiny):
        """With state 0 every coin would be 0 and the first token be chosen for ever."""
        done = run(program, *tiny(), "-s", "0", "-p", "1", "-t", "inf", "-n", "16")
        assert done.stdout.count(b"<unk>") < 16

    def test_one_step_prints_one_piece_and_no_speed(self, program, model_path, tok512):
        done = run(program, model_path("stories260K"), "-z", tok512, "-t", "0", "-n", "1")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"Once\n", b"")

    def test_a_full_disk_is_an_error(self, program, tiny):
        if not os.path.exists("/dev/full"):
            pytest.skip("this system has no /dev/full")
        with open("/dev/full", "wb") as full:
            done = subprocess.run([program, *tiny(), "-t", "0"], stdout=full, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 1
        assert b"cannot write" in done.stderr

    @pytest.mark.parametrize("args", [("-t", "nan"), ("-t", "nan", "-p", "1"), ("-t", "inf", "-p", "0.0001")])
    def test_meaningless_sampling_still_ends(self, checked, tiny, args):
        assert run(checked, *tiny(), "-s", "1", *args).returncode == 0

    def test_chat_texts_may_be_long_and_input_may_be_missing(self, checked, tiny):
        files = tiny()
        args = ["-m", "chat", "-t", "0", "-n", "16", "-i", "a b" * 2000, "-y", "c" * 3000]
        assert run(checked, *files, *args).returncode == 0
        done = run(checked, *files, "-m", "chat", "-t", "0", "-n", "0", stdin="x" * 5000)
        assert done.stdout.startswith(b"Enter system prompt (optional): User: Assistant: ")
        assert run(checked, *files, "-m", "chat", "-t", "0").returncode == 0


class ThreadedCommandLine(CommandLine):
    flags = "tpsnizmyj"

    @pytest.mark.parametrize("threads", ["-1", "257"])
    def test_an_impossible_number_of_threads_is_refused(self, program, threads):
        assert_rejected(run(program, "/nonexistent", "-j", threads), "-j", "256", threads)


def checkpoint_of(version):
    """A whole tiny checkpoint of a version, and the byte at which it could end."""
    whole, end = tiny_v0()
    if version == 0:
        return whole, end
    whole = tiny_v1() if version == 1 else quantize_checkpoint(whole, group=4)
    return whole, len(whole)


class HostileFiles:
    """The versions that `versions` names are read, the others refused."""

    versions = (0, 1)

    def test_truncated_checkpoints_are_rejected(self, checked, tiny):
        untied = tiny_v0(tied=False)[0]
        for whole, end in [*map(checkpoint_of, self.versions), (untied, len(untied))]:
            files = tiny(checkpoint=whole[:end])
            complete = run(checked, *files, "-t", "0")
            assert complete.returncode == 0, complete.stderr
            for size in cuts(end):
                files[0].write_bytes(whole[:size])
                assert_rejected(run(checked, *files, "-t", "0"), files[0].name)

    def test_a_tied_checkpoint_may_lack_any_part_of_the_rotary_tables(self, program, tiny):
        whole, end = tiny_v0()
        outputs = {
            run(program, *tiny(checkpoint=whole[:size]), "-t", "0").stdout for size in (end, end + 6, len(whole))
        }
        assert len(outputs) == 1

    @pytest.mark.parametrize("field", range(7), ids=TINY)
    def test_impossible_headers_are_rejected(self, checked, tiny, field):
        files = tiny()
        for version, value in itertools.product(self.versions, HOSTILE_INTS):
            whole, _ = checkpoint_of(version)
            files[0].write_bytes(with_int(whole, (0 if version == 0 else 8) + 4 * field, value))
            done = run(checked, *files, "-t", "0", "-n", "4")
            if field == 6 and value > 0:
                assert done.returncode == 0  # a longer context than the tables': unread, so harmless
            else:
                assert_rejected(done, files[0].name)

    @pytest.mark.parametrize("fields", INCONSISTENT, ids=str)
    def test_inconsistent_headers_are_rejected(self, checked, tiny, fields):
        whole = header(TINY | fields) + tiny_v0()[0][28:]
        assert_rejected(run(checked, *tiny(checkpoint=whole)), "tiny.bin")

    def test_other_checkpoint_versions_are_refused(self, program, tiny):
        for version in {1, 2, 3, -1, 2**31 - 1} - set(self.versions):
            whole = with_int(tiny_v1(), 4, version)
            assert_rejected(run(program, *tiny(checkpoint=whole)), f"version {version}")

    @pytest.mark.parametrize("value", NOT_NUMBERS)
    def test_weights_that_are_not_numbers_do_no_harm(self, checked, tiny, value):
        whole, _ = tiny_v0()
        assert run(checked, *tiny(checkpoint=filled(whole, value)), "-s", "1").returncode == 0

    def test_truncated_tokenizers_are_rejected(self, checked, tiny):
        whole = tokenizer_file(tiny_pieces())
        files = tiny()
        for size in cuts(len(whole)):
            files[2].write_bytes(whole[:size])
            assert_rejected(run(checked, *files, "-t", "0"), files[2].name)

    @pytest.mark.parametrize("length", HOSTILE_LENGTHS)
    def test_impossible_piece_lengths_are_rejected(self, checked, tiny, length):
        hostile = with_int(tokenizer_file(tiny_pieces()), 8, length)
        assert_rejected(run(checked, *tiny(tokenizer=hostile), "-i", "abc"), "tokenizer.bin")

    @pytest.mark.parametrize("longest", [0, 1, -1, 2**31 - 1])
    def test_the_claimed_longest_piece_is_not_relied_on(self, checked, tiny, longest):
        args = ["-t", "0", "-i", "a b c"]
        honest = run(checked, *tiny(), *args)
        lying = run(checked, *tiny(tokenizer=tokenizer_file(tiny_pieces(), longest=longest)), *args)
        assert (lying.returncode, lying.stdout) == (0, honest.stdout)

    def test_surplus_pieces_are_ignored(self, program, tiny):
        args = ["-t", "0", "-i", "ab"]
        surplus = run(program, *tiny(tokenizer=tokenizer_file([*tiny_pieces(), b"ab", b" ab"])), *args)
        assert (surplus.returncode, surplus.stdout) == (0, run(program, *tiny(), *args).stdout)

    def test_a_vocabulary_that_cannot_spell_the_prompt_is_an_error(self, checked, tiny):
        pieces = [b"p%d" % i for i in range(TINY["vocab_size"])]
        files = tiny(tokenizer=tokenizer_file(pieces))
        assert run(checked, *files, "-t", "0").returncode == 0
        assert_rejected(run(checked, *files, "-i", "a"), "space")
        few = header(TINY | {"vocab_size": 100}) + tiny_v0()[0][28:]
        pieces[5] = b" "
        assert_rejected(run(checked, *tiny(checkpoint=few, tokenizer=tokenizer_file(pieces)), "-i", "a"), "0x61")

    def test_pieces_end_at_a_nul(self, checked, tiny):
        pieces = tiny_pieces()
        pieces[FIRST_LETTER_ID : FIRST_LETTER_ID + 3] = [b"a\0zz", b"\0", b"\0\0"]
        done = run(checked, *tiny(tokenizer=tokenizer_file(pieces)), "-t", "0", "-n", "1", "-i", "a")
        assert (done.returncode, done.stdout) == (0, b"a\n")


class HostileInt8:
    @pytest.mark.parametrize("group", HOSTILE_GROUPS)
    def test_impossible_group_sizes_are_rejected(self, checked, tiny, group):
        whole = with_int(checkpoint_of(2)[0], 37, group)
        assert_rejected(run(checked, *tiny(checkpoint=whole)), "group")

    @pytest.mark.parametrize("value", NOT_NUMBERS)
    def test_norms_that_are_not_numbers_do_no_harm(self, checked, tiny, value):
        whole = filled(checkpoint_of(2)[0], value, 256, 1056)  # what is float32, and some scales
        assert run(checked, *tiny(checkpoint=whole), "-s", "1").returncode == 0

    @pytest.mark.parametrize("group", [1, 2, 8])
    def test_hidden_dim_need_not_be_a_multiple_of_the_group(self, checked, tiny, group):
        files = tiny(checkpoint=quantize_checkpoint(tiny_v0(tied=False)[0], group=group))
        assert run(checked, *files, "-t", "0").returncode == 0
