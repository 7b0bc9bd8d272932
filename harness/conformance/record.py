"""Make or renew a golden: the reference's answer to a planned case, agreed to by independent programs.

    1. plan      what to ask: an entry of a suite's plan.toml, or an existing golden
    2. record    the reference runs freely: float64 for float32 models; for int8 models float32 in llama2.c's
                 order of sums, since int8 text depends on it
    3. agree     every named independent program must print the very same bytes, else there is no golden
    4. difference    against the golden that is there, for a person to read
    5. `case.write_case`, by the caller, once that person is content

One case at a time, and never while verifying: a golden that is renewed to make a check pass checks nothing.

A plan.toml holds `[[case]]` tables with the keys name, model, why, steps and, where they differ from greedy
decoding without a prompt, tags, prompt, temperature, topp and seed. With `positions` the logits there are
wanted, along the text of that run; with `texts`, a kind of hard texts instead of steps, their ids (`record_rows`).
"""

from __future__ import annotations

import difflib
import fnmatch
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic

from harness.adapters import manifest as manifests
from harness.adapters.implementation import ProcessImplementation
from harness.conformance.case import Case, Margin, ModelRef, Provenance, read_case, render
from harness.documents import fitted, read_toml
from harness.engine import STRICT, Engine, TopTwo, blas_threads, generate
from harness.errors import CaseError
from harness.models import Model, ModelFiles, golden_dir, impls_dir, load, locate
from harness.results import Observation, Request

__all__ = [
    "Agree",
    "PlannedCase",
    "answer",
    "difference",
    "path_of",
    "planned",
    "program_for",
    "read_plan",
    "record",
    "source_name",
    "wanted",
]

# An independent program: it is asked, and what it did is seen.
Agree = Callable[[Request], Observation]

# Of a golden's greedy choices the closest are listed: enough to see where a program may part from it.
_N_MARGINS = 5
# A margin is read by people; float64 results agree between machines to far more digits than these.
_MARGIN_DIGITS = 6


@dataclass(frozen=True, slots=True)
class PlannedCase:
    """What a golden asks, before there is an answer. The fields are those of `Case`, but:

    Attributes:
        texts: a kind of hard texts, whose ids are wanted.
        positions: in the run, whose logits are wanted.
    """

    name: str
    suite: str
    tags: tuple[str, ...]
    why: str
    model: str
    prompt: bytes | None
    steps: int
    temperature: float = 0.0
    topp: float = 0.9
    seed: int = 1
    texts: str = ""
    positions: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.suite}/{self.name}"

    @property
    def is_run(self) -> bool:
        """Whether its answer is a text; else it comes from `record_rows`."""
        return not self.texts and not self.positions


# ---- planning -----------------------------------------------------------------------------------


class _Entry(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    model: Annotated[str, pydantic.Field(min_length=1)]
    why: Annotated[str, pydantic.Field(pattern=r"^[^\r\n]+$")]
    steps: Annotated[int, pydantic.Field(ge=0)] = 0
    texts: Annotated[str, pydantic.Field(min_length=1)] | None = None
    positions: list[Annotated[int, pydantic.Field(ge=0)]] = []
    tags: list[str] = []
    prompt: str | None = None
    temperature: Annotated[float, pydantic.Field(ge=0.0)] = 0.0
    topp: Annotated[float, pydantic.Field(ge=0.0, le=1.0)] = 0.9
    seed: int = 1


class _Plan(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    case: list[_Entry]


def read_plan(path: str | os.PathLike[str]) -> list[PlannedCase]:
    """Read a suite's plan.toml; the suite is the directory's name.

    Raises:
        CaseError: it is no plan, or plans two cases of one name.
    """
    path = Path(path)
    plan = fitted(_Plan, read_toml(path, CaseError), path, CaseError)
    names = [entry.name for entry in plan.case]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CaseError(f"two cases are called {twice}", path=path)
    for entry in plan.case:
        if (entry.texts is None) != ("steps" in entry.model_fields_set):
            raise CaseError(f"{entry.name} needs steps, or the kind of its texts", path=path)
    return [
        PlannedCase(
            name=entry.name,
            suite=path.parent.name,
            tags=tuple(entry.tags),
            why=entry.why,
            model=entry.model,
            prompt=None if entry.prompt is None else entry.prompt.encode("utf-8"),
            steps=entry.steps,
            temperature=entry.temperature,
            topp=entry.topp,
            seed=entry.seed,
            texts=entry.texts or "",
            positions=tuple(entry.positions),
        )
        for entry in plan.case
    ]


def planned(case: Case) -> PlannedCase:
    """Return what an existing golden asks, to renew its answer.

    Raises:
        CaseError: a chat; those come from published transcripts. Or no run, and in no plan.
    """
    if case.is_chat:
        raise CaseError(f"{case.key} is a chat, which cannot be recorded", path=case.path)
    if not case.is_run:
        raise CaseError(f"{case.key} is in no plan", path=case.path, hint="plan it, or remove the file")
    return PlannedCase(
        name=case.name,
        suite=case.suite,
        tags=case.tags,
        why=case.why,
        model=case.model.name,
        prompt=case.prompt,
        steps=case.steps,
        temperature=case.temperature,
        topp=case.topp,
        seed=case.seed,
    )


def path_of(case: PlannedCase | Case) -> Path:
    """Return where a golden is, or will be."""
    return golden_dir() / case.suite / f"{case.name}.toml"


def wanted(suite: str, names: Sequence[str] | None = None) -> list[tuple[PlannedCase, Case | None]]:
    """Return what a suite asks, in the order of its plan, each with the golden that is there.

    A golden that no plan holds asks what it always asked; chats, which cannot be recorded, are left out unless
    they are named.

    Args:
        suite: its name.
        names: of cases; `*` and `?` match. Each must match something.

    Raises:
        CaseError: there is no such suite or case, or one of its files is wrong.
    """
    directory = golden_dir() / suite
    if not directory.is_dir():
        raise CaseError("there is no such suite", path=directory)
    plan = directory / "plan.toml"
    entries = {entry.name: entry for entry in (read_plan(plan) if plan.is_file() else [])}
    there = {path.stem: path for path in sorted(directory.glob("*.toml")) if path != plan}
    known = list(dict.fromkeys((*entries, *there)))
    for name in names or ():
        if not fnmatch.filter(known, name):
            raise CaseError(f"has no case {name}", path=directory, hint=f"plan it in {plan.name}, or see the files")
    found = []
    for name in known:
        if names is not None and not any(fnmatch.fnmatchcase(name, like) for like in names):
            continue
        old = read_case(there[name]) if name in there else None
        if name in entries:
            found.append((entries[name], old))
        elif old is not None and old.mode != "relation" and (names is not None or not old.is_chat):
            found.append((planned(old), old))
    return found


# ---- who agrees ---------------------------------------------------------------------------------


def program_for(impl: ProcessImplementation, container: str) -> ProcessImplementation:
    """Return the implementation, or the first of its variants that reads a container ("llama2c-v2": int8).

    Raises:
        CaseError: none of them reads it.
    """
    if container in impl.manifest.formats:
        return impl
    variants = manifests.load(impl.manifest.path) if impl.manifest.path.is_file() else []
    for variant in variants:
        if container in variant.formats:
            return ProcessImplementation(variant)
    raise CaseError(f"{impl.name} does not read {container}, so it cannot agree", hint="name another with --agree")


def source_name(impl: ProcessImplementation) -> str:
    """Return what the provenance calls a program: where it is, and the flags that decide its arithmetic."""
    manifest = impl.manifest
    place = f"impls/{manifest.src.name}" if manifest.src.parent == impls_dir() else impl.name
    words = [word for command in manifest.build for word in command]
    flags = [w for w in words if w.startswith(("-O", "-D", "-f", "-m")) and w != "-ffp-contract=off"]
    return f"{place} at {' '.join(flags)}" if flags else place


# ---- recording ----------------------------------------------------------------------------------


def record(plan: PlannedCase, *, agree: Mapping[str, Agree], old: Case | None = None) -> Case:
    """Answer a planned case, and have the answer confirmed.

    Args:
        agree: independent programs by the name that the provenance gives them; at least one.
        old: the golden that is there. What it says of its sources stays if the answer stays the same.

    Raises:
        ModelNotFound: the model is not on this machine.
        CaseError: a program failed, or printed something else.
        ValueError: nobody was asked to agree.
    """
    if not agree:
        raise ValueError("a golden needs an independent source beside the reference")
    case = answer(plan)
    files = locate(plan.model)
    for name, program in agree.items():
        _require_agreement(case, files, name, program)
    case = replace(case, provenance=replace(case.provenance, agreed=tuple(agree)))
    return _with_old_provenance(case, old)


def answer(plan: PlannedCase) -> Case:
    """Return what the reference alone says; a golden only once independent programs have agreed."""
    files = locate(plan.model)
    model = load(files.checkpoint, files.tokenizer)
    engine, source = _reference(model)
    vocabulary = model.vocabulary
    prompt_ids = tuple(vocabulary.encode(plan.prompt or b""))
    with blas_threads(1):
        ids = tuple(
            generate(
                engine,
                prompt_ids,
                steps=plan.steps,
                temperature=plan.temperature,
                topp=plan.topp,
                seed=plan.seed,
                stop=vocabulary.stop_ids,
            )
        )
    ends = "steps"
    if len(ids) >= len(prompt_ids) and ids[-1] in vocabulary.stop_ids:
        ends = "bos" if ids[-1] == prompt_ids[0] else "eos"
    return Case(
        name=plan.name,
        suite=plan.suite,
        tags=plan.tags,
        why=plan.why,
        model=ModelRef(plan.model, files.sha256, files.tokenizer_sha256, files.format),
        mode="generate",
        prompt=plan.prompt,
        steps=plan.steps,
        temperature=plan.temperature,
        topp=plan.topp,
        seed=plan.seed,
        system=None,
        stdin=b"",
        prompt_ids=prompt_ids,
        ids=ids,
        stdout=vocabulary.print_text([prompt_ids[0], *ids]) + b"\n",
        ends=ends,
        margins=_closest(engine, prompt_ids, ids) if plan.temperature == 0 else (),
        provenance=Provenance(source),
    )


def _reference(model: Model) -> tuple[Engine, str]:
    checkpoint = model.checkpoint
    if checkpoint.group_size is None:
        return Engine(checkpoint.config, checkpoint.tensors, dtype=np.float64), "float64 reference"
    return Engine(checkpoint.config, checkpoint.tensors, ops=STRICT), "strict arithmetic"


def _closest(engine: Engine, prompt_ids: Sequence[int], ids: Sequence[int]) -> tuple[Margin, ...]:
    """Return the greedy choices with the smallest margins, closest first."""
    first = len(prompt_ids) - 1
    if len(ids) <= first:
        return ()
    fed = [prompt_ids[0], *ids[:-1]]
    top = TopTwo(len(fed) - first)
    engine.score([fed], top, first=[first])
    order = np.argsort(top.margin, kind="stable")[:_N_MARGINS]
    order = order[np.isfinite(top.margin[order])]  # a logit that is no number is at no distance
    return tuple(Margin(int(i), _rounded(float(top.margin[i])), int(top.ids[i, 1])) for i in order)


def _rounded(margin: float) -> float:
    if margin == 0:
        return 0.0
    return round(margin, _MARGIN_DIGITS - 1 - math.floor(math.log10(margin)))


def _require_agreement(case: Case, files: ModelFiles, name: str, program: Agree) -> None:
    seen = program(case.request(files))
    if seen.failure is not None:
        raise CaseError(f"{case.key}: {name} failed: {seen.failure}") from seen.failure
    if seen.stdout == case.stdout:
        return
    at = next(
        (i for i, (a, b) in enumerate(zip(seen.stdout, case.stdout, strict=False)) if a != b),
        min(len(seen.stdout), len(case.stdout)),
    )
    raise CaseError(
        f"{case.key}: {name} does not agree",
        where=f"byte {at} of stdout",
        expected=repr(case.stdout[at : at + 40]),
        actual=repr(seen.stdout[at : at + 40]),
        hint="a golden that two honest programs read differently is none: change the case",
    )


def _with_old_provenance(case: Case, old: Case | None) -> Case:
    if old is None or (old.ids, old.stdout, old.model) != (case.ids, case.stdout, case.model):
        return case
    sources = dict.fromkeys((*old.provenance.agreed, *case.provenance.agreed))
    provenance = Provenance(case.provenance.source, tuple(sources), old.provenance.note)
    return replace(case, provenance=provenance)


def difference(old: Case | None, new: Case) -> str:
    """Return a unified diff of the two golden files; empty if writing the new one would change nothing."""
    before = "" if old is None else render(old)
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        render(new).splitlines(keepends=True),
        fromfile=f"{new.key} (as it is)",
        tofile=f"{new.key} (recorded)",
    )
    return "".join(lines)
