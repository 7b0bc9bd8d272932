"""The calling shapes seen in the wild, and the forms of a model that programs read.

A `Shape` is how a program is called; a `Form` is what file it is given. Shapes that are only tried have every common
file name linked in the working directory and the prompt on stdin: whatever is not needed is taken away afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from harness.conformance.adopt.options import ROLES, Option, Usage

__all__ = ["FLAGS", "FORMS", "NOTHING", "PLAIN", "Form", "Shape", "common_shapes", "mined_shapes", "with_files"]

Group = tuple[str, ...]

# What a program mentions by itself is linked too, so only the names that ports agree on stand here.
_MODEL_NAMES = (
    "stories15M.bin", "model.bin", "stories260K.bin", "stories42M.bin", "stories110M.bin", "llama2_7b.bin",
    "checkpoint.bin", "weights.bin", "out/model.bin", "models/stories15M.bin", "data/stories15M.bin",
    "data/models/stories15M.bin",
)  # fmt: skip
_TOKENIZER_NAMES = ("tokenizer.bin", "tok512.bin", "data/tokenizer.bin", "models/tokenizer.bin")
_DIRECTORY = (
    *((name, "{model}") for name in ("checkpoint_v1.bin", "model.bin", "checkpoint.bin", "checkpoint_v0.bin")),
    *((name, "{model}") for name in ("stories15M.bin", "weights.bin", "model_v1.bin")),
    *((name, "{tokenizer}") for name in ("tokenizer.bin", "vocab.bin")),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A way of calling a program.

    Attributes:
        name: as it is reported.
        args: what follows the command, grouped: an option stands with its value.
        prompt_args: what {prompt_args} among them stands for.
        stdin: fed to the program.
        files, model_dir: name -> placeholder, as in a manifest.
        cwd: as in a manifest.
        is_said: whether the program itself speaks of these arguments.
    """

    name: str
    args: tuple[Group, ...]
    prompt_args: Group = ()
    stdin: str = ""
    files: tuple[tuple[str, str], ...] = ()
    model_dir: tuple[tuple[str, str], ...] = ()
    cwd: str = "{work}"
    is_said: bool = False

    @property
    def words(self) -> Group:
        return tuple(word for group in self.args for word in group)

    def passes(self, role: str) -> bool:
        """Whether an argument carries this role."""
        return any(f"{{{role}}}" in word for word in (*self.words, *self.prompt_args))

    def without(self, role: str) -> Shape:
        """Return the shape that lacks the arguments of one role."""
        mark = "{prompt_args}" if role == "prompt" and self.prompt_args else f"{{{role}}}"
        args = tuple(group for group in self.args if not any(mark in word for word in group))
        return replace(self, args=args, prompt_args=() if role == "prompt" else self.prompt_args)


@dataclass(frozen=True, slots=True)
class Form:
    """The same function in another file: a container, an exact expansion, a tokenizer layout."""

    name: str
    format: str = "llama2c-v0"
    mha: bool = False
    untied: bool = False
    vocab_size: int | None = None
    hidden_multiple: int | None = None
    layout: str = "today"


PLAIN = Form("version 0")
# Most probable first; the last ones are what the first ports of all read.
FORMS = (
    Form("one KV head per query head", mha=True),
    Form("version 1", format="llama2c-v1"),
    Form("version 2 (int8)", format="llama2c-v2"),
    Form("tokenizer without the longest length", layout="no-max"),
    Form("tokenizer without scores", layout="no-scores"),
    Form("one KV head per query head, tokenizer without scores", mha=True, layout="no-scores"),
    Form("one KV head per query head, tokenizer without the longest length", mha=True, layout="no-max"),
    Form("vocabulary of 32000", vocab_size=32000),
    Form("hidden_dim a multiple of 64", hidden_multiple=64),
    Form("separate classifier", untied=True),
    Form("version 1, one KV head per query head", format="llama2c-v1", mha=True),
    Form("one KV head per query head, vocabulary of 32000", mha=True, vocab_size=32000),
    Form("one KV head per query head, separate classifier", mha=True, untied=True),
)


def _groups(*texts: str) -> tuple[Group, ...]:
    return tuple(tuple(text.split()) for text in texts)


FLAGS = Shape(
    "llama2.c flags",
    _groups("{model}", "-z {tokenizer}", "-t {temperature}", "-p {topp}", "-s {seed}", "-n {steps}", "{prompt_args}"),
    prompt_args=("-i", "{prompt}"),
)
NOTHING = Shape("no arguments, fixed file names", ())


def with_files(shape: Shape, more: Iterable[str] = ()) -> Shape:
    """Link every common file name, and those in `more`, and put the prompt on stdin."""
    files = dict.fromkeys(_MODEL_NAMES, "{model}") | dict.fromkeys(_TOKENIZER_NAMES, "{tokenizer}")
    for name in more:
        files.setdefault(name, "{tokenizer}" if "tok" in name or "vocab" in name else "{model}")
    # A name that is a directory of another cannot be a file too.
    names = {name: what for name, what in files.items() if not any(other.startswith(name + "/") for other in files)}
    return replace(shape, stdin=shape.stdin or "{prompt}\n", files=tuple(names.items()))


def common_shapes() -> Iterator[Shape]:
    """Yield the shapes that are tried on any program, common ones first."""
    yield replace(FLAGS.without("tokenizer"), name="llama2.c flags, tokenizer.bin in the working directory")
    for texts in (
        "{model} {temperature} {steps} {prompt}",
        "{model} {prompt}",
        "{model} {tokenizer} {prompt}",
        "{model} {temperature} {steps}",
        "{model} {tokenizer} {temperature} {steps} {prompt}",
        "{model} {prompt} {steps} {temperature}",
        "{model} {steps} {prompt}",
        "{model} {tokenizer}",
    ):
        name = "positional " + texts.replace("{", "").replace("}", "").upper()
        yield Shape(name, tuple((word,) for word in texts.split()))
    tail = {"temperature": "temperature", "topp": "topp", "steps": "steps", "prompt": "prompt"}
    plain = {"model": "checkpoint", "tokenizer": "tokenizer", **tail}
    equals = {"model": "checkpoint_path", "tokenizer": "tokenizer_path", **tail, "steps": "max_steps"}
    yield _long("--long_name=value", equals, "=")
    yield _long("--long-name value", plain, " ")
    yield _long("--long-name value, model first", {"tokenizer": "tokenizer", **tail}, " ", first=(("{model}",),))
    by_prompt = {"prompt": "prompt", "temperature": "temperature", "steps": "sequence_length"}
    directory = _long("model directory, --long_name value", by_prompt, " ", first=(("{model_dir}",),))
    yield replace(directory, model_dir=_DIRECTORY)
    yield _long("Go style", plain, " ", dash="-")
    less = {"tokenizer": "tokenizer", **tail}
    yield _long("Go style, model last", less, " ", dash="-", last=(("{model}",),))
    yield _long("Go style, model first", less, " ", dash="-", first=(("{model}",),))
    letters = {"temperature": "t", "topp": "p", "seed": "s", "steps": "n", "prompt": "i"}
    yield _long("-m:VALUE", {"model": "m", "tokenizer": "z", **letters}, ":", dash="-")
    yield _long("-z:VALUE, model first", {"tokenizer": "z", **letters}, ":", dash="-", first=(("{model}",),))
    weights = {"model": "w", "tokenizer": "t", "prompt": "i"}
    yield _long("-w WEIGHTS -t TOKENIZER -i PROMPT", weights, " ", dash="-")
    yield _long("-m MODEL -p PROMPT -n STEPS", {"model": "m", "prompt": "p", "steps": "n"}, " ", dash="-")
    yield _long("--model=value", {**plain, "model": "model"}, "=")
    yield _long("--model value", {**plain, "model": "model"}, " ")
    yield Shape("model directory", (("{model_dir}",), ("{prompt}",)), model_dir=_DIRECTORY)
    beside = replace(FLAGS.without("tokenizer"), name="llama2.c flags, tokenizer.bin beside the model")
    args = tuple(tuple(word.replace("{model}", "{model_dir}/model.bin") for word in group) for group in beside.args)
    yield replace(beside, args=args, model_dir=(("model.bin", "{model}"), ("tokenizer.bin", "{tokenizer}")))
    yield Shape("fixed file names, positional PROMPT", (("{prompt}",),))
    yield Shape(
        "fixed file names, positional TEMPERATURE STEPS PROMPT", (("{temperature}",), ("{steps}",), ("{prompt}",))
    )


def _long(
    name: str,
    options: dict[str, str],
    join: str,
    *,
    dash: str = "--",
    first: tuple[Group, ...] = (),
    last: tuple[Group, ...] = (),
) -> Shape:
    return _of_options(name, [Option(role, dash + text, join) for role, text in options.items()], first, last)


def _of_options(
    name: str, options: Iterable[Option], first: tuple[Group, ...] = (), last: tuple[Group, ...] = (), join: str = ""
) -> Shape:
    options = list(options)
    prompt = next((option for option in options if option.role == "prompt"), None)
    groups = tuple(option.words(join or None) for option in options if option.role != "prompt")
    if prompt is None:
        return Shape(name, (*first, *groups, *last))
    return Shape(name, (*first, *groups, ("{prompt_args}",), *last), prompt_args=prompt.words(join or None))


def mined_shapes(usage: Usage) -> list[Shape]:
    """Build shapes from what a program says of its arguments, the most literal reading first."""
    if not usage:
        return []
    options = [option for role in ROLES if (option := usage.option(role))]
    core = [option for option in options if option.role in ROLES[:5]]
    positionals = list(usage.positionals)
    if usage.option("model") is None and not {"model", "model_dir"} & set(positionals):
        positionals.insert(0, "model")
    groups = tuple((f"{{{role}}}",) for role in positionals)
    shapes = [
        _of_options("options of its usage text", options, first=groups),
        _of_options("options of its usage text, then arguments", options, last=groups),
    ]
    if len(core) < len(options):
        shapes.append(_of_options("main options of its usage text", core, first=groups))
    if usage.option("prompt") is None and "prompt" not in positionals:
        shapes.append(_of_options("options of its usage text, then a prompt", options, groups, (("{prompt}",),)))
    if usage.option("tokenizer") is None and "tokenizer" not in positionals and "model" in positionals:
        place = positionals.index("model") + 1
        widened = (*groups[:place], ("{tokenizer}",), *groups[place:])
        shapes.append(_of_options("options of its usage text, model and tokenizer", options, first=widened))
    for join in ("=", " "):
        if options and all(option.join != join and option.join != ":" for option in options):
            shapes.append(_of_options(f"options of its usage text, joined by {join!r}", options, groups, join=join))
    in_directory = [_directory(shape) for shape in shapes[:1]]
    seen: dict[tuple[object, ...], Shape] = {}
    for shape in (*map(_directory_if_named, shapes), *in_directory):
        seen.setdefault((shape.args, shape.prompt_args, shape.model_dir), shape)
    return [replace(shape, is_said=True) for shape in seen.values()]


def _directory_if_named(shape: Shape) -> Shape:
    return replace(shape, model_dir=_DIRECTORY) if shape.passes("model_dir") else shape


def _directory(shape: Shape) -> Shape:
    args = tuple(tuple(word.replace("{model}", "{model_dir}") for word in group) for group in shape.args)
    return replace(shape, name=f"{shape.name}, model directory", args=args, model_dir=_DIRECTORY)
