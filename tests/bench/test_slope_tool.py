"""tools/slope_against_clock.py: the clock inside a program is read where the slope measures."""

import importlib.util
import shutil
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "slope_against_clock.py"


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("slope_against_clock", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("n_after", [0, 1, 3])
def test_the_last_tokens_are_timed_and_nothing_after_them(tool, tmp_path, n_after):
    # Three slow positions, then four at 0.5 s each; what is flushed at the end comes much later.
    times = [1.0, 4.0, 7.0, 7.5, 8.0, 8.5, 9.0, *[50.0] * n_after]
    (tmp_path / "stamps").write_text("".join(f"{t}\n" for t in times))
    assert tool.clock_inside(tmp_path / "stamps", 7, 4) == pytest.approx(0.5)


@pytest.mark.parametrize("n", [1, 6, 11])
def test_a_program_that_does_not_print_token_by_token_is_refused(tool, tmp_path, n):
    (tmp_path / "stamps").write_text("1.0\n" * n)
    with pytest.raises(SystemExit, match="token by token"):
        tool.clock_inside(tmp_path / "stamps", 7, 4)


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_a_real_program_prints_the_same_with_the_clock_preloaded(tool, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tool", "--model", "260K", "--impls", "c", "--rounds", "1", "--within", "1000"])
    assert tool.main() == 0
    assert "c on 260K f32: slope " in capsys.readouterr().out
