"""A program's options and file names, mined from what it says about itself.

`mine` reads a usage text, `mine_program` the program's own bytes where it has none, `file_names` an error message.
What an option is for (its role) is told by its name, else by its metavar, else by the words that describe it.

    roles: model tokenizer prompt steps temperature topp seed threads
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["ROLES", "Option", "Usage", "file_names", "looks_like_usage", "mine", "mine_program", "role_of"]

ROLES = ("model", "tokenizer", "prompt", "steps", "temperature", "topp", "seed", "threads")

# Asked in this order: "tokenizer_model" is a tokenizer, "max_tokens" is none, "prompt_length" is a length.
_ROLE_WORDS = {
    "tokenizer": {"tokenizer", "tokeniser", "tok", "vocab", "vocabulary", "spm"},
    "topp": {"topp", "nucleus"},
    "temperature": {"temperature", "temp"},
    "seed": {"seed", "rng"},
    "threads": {"threads", "thread", "workers", "worker", "cores", "nthreads", "nproc"},
    "steps": {
        "steps", "step", "length", "len", "seqlen", "seqlength", "predict", "tokens", "ntokens", "nsteps", "maxlen",
        "generate", "n",
    },
    "prompt": {"prompt", "input", "text", "question"},
    "model": {"model", "checkpoint", "ckpt", "weights", "weight", "params", "modelfile", "llm", "bin"},
}  # fmt: skip
_FOREIGN_WORDS = {
    "system", "mode", "type", "dtype", "name", "topk", "format", "config", "log", "verbose", "chat", "output", "out",
    "repeat", "penalty", "quiet", "version", "help", "batch", "stop", "top", "k",
}  # fmt: skip
_ROLE_TEXT = {
    "tokenizer": r"tokeni[sz]er|vocab",
    "topp": r"top[-_ ]?p\b|nucleus",
    "temperature": r"temperature|\btemp\b",
    "seed": r"\bseed",
    "threads": r"\bthreads?\b|\bworkers?\b|\bcores\b",
    "prompt": r"prompt|\binput\b|\btext\b|\bbegin|story start",
    "steps": r"\bsteps?\b|number of tokens|tokens to|max\w* (?:new )?tokens|how many|\blength\b",
    "model": r"checkpoint|\bmodel\b|weights",
}
_FOREIGN_TEXT = re.compile(r"system prompt|\bmode\b|top[-_ ]?k\b|\bhelp\b|show this", re.IGNORECASE)

_SPELLING = r"--?[A-Za-z][\w-]*"
_METAVAR = r"<[^>\n]{1,40}>|\[[^\]\n]{1,40}\]|\{[^}\n]{1,60}\}|[A-Z][A-Z0-9_]*\b|\w+\b"
_OPTION = re.compile(rf"(?P<name>{_SPELLING})(?:(?P<join>[=:]|\[=|[ ])(?P<metavar>{_METAVAR}))?")
_IS_USAGE = re.compile(r"^\W*usage\b|^\W*options?:|^\W*example:|show this help", re.IGNORECASE | re.MULTILINE)
_POSITIONAL = re.compile(r"[<\[]*(?P<word>[A-Za-z][\w.-]*)[>\]]*(?:\.\.\.)?")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][\w.+-]*(?:/[\w.+-]+)*\.(?:bin|ckpt|model|weights)\b")
_MAX_PROGRAM_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Option:
    """One option: how it is spelled, and what joins it to its value ("=", ":" or " ")."""

    role: str
    name: str
    join: str = " "

    def words(self, join: str | None = None) -> tuple[str, ...]:
        """Return the words that pass this role's placeholder.

        >>> Option("steps", "--max_steps", "=").words()
        ('--max_steps={steps}',)
        """
        join = join or self.join
        value = f"{{{self.role}}}"
        return (self.name, value) if join == " " else (f"{self.name}{join}{value}",)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a program says of its arguments.

    Attributes:
        options: at most one for each role, long spellings before short ones.
        positionals: roles of the arguments without an option, in their order; "model_dir" for a directory.
    """

    options: tuple[Option, ...] = ()
    positionals: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.options or self.positionals)

    def option(self, role: str) -> Option | None:
        return next((option for option in self.options if option.role == role), None)


def looks_like_usage(text: str) -> bool:
    """Whether a program explains how to call it, rather than answers."""
    return bool(_IS_USAGE.search(text)) or len(re.findall(rf"^\s*{_SPELLING}\s", text, re.MULTILINE)) >= 3


def role_of(name: str) -> str | None:
    """Return the role that a name tells, if any.

    >>> role_of("--max_new_tokens"), role_of("-top-p"), role_of("checkpointPath"), role_of("--system-prompt")
    ('steps', 'topp', 'model', None)
    """
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name.strip("-<>[]{}"))
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    if "".join(words) in ("topp", "p") and len(name) > 1:
        return "topp"
    if not words or set(words) & _FOREIGN_WORDS:
        return None
    for role, known in _ROLE_WORDS.items():
        if not known.isdisjoint(words) and (len(words[0]) > 1 or len(words) > 1 or words[0] not in ("n",)):
            return role
    compact = "".join(words)
    for role, known in _ROLE_WORDS.items():
        if any(len(word) > 3 and compact.startswith(word) for word in known):
            return role
    return "steps" if "max" in words else None


def mine(text: str, *, program: Iterable[str] = ()) -> Usage:
    """Read a usage text.

    Args:
        program: the words of the command, which a usage line repeats before the arguments.
    """
    found: dict[str, Option] = {}
    for spellings, described in _entries(text):
        role = _role_of_entry(spellings, described)
        if role is not None and role not in found:
            name, join = max(spellings, key=lambda spelling: len(spelling[0]))[:2]
            found[role] = Option(role, name, join)
    return Usage(tuple(found.values()), _positionals(text, program, found))


def mine_program(content: bytes) -> Usage:
    """Find option names among the texts in a program, compiled or not, for when it explains nothing."""
    found: dict[str, Option] = {}
    for match in re.finditer(rb"(?<![\w-])(--[a-z][a-z0-9_-]{2,24})(=?)", content[:_MAX_PROGRAM_BYTES]):
        role = role_of(match[1].decode())
        if role is not None and (role not in found or (match[2] and found[role].join == " ")):
            found[role] = Option(role, match[1].decode(), "=" if match[2] else " ")
    return Usage(tuple(found.values()))


def file_names(text: str) -> list[str]:
    """List the names of weights and tokenizer files in a text, relative ones only, each once."""
    names = dict.fromkeys(
        match[0] for match in _FILE_NAME.finditer(text) if text[match.start() - 1 : match.start()] != "/"
    )
    return [name for name in names if ".." not in name.split("/") and len(name) < 100]


def _entries(text: str) -> Iterator[tuple[list[tuple[str, str, str]], str]]:
    """Yield each option of a usage text: its spellings (name, join, metavar), and the text that describes it."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not re.match(r"\s*(?:--?[A-Za-z]|\[-)", line) or line.lstrip().startswith("["):
            continue
        head = line.strip()
        spellings: list[tuple[str, str, str]] = []
        while match := _OPTION.match(head):
            spelling, rest = _spelling(match), head[match.end() :]
            if spelling[2] and not re.match(r"\s{2,}|\s*[,|/]|\s*$|\s*\t|\s", rest):
                break
            spellings.append(spelling)
            head = re.sub(r"^\s*(?:[,|/]|or\b)\s*(?=-)|^\s(?=--)", "", rest)
            if head == rest:
                break
        described = head
        for more in lines[number + 1 : number + 4]:
            if re.match(r"\s*(?:--?[A-Za-z]|\[|$)", more) or not more.startswith((" ", "\t")):
                break
            described += " " + more.strip()
        if spellings:
            yield spellings, described
    for group in re.findall(r"\[(--?[^\[\]]*(?:\[[^\]]*\])?[^\[\]]*)\]", text):
        spellings = [_spelling(match) for match in map(_OPTION.match, re.split(r"\s*[|,]\s*(?=-)", group)) if match]
        if spellings:
            yield spellings, ""
    # Options in a running text or a usage line without brackets: those whose names or metavars say enough.
    for match in _OPTION.finditer(text):
        says = len(match["name"].strip("-")) > 2 or (match["metavar"] or "a")[0] in "<ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        if says and text[match.start() - 1 : match.start()] in ("", " ", "\n", "\t"):
            yield [_spelling(match)], ""


def _spelling(match: re.Match[str]) -> tuple[str, str, str]:
    join = (match["join"] or " ").strip("[") or " "
    metavar = match["metavar"] or ""
    if join == " " and metavar.islower() and not metavar.startswith("<"):
        is_type = metavar in ("string", "int", "float", "uint", "path", "file", "num", "number", "str", "value")
        metavar = metavar if is_type else ""
    return match["name"], join, metavar


def _role_of_entry(spellings: list[tuple[str, str, str]], described: str) -> str | None:
    for name, _, _ in sorted(spellings, key=lambda spelling: -len(spelling[0])):
        if len(name.strip("-")) > 1 and (role := role_of(name)):
            return role
        if len(name.strip("-")) > 2 and set(re.split(r"[-_]+", name.strip("-").lower())) & _FOREIGN_WORDS:
            return None
    for _, _, metavar in spellings:
        if metavar and (role := role_of(metavar)):
            return role
    if _FOREIGN_TEXT.search(described):
        return None
    places = {
        role: place.start()
        for role, words in _ROLE_TEXT.items()
        if (place := re.search(words, described, re.IGNORECASE))
    }
    return min(places, key=lambda role: places[role]) if places else None


def _positionals(text: str, program: Iterable[str], found: dict[str, Option]) -> tuple[str, ...]:
    names = {word.rpartition("/")[2].lower() for word in program}
    for match in re.finditer(r"usage:?[ \t]*\n?(?P<line>[^\n]*(?:\n[ \t]{4,}[^\n-][^\n]*)*)", text, re.IGNORECASE):
        line = re.sub(r"\[?-{1,2}[A-Za-z][^\]\s]*(?:[ =:](?:<[^>]*>|[A-Z_]+\b))?\]?", " ", match["line"])
        words = re.sub(r"(?<=\s)[<>|]\s.*", "", line).split()
        while words and (
            words[0].rpartition("/")[2].lower() in names or words[0].lower() in ("java", "node", "python")
        ):
            words.pop(0)
        if not words or words[0] == line.split()[0]:
            words = words[1:]  # the program by a name of its own
        roles: list[str] = []
        for word in words:
            name = _POSITIONAL.fullmatch(word)
            if name is None:
                continue
            is_directory = re.search(r"dir(?:ectory)?\b|folder|_dir", name["word"], re.IGNORECASE) is not None
            role = (
                "model_dir"
                if is_directory
                else role_of(name["word"]) or ("model" if "path" in name["word"] else None)
            )
            if role is not None and role not in found and role not in roles:
                roles.append(role)
        if roles:
            return tuple(roles)
    return ()
