"""Make the embedded models: `python -m training.make [NAME ...]`, all three by default.

Writes NAME.bin, NAME-q8.bin and NAME-tok.bin for each model and then models.toml, which lists the files
with their hashes.
"""

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

from training import tokenizer
from training.checkpoint import write_v0, write_v2
from training.models import MODELS, OUT
from training.train import train


def make(name: str, out: Path) -> None:
    """Train one model and write its three files."""
    model = MODELS[name]
    vocabulary = model.vocabulary()
    weights = train(model.recipe, model.config, vocabulary)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.write(vocabulary, out / f"{name}-tok.bin")
    write_v0(model.config, weights, out / f"{name}.bin")
    write_v2(model.config, weights, out / f"{name}-q8.bin", group_size=model.group_size)


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
    return "# Written by `python -m training.make`; the files never change once goldens name them.\n\n" + "\n".join(
        entries
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which models; default {' '.join(MODELS)}")
    parser.add_argument("--out", type=Path, default=OUT, help="directory to write to; default golden/models")
    parser.add_argument("--n-steps", type=int, help="train for fewer steps, to try things out")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(MODELS)
    if unknown:
        parser.error(f"no model {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    for name in arguments.names or MODELS:
        print(f"{name}:", file=sys.stderr)
        if arguments.n_steps:
            MODELS[name] = replace(MODELS[name], recipe=replace(MODELS[name].recipe, n_steps=arguments.n_steps))
        make(name, arguments.out)
    if all((arguments.out / f"{name}.bin").exists() for name in MODELS):
        (arguments.out / "models.toml").write_text(index(arguments.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
