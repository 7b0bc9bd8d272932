"""docs/faults.md is what the catalogue says and what the certificates measure."""

import math

import pytest

from harness import models
from harness.diagnosis.certificates import certified
from harness.models import ModelNotFound
from tools.faults_page import CERTIFICATES, MODELS, PAGE, catalogue


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text("utf-8").partition(CERTIFICATES)


def test_the_page_is_the_catalogue(page):
    assert page[0] == catalogue(), "python tools/faults_page.py --write"


@pytest.mark.parametrize("name", MODELS)
def test_the_certificates_are_measured_ones(name, page):
    try:
        files = models.locate(name)
    except ModelNotFound as error:
        pytest.skip(str(error))
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in page[2].splitlines()]
    written = {(row[1], row[2]): row[3:] for row in rows if row[0] == name}
    found = {(one.stress, one.fault): one for one in certified(models.load(files.checkpoint, files.tokenizer))}
    assert set(found) == set(written)
    for key, one in found.items():
        plain, stressed, shift = written[key]
        assert [str(x) if x is not None else "-" for x in (one.plain_first, one.stressed_first)] == [plain, stressed]
        if shift == "not finite":
            assert math.isinf(one.stressed)
        else:  # floors are of this machine's library; what matters is that the fault stands out
            assert float(shift) / 5 < one.stressed < float(shift) * 5
            assert one.stressed > 2
