"""Fetching published files, from a server on this machine that has its own ideas about how to behave."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.errors import InputError
from harness.models import files, pull
from harness.models.pull import Remote

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves what it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.contents: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.cuts_at: list[int] = []  # how many bytes the next answers have before the connection breaks
        self.knows_ranges = True


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        content = self.server.contents.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.knows_ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cut = self.server.cuts_at.pop(0) if self.server.cuts_at else len(content)
        self.wfile.write(content[start : start + cut])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_MODELS", raising=False)
    monkeypatch.setitem(pull.REMOTE, "pinned.bin", Remote("someone/models", "dir/pinned.bin", SHA256))
    monkeypatch.setitem(pull.REMOTE, "free.pt", Remote("someone/models", "free.pt"))
    monkeypatch.setitem(pull.REMOTE, "git.bin", Remote("someone/code", "git.bin", SHA256, on_github=True))
    server = Server()
    server.contents = {
        "/someone/models/resolve/main/dir/pinned.bin": CONTENT,
        "/someone/models/resolve/main/free.pt": CONTENT,
        "/someone/code/master/git.bin": CONTENT,
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in ("HF_ENDPOINT", "GITHUB_RAW_ENDPOINT"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["pinned.bin", "git.bin"])
def test_a_file_is_fetched_once_and_checked(name: str, server: Server) -> None:
    told: list[str] = []
    (path,) = pull.pull(name, told=told.append)
    assert path == files.cache_dir() / "models" / name
    assert path.read_bytes() == CONTENT
    assert pull.pull(name, told=told.append) == [path]
    assert len(server.asked) == 1
    assert [one.split()[-1] for one in told] == [SHA256, "there"]
    assert [each.name for each in path.parent.iterdir()] == [name]


def test_what_an_earlier_run_left_is_continued(server: Server) -> None:
    part = files.cache_dir() / "models" / "pinned.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:3000])
    (path,) = pull.pull("pinned.bin")
    assert server.asked[0][1] == "bytes=3000-"
    assert path.read_bytes() == CONTENT


def test_a_connection_that_breaks_is_taken_up_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)  # what is kept is whole chunks
    server.cuts_at = [1000]
    (path,) = pull.pull("pinned.bin")
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000-"]
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server: Server) -> None:
    server.knows_ranges = False
    part = files.cache_dir() / "models" / "pinned.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 3000)
    assert pull.pull("pinned.bin")[0].read_bytes() == CONTENT


def test_a_part_that_is_whole_already_becomes_the_file(server: Server) -> None:
    part = files.cache_dir() / "models" / "pinned.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert pull.pull("pinned.bin")[0].read_bytes() == CONTENT


def test_other_content_is_refused_and_not_kept(server: Server) -> None:
    server.contents["/someone/models/resolve/main/dir/pinned.bin"] = CONTENT[:-1] + b"!"
    with pytest.raises(InputError, match=r"what was fetched is not pinned\.bin") as caught:
        pull.pull("pinned.bin")
    assert caught.value.expected == f"sha256 {SHA256}"
    assert not list((files.cache_dir() / "models").iterdir())


def test_what_has_no_published_hash_is_pinned_at_first_use(server: Server) -> None:
    told: list[str] = []
    (path,) = pull.pull("free.pt", told=told.append)
    assert told[0] == f"no sha256 of free.pt is published: pinned now, at first use, to {SHA256}"
    path.unlink()
    server.contents["/someone/models/resolve/main/free.pt"] = b"something else"
    with pytest.raises(InputError, match=r"what was fetched is not free\.pt"):
        pull.pull("free.pt")


def test_a_file_that_is_there_and_is_another_is_told(server: Server) -> None:
    path = files.cache_dir() / "models" / "pinned.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"this file is not pinned\.bin"):
        pull.pull("pinned.bin")
    assert path.read_bytes() == b"mine"


def test_what_the_server_does_not_have_is_one_clear_error(server: Server) -> None:
    del server.contents["/someone/models/resolve/main/dir/pinned.bin"]
    with pytest.raises(InputError, match=r"cannot be fetched: .*404"):
        pull.pull("pinned.bin")
    assert not list((files.cache_dir() / "models").iterdir())


def test_unknown_names_are_refused(server: Server) -> None:
    with pytest.raises(InputError, match="gpt-5 cannot be pulled; what can: stories260K, "):
        pull.pull("gpt-5")


def test_the_published_pins_are_those_that_goldens_use() -> None:
    for name, entry in files.PUBLISHED.items():
        assert pull.REMOTE[entry.checkpoint].sha256 == entry.sha256, name
        assert pull.REMOTE[entry.tokenizer].sha256 == entry.tokenizer_sha256, name
    assert pull._url(pull.REMOTE["stories260K.bin"]).endswith(
        "karpathy/tinyllamas/resolve/main/stories260K/stories260K.bin"
    )


def test_the_command_pulls_and_lists(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "pull", "pinned.bin"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(files.cache_dir() / "models" / "pinned.bin")
    assert "was fetched" in err
    assert main(["models", "list", "stories15M"]) == 0
    assert capsys.readouterr().out == "stories15M               not here; harness models pull stories15M\n"
    assert main(["models", "path", "gqa"]) == 0
    assert capsys.readouterr().out.endswith("golden/models/gqa.bin\n")
    assert main(["models", "pull"]) == 2
    assert "needs a name" in capsys.readouterr().err


def test_a_synthetic_model_is_made(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "make", "260K"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.is_relative_to(files.cache_dir())
    assert path.stat().st_size == 1_056_540
