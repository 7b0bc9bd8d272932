"""Make the embedded models: `python -m training.make [NAME ...]`, all four by default.

Writes NAME.bin, NAME-q8.bin and NAME-tok.bin for each model of llama2.c's kind, the directory llama3, and then
models.toml, which lists them with their hashes.
"""

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

from training import llama3, tokenizer
from training.checkpoint import write_v0, write_v2
from training.models import MODELS, OUT, Recipe
from training.train import train

NAMES = (*MODELS, llama3.NAME)


def make(name: str, out: Path, n_steps: int | None) -> None:
    """Train one model and write its files."""
    if name == llama3.NAME:
        pieces = llama3.vocabulary()
        llama3.write(pieces, train(_shortened(llama3.RECIPE, n_steps), llama3.CONFIG, pieces), out / name)
        return
    model = MODELS[name]
    vocabulary = model.vocabulary()
    weights = train(_shortened(model.recipe, n_steps), model.config, vocabulary)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.write(vocabulary, out / f"{name}-tok.bin")
    write_v0(model.config, weights, out / f"{name}.bin")
    write_v2(model.config, weights, out / f"{name}-q8.bin", group_size=model.group_size)


def _shortened(recipe: Recipe, n_steps: int | None) -> Recipe:
    return replace(recipe, n_steps=n_steps) if n_steps else recipe


def index(out: Path) -> str:
    """models.toml: what is in the directory."""
    entries = []
    for name, model in MODELS.items():
        for suffix, form in (("", "llama2c-v0"), ("-q8", "llama2c-v2")):
            lines = {
                "name": name + suffix,
                "file": f"{name}{suffix}.bin",
                "tokenizer": f"{name}-tok.bin",
                "sha256": _sha256(out / f"{name}{suffix}.bin"),
                "tokenizer_sha256": _sha256(out / f"{name}-tok.bin"),
                "format": form,
            }
            entry = "[[model]]\n" + "".join(f'{key} = "{value}"\n' for key, value in lines.items())
            if suffix:
                entry += f"group_size = {model.group_size}\n"
            entries.append(entry + f'description = "{model.description}{", int8" if suffix else ""}"\n')
    entries.append(_llama3_entry(out))
    return "# Written by `python -m training.make`; the files never change once goldens name them.\n\n" + "\n".join(
        entries
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _llama3_entry(out: Path) -> str:
    directory = out / llama3.NAME
    lines = {
        "name": llama3.NAME,
        "file": llama3.NAME,
        "tokenizer": f"{llama3.NAME}/tokenizer.json",
        "sha256": _sha256_of_directory(directory),
        "tokenizer_sha256": _sha256(directory / "tokenizer.json"),
        "format": "huggingface",
        "description": llama3.DESCRIPTION,
    }
    return "[[model]]\n" + "".join(f'{key} = "{value}"\n' for key, value in lines.items())


def _sha256_of_directory(directory: Path) -> str:
    """Hash of what `sha256sum *` prints there, in the order of the names' bytes."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    return hashlib.sha256("".join(f"{_sha256(path)}  {path.name}\n" for path in files).encode()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which models; default {' '.join(NAMES)}")
    parser.add_argument("--out", type=Path, default=OUT, help="directory to write to; default golden/models")
    parser.add_argument("--n-steps", type=int, help="train for fewer steps, to try things out")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"no model {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name in arguments.names or NAMES:
        print(f"{name}:", file=sys.stderr)
        make(name, arguments.out, arguments.n_steps)
    if all((arguments.out / f"{name}.bin").exists() for name in MODELS) and (arguments.out / llama3.NAME).exists():
        (arguments.out / "models.toml").write_text(index(arguments.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
