"""The report as JUnit XML: a test suite for each implementation, a test case for each verdict.

A wrong token is a `failure`, a program that did not work or was not judged enough is an `error`, and what is
excused is `skipped` with its reason. What fails the gate without being a case (nothing green, an incomplete run)
is an `error` in the suite "gate", so that this file and the exit status always agree.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from harness.report.summary import Summary, describe
from harness.results import Kind, Verdict

__all__ = ["render"]

# XML 1.0, section 2.2: everything but these may stand in a document.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(summary: Summary) -> str:
    """Render a summary as JUnit XML."""
    root = ET.Element("testsuites", name="llama-harness")
    failed = set(map(id, summary.failures))
    for standing in summary.standings:
        verdicts = [v for v in summary.verdicts if v.impl == standing.impl]
        suite = ET.SubElement(root, "testsuite", name=_safe(standing.impl))
        for verdict in verdicts:
            _add_case(suite, verdict, is_failed=id(verdict) in failed)
    if summary.shortcomings:
        suite = ET.SubElement(root, "testsuite", name="gate")
        for shortcoming in map(_safe, summary.shortcomings):
            case = ET.SubElement(suite, "testcase", classname="gate", name=shortcoming, time="0.000")
            ET.SubElement(case, "error", message=shortcoming, type="gate").text = shortcoming
    for suite in root:
        _set_counts(suite)
    _set_counts(root)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _add_case(suite: ET.Element, verdict: Verdict, *, is_failed: bool) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_safe(".".join(part for part in (verdict.impl, verdict.suite) if part)),
        name=_safe(verdict.case),
        time=f"{verdict.wall_s:.3f}",
    )
    message = _safe(f"{verdict.kind}: {verdict.reason}" if verdict.reason else verdict.kind.value)
    if is_failed:
        tag = "failure" if verdict.kind is Kind.MISMATCH else "error"
        element = ET.SubElement(case, tag, message=message, type=verdict.kind.value)
        element.text = _safe("\n".join(describe(verdict)))
    elif not verdict.kind.is_green:
        ET.SubElement(case, "skipped", message=message)


def _set_counts(element: ET.Element) -> None:
    for name, path in (
        ("tests", "testcase"),
        ("failures", "failure"),
        ("errors", "error"),
        ("skipped", "skipped"),
    ):
        element.set(name, str(len(list(element.iter(path)))))
    element.set("time", f"{sum(float(case.get('time', '0')) for case in element.iter('testcase')):.3f}")


def _safe(text: str) -> str:
    """Escape what XML cannot hold, as Python would."""
    return _FORBIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
