"""Charts and artifacts from Debian's docker-registry: open, with a password, and with a token server; pushed by Helm's
own code and by plain HTTP."""

import base64
import hashlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pygit2
import pytest

from hub.external import dependencies, oci
from hub.external.credentials import Login
from hub.model import OciSource
from proto.errors import Permanent, Refused
from tests import charts, real
from tests.site import Asked, Says, Site

BASIC = "Basic " + base64.b64encode(b"bot:hidden").decode()
HTPASSWD = "bot:$2y$05$abcdefghijklmnopqrstuu4BcS2/37KDukaKm7SMr8Dt17UhqpC0G\n"
"""The password is `hidden`."""
SERVICE = "tests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """`also` is what the login is for, beside the registry; `authorization` what a push has to send."""

    host: str
    also: tuple[str, ...] = ()
    authorization: str = field(default="", repr=False)

    def login(self, password: str = "hidden") -> Login | None:
        if not self.authorization:
            return None
        return Login(addresses=(f"oci://{self.host}", *self.also), username="bot", password=password)

    def source(self, repository: str, **named: str) -> OciSource:
        return OciSource(url=f"oci://{self.host}/{repository}", **named)

    def push(self, repository: str, tag: str, kind: str, data: bytes) -> str:
        """An artifact with one layer; the manifest's digest."""
        layers = [{"mediaType": kind, "digest": self._blob(repository, data), "size": len(data)}]
        config = {"mediaType": "application/vnd.test", "digest": self._blob(repository, b"{}"), "size": 2}
        media = "application/vnd.oci.image.manifest.v1+json"
        manifest = json.dumps({"schemaVersion": 2, "mediaType": media, "config": config, "layers": layers}).encode()
        self._send("PUT", f"/v2/{repository}/manifests/{tag}", manifest, media)
        return sha256(manifest)

    def _blob(self, repository: str, data: bytes) -> str:
        there = self._send("POST", f"/v2/{repository}/blobs/uploads/")["Location"]
        self._send("PUT", f"{there}&digest={sha256(data)}", data, "application/octet-stream")
        return sha256(data)

    def _send(self, method: str, path: str, data: bytes = b"", media: str = "") -> dict[str, str]:
        address = path if path.startswith("http") else f"http://{self.host}{path}"
        headers = {"Authorization": self.authorization, "Content-Type": media}
        request = urllib.request.Request(
            address, data=data, method=method, headers={name: value for name, value in headers.items() if value}
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            return dict(response.headers)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Tokens:
    """A token server as docker-registry believes it: for the right password it signs whatever is asked for."""

    def __init__(self, folder: Path) -> None:
        self._key, self.certificate = folder / "key.pem", folder / "certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests"]
        subprocess.run([*command, "-keyout", self._key, "-out", self.certificate], check=True, capture_output=True)

    def answer(self, asked: Asked) -> Says:
        if asked.headers.get("authorization") != BASIC:
            return Says(status=401)
        scopes = [asked.query["scope"]] if "scope" in asked.query else []  # Helm's login wants none
        return Says(body=json.dumps({"token": self.token(*scopes)}).encode())

    def token(self, *scopes: str) -> str:
        now = int(time.time())
        access = []
        for kind, name, actions in (scope.split(":") for scope in scopes):
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        claims = {"iss": "tests", "sub": "bot", "aud": SERVICE, "nbf": now - 9, "exp": now + 300, "access": access}
        lines = self.certificate.read_text().splitlines()[1:-1]
        head = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(lines)]}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        made = subprocess.run(command, input=signed.encode(), check=True, capture_output=True).stdout
        return f"{signed}.{_base64url(made)}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture(scope="module", params=["open", "password", "tokens"])
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.fail("no 'docker-registry' on PATH: run tests/tools/docker-registry.sh")
    folder = tmp_path_factory.mktemp("registry")
    host = f"127.0.0.1:{real.free_port()}"
    made, auth = Registry(host=host), {}
    with Site() as tokens:
        if request.param == "password":
            (folder / "htpasswd").write_text(HTPASSWD)
            auth = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
            made = replace(made, authorization=BASIC)
        elif request.param == "tokens":
            server = Tokens(folder)
            tokens.routes["/token"] = server.answer
            realm = f"{tokens.url}/token"
            bundle = {"issuer": "tests", "service": SERVICE, "rootcertbundle": str(server.certificate)}
            auth = {"token": {"realm": realm, **bundle}}
            token = server.token(*(f"repository:{name}:pull,push" for name in ("team/app", "charts/web")))
            made = replace(made, also=(realm,), authorization=f"Bearer {token}")
        config = {
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": host},
            **({"auth": auth} if auth else {}),
        }
        (folder / "config.yml").write_text(json.dumps(config))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
        try:
            _wait(process, host, folder / "log")
            yield made
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], host: str, log: Path) -> None:
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"http://{host}/v2/", timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            time.sleep(0.05)
            continue
        return
    raise AssertionError(f"docker-registry never answered: {log.read_text()}")


@pytest.fixture
def repo(tmp_path: Path) -> pygit2.Repository:
    return pygit2.init_repository(str(tmp_path / "git"), bare=True)


def test_charts_that_helm_packed_are_fetched_by_tag_range_and_digest(
    registry: Registry, repo: pygit2.Repository, tmp_path: Path
) -> None:
    kind = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
    digests = {}
    for version in ("1.0.0", "1.1.0", "1.2.0-rc.1", "1.1.1+build.7"):
        archive = charts.pack(tmp_path, "web", version=version, into=tmp_path / "packed").read_bytes()
        digests[version] = registry.push("charts/web", version.replace("+", "_"), kind, archive)
    login = registry.login()
    for tag, found in {"1.0.0": "1.0.0", "^1": "1.1.1+build.7", "~1.0": "1.0.0", ">=1.2-0": "1.2.0-rc.1"}.items():
        pin = oci.fetch(registry.source("charts/web", tag=tag), repo, login=login)
        assert (pin.revision, pin.digest) == (found.replace("+", "_"), digests[found])
        assert f"version: {found}" in charts.listed(repo, pin.tree)["Chart.yaml"].decode()
    by_digest = registry.source("charts/web", digest=digests["1.0.0"])
    assert oci.fetch(by_digest, repo, login=login).digest == digests["1.0.0"]
    with pytest.raises(Permanent, match=r"has no tag '9.9.9'"):
        oci.fetch(registry.source("charts/web", tag="9.9.9"), repo, login=login)
    with pytest.raises(Permanent, match=r"has no tag in '\^9'"):
        oci.fetch(registry.source("charts/web", tag="^9"), repo, login=login)


def test_an_artifact_with_a_moving_tag_is_what_its_digest_says(
    registry: Registry, repo: pygit2.Repository, tmp_path: Path
) -> None:
    kind = "application/vnd.cncf.flux.content.v1.tar+gzip"
    (tmp_path / "app").mkdir()
    pins = []
    for text in ("a: 1\n", "a: 2\n"):
        (tmp_path / "app/app.yaml").write_text(text)
        packed = shutil.make_archive(str(tmp_path / "packed"), "gztar", tmp_path / "app")
        digest = registry.push("team/app", "latest", kind, Path(packed).read_bytes())
        pins.append(oci.fetch(registry.source("team/app", tag="latest"), repo, login=registry.login()))
        assert pins[-1].digest == digest
        assert charts.listed(repo, pins[-1].tree) == {"app.yaml": text.encode()}
    old = oci.fetch(registry.source("team/app", digest=pins[0].digest), repo, login=registry.login())
    assert old.tree == pins[0].tree != pins[1].tree


def test_a_wrong_password_is_refused_without_a_word_of_it(registry: Registry, repo: pygit2.Repository) -> None:
    wrong = registry.login("wrong-secret")
    if wrong is None:
        with pytest.raises(Permanent, match="has no tag 'none'"):
            oci.fetch(registry.source("team/none", tag="none"), repo)
        return
    for login in (None, wrong):
        with pytest.raises(Refused) as refused:
            oci.fetch(registry.source("team/app", tag="latest"), repo, login=login)
        assert "wrong-secret" not in str(refused.value)


def test_what_helm_pushed_is_a_dependency_of_another_chart(
    registry: Registry, repo: pygit2.Repository, tmp_path: Path
) -> None:
    """Helm itself says what it makes of the chart that it pushed."""
    from helm_python import registry as helm

    archive = charts.pack(tmp_path, "redis", version="2.1.0", into=tmp_path / "packed")
    with helm.RegistryClient(plain_http=True, credentials_file=tmp_path / "logins.json") as client:
        if registry.authorization:
            client.login(registry.host, "bot", "hidden", plain_http=True)
        client.push(archive, f"oci://{registry.host}/charts", plain_http=True)
    more = f"dependencies: [{{name: redis, version: ^2.0, repository: 'oci://{registry.host}/charts'}}]\n"
    tree = charts.store_folder(repo, charts.write(tmp_path / "outer", "web", more=more))
    (source,) = dependencies.dependencies(repo, tree)
    assert isinstance(source, OciSource)
    pin = oci.fetch(source, repo, login=registry.login())
    files = charts.listed(repo, dependencies.complete(repo, tree, {source: pin.tree}))
    assert b"version: 2.1.0" in files["charts/redis/Chart.yaml"]
