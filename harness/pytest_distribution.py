"""Golden cases on several processes: what is judged in one pass goes to one process.

The grouping that pytest-xdist has (`--dist loadgroup`) writes the group into an item's node id. pytest 9.2 does not
let it do that any more: groups are torn apart without a word, and each process judges all of a group for its share of
it. Hence a scheduler of our own, for which xdist has a hook; this module is imported only where xdist asks for one.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from harness.conformance.case import read_case

__all__ = ["GROUPED", "GroupScheduling", "group_of"]

GROUPED = ("load", "loadgroup", "worksteal")
"""The values of `--dist` that leave it to the scheduler where an item goes."""


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Give a free process the largest group that nobody has.

    Args:
        config: of the run.
        log: where xdist wants its debugging output.
        golden: the directory of the suites.
    """

    def __init__(self, config: pytest.Config, log: Any, golden: Path) -> None:
        super().__init__(config, log)
        self._golden = golden
        self._groups: dict[str, str] = {}

    def _split_scope(self, nodeid: str) -> str:
        """xdist's question for the group of an item, which it asks again at each report."""
        if nodeid not in self._groups:
            self._groups[nodeid] = group_of(nodeid, self._golden)
        return self._groups[nodeid]


def group_of(nodeid: str, golden: Path) -> str:
    """Return the name of the group of a golden case, of any other item its node id.

    The process that distributes collects nothing: all that it has of an item is this.

    Args:
        nodeid: as pytest prints it: path/to/golden/SUITE/CASE.toml::CASE[IMPL].
        golden: the directory of the suites.
    """
    path, _, name = nodeid.partition("::")
    file = golden.joinpath(*Path(path).parts[-2:])
    if file.suffix != ".toml" or not file.is_file():
        return nodeid
    return f"{name.rpartition('[')[2]} on {_model_of(file)}"


@cache  # each case is asked for once for each implementation
def _model_of(file: Path) -> str:
    return read_case(file).model.sha256
