"""Golden cases as pytest items: one for each case and implementation.

The selected items of one implementation and model are judged together, in one pass, when the first of them runs; each
item then reads its own verdict. A run that judged nothing green fails, as `harness check` does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.adapters.implementation import ProcessImplementation
from harness.conformance.case import QUICK, Case, read_case, select, suite_names
from harness.conformance.check import check, implementations
from harness.conformance.levels import LEVELS
from harness.errors import CaseError, HarnessError, InputError
from harness.models import golden_dir
from harness.report.summary import Summary, counted, describe, is_problem, summarise
from harness.results import Kind, Verdict

__all__ = ["Goldens"]


class Wrong(Exception):
    """A verdict that fails its item."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        super().__init__(f"{verdict.kind}: {verdict.reason}")


class Goldens:
    """The plugin object of one pytest run: what is judged, and what came of it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.impls: list[ProcessImplementation] = []
        self.suites = _words(config.getoption("--suite"))
        self.models = _words(config.getoption("--models"))
        self.allow_skip: bool = config.getoption("--allow-skip")
        self._golden = golden_dir()
        self._suite_names = suite_names()
        self._judged: dict[tuple[str, str], dict[str, Verdict] | HarnessError] = {}
        self._seen: list[Verdict] = []
        self._named: list[str] = []

    # ---- collection

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Find the implementations, and refuse a selection that selects nothing."""
        specs = [spec for value in self.config.getoption("--impl") for spec in _words(value) or ()]
        level = self.config.getoption("--level")
        try:
            found = implementations(specs)
            select(self.suites or self._suite_names, models=self.models)
        except InputError as error:
            raise pytest.UsageError(str(error)) from error
        self.impls = [impl for impl in found if level is None or level in impl.manifest.levels]
        if not self.impls:
            raise pytest.UsageError(f"no implementation speaks level {level}")
        self._named = [impl.name for impl in self.impls] if specs else []

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        suite = file_path.parent
        if file_path.suffix != ".toml" or suite.parent != self._golden or suite.name not in self._suite_names:
            return None
        if file_path.name == "plan.toml" or (self.suites and suite.name not in self.suites):
            return None
        collector: pytest.Collector = GoldenFile.from_parent(parent, path=file_path, goldens=self)
        return collector

    def is_selected(self, case: Case) -> bool:
        names = self.models
        return names is None or any(
            case.model.name == name or case.model.name.startswith(f"{name}/") for name in names
        )

    # ---- judging

    def verdict(self, item: GoldenItem) -> Verdict:
        """Return an item's verdict, judging its whole group if that has not been done.

        Raises:
            HarnessError: the group cannot be judged.
        """
        key = item.group
        if key not in self._judged:
            group = [one for one in item.session.items if isinstance(one, GoldenItem) and one.group == key]
            try:
                self._judged[key] = self._judge(item.impl, [one.case for one in group])
            except HarnessError as error:
                self._judged[key] = error
        judged = self._judged[key]
        if isinstance(judged, HarnessError):
            raise judged
        return judged[item.case.key]

    def _judge(self, impl: ProcessImplementation, cases: list[Case]) -> dict[str, Verdict]:
        keys = {(case.suite, case.name): case.key for case in cases}
        option = self.config.getoption
        judged = check(
            [impl],
            cases,
            time_s=option("--harness-timeout-s"),
            jobs=option("--harness-jobs"),
            threads=option("--harness-threads"),
            levels=LEVELS if option("--level") is None else [option("--level")],
        )
        return {keys[v.suite, v.case]: v for verdicts in judged for v in verdicts}

    # ---- several processes

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Let one process judge a group, in one pass, unless the run asks for another distribution."""
        from harness.pytest_distribution import GROUPED, GroupScheduling

        return GroupScheduling(config, log, self._golden) if config.getvalue("dist") in GROUPED else None

    # ---- the gate

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what was judged; reports also come from other processes, where a run is distributed."""
        facts = dict(report.user_properties)
        if report.when == "call" and "verdict" in facts:
            kind = Kind(str(facts["verdict"]))
            self._seen.append(Verdict(report.nodeid, str(facts["implementation"]), "", kind))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fail a run that would pass without having judged anything green."""
        self._spare_hypothesis()
        is_worker = hasattr(self.config, "workerinput")
        if is_worker or self.config.option.collectonly or exitstatus != pytest.ExitCode.OK:
            return
        if self._summary().shortcomings:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._seen:
            return
        summary = self._summary()
        terminalreporter.section("golden cases")
        for standing in summary.standings:
            terminalreporter.write_line(f"{standing.impl}: {counted(standing.counts) or 'not judged'}")
        for shortcoming in summary.shortcomings:
            terminalreporter.write_line(f"FAIL: {shortcoming}", red=True)

    def _spare_hypothesis(self) -> None:
        """Take the plugin of Hypothesis out where no test used it: to say nothing, it would import all of it."""
        plugins = self.config.pluginmanager
        if "hypothesis" not in sys.modules and (plugin := plugins.get_plugin("hypothesispytest")):
            plugins.unregister(plugin)

    def _summary(self) -> Summary:
        return summarise(self._seen, named=self._named, allow_skip=self.allow_skip)


class GoldenFile(pytest.File):
    """One golden, which gives an item for each implementation."""

    def __init__(self, *, goldens: Goldens, **options: Any) -> None:
        super().__init__(**options)
        self.goldens = goldens

    def collect(self) -> Iterator[pytest.Item]:
        try:
            case = read_case(self.path)
        except CaseError as error:
            raise self.CollectError(str(error)) from error
        if self.goldens.is_selected(case):
            for impl in self.goldens.impls:
                yield GoldenItem.from_parent(
                    self, name=f"{case.name}[{impl.name}]", case=case, impl=impl, goldens=self.goldens
                )


class GoldenItem(pytest.Item):
    """One case on one implementation."""

    def __init__(self, *, case: Case, impl: ProcessImplementation, goldens: Goldens, **options: Any) -> None:
        super().__init__(**options)
        self.case = case
        self.impl = impl
        self.goldens = goldens
        self.extra_keyword_matches.update((*case.tags, impl.name, case.suite, case.model.name))
        if QUICK in case.tags:
            self.add_marker(pytest.mark.quick)
        if self.config.pluginmanager.hasplugin("timeout"):
            # The first item of a group waits for all of it; each program has its own limit.
            self.add_marker(pytest.mark.timeout(0))

    @property
    def group(self) -> tuple[str, str]:
        return self.impl.name, self.case.model.sha256

    def runtest(self) -> None:
        verdict = self.goldens.verdict(self)
        self.user_properties += [("verdict", verdict.kind.value), ("implementation", self.impl.name)]
        reason = f"{verdict.kind}: {verdict.reason}"
        if is_problem(verdict.kind, allow_skip=self.goldens.allow_skip):
            raise Wrong(verdict)
        if verdict.kind is Kind.KNOWN:
            pytest.xfail(reason)
        if not verdict.kind.is_green:
            pytest.skip(reason)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Wrong):
            return "\n".join(describe(excinfo.value.verdict))
        if isinstance(excinfo.value, HarnessError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"{self.case.key}[{self.impl.name}]"


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]
