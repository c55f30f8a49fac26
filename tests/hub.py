"""A small hub on this machine: enough of the Hugging Face API for downloads and uploads, over files in a folder."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories by name, each a list of (commit, files) from old to new."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, list[str]()
        self.repos: dict[str, list[tuple[str, Path]]] = {}
        self.url = ""

    def publish(self, repo: str, files: dict[str, bytes]) -> str:
        """A new commit of a repository; returns its hash."""
        commit = hashlib.sha1(repr((repo, sorted(files.items()), len(self.repos))).encode()).hexdigest()
        folder = self.root / commit
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        self.repos.setdefault(repo, []).append((commit, folder))
        return commit

    def find(self, repo: str, revision: str) -> tuple[str, Path] | None:
        known = self.repos.get(repo, [])
        if revision in ("main", "HEAD") and known:
            return known[-1]
        return next((each for each in known if each[0] == revision), None)


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    hub = Hub(root)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """What an upload asks for: a repository, whether files go within the commit (all do), the commit."""
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.asked.append(path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = path.split("/")
            if path == "api/repos/create":
                given = json.loads(body)
                repo = "/".join(filter(None, (given.get("organization"), given["name"])))
                hub.repos.setdefault(repo, [])
                return self.give(json.dumps({"url": f"{hub.url}/{repo}", "name": repo}).encode(), True, {})
            if path == "api/validate-yaml":
                return self.give(json.dumps({"errors": [], "warnings": []}).encode(), True, {})
            repo = "/".join(parts[2:4])
            if repo not in hub.repos:
                return self.refuse(repo)
            if parts[4] == "preupload":
                files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                         for each in json.loads(body)["files"]]  # fmt: skip
                return self.give(json.dumps({"files": files}).encode(), True, {})
            lines = [json.loads(line) for line in body.splitlines()]
            held = [line["value"] for line in lines if line["key"] == "file"]
            commit = hub.publish(repo, {each["path"]: base64.b64decode(each["content"]) for each in held})
            told = {"commitUrl": f"{hub.url}/{repo}/commit/{commit}", "commitOid": commit}
            return self.give(json.dumps(told).encode(), True, {})

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.asked.append(path)
            parts = path.split("/")
            if parts[:2] == ["api", "models"]:
                repo = "/".join(parts[2:4])
                revision = parts[5] if len(parts) > 5 else "main"
                found = hub.find(repo, revision)
                if found is None:
                    return self.refuse(repo)
                commit, folder = found
                names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
                if parts[4:5] == ["tree"]:
                    told = [
                        {"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": commit} for n in names
                    ]
                    return self.give(json.dumps(told).encode(), body, {})
                info = {"id": repo, "sha": commit, "siblings": [{"rfilename": n} for n in names], "private": False}
                return self.give(json.dumps(info).encode(), body, {})
            if parts[2:3] != ["resolve"]:
                return self.refuse("")
            repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
            found = hub.find(repo, revision)
            if found is None or not (found[1] / name).is_file():
                return self.refuse(repo, missing=found is not None)
            content = (found[1] / name).read_bytes()
            headers = {"X-Repo-Commit": found[0], "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            return self.give(content, body, headers)

        def give(self, content: bytes, body: bool, headers: dict[str, str]) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def refuse(self, repo: str, missing: bool = False) -> None:
            code = "EntryNotFound" if missing else ("RevisionNotFound" if repo in hub.repos else "RepoNotFound")
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
