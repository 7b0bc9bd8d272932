import pytest
from pydantic import BaseModel, ConfigDict

from harness.documents import fitted, read_json, read_text, read_toml
from harness.errors import CaseError, InputError


class Point(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    x: int
    y: int


class Line(BaseModel):
    points: list[Point]


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "document"

    def write(content: bytes):
        path.write_bytes(content)
        return path

    return write


def test_toml_and_json_are_read(document):
    assert read_toml(document(b"x = 1\r\ny = 2\r\n")) == {"x": 1, "y": 2}
    assert read_json(document(b'{"x": [1, 2]}')) == {"x": [1, 2]}
    assert fitted(Point, {"x": 1, "y": 2}, document(b"")) == Point(x=1, y=2)


@pytest.mark.parametrize(
    ("content", "where", "said"),
    [
        (b"x = 1\ny = [", None, "it is no TOML"),
        (b"x = 1\ny 2\n", "line 2", "Expected '=' after a key in a key/value pair; it is no TOML"),
        (b"x = 1\nx = 2\n", "line 2", "it is no TOML"),
        (b"x = " + b"9" * 5000, None, "it is no TOML"),
        (b"x = " + b"[" * 100_000, None, "is nested too deeply; it is no TOML"),
        (b"x = '\xff'", "byte 5", "is not UTF-8"),
        (b"#" * (1 << 20) + b"#", None, "is too large: expected at most 1,048,576 bytes"),
    ],
)
def test_what_is_no_toml_is_said_in_one_line_with_its_place(document, content, where, said):
    path = document(content)
    with pytest.raises(CaseError) as caught:
        read_toml(path, CaseError, max_bytes=1 << 20)
    assert (caught.value.path, caught.value.where) == (str(path), where)
    assert str(caught.value).endswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"9" * 5000, b"[" * 100_000])
def test_what_is_no_json_is_said(document, content):
    with pytest.raises(InputError, match=r"document: is no JSON: .*; write it again"):
        read_json(document(content), hint="write it again")


def test_a_file_that_is_not_there_is_said_with_the_hint(tmp_path):
    with pytest.raises(InputError, match="absent: cannot be read: No such file or directory; look elsewhere"):
        read_text(tmp_path / "absent", hint="look elsewhere")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ({}, "key points", "Field required"),
        ({"points": [{"x": 1, "y": 2}, {"x": "1", "y": 2}]}, "key points.1.x", "Input should be a valid integer"),
        ({"points": [{"x": 1, "z": 2}]}, "key points.0.y", "Field required (and 1 more)"),
        ([], None, "Input should be a valid dictionary or instance of Line"),
    ],
)
def test_what_does_not_fit_is_named_by_its_first_key(tmp_path, content, where, what):
    with pytest.raises(CaseError) as caught:
        fitted(Line, content, tmp_path, CaseError)
    assert (caught.value.where, caught.value.what) == (where, what)
