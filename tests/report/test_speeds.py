"""Benchmarks merged, and their renderings, on rows written by hand."""

import csv as reader
import io
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.benchfile import LATE, Absent, AtContext, Key
from harness.errors import InputError
from harness.report import csv, document, html, markdown, plots, readme, tables, terminal
from harness.report.speeds import contexts, gather
from tests.report.speeds_by_hand import MACHINE, bench, everything, row, samples, seconds

# ---- merging


def test_files_of_one_machine_are_one_section_and_of_two_are_two():
    a, b = bench(row("c")), bench(row("zig"), path="b.jsonl")
    other = bench(row("c"), path="c.jsonl", machine={**MACHINE, "cpu": "Abacus 10"})
    one, two = gather([a, other, b]).sections
    assert [r.key.impl for r in one.rows] == ["c", "zig"]
    assert two.machine["cpu"] == "Abacus 10"
    assert len(one.samples) == 18


def test_of_two_rows_of_one_thing_the_later_counts_and_that_is_said():
    old, new = bench(row("c", 50.0)), bench(row("c", 60.0), row("zig"), path="new.jsonl")
    found = gather([old, new])
    assert [r.decode_tps for r in found.sections[0].rows] == pytest.approx([60.0, 100.0])
    assert len(found.sections[0].samples) == 18
    assert found.notes == ("run.jsonl and new.jsonl have 1 row in common: those of new.jsonl are shown",)


def test_a_row_that_is_gone_replaces_one_that_was_there():
    gone = Absent(Key("15M", "f32", 1, "c"), "MISMATCH", "wrong")
    (section,) = gather([bench(row("c")), bench(row("zig"), absent=[gone], path="b")]).sections
    assert tables.speeds(section).texts[0][1:3] == ("MISMATCH", "100")


def test_other_builds_and_unfinished_files_are_told():
    old = bench(row("c"), builds={"c": "1" * 64})
    new = bench(row("zig"), builds={"c": "2" * 64}, path="b.jsonl", complete=False)
    found = gather([old, new])
    assert not found.complete
    assert found.notes == (
        "b.jsonl: the benchmark was cut short",
        "c is of two builds: 111111111111 in run.jsonl, 222222222222 in b.jsonl",
    )


def test_the_context_of_runs_that_were_asked_for_no_lengths_is_what_they_span():
    one = row("c", 50.0)
    assert contexts(one, samples(one)) == (AtContext(15, 207, one.decode_s),)
    asked = replace(one, contexts=(AtContext(0, 64, seconds(60)), AtContext(64, 256, seconds(40))))
    assert contexts(asked, samples(asked)) == asked.contexts
    assert contexts(one, ()) == ()


# ---- tables


def test_the_short_table_has_a_line_for_each_model_and_a_column_for_each_program():
    share = seconds(1 / 0.5)
    (section,) = gather([bench(row("a", 500.0, share=share, notes=("synthetic weights",)), row("b", 250.0))]).sections
    found = tables.speeds(section)
    assert [column.heading for column in found.columns] == ["model", "a", "b", "notes"]
    assert found.texts == (("15M", "500", "250", "of the read limit: a 50%; a: synthetic weights"),)
    assert [cell.tone for cell in found.lines[0]] == ["", "best", "", ""]
    assert markdown.table(found).splitlines()[1] == "| --- | ---: | ---: | --- |"


def test_int8_variants_stand_in_the_column_of_their_program():
    (section,) = gather([bench(row("a"), row("a-q8", precision="q8"), row("a", threads=2))]).sections
    found = tables.speeds(section)
    assert [column.heading for column in found.columns] == ["model", "a", "notes"]
    assert [line[0] for line in found.texts] == ["15M, fp32, 1 thread", "15M, fp32, 2 threads", "15M, int8, 1 thread"]


def test_a_program_without_a_row_shows_why():
    gone = Absent(Key("15M", "f32", 1, "b"), "MISMATCH", "token 3 is wrong")
    (section,) = gather([bench(row("a"), absent=[gone])]).sections
    assert tables.speeds(section).texts == (("15M", "100", "MISMATCH", "b: token 3 is wrong"),)
    assert tables.details(section).texts[1][-1] == "MISMATCH"


def test_details_hold_every_figure_and_no_empty_column():
    section = everything().sections[0]
    found = tables.details(section)
    by_heading = [dict(zip([c.heading for c in found.columns], line, strict=True)) for line in found.texts]
    assert by_heading[0]["interval"] == "95.0–104 (95%)"
    assert by_heading[0]["prefill"] == "300"
    assert (by_heading[0]["read"], by_heading[0]["product"]) == ("60%", "60%")
    assert by_heading[1]["claims"] == "300 !"
    assert by_heading[1]["paired"] == "2.50 × c FASTER"
    assert by_heading[3]["tokens"] == "EXACT, busy"
    assert by_heading[4]["to fp32"] == "3.00 FASTER"
    assert not {"first ms", "disk MB", "harness", "to 1 thread"} & set(by_heading[0])


def test_a_share_above_the_limit_is_flagged_and_not_cut_off():
    (section,) = gather([bench(row("c", share=seconds(1 / 1.2)))]).sections
    (cell,) = (c for c in tables.details(section).lines[0] if "%" in c.text and "–" not in c.text)
    assert (cell.text, cell.tone) == ("120% !", "warn")


def test_lines_are_in_the_order_of_models_precisions_and_threads_and_columns_in_that_of_programs():
    int8 = row("a-q8", model="42M", precision="q8")
    rows = [row("b", model="42M", threads=2), int8, row("a", model="15M"), row("b", model="42M")]
    (section,) = gather([bench(*rows, builds={"a": "1", "a-q8": "1", "b": "2"})]).sections
    found = tables.speeds(section)
    assert [column.heading for column in found.columns] == ["model", "a", "b", "notes"]
    labels = ["42M, fp32, 1 thread", "42M, fp32, 2 threads", "42M, int8, 1 thread", "15M, fp32, 1 thread"]
    assert [line[0] for line in found.texts] == labels


def test_what_is_said_of_several_programs_is_said_once():
    gone = [Absent(Key("15M", "f32", 1, name), "SKIPPED", "no time") for name in ("c", "d")]
    (section,) = gather([bench(row("a", claim="counts twice"), row("b", notes=("TIE",)), absent=gone)]).sections
    assert tables.speeds(section).texts[0][-1] == "a: counts twice; b: TIE; c, d: no time"


def test_runs_that_were_made_again_are_counted():
    file = bench(row("c"), row("zig"))
    late = [replace(one, run=f"{one.run}{LATE}") for one in file.samples if one.key.impl == "zig" and one.round]
    (section,) = gather([replace(file, samples=(*file.samples, *late))]).sections
    said = "Runs whose start stalled, and that were made again: 15M f32 1t zig 6."
    assert said in tables.asides(section)
    assert not any("stalled" in one for one in tables.asides(gather([file]).sections[0]))


def test_one_sample_has_no_interval():
    single = replace(row("c", 50.0), decode_s=seconds(50.0, n=1), rounds=1)
    (section,) = gather([bench(single)]).sections
    assert "interval" not in [column.heading for column in tables.details(section).columns]
    assert tables.scaling([section]).texts == (("15M", "50.0", "1"),)
    assert "medians of 1 interleaved round," in markdown.block(gather([bench(single)]))


# ---- programs read these


def lines(text):
    return list(reader.DictReader(io.StringIO(text)))


def test_csv_has_a_line_for_each_row_and_for_what_has_none():
    found = lines(csv.render_rows(everything()))
    assert [line["impl"] for line in found] == ["c", "zig", "c", "c-q8", "ts"]
    assert float(found[0]["decode_tps"]) == pytest.approx(100.0)
    assert float(found[0]["decode_tps_low"]) == pytest.approx(95.0)
    assert float(found[0]["decode_tps_high"]) == pytest.approx(104.0)
    assert found[1]["ratio_to"] == "c"
    assert (found[4]["verdict"], found[4]["decode_tps"], found[4]["notes"]) == ("MISMATCH", "", "token 3 is wrong")


def test_csv_of_samples_has_a_line_for_each_run():
    found = lines(csv.render_samples(everything()))
    assert len(found) == 4 * 9
    assert (found[0]["impl"], found[0]["run"], found[0]["n_prompt"]) == ("c", "short", "8")
    assert float(found[1]["wall_s"]) == pytest.approx(208 / 100 + 0.01)


def test_json_holds_the_records():
    found = json.loads(document.render(speeds=everything()))
    assert [(one["machine"], one["key"]["impl"]) for one in found["rows"]] == [
        (0, n) for n in ("c", "zig", "c", "c-q8")
    ]
    assert found["machines"][0]["cpu"] == "Abacus 9"
    assert (len(found["samples"]), len(found["absent"]), found["complete"]) == (36, 1, True)
    assert found["ratios"][0]["to"] == "c"


# ---- people read these


@pytest.mark.parametrize("width", [40, 80, 118, 300])
def test_the_terminal_shows_every_figure_whatever_its_width(width):
    text = terminal.render_speeds(everything(), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "95.0–104 (95%)" in text
    assert "2.50 × c FASTER" in text
    assert "…" not in text


def test_markdown_has_both_tables_and_says_what_the_columns_are():
    text = markdown.render_speeds(everything())
    assert text.startswith("### Speed\n\n| model | c | zig | ts | notes |\n")
    assert "| 15M | c | 100 −5 +4 | 2 threads: 180 −10 +10 |" in text
    assert "\n- prefill: prompt tokens per second" in text
    assert "medians of 9 interleaved rounds" in text
    assert "Measured by `` harness bench --impls c,`zig` ``." in text


@given(st.text(), st.text())
def test_whatever_names_and_reasons_are_tables_stay_tables(name, reason):
    gone = Absent(Key("15M", "f32", 1, name), "CRASHED", reason)
    (section,) = gather([bench(row(f"a{name}"), absent=[gone])]).sections
    for table in (tables.speeds(section), tables.details(section)):
        text = markdown.table(table)
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines()} == {len(table.columns) + 1}
        assert "<" not in text.replace("\\<", "")


def test_the_same_benchmark_makes_the_same_page():
    assert html.render(None, everything()) == html.render(None, everything())


def test_plots_leave_out_what_was_not_measured():
    (section,) = gather([bench(row("c"))]).sections
    assert plots.shares(section) == []
    assert [plot.title for plot in plots.by_context(section)] == ["15M fp32, 1 thread"]
    assert plots.bars(section)[0].words == "c 100 tok/s"


def test_a_benchmark_in_which_nothing_was_measured_has_its_page():
    gone = Absent(Key("15M", "f32", 1, "b"), "SKIPPED", "no compiler")
    for found in (gather([bench(absent=[gone])]), gather([bench()])):
        assert "Speed" in html.render(None, found)
        assert markdown.render_speeds(found)
        assert terminal.render_speeds(found)
        assert csv.render_rows(found)


# ---- the block of a README

README = f"# Port\n\nbefore\n{readme.BEGIN}\nold\n{readme.END}\nafter\n".encode()


def test_the_block_is_renewed_and_nothing_else():
    once = readme.renewed(README, "| new |\n", "README.md")
    assert once == f"# Port\n\nbefore\n{readme.BEGIN}\n\n| new |\n\n{readme.END}\nafter\n".encode()
    assert readme.renewed(once, "| new |\n", "README.md") == once


def test_line_ends_and_bytes_that_are_no_utf8_stay():
    windows = README.replace(b"\n", b"\r\n") + b"\xff"
    found = readme.renewed(windows, "a\nb\n", "README.md")
    assert found.replace(b"\r\n", b"").count(b"\n") == 0
    assert found.endswith(b"after\r\n\xff")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "harness:bench -->: expected once, got 0"),
        (README.replace(readme.END.encode(), b""), "/harness:bench -->: expected once, got 0"),
        (README + README, "expected once, got 2"),
        (f"{readme.END}\n{readme.BEGIN}\n".encode(), "stands before"),
        (f"text {readme.BEGIN} {readme.END}".encode(), "expected once, got 0"),
    ],
)
def test_markers_that_are_not_there_once_and_in_order_are_refused(content, message):
    with pytest.raises(InputError, match=message) as refused:
        readme.renewed(content, "x", "README.md")
    assert str(refused.value).startswith("README.md: ")
