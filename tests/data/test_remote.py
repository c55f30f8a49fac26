"""Shards of other machines: fetched once, from hosts that are named, whole or not at all."""

from __future__ import annotations

import io
import sys
import tarfile
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flexframe.data import remote
from flexframe_registry import ConfigError, catalogue
from flexframe_registry.slots import resolve


class Server(ThreadingHTTPServer):
    """Serves files, or what it is told to answer; and notes what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked = list[str]()
        self.files = dict[str, bytes]()
        self.odd = dict[str, list[tuple[int, dict[str, str]]]]()
        """By path, answers that come before the file: a status, and headers."""
        self.address = f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        odd, content = self.server.odd.get(path), self.server.files.get(path)
        status, headers = odd.pop(0) if odd else (200 if content is not None else 404, {})
        body = (content or b"") if status == 200 else b""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two shards of two images, with labels."""
    paths = [tmp_path / f"s-{i}.tar" for i in range(2)]
    for i, path in enumerate(paths):
        with tarfile.open(path, "w") as shard:
            for n in (2 * i, 2 * i + 1):
                for suffix, body in (("png", _png(n)), ("cls", b"%d" % n)):
                    about = tarfile.TarInfo(f"{n:04}.{suffix}")
                    about.size = len(body)
                    shard.addfile(about, io.BytesIO(body))
    return paths


def _png(seed: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (9, 8), (40 * seed, 10, 20)).save(written, "PNG")
    return written.getvalue()


@pytest.fixture
def server(two: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of two shards, as /data/00.tar and /data/01.tar."""
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    with Server() as served:
        served.files = {f"/data/0{i}.tar": path.read_bytes() for i, path in enumerate(two)}
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        yield served
        served.shutdown()


def source(path: str, **fields: Any) -> Any:
    return catalogue().build(resolve("source", {"type": "tar", "path": path, **fields}), (8, 8))


def test_shards_are_fetched_once_and_are_those_of_the_disk(server, two, tmp_path):
    there = {"hosts": ["127.0.0.1"], "cache": str(tmp_path / "kept")}
    found = source(server.address + "/data/{00..01}.tar?signed=secret", **there)
    local = source("{" + ",".join(map(str, two)) + "}")
    assert len(found) == len(local) > 2
    assert [(found[i].label, found[i].id.rpartition("/")[2]) for i in range(len(found))] == [
        (local[i].label, local[i].id.rpartition("/")[2]) for i in range(len(local))
    ]
    assert all((found[i].image == local[i].image).all() for i in range(len(found)))
    assert sorted(server.asked) == ["/data/00.tar?signed=secret", "/data/01.tar?signed=secret"]
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.name == f"127.0.0.1_{server.server_port}"
    assert sorted(path.name for path in (kept / "data").iterdir()) == ["00.tar", "01.tar"]
    source(server.address + "/data/{00..01}.tar?signed=other", **there)
    assert len(server.asked) == 2


def test_the_cache_is_flexframes_own_where_none_is_named(server, monkeypatch, tmp_path):
    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path / "home"))
    source(f"{server.address}/data/00.tar", hosts=["127.0.0.1"])
    assert len(list((tmp_path / "home" / "fetched").rglob("00.tar"))) == 1


@pytest.mark.parametrize("hosts", [[], ["example.org"]])
def test_a_host_that_is_not_named_is_not_asked(server, hosts):
    with pytest.raises(ConfigError, match=r"path: is on '127\.0\.0\.1', which `hosts` does not name; .* \[127"):
        source(f"{server.address}/data/00.tar", hosts=hosts)
    assert not server.asked


@pytest.mark.parametrize(
    ("leads", "told"),
    [
        ("http://localhost:{port}/data/00.tar", "is on 'localhost', which `hosts` does not name"),
        ("ftp://127.0.0.1/data/00.tar", "which is less safe"),
    ],
)
def test_no_redirect_leads_elsewhere(server, tmp_path, leads, told):
    server.odd["/data/00.tar"] = [(302, {"Location": leads.format(port=server.server_port)})]
    with pytest.raises(ConfigError, match=told):
        source(f"{server.address}/data/00.tar", hosts=["127.0.0.1"], cache=str(tmp_path / "kept"))
    assert server.asked == ["/data/00.tar"]
    assert not list((tmp_path / "kept").rglob("*.tar"))


def test_what_may_pass_is_tried_again_and_what_came_short_is_not_kept(server, tmp_path):
    there = {"hosts": ["127.0.0.1"], "cache": str(tmp_path / "kept")}
    short = (200, {"Content-Length": "1000000"})
    server.odd["/data/00.tar"] = [(503, {}), short]
    assert len(source(f"{server.address}/data/00.tar", **there))
    assert len(server.asked) == 3
    server.odd["/data/01.tar"] = [short] * 9
    with pytest.raises(ConfigError, match=r"01\.tar' cannot be fetched \(.*1,?000,?000"):
        source(f"{server.address}/data/01.tar?signed=secret", **there)
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file() and path.name != "00.tar"]


def test_what_will_not_pass_is_told_at_once_and_secrets_are_not(server, tmp_path):
    with pytest.raises(ConfigError, match=r"none\.tar' cannot be fetched \(404 Not Found\)") as error:
        source(f"{server.address}/data/none.tar?signed=secret", hosts=["127.0.0.1"], cache=str(tmp_path))
    assert len(server.asked) == 1
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("path", ["", "/..%2f..%2fetc.tar", "/a/../b.tar", "/a\\b.tar"])
def test_an_address_names_a_file_below_its_host(path, tmp_path):
    with pytest.raises(ConfigError, match="is no address of a file"):
        remote.place(f"http://127.0.0.1{path}", tmp_path)


def test_s3_takes_its_library_and_reads_the_bucket_that_is_named(two, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ImportError, match=r"An address of S3 needs s3fs, .*pip install 'flexframe\[s3\]'"):
        source("s3://lab/data/00.tar", hosts=["lab"], cache=str(tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()

    class Stream(io.BytesIO):
        size = two[0].stat().st_size

    class S3FileSystem:
        def open(self, path: str, mode: str) -> Stream:
            assert (path, mode) == ("lab/data/00.tar", "rb")
            return Stream(two[0].read_bytes())

    monkeypatch.setitem(sys.modules, "s3fs", types.SimpleNamespace(S3FileSystem=S3FileSystem))
    found = source("s3://lab/data/00.tar", hosts=["lab"], cache=str(tmp_path / "kept"))
    assert found[0].id == source(str(two[0]))[0].id.replace("s-0", "00")
    assert (tmp_path / "kept" / "lab" / "data" / "00.tar").is_file()
    with pytest.raises(ConfigError, match="is on 'lab', which `hosts` does not name"):
        source("s3://lab/data/00.tar", hosts=["other"])
