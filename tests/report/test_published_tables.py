"""Tables that two projects have published render byte for byte from records of their figures.

The first is of a TypeScript port with its add-ons, models by programs; the second of a Zig port, fewest against best
number of workers on two machines. The figures are theirs, measured by them.
"""

from harness.report import markdown
from harness.report.speeds import gather
from harness.report.tables import Style, scaling, speeds
from tests.report.speeds_by_hand import bench, row

PROGRAMS = """\
| | us (.ts) | us (napi) | us (napi + SSE) | llama2.c | notes |
| --- | --- | --- | --- | --- | --- |
| 15M | 50.1 tps | 66.5 tps | 185.7 tps | 77.9 tps | |
| 42M | 19.3 tps | 24.7 tps | 73.7 tps | 25.9 tps | |
| 7000M | | | | 0.003 tps | My computer is extremely memory (200MB/s disk) bound |
"""

WORKERS = """\
| machine | model | 0 workers | best |
| --- | --- | --- | --- |
| Apple M2 Pro 8/4, 32 GB | 15M | **764** −23 +30 | 0 |
| | 42M | 288 −3 +4 | 7 workers: 336 −5 +7 |
| | 110M | 106 −2 +1 | 7 workers: 147 −1 +2 |
| Apple M1 Pro 8/2, 32 GB | 15M | **704** −29 +25 | 0 |
| | 42M | 269 −7 +5 | 5 workers: 292 −8 +6 |
| | 110M | 99 −1 +2 | 5 workers: 127 −5 +2 |
"""


def one_decimal(tps):
    return f"{tps:.1f}" if tps >= 1 else f"{tps:.3g}"


def whole(tps):
    return f"{tps:.0f}"


def test_models_by_programs():
    measured = {
        "15M": {"us (.ts)": 50.1, "us (napi)": 66.5, "us (napi + SSE)": 185.7, "llama2.c": 77.9},
        "42M": {"us (.ts)": 19.3, "us (napi)": 24.7, "us (napi + SSE)": 73.7, "llama2.c": 25.9},
    }
    rows = [row(impl, tps, model=model) for model, line in measured.items() for impl, tps in line.items()]
    bound = "My computer is extremely memory (200MB/s disk) bound"
    rows.append(row("llama2.c", 0.003, model="7000M", notes=(bound,)))
    (section,) = gather([bench(*rows)]).sections
    style = Style(corner="", unit=" tps", nothing="", number=one_decimal)
    assert markdown.table(speeds(section, style), is_aligned=False) == PROGRAMS


def test_fewest_against_best_number_of_workers():
    measured = {
        "Apple M2 Pro 8/4, 32 GB": {
            "15M": {0: (764, -23, 30)},
            "42M": {0: (288, -3, 4), 7: (336, -5, 7)},
            "110M": {0: (106, -2, 1), 7: (147, -1, 2)},
        },
        "Apple M1 Pro 8/2, 32 GB": {
            "15M": {0: (704, -29, 25)},
            "42M": {0: (269, -7, 5), 5: (292, -8, 6)},
            "110M": {0: (99, -1, 2), 5: (127, -5, 2)},
        },
    }
    files = [
        bench(
            *(
                row("llama2-generator", tps, tps + low, tps + high, model=model, threads=workers)
                for model, lines in models.items()
                for workers, (tps, low, high) in lines.items()
            ),
            machine={"cpu": machine},
        )
        for machine, models in measured.items()
    ]
    found = scaling(gather(files).sections, Style(thread="worker", number=whole))
    assert markdown.table(found, is_aligned=False) == WORKERS


def test_an_end_that_is_the_average_itself_is_0():
    (section,) = gather([bench(row("zig", 50.0, 50.0, 57.0, threads=1))]).sections
    assert scaling([section], Style(number=whole)).texts == (("15M", "50 0 +7", "1"),)
