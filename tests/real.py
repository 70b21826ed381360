"""Real etcd, kube-apiserver, controllers, scheduler and kwok for the tests, started as plain processes on loopback.

`tests/tools/build.sh` builds them; `FLOTILLA_TOOLS` names the folder. One `Etcd` serves any number of `ApiServer`s,
each with an etcd prefix of its own. An `ApiServer` started with `workloads=True` also gets a controller manager, a
scheduler and a kwok with one fake node, so that Deployments become Ready without a container ever running.
"""

import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.kube import Kube

AUDIT_POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete, Panic]
rules: [{level: Metadata}]
"""
"""One line as each request arrives; a watch would otherwise be counted when it ends."""

START_S = 90.0
"""An API server is ready in 5 to 9 s on an idle machine; a busy one takes several times as long."""

_given: set[int] = set()
"""Ports that servers of this process have, or are about to have."""


def tools() -> Path | None:
    """The folder of the built parts, or None when they were not built."""
    named = os.environ.get("FLOTILLA_TOOLS")
    if named:
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flotilla/tools/bin"
    return cache if (cache / "kube-apiserver").exists() else None


def free_port() -> int:
    """A port that nobody listens on, that is given once, and that no outgoing connection takes: those get theirs from
    32768 on, and one of them would keep a server from its port when it starts late, or starts again."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        if port in _given:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port


class Process:
    """One child process with its log in a file; `stop` ends it and waits."""

    def __init__(self, name: str, arguments: list[str], folder: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                arguments,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})},
                cwd=folder,
            )

    @property
    def pid(self) -> int:
        return self.child.pid

    def alive(self) -> bool:
        return self.child.poll() is None

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.stop(how=signal.SIGKILL)

    def stop(self, how: signal.Signals = signal.SIGTERM, *, timeout_s: float = 30.0) -> None:
        if self.child.poll() is None:
            self.child.send_signal(how)
            try:
                self.child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


class Etcd:
    """One etcd without fsync: its data lives as long as the test."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        peer = f"http://127.0.0.1:{free_port()}"
        self.process = Process(
            "etcd",
            [
                str(_tool("etcd")),
                f"--data-dir={folder / 'data'}",
                f"--listen-client-urls={self.url}",
                f"--advertise-client-urls={self.url}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
            folder,
        )
        wait_until("etcd", lambda: _answers(f"{self.url}/health"), process=self.process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.stop()


class ApiServer(Kube):
    """One Kubernetes API server. `kubeconfig` is an administrator's; `call` and `edit` are what a test does itself."""

    def __init__(
        self,
        etcd: Etcd,
        folder: Path,
        *,
        name: str = "kube",
        workloads: bool = False,
        audit: bool = False,
        audit_policy: str = AUDIT_POLICY,
    ) -> None:
        """`audit` writes one line per request to `audit.log`, see `requests`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.audit = folder / "audit.log" if audit else None
        self._audit_policy = audit_policy
        self.folder, self.name = folder, name
        self.etcd = etcd
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.token = secrets.token_hex(16)
        (folder / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        (folder / "service-account.pem").write_text(_ec_private_key())
        self.processes: list[Process] = []
        self.kubeconfig = folder / "kubeconfig"
        self.api = self._start_api()
        try:
            self._wait_ready()
            self._write_kubeconfig()
            if workloads:
                self._start_workloads()
        except BaseException:
            self.stop()
            raise

    def _start_api(self) -> Process:
        key = self.folder / "service-account.pem"
        audit = []
        if self.audit:
            (self.folder / "audit.yaml").write_text(self._audit_policy)
            audit = [f"--audit-log-path={self.audit}", f"--audit-policy-file={self.folder / 'audit.yaml'}"]
        return Process(
            "kube-apiserver",
            [
                str(_tool("kube-apiserver")),
                f"--etcd-servers={self.etcd.url}",
                f"--etcd-prefix=/{self.name}-{self.port}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--secure-port={self.port}",
                f"--cert-dir={self.folder / 'certs'}",
                f"--token-auth-file={self.folder / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=10.0.0.0/16",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-signing-key-file={key}",
                f"--service-account-key-file={key}",
                "--endpoint-reconciler-type=none",
                "--max-requests-inflight=2000",
                "--max-mutating-requests-inflight=1000",
                "--event-ttl=10m",
                *audit,
                "-v=1",
            ],
            self.folder,
        )

    def _wait_ready(self) -> None:
        wait_until(f"{self.name} /readyz", lambda: self._ready(), process=self.api)

    def _ready(self) -> bool:
        with suppress(OSError):
            return self.call("GET", "/readyz")[0] == 200
        return False

    def restart(self) -> None:
        """Kill the API server and start it again on the same port and data."""
        self.api.kill()
        self.api = self._start_api()
        self._wait_ready()

    def _write_kubeconfig(self) -> None:
        authority = base64.b64encode((self.folder / "certs/apiserver.crt").read_bytes()).decode()
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [
                        {
                            "name": self.name,
                            "cluster": {"server": self.url, "certificate-authority-data": authority},
                        }
                    ],
                    "users": [{"name": "admin", "user": {"token": self.token}}],
                    "contexts": [{"name": self.name, "context": {"cluster": self.name, "user": "admin"}}],
                    "current-context": self.name,
                }
            )
        )

    def _start_workloads(self) -> None:
        config = f"--kubeconfig={self.kubeconfig}"
        self.processes += [
            Process(
                "kube-controller-manager",
                [
                    str(_tool("kube-controller-manager")),
                    config,
                    "--leader-elect=false",
                    "--secure-port=0",
                    f"--service-account-private-key-file={self.folder / 'service-account.pem'}",
                    f"--root-ca-file={self.folder / 'certs/apiserver.crt'}",
                    "--use-service-account-credentials=false",
                    "--kube-api-qps=500",
                    "--kube-api-burst=1000",
                    "--controllers=*,-nodeipam,-node-route-controller",
                ],
                self.folder,
            ),
            Process(
                "kube-scheduler",
                [str(_tool("kube-scheduler")), config, "--leader-elect=false", "--secure-port=0"],
                self.folder,
            ),
            Process(
                "kwok",
                [
                    str(_tool("kwok")),
                    config,
                    "--manage-all-nodes",
                    "--node-lease-duration-seconds=40",
                    f"--config={_tool('kwok-stages.yaml')}",
                ],
                self.folder,
            ),
        ]
        self.must(
            "POST",
            "/api/v1/nodes",
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": "fake", "labels": {"kubernetes.io/hostname": "fake", "kubernetes.io/os": "linux"}},
                "status": {
                    "capacity": {"cpu": "1000", "memory": "1Ti", "pods": "10000"},
                    "allocatable": {"cpu": "1000", "memory": "1Ti", "pods": "10000"},
                },
            },
        )
        self.must(
            "POST",
            "/apis/storage.k8s.io/v1/storageclasses",
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": "kwok-volume",
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": "kwok.x-k8s.io/volume",
            },
        )
        wait_until("a Ready node", lambda: self._node_ready(), process=self.api)

    def _node_ready(self) -> bool:
        node = self.must("GET", "/api/v1/nodes/fake")
        return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))

    def requests(self, user_agent: str) -> list[tuple[str, str]]:
        """(verb, URI) of every request so far by clients whose user agent starts so; a watch counts when it opens."""
        assert self.audit is not None, "start the server with audit=True"
        lines = self.audit.read_bytes().splitlines() if self.audit.exists() else []
        events = [json.loads(line) for line in lines if line.endswith(b"}")]
        return [(e["verb"], e["requestURI"]) for e in events if e.get("userAgent", "").startswith(user_agent)]

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop(signal.SIGKILL)
        self.api.stop(signal.SIGKILL)


def wait_until(
    what: str,
    check: Callable[[], Any],
    *,
    timeout_s: float = START_S,
    each_s: float = 0.05,
    process: Process | None = None,
) -> Any:
    """Return the first true result of `check`; fail, naming `what` and the last result, when time is up."""
    ends = time.monotonic() + timeout_s
    last: Any = None
    while time.monotonic() < ends:
        if process is not None and not process.alive():
            raise AssertionError(
                f"{process.name} ended with {process.child.returncode} while waiting for {what}:\n{process.tail()}"
            )
        last = check()
        if last:
            return last
        time.sleep(each_s)
    raise AssertionError(f"no {what} within {timeout_s:.0f} s; last seen: {last!r}")


def _tool(name: str) -> Path:
    folder = tools()
    if folder is None:
        raise AssertionError("the real parts are not built: run 'make e2e', or tests/tools/build.sh")
    return folder / name


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as response:
        return bool(response.status == 200)
    return False


def _ec_private_key() -> str:
    """A fresh P-256 key as PEM (SEC 1, RFC 5915, without the optional public key, which Go computes itself)."""
    version = b"\x02\x01\x01"
    private = b"\x04\x20" + (secrets.randbits(255) | 1).to_bytes(32, "big")
    curve = b"\xa0\x0a" + b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
    body = version + private + curve
    text = base64.encodebytes(b"\x30" + bytes([len(body)]) + body).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n"
