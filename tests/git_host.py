"""A Git host as people have it: stock `git http-backend` behind HTTP on loopback, for one user and password."""

import base64
import gzip
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "me", "s3cret"


class GitHost:
    """Serves the repositories below `root` at `url`. `before` is called with each request's path, and may give a status
    to answer with in place of Git; `asked` are the paths so far."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = ""
        self.asked: list[str] = []
        self.sent = 0
        """Bytes of bodies so far."""
        self.before: Callable[[str], int | None] = lambda _: None
        self.public = False
        """Whether reading needs no password."""

    def create(self, name: str = "slices.git") -> Path:
        """A bare repository that can be pushed to."""
        path = self.root / name
        git("init", "--quiet", "--bare", str(path))
        git("-C", str(path), "config", "http.receivepack", "true")
        return path

    def refs(self, name: str = "slices.git") -> dict[str, str]:
        """Cluster → commit."""
        lines = git("-C", str(self.root / name), "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return {ref.removeprefix("refs/heads/clusters/"): oid for ref, oid in map(str.split, lines)}


def git(*arguments: str) -> str:
    """What stock git says. Raises CalledProcessError with what it complained of."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(["git", *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
    return done.stdout


@contextmanager
def git_host(root: Path, *, tls: ssl.SSLContext | None = None) -> Iterator[GitHost]:
    root.mkdir(exist_ok=True)
    host = GitHost(root)

    class Handler(_Handler):
        serves = host

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    host.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    serves: GitHost
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            body = self.rfile.read(int(self.headers["Content-Length"]))
        else:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, body: bytes) -> None:
        host = self.serves
        path, _, query = self.path.partition("?")
        host.asked.append(self.path)
        status = host.before(self.path)
        if status is not None:
            self._say(status, {}, b"")
            return
        login = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        reads = "receive-pack" not in self.path
        if self.headers.get("Authorization") != login and not (host.public and reads):
            self._say(401, {"WWW-Authenticate": "Basic realm=x"}, b"")
            return
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(host.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "REMOTE_USER": USER,
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        command = ["git", "http-backend"]
        answer = subprocess.run(command, input=body, env=environment, capture_output=True, check=True).stdout
        head, _, content = answer.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self._say(int(headers.pop("Status", "200").split()[0]), headers, content)

    def _say(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.serves.sent += len(content)
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass
