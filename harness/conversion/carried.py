"""The tokenizer that goes along with a conversion: the one that was asked for, or the source's own.

Into the result, where its format has a place for one; else into a file beside it: STEM-tok.bin, or STEM-tok.json of a
byte-level vocabulary. One that was asked for must arrive; the source's own is left out where it cannot, and that is
told.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from harness.checkpoint import Checkpoint, sha256_of
from harness.errors import CheckpointError, TokenizerError
from harness.formats import Format, fits
from harness.tokenizer import AnyTokenizer, Tokenizer, write_any

__all__ = ["Carried", "carry"]


@dataclass(slots=True)
class Carried:
    """A tokenizer on its way.

    Attributes:
        tokenizer: None: there is none, or it is left out.
        is_asked: whether it was asked for.
        told: what became of it; empty as long as nothing has, and where there is none.
    """

    tokenizer: AnyTokenizer | None
    is_asked: bool
    told: str = ""

    def leave_out(self, error: TokenizerError | str) -> None:
        """Go on without it.

        Raises:
            TokenizerError: it was asked for.
        """
        if self.is_asked and isinstance(error, TokenizerError):
            raise error
        self.tokenizer = None
        self.told = f"the tokenizer is left out: {error if isinstance(error, str) else error.what}"

    def beside(self, path: Path) -> Path:
        """Name the file beside a result that has no place for it."""
        suffix = "bin" if isinstance(self.tokenizer, Tokenizer) else "json"
        return path.with_name(f"{path.stem}-tok.{suffix}")

    def write_beside(self, path: Path) -> None:
        """Write it beside a result.

        Raises:
            TokenizerError: it was asked for, and its file cannot say how it encodes, or cannot be written.
            CheckpointError: there is another file of this name.
        """
        if self.tokenizer is None:
            return
        file = self.beside(path)
        temporary = file.with_name(f".{secrets.token_hex(4)}-{file.name}")
        try:
            write_any(self.tokenizer, temporary)
            if not file.exists():
                temporary.rename(file)
            elif sha256_of(file) != sha256_of(temporary):
                raise CheckpointError("another tokenizer is there already", path=file, hint="move it away")
            self.told = f"the tokenizer is in {file}"
        except TokenizerError as error:
            self.leave_out(error)
        finally:
            temporary.unlink(missing_ok=True)


def carry(asked: AnyTokenizer | None, form: Format, source: Path, checkpoint: Checkpoint) -> Carried:
    """Find the tokenizer of a conversion: the one that was asked for, or what lies in the source."""
    if asked is not None or form.read_tokenizer is None:
        return Carried(asked, is_asked=asked is not None)
    found = Carried(None, is_asked=False)
    try:
        found.tokenizer = form.read_tokenizer(source)
    except TokenizerError as error:
        found.leave_out(error)
    n_ids = checkpoint.config.vocab_size
    if found.tokenizer is not None and not fits(found.tokenizer, n_ids):
        found.leave_out(f"it has {found.tokenizer.vocab_size:,} pieces, and the model {n_ids:,} ids")
    return found
