"""reports/: what its README lists is what the script makes."""

import re
import subprocess
from pathlib import Path

from harness.cli.completion import candidates
from harness.report import readme

ROOT = Path(__file__).parent.parent.parent
SCRIPT = (ROOT / "reports" / "make.sh").read_text("utf-8")
PAGE = (ROOT / "reports" / "README.md").read_text("utf-8")


def test_every_report_that_the_script_makes_is_listed():
    made = re.findall(r"^    ([a-z0-9-]+)\)", SCRIPT, re.MULTILINE)
    assert re.findall(r"^\| `reports/make.sh ([a-z0-9-]+)`", PAGE, re.MULTILINE) == made
    assert re.search(r'^reports="([a-z0-9 -]+)"$', SCRIPT, re.MULTILINE)[1].split() == made


def test_the_commands_of_the_script_have_the_options_that_it_uses():
    commands = re.findall(
        r'(?:"\$harness" (\w+)|^ *(?:\w+\) )?(bench) [a-z])(.*)', SCRIPT.replace("\\\n", " "), re.MULTILINE
    )
    assert len(commands) >= 7
    for named, bench, rest in commands:
        assert set(re.findall(r" (--[a-z-]+)", rest)) <= set(candidates([named or bench, "--"]))


def test_an_unknown_report_is_refused_in_one_line():
    run = subprocess.run([ROOT / "reports" / "make.sh", "nonsense"], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1


def test_the_readme_has_the_markers_of_its_block():
    content = (ROOT / "README.md").read_bytes()
    assert readme.renewed(content, "| model |", "README.md").count(b"| model |") >= 1
