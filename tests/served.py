"""A web server on this machine that serves a folder: Git repositories by `git http-backend`, all else as files. It can
want a password or a token, and remembers what it was asked and with which credentials."""

import base64
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pygit2

WHO = pygit2.Signature("Ada", "ada@example.org", 1_700_000_000, 60)


@dataclass
class Served:
    """`wants` is the Authorization header without which everything is refused; `heard` has each request's path and
    header; `down` answers 503; `redirect` sends everybody elsewhere; `shortens`: says that it can shorten a history."""

    root: Path
    url: str = ""
    wants: str = ""
    down: bool = False
    redirect: str = ""
    shortens: bool = True
    heard: list[tuple[str, str]] = field(default_factory=list)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@contextmanager
def serving(root: Path, *, tls: ssl.SSLContext | None = None) -> Iterator[Served]:
    made = Served(root=root)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, body: bytes) -> None:
            made.heard.append((self.path, self.headers.get("Authorization", "")))
            path, _, query = self.path.partition("?")
            if made.down:
                self._send(503, {}, b"")
            elif made.redirect:
                self._send(302, {"Location": made.redirect + self.path}, b"")
            elif made.wants and self.headers.get("Authorization") != made.wants:
                self._send(401, {"WWW-Authenticate": "Basic realm=x"}, b"")
            elif ".git/" in path:
                self._git(path, query, body)
            elif (file := root / path.lstrip("/")).is_file():
                self._send(200, {}, file.read_bytes())
            else:
                self._send(404, {}, b"")

        def _git(self, path: str, query: str, body: bytes) -> None:
            environment = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            }
            done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=True)
            said = done.stdout if made.shortens else done.stdout.replace(b" shallow ", b" nothing ")
            head, _, content = said.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self._send(int(headers.pop("Status", "200 OK").split()[0]), headers, content)

        def _send(self, code: int, headers: Mapping[str, str], content: bytes) -> None:
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        made.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="served")
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


class Repo:
    """A bare Git repository that commits can be pushed to, without the git command."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.repo = pygit2.init_repository(str(path), bare=True, initial_head="main")

    def commit(self, files: Mapping[str, str], *, branch: str = "main", tag: str = "") -> str:
        """A commit with exactly these files, on top of the branch."""
        ref = f"refs/heads/{branch}"
        tip = self.repo.references.get(ref)
        index = pygit2.Index()
        for path, text in files.items():
            index.add(pygit2.IndexEntry(path, self.repo.create_blob(text.encode()), pygit2.enums.FileMode.BLOB))
        tree = index.write_tree(self.repo)
        oid = self.repo.create_commit(None, WHO, WHO, "change", tree, [tip.target] if tip is not None else [])
        self.repo.references.create(ref, oid, force=True)
        if tag:
            self.tag(tag, str(oid))
        return str(oid)

    def tag(self, name: str, commit: str, *, annotated: bool = False) -> None:
        """Make or move a tag."""
        if (before := self.repo.references.get(f"refs/tags/{name}")) is not None:
            before.delete()
        if annotated:
            self.repo.create_tag(name, pygit2.Oid(hex=commit), pygit2.enums.ObjectType.COMMIT, WHO, "release")
        else:
            self.repo.references.create(f"refs/tags/{name}", commit)
