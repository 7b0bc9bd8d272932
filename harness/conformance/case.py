"""Case: one golden file, read into a value and written back so that a person can review it in a diff.

A golden is `golden/<suite>/<case>.toml`:

    case, suite, why            its name, its suite, and in one line what it bites on
    tags                        words to select by; "quick" marks the small set that still kills most bugs
    [model]
    name, format                as `harness.models.locate` and `harness.checkpoint` spell them
    sha256, tokenizer_sha256    of the two files
    [request]
    mode                        "generate" or "chat"
    prompt                      absent where the option is left out; `prompt_hex` where it is not UTF-8
    steps, temperature, topp, seed    as llama2.c's -n, -t, -p and -s
    system, stdin               of a chat; `system_hex`, `stdin_hex` likewise
    [expected]
    ends                        "bos" or "eos" (the model ended it, "eos" in a byte-level vocabulary) or "steps"
    stdout_sha256               of llama2.c's whole stdout
    text                        that stdout without its final newline; `text_hex` where it is not UTF-8
    prompt_ids                  honest encoding of the (first) prompt, BOS first
    ids                         absent where only the text is known; otherwise
                                generate: every id after BOS, forced and sampled, and the one that ends it;
                                chat: every id fed after the first BOS. The last id of an answer may be printed
                                and never fed.
    margins                     [[step, margin, runner-up id], ...]: of the greedy choices, the few that were
                                closest, closest first; step 0 is the first id after the prompt, the margin is
                                in logits
    [provenance]
    source                      what computed it: "float64 reference", "strict arithmetic", "harness tokenizer"
                                or "published"
    agreed                      the independent sources that gave the same, by name
    note                        anything a reader should know

Two more modes are asked through the line protocol alone. Their [request] has `mode`, and:

    encode                      [expected] texts: [[text, ids], ...], the ids with BOS, which also decode to the text;
                                decoded: the same of ids that no text becomes; `texts_hex`, `decoded_hex` likewise
    logits                      [request] ids: what is fed, BOS first; [[expected.rows]]: fingerprints of the logits
                                at some positions (`harness.judging.fingerprint`)

And one asks a program twice and compares it with itself; it expects nothing, and its source is "relation":

    relation                    [request] relation: its name in `harness.diagnosis.relations`; prompts: asked in turn;
                                steps: positions of each

Unknown keys, wrong types and contradictions (a text without its hash, ids that do not start with the prompt)
are `CaseError`s that name the file and the key. Ids that end in BOS end in `prompt_ids[0]`; what "eos" says of the
last id is for the vocabulary to confirm.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.conformance import toml_text
from harness.conformance.case_tables import (
    FILES,
    MAX_MARGINS,
    AnyFile,
    EncodeFile,
    LogitsFile,
    RelationFile,
    RunFile,
)
from harness.conformance.rows import Encoding, encoding_lines, fingerprint_lines, is_text
from harness.diagnosis import relations
from harness.documents import fitted, read_toml
from harness.errors import CaseError
from harness.judging.fingerprint import Fingerprint
from harness.models import ModelFiles, golden_dir
from harness.results import Request

__all__ = [
    "MAX_MARGINS",
    "QUICK",
    "Case",
    "Margin",
    "ModelRef",
    "Provenance",
    "by_ids",
    "case_keys",
    "read_case",
    "read_suite",
    "render",
    "select",
    "suite_names",
    "write_case",
]

QUICK = "quick"

# Directories and files below golden/ that hold no cases.
_NO_SUITE = ("models",)
_PLAN = "plan.toml"

# A golden is a few kilobytes; a file of this size is something else.
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model a golden is of: its name, and its files by content."""

    name: str
    sha256: str
    tokenizer_sha256: str
    format: str


@dataclass(frozen=True, slots=True)
class Margin:
    """How close one greedy choice was: the largest logit minus the second largest."""

    step: int
    margin: float
    runner_up: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a golden comes from, and who agreed with it."""

    source: str
    agreed: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One golden: what to ask of which model, and the answer.

    Attributes:
        prompt, system: None where the option is left out.
        ids: None where only the text is known.
        stdout: llama2.c's stdout, final newline included.
        ends: "bos", "eos" or "steps".
        texts, decoded: of an "encode"; it has no prompt, ids or stdout.
        rows: of "logits", whose ids are fed after prompt_ids, which is BOS; it has no stdout.
        relation, prompts: of a "relation"; it has no answer at all.
        path: the file it was read from; no part of its value.
    """

    name: str
    suite: str
    tags: tuple[str, ...]
    why: str
    model: ModelRef
    mode: str
    prompt: bytes | None
    steps: int
    temperature: float
    topp: float
    seed: int
    system: bytes | None
    stdin: bytes
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...] | None
    stdout: bytes
    ends: str
    margins: tuple[Margin, ...]
    provenance: Provenance
    texts: tuple[Encoding, ...] = ()
    decoded: tuple[Encoding, ...] = ()
    rows: tuple[Fingerprint, ...] = ()
    relation: str = ""
    prompts: tuple[bytes, ...] = ()
    path: Path | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """suite/name, unique among all goldens."""
        return f"{self.suite}/{self.name}"

    @property
    def is_sampled(self) -> bool:
        return self.temperature != 0.0

    @property
    def is_chat(self) -> bool:
        return self.mode == "chat"

    @property
    def is_run(self) -> bool:
        """Whether it is a run that prints a text; else it is asked through the line protocol, or a relation."""
        return self.mode in ("generate", "chat")

    @property
    def fed(self) -> tuple[int, ...]:
        """What "logits" feeds, BOS first."""
        return (*self.prompt_ids, *(self.ids or ()))

    @property
    def is_quick(self) -> bool:
        return QUICK in self.tags

    @property
    def n_generated(self) -> int:
        """Ids beyond the (first) prompt; 0 where the ids are unknown."""
        return max(0, len(self.ids or ()) - (len(self.prompt_ids) - 1))

    @property
    def stdout_sha256(self) -> str:
        return hashlib.sha256(self.stdout).hexdigest()

    def request(self, files: ModelFiles, threads: int = 1) -> Request:
        """Return this case as a Request on those files."""
        return Request(
            model=files.checkpoint,
            tokenizer=files.tokenizer,
            prompt=self.prompt,
            steps=self.steps,
            temperature=self.temperature,
            topp=self.topp,
            seed=self.seed,
            threads=threads,
            mode=self.mode,
            system=self.system,
            stdin=self.stdin,
        )


# ---- reading -------------------------------------------------------------------------------------


def read_case(path: str | os.PathLike[str]) -> Case:
    """Read one golden file.

    Raises:
        CaseError: it is no golden file, or contradicts itself.
    """
    path = Path(path)
    case = _from_tables(_parse(path), path)
    problem = _contradiction(case)
    if problem:
        where, what = problem
        raise CaseError(what, path=path, where=f"key {where}")
    return case


def _parse(path: Path) -> AnyFile:
    document = read_toml(path, CaseError, max_bytes=_MAX_BYTES)
    request = document.get("request")
    mode = request.get("mode") if isinstance(request, dict) else None
    return fitted(FILES.get(str(mode), RunFile), document, path, CaseError)


def _from_tables(file: AnyFile, path: Path) -> Case:
    model, source = file.model, file.provenance
    head: dict[str, Any] = {
        "name": file.case,
        "suite": file.suite,
        "tags": tuple(file.tags),
        "why": file.why,
        "model": ModelRef(model.name, model.sha256, model.tokenizer_sha256, model.format),
        "provenance": Provenance(source.source, tuple(source.agreed), source.note),
        "path": path,
    }
    if isinstance(file, EncodeFile):
        said = file.expected
        return by_ids(
            mode="encode",
            texts=(*_encodings(said.texts), *_encodings(said.texts_hex, path, "texts_hex")),
            decoded=(*_encodings(said.decoded), *_encodings(said.decoded_hex, path, "decoded_hex")),
            **head,
        )
    if isinstance(file, LogitsFile):
        fed = tuple(file.request.ids)
        rows = tuple(row.value for row in file.expected.rows)
        return by_ids(mode="logits", prompt_ids=fed[:1], ids=fed[1:], rows=rows, **head)
    if isinstance(file, RelationFile):
        asked = tuple(prompt.encode("utf-8") for prompt in file.request.prompts)
        return by_ids(
            mode="relation", relation=file.request.relation, prompts=asked, steps=file.request.steps, **head
        )
    request, expected = file.request, file.expected
    text = _one_of(path, "expected.text", expected.text, expected.text_hex)
    if text is None:
        raise CaseError("is missing", path=path, where="key expected.text")
    if hashlib.sha256(text + b"\n").hexdigest() != expected.stdout_sha256:
        raise CaseError(
            "is not the hash of the text and a newline",
            path=path,
            where="key expected.stdout_sha256",
            expected=hashlib.sha256(text + b"\n").hexdigest(),
            actual=expected.stdout_sha256,
        )
    return Case(
        mode=request.mode,
        prompt=_one_of(path, "request.prompt", request.prompt, request.prompt_hex),
        steps=request.steps,
        temperature=request.temperature,
        topp=request.topp,
        seed=request.seed,
        system=_one_of(path, "request.system", request.system, request.system_hex),
        stdin=_one_of(path, "request.stdin", request.stdin, request.stdin_hex) or b"",
        prompt_ids=tuple(expected.prompt_ids),
        ids=None if expected.ids is None else tuple(expected.ids),
        stdout=text + b"\n",
        ends=expected.ends,
        margins=tuple(Margin(*row) for row in expected.margins),
        **head,
    )


def by_ids(
    *,
    mode: str,
    name: str,
    suite: str,
    tags: tuple[str, ...],
    why: str,
    model: ModelRef,
    provenance: Provenance,
    prompt_ids: tuple[int, ...] = (),
    ids: tuple[int, ...] | None = None,
    texts: tuple[Encoding, ...] = (),
    decoded: tuple[Encoding, ...] = (),
    rows: tuple[Fingerprint, ...] = (),
    relation: str = "",
    prompts: tuple[bytes, ...] = (),
    steps: int = 0,
    path: Path | None = None,
) -> Case:
    """Make a case of mode "encode", "logits" or "relation", which expects no text."""
    return Case(
        name=name,
        suite=suite,
        tags=tags,
        why=why,
        model=model,
        mode=mode,
        prompt=None,
        steps=steps,
        temperature=0.0,
        topp=0.9,
        seed=1,
        system=None,
        stdin=b"",
        prompt_ids=prompt_ids,
        ids=ids,
        stdout=b"",
        ends="steps",
        margins=(),
        provenance=provenance,
        texts=texts,
        decoded=decoded,
        rows=rows,
        relation=relation,
        prompts=prompts,
        path=path,
    )


def _encodings(rows: Sequence[tuple[str, list[int]]], path: Path | None = None, key: str = "") -> list[Encoding]:
    """Return rows of a file; with a key, those whose text is in hex."""
    if not key:
        return [Encoding(text.encode("utf-8"), tuple(ids)) for text, ids in rows]
    try:
        found = [Encoding(bytes.fromhex(text), tuple(ids)) for text, ids in rows]
    except ValueError as error:
        raise CaseError("is not hex", path=path, where=f"key expected.{key}") from error
    if any(is_text(row.text) for row in found):
        raise CaseError("has a text that is UTF-8", path=path, where=f"key expected.{key}")
    return found


def _one_of(path: Path, key: str, text: str | None, in_hex: str | None) -> bytes | None:
    if text is not None and in_hex is not None:
        raise CaseError("is given as text and in hex", path=path, where=f"key {key}", hint="keep one of the two")
    if in_hex is not None:
        return bytes.fromhex(in_hex)
    return None if text is None else text.encode("utf-8")


def _contradiction(case: Case) -> tuple[str, str] | None:
    """Return (key, what is wrong) for the first thing in a Case that cannot be."""
    if not case.is_run:
        return _contradiction_by_ids(case)
    if math.isnan(case.temperature):
        return "request.temperature", "is not a number"
    if not case.is_chat and (case.system is not None or case.stdin):
        return "request.mode", "only a chat has a system prompt or stdin"
    if case.is_sampled and case.margins:
        return "expected.margins", "belong to greedy choices, and this case is sampled"
    if case.ids is not None and not case.is_chat:
        forced = case.prompt_ids[1:][: len(case.ids)]
        if case.ids[: len(forced)] != forced:
            return "expected.ids", "do not start with the ids of the prompt"
        if case.steps and len(case.ids) > case.steps:
            return "expected.ids", f"are {len(case.ids)}, more than {case.steps} steps allow"
        has_bos = case.n_generated > 0 and case.ids[-1] == case.prompt_ids[0]
        if has_bos != (case.ends == "bos"):
            return "expected.ends", f"says {case.ends}, the ids say {'bos' if has_bos else 'steps'}"
        if case.ends == "eos" and not case.n_generated:
            return "expected.ends", "says eos, but no id is generated"
    for margin in case.margins:
        if margin.step >= max(case.n_generated, 1):
            return "expected.margins", f"step {margin.step} is past the last generated id"
    return None


def _contradiction_by_ids(case: Case) -> tuple[str, str] | None:
    if case.mode == "relation":
        if relations.by_name(case.relation) is None:
            return "request.relation", f"is no relation: {case.relation}"
        return None
    if case.mode == "encode":
        if not case.texts and not case.decoded:
            return "expected.texts", "holds nothing"
        seen = [row.text for row in case.texts]
        if len(set(seen)) < len(seen):
            return "expected.texts", "has a text twice"
        if any(0 in text for text in seen):
            return "expected.texts", "has a NUL, which no text may hold"
        return None
    positions = [row.position for row in case.rows]
    if positions != sorted(set(positions)):
        return "expected.rows", "are not in the order of their positions"
    if positions[-1] >= len(case.fed):
        return "expected.rows", f"has position {positions[-1]}, but {len(case.fed)} ids are fed"
    return None


# ---- finding -------------------------------------------------------------------------------------


def suite_names() -> list[str]:
    """Return the names of the suites in the golden directory."""
    root = golden_dir()
    if not root.is_dir():
        return []
    return sorted(d.name for d in root.iterdir() if d.name not in _NO_SUITE and d.is_dir() and _case_files(d))


def case_keys() -> list[str]:
    """Return suite/name of every case in the golden directory, which their places say without being read."""
    return [f"{suite}/{path.stem}" for suite in suite_names() for path in _case_files(golden_dir() / suite)]


def _case_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.toml") if path.name != _PLAN)


def read_suite(directory: str | os.PathLike[str]) -> list[Case]:
    """Read every case of a suite's directory, in the order of their names.

    Raises:
        CaseError: a file is wrong, or says that it is of another name or suite.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CaseError("there is no such suite", path=directory)
    cases = []
    for path in _case_files(directory):
        case = read_case(path)
        for key, said, found in (("case", case.name, path.stem), ("suite", case.suite, directory.name)):
            if said != found:
                raise CaseError(
                    "differs from where the file is",
                    path=path,
                    where=f"key {key}",
                    expected=found,
                    actual=said,
                )
        cases.append(case)
    return cases


def select(
    suites: Sequence[str],
    *,
    cases: Iterable[str] | None = None,
    models: Iterable[str] | None = None,
    quick: bool = False,
) -> list[Case]:
    """Return the cases of some suites that match every given filter.

    Args:
        suites: names, in the order wanted.
        cases: names or suite/name; `*` and `?` match as in a shell. Each must match something.
        models: model names; "stories260K" includes the models derived from it, such as "stories260K/seq32".
        quick: only those tagged "quick".

    Raises:
        CaseError: a suite, case or model that is in no golden.
    """
    known = suite_names()
    for suite in suites:
        if suite not in known:
            raise CaseError(f"there is no suite {suite}", hint=f"the suites are: {', '.join(known) or 'none'}")
    found = [case for suite in suites for case in read_suite(golden_dir() / suite)]
    if cases is not None:
        found = _matching(found, cases, "case", lambda case, like: _is_case(case, like))
    if models is not None:
        found = _matching(found, models, "model", lambda case, like: _is_model(case.model.name, like))
    return [case for case in found if case.is_quick or not quick]


def _is_case(case: Case, like: str) -> bool:
    return fnmatch.fnmatchcase(case.name, like) or fnmatch.fnmatchcase(case.key, like)


def _is_model(name: str, like: str) -> bool:
    return name == like or name.startswith(like + "/")


def _matching(found: list[Case], wanted: Iterable[str], noun: str, is_match: Any) -> list[Case]:
    wanted = list(wanted)
    for like in wanted:
        if not any(is_match(case, like) for case in found):
            raise CaseError(f"no case of these suites has {noun} {like}")
    return [case for case in found if any(is_match(case, like) for like in wanted)]


# ---- writing -------------------------------------------------------------------------------------


def write_case(case: Case, path: str | os.PathLike[str]) -> None:
    """Write a golden file, whole or not at all."""
    problem = _contradiction(case)
    if problem:
        raise ValueError(f"{case.key}: {problem[0]} {problem[1]}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(render(case))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def render(case: Case) -> str:
    """Return the text of a golden file; the same case gives the same text."""
    assert case.stdout.endswith(b"\n") or not case.is_run, "llama2.c always ends with a newline"
    lines = [
        f"case = {toml_text.string(case.name)}",
        f"suite = {toml_text.string(case.suite)}",
        f"tags = {toml_text.strings(case.tags)}",
        f"why = {toml_text.string(case.why)}",
        "",
        "[model]",
        f"name = {toml_text.string(case.model.name)}",
        f"format = {toml_text.string(case.model.format)}",
        f"sha256 = {toml_text.string(case.model.sha256)}",
        f"tokenizer_sha256 = {toml_text.string(case.model.tokenizer_sha256)}",
        "",
        "[request]",
        f"mode = {toml_text.string(case.mode)}",
        *(_run_lines(case) if case.is_run else _by_ids_lines(case)),
    ]
    lines += ["", "[provenance]", f"source = {toml_text.string(case.provenance.source)}"]
    if case.provenance.agreed:
        lines += ["agreed = [", *(f"    {toml_text.string(name)}," for name in case.provenance.agreed), "]"]
    if case.provenance.note:
        lines.append(f"note = {toml_text.string(case.provenance.note)}")
    for row in case.rows:
        lines += fingerprint_lines(row)
    return "\n".join(lines) + "\n"


def _run_lines(case: Case) -> list[str]:
    lines = [
        *toml_text.bytes_lines("prompt", case.prompt),
        f"steps = {case.steps}",
        f"temperature = {toml_text.number(case.temperature)}",
        f"topp = {toml_text.number(case.topp)}",
        f"seed = {case.seed}",
        *toml_text.bytes_lines("system", case.system),
        *(toml_text.bytes_lines("stdin", case.stdin) if case.stdin else ()),
        "",
        "[expected]",
        f"ends = {toml_text.string(case.ends)}",
        f"stdout_sha256 = {toml_text.string(case.stdout_sha256)}",
        *toml_text.bytes_lines("text", case.stdout[:-1], is_long=True),
        f"prompt_ids = {toml_text.integers(case.prompt_ids)}",
        *([] if case.ids is None else [f"ids = {toml_text.integers(case.ids)}"]),
    ]
    if case.margins:
        rows = [f"    [{m.step}, {toml_text.number(m.margin)}, {m.runner_up}]," for m in case.margins]
        lines += ["margins = [", *rows, "]"]
    return lines


def _by_ids_lines(case: Case) -> list[str]:
    if case.mode == "logits":
        return [f"ids = {toml_text.integers(case.fed)}"]
    if case.mode == "relation":
        prompts = [prompt.decode("utf-8") for prompt in case.prompts]
        return [
            f"relation = {toml_text.string(case.relation)}",
            f"prompts = {toml_text.strings(prompts)}",
            f"steps = {case.steps}",
        ]
    rows = encoding_lines("texts", case.texts) + encoding_lines("decoded", case.decoded)
    return ["", "[expected]", *rows]
