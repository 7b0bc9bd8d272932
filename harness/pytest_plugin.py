"""The pytest plugin: `pytest golden/ --impl NAME` judges golden cases as pytest items.

    pytest golden/ --impl ./my-port/run             in a checkout
    pytest --pyargs harness.golden --impl c         where the package is installed

pytest loads this module in every run of the environment, so it imports nothing and does nothing, not even add an
option that another plugin may have too, unless the run is one of our goldens. The work is in `pytest_goldens`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

__all__ = ["concerns_goldens", "pytest_configure", "pytest_load_initial_conftests"]

_HERE = Path(__file__).parent
_IS_OURS = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    early_config.stash[_IS_OURS] = concerns_goldens(args, early_config.invocation_params.dir)
    if early_config.stash[_IS_OURS]:
        _add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    if config.stash.get(_IS_OURS, False):
        from harness.pytest_goldens import Goldens

        config.addinivalue_line("markers", "quick: the smallest set of golden cases that still kills most bugs")
        config.pluginmanager.register(Goldens(config), "harness-goldens")


def concerns_goldens(args: Sequence[str], directory: Path) -> bool:
    """Tell whether a command line, given in a directory, asks for golden cases."""
    # As harness.models.golden_dir, which costs an import of numpy.
    golden = _HERE / "golden" if (_HERE / "golden").is_dir() else _HERE.parent / "golden"
    words = [word.partition("::")[0] for word in args if not word.startswith("-")]
    if any(word == "harness" or word.startswith("harness.golden") for word in words):
        return True
    paths = [path for word in words if (path := directory / word).exists()] or [directory]
    resolved = [path.resolve() for path in paths]
    return any(path in (golden, golden.parent) or golden in path.parents for path in resolved)


def _add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("harness", "golden cases of llama-family inference")
    group.addoption(
        "--impl",
        action="append",
        default=[],
        metavar="IMPL",
        help="implementation to judge: a name in impls/, an impl.toml, a program; a comma list; may be repeated. "
        "Default: all of ours that can be built here; alternates: other builds of them.",
    )
    group.addoption("--suite", default=None, metavar="SUITES", help="comma list of suites. Default: all.")
    group.addoption("--models", default=None, metavar="MODELS", help="comma list of models. Default: all.")
    group.addoption(
        "--level",
        default=None,
        choices=("TEXT", "TOKENS", "LOGITS", "TRACE"),
        help="only implementations whose manifest claims this level, judged at it. Default: all that each claims.",
    )
    group.addoption(
        "--harness-jobs", type=int, default=1, metavar="N", help="programs that run at a time. Default: 1."
    )
    group.addoption(
        "--harness-threads", type=int, default=1, metavar="N", help="threads each program is to use. Default: 1."
    )
    group.addoption(
        "--harness-timeout-s",
        type=float,
        default=None,
        metavar="SECONDS",
        help="limit of each run. Default: the manifest's, or 60.",
    )
    group.addoption(
        "--allow-skip",
        action="store_true",
        help="pass although nothing green was checked, or a case was not judged enough.",
    )
