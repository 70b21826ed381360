"""Artifacts of an OCI registry that may say anything. `tests/e2e/test_registry.py` asks a real one."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pygit2
import pytest

from hub.external import helm_repo, oci
from hub.external.credentials import Login
from hub.model import HelmSource, OciSource, Pin
from proto.errors import InvalidInput, Permanent, ProtocolError, Refused, Transient
from tests import charts
from tests.site import Asked, Says, Site

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
FLUX = "application/vnd.cncf.flux.content.v1.tar+gzip"
TAR = "application/vnd.oci.image.layer.v1.tar"
TITLE = "org.opencontainers.image.title"
BASIC = "Basic " + base64.b64encode(b"bot:hidden").decode()


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar(files: Mapping[str, str], *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            made.addfile(info, io.BytesIO(text.encode()))
    return gzip.compress(buffer.getvalue(), mtime=0) if zipped else buffer.getvalue()


class Registry(Site):
    """`team/app` as a registry serves it, with whatever is put into it."""

    def push(self, tag: str, *layers: tuple[str, bytes, str | None], **changes: Any) -> str:
        """The manifest's digest. A layer is its media type, its bytes, and its title or None."""
        listed = []
        for kind, data, title in layers:
            annotations = {} if title is None else {"annotations": {TITLE: title}}
            listed.append({"mediaType": kind, "digest": self.blob(data), "size": len(data), **annotations})
        config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": self.blob(b"{}"), "size": 2}
        return self.manifest(tag, {"schemaVersion": 2, "config": config, "layers": listed, **changes})

    def blob(self, data: bytes) -> str:
        self.routes[f"/v2/team/app/blobs/{sha256(data)}"] = data
        return sha256(data)

    def manifest(self, tag: str, value: Any, *, kind: str = MANIFEST) -> str:
        data = json.dumps(value).encode()
        says = Says(body=data, headers={"Content-Type": kind, "Docker-Content-Digest": sha256(data)})
        for name in (tag, sha256(data)):
            self.routes[f"/v2/team/app/manifests/{name}"] = says
        return sha256(data)

    def tags(self, *pages: list[str]) -> None:
        for number, tags in enumerate(pages):
            path = f"/v2/team/app/tags/{'list' if number == 0 else f'page-{number}'}"
            more = {"Link": f'</v2/team/app/tags/page-{number + 1}>; rel="next"'} if number + 1 < len(pages) else {}
            self.routes[path] = Says(body=json.dumps({"name": "team/app", "tags": tags}).encode(), headers=more)

    def guard(self, challenge: str, allowed: Callable[[str], bool]) -> None:
        """Every route wants an Authorization that is `allowed`."""
        for path, route in list(self.routes.items()):

            def guarded(asked: Asked, route: Any = route) -> Says:
                if not allowed(asked.headers.get("authorization", "")):
                    return Says(status=401, headers={"WWW-Authenticate": challenge})
                return Says(body=route) if isinstance(route, bytes) else route

            self.routes[path] = guarded

    @property
    def address(self) -> str:
        return f"oci://{self.host}/team/app"

    def authorizations(self) -> list[str | None]:
        return [one.headers.get("authorization") for one in self.asked]


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
def repo(tmp_path: Path) -> pygit2.Repository:
    return pygit2.init_repository(str(tmp_path / "git"), bare=True)


def fetch(
    registry: Registry, repo: pygit2.Repository, *, tag: str = "v1", digest: str = "", path: str = "", **more: Any
) -> Pin:
    source = OciSource(url=registry.address, tag="" if digest else tag, digest=digest, path=path, credentials="team")
    return oci.fetch(source, repo, **more)


def login(registry: Registry, *also: str) -> Login:
    return Login(addresses=(registry.address, *also), username="bot", password="hidden")


FILES = {"deploy/app.yaml": "a: 1\n", "base/b.yaml": "b: 2\n"}


def test_a_flux_artifact_is_its_files(registry: Registry, repo: pygit2.Repository) -> None:
    digest = registry.push("v1", (FLUX, tar(FILES), None))
    pin = fetch(registry, repo)
    assert (pin.revision, pin.digest) == ("v1", digest)
    assert charts.listed(repo, pin.tree) == {path: text.encode() for path, text in FILES.items()}
    assert fetch(registry, repo, digest=digest) == Pin(revision=digest, digest=digest, tree=pin.tree)


def test_a_chart_is_its_own_folder_and_its_provenance_is_passed_over(
    registry: Registry, repo: pygit2.Repository
) -> None:
    chart = tar({"web/Chart.yaml": "name: web\n", "web/values.yaml": "{}"})
    registry.push(
        "1.0.0", ("application/vnd.cncf.helm.chart.provenance.v1.prov", b"signed", None), (CHART, chart, None)
    )
    pin = fetch(registry, repo, tag="1.0.0")
    assert set(charts.listed(repo, pin.tree)) == {"Chart.yaml", "values.yaml"}


@pytest.mark.parametrize("kind", [TAR, f"{TAR}+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("title", [None, "app", "app.tar.gz"])
def test_a_folder_that_oras_pushed_is_unpacked(
    registry: Registry, repo: pygit2.Repository, kind: str, zipped: bool, title: str | None
) -> None:
    registry.push("v1", (kind, tar(FILES, zipped=zipped), title))
    assert set(charts.listed(repo, fetch(registry, repo).tree)) == set(FILES)


def test_files_that_oras_pushed_have_their_titles_as_names(registry: Registry, repo: pygit2.Repository) -> None:
    """oras calls any file a tar, unless it is told better."""
    registry.push("v1", (TAR, b"a: 1\n", "app.yaml"), ("text/yaml", b"b: 2\n", "more/b.yaml"), (TAR, tar(FILES), None))
    files = charts.listed(repo, fetch(registry, repo).tree)
    assert files["app.yaml"] == b"a: 1\n"
    assert files["more/b.yaml"] == b"b: 2\n"
    assert set(files) == {"app.yaml", "more/b.yaml", *FILES}


def test_a_folder_of_it_keeps_its_place(registry: Registry, repo: pygit2.Repository) -> None:
    registry.push("v1", (FLUX, tar(FILES), None))
    assert set(charts.listed(repo, fetch(registry, repo, path="deploy").tree)) == {"deploy/app.yaml"}
    with pytest.raises(Permanent, match="has no folder 'none'"):
        fetch(registry, repo, path="none")


def test_a_range_takes_the_newest_tag_of_all_pages(registry: Registry, repo: pygit2.Repository) -> None:
    registry.tags(["latest", "1.0.0", "sha256-abc.sig"], ["1.2.0_build.7", "2.0.0"], ["1.3.0-rc.1"])
    registry.push("1.2.0_build.7", (FLUX, tar(FILES), None))
    assert fetch(registry, repo, tag="^1").revision == "1.2.0_build.7"
    assert fetch(registry, repo, tag="1.2.0+build.7").revision == "1.2.0_build.7"
    with pytest.raises(Permanent, match=r"has no tag in '\^3' \(it has .*1.3.0-rc.1.*2.0.0"):
        fetch(registry, repo, tag="^3")


def test_a_name_that_is_no_range_is_asked_for_as_it_is(registry: Registry, repo: pygit2.Repository) -> None:
    registry.push("1.2", (FLUX, tar(FILES), None))
    assert fetch(registry, repo, tag="1.2").revision == "1.2"
    with pytest.raises(Permanent, match=r"OCI artifact oci://127.0.0.1:\d+/team/app: has no tag 'v2'"):
        fetch(registry, repo, tag="v2")
    with pytest.raises(InvalidInput, match="is not a tag"):
        fetch(registry, repo, tag="../v2/")


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("<http://127.0.0.1:1/v2/x>; rel=next", "its next tags are at http://127.0.0.1:1/v2/x"),
        ("<http://[>; rel=next", "its next tags are at"),
        ('</v2/team/app/tags/list>; rel="next"', "has more than 100 pages of tags"),
    ],
)
def test_tags_lead_nowhere_else_and_end(registry: Registry, repo: pygit2.Repository, link: str, words: str) -> None:
    registry.routes["/v2/team/app/tags/list"] = Says(body=b'{"tags": null}', headers={"Link": link})
    with pytest.raises(Permanent, match=words):
        fetch(registry, repo, tag="^1")


def test_what_is_pinned_already_is_not_fetched_again(registry: Registry, repo: pygit2.Repository) -> None:
    registry.push("v1", (FLUX, tar(FILES), None))
    pin = fetch(registry, repo)
    asked = len(registry.asked)
    assert fetch(registry, repo, known=pin) is pin
    assert registry.paths()[asked:] == ["/v2/team/app/manifests/v1"]


def test_a_tag_that_moves_meanwhile_makes_no_difference(registry: Registry, repo: pygit2.Repository) -> None:
    old = registry.push("v1", (FLUX, tar(FILES), None))
    before = registry.routes["/v2/team/app/manifests/v1"]
    new = registry.push("v1", (FLUX, tar({"other": "x"}), None))
    after = registry.routes["/v2/team/app/manifests/v1"]

    def moves(asked: Asked) -> Says:
        registry.routes["/v2/team/app/manifests/v1"] = after
        assert isinstance(before, Says)
        return before

    registry.routes["/v2/team/app/manifests/v1"] = moves
    pin = fetch(registry, repo)
    assert (pin.digest, set(charts.listed(repo, pin.tree))) == (old, set(FILES))
    assert fetch(registry, repo, known=pin).digest == new


@pytest.mark.parametrize("beside", [0, 1])
def test_an_index_of_one_manifest_is_followed(registry: Registry, repo: pygit2.Repository, beside: int) -> None:
    inner = registry.push("unused", (FLUX, tar(FILES), None))
    attestation = {"digest": "sha256:" + "0" * 64, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    manifests = [{"mediaType": MANIFEST, "digest": inner}, *([attestation] * beside)]
    digest = registry.manifest("v1", {"schemaVersion": 2, "manifests": manifests}, kind=INDEX)
    pin = fetch(registry, repo)
    assert (pin.digest, set(charts.listed(repo, pin.tree))) == (digest, set(FILES))


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ({"manifests": [{"digest": "sha256:" + "1" * 64}] * 2}, INDEX, "is an index of 2 manifests"),
        ({"manifests": []}, INDEX, "is an index of 0 manifests"),
        ({"manifests": [{"digest": "../x"}]}, INDEX, "is an index of 1 manifests"),
        (
            {"schemaVersion": 1, "fsLayers": []},
            "application/vnd.docker.distribution.manifest.v1+json",
            "no artifact|not an",
        ),
        ({"layers": 1}, MANIFEST, "is not an artifact with layers"),
        ([], MANIFEST, "is not as the protocol has it"),
        ({"layers": [1]}, MANIFEST, "is not as the protocol has it"),
        ({"layers": [{"mediaType": TAR, "digest": "sha512:00"}]}, MANIFEST, "is not named by sha256"),
        ({"layers": [{"mediaType": TAR, "digest": "sha256:../../x"}]}, MANIFEST, "is not named by sha256"),
        ({"layers": [{"mediaType": TAR, "digest": "x", "annotations": 1}]}, MANIFEST, "is not as the protocol"),
        ({"layers": [{}] * 101}, MANIFEST, "more than 100 layers"),
        ({"layers": []}, MANIFEST, "holds no file"),
    ],
)
def test_what_is_no_artifact_is_refused(
    registry: Registry, repo: pygit2.Repository, value: Any, kind: str, words: str
) -> None:
    registry.manifest("v1", value, kind=kind)
    with pytest.raises(Permanent, match=words):
        fetch(registry, repo)


@pytest.mark.parametrize(
    ("kind", "data", "title", "words"),
    [
        ("application/octet-stream", b"x", None, "a layer of the type application/octet-stream"),
        ("text/yaml", b"x", "../out.yaml", "is not a name"),
        ("text/yaml", b"x", "/etc/passwd", "is not a name"),
        ("text/yaml", b"x" * (4 << 20) + b"x", "a.yaml", "the limit is"),
        (FLUX, tar({"../out": "x"}), None, "leads out of the archive"),
        (f"{TAR}+zstd", b"\x28\xb5\x2f\xfd", None, "publish it with gzip"),
        (CHART, tar({"Chart.yaml": "x"}), None, "is not inside the archive's one folder"),
    ],
)
def test_a_layer_that_no_bundle_may_hold_is_refused(
    registry: Registry, repo: pygit2.Repository, kind: str, data: bytes, title: str | None, words: str
) -> None:
    registry.push("v1", (kind, data, title))
    with pytest.raises(InvalidInput, match=words):
        fetch(registry, repo)


def test_the_same_file_in_two_layers_is_refused(registry: Registry, repo: pygit2.Repository) -> None:
    registry.push("v1", (FLUX, tar(FILES), None), (FLUX, tar({"base/b.yaml": "b: 3\n"}), None))
    with pytest.raises(InvalidInput, match="is there twice"):
        fetch(registry, repo)


def test_bytes_that_are_not_what_their_digest_says_are_refused(registry: Registry, repo: pygit2.Repository) -> None:
    digest = registry.push("v1", (FLUX, tar(FILES), None))
    blob = f"/v2/team/app/blobs/{sha256(tar(FILES))}"
    whole = registry.routes[blob]
    registry.routes[blob] = tar({"other": "x"})
    with pytest.raises(ProtocolError, match=r"its layer sha256:.* is not what its digest says"):
        fetch(registry, repo)
    registry.routes[blob] = whole
    registry.push("v2", (FLUX, tar({"other": "x"}), None))
    registry.routes[f"/v2/team/app/manifests/{digest}"] = registry.routes["/v2/team/app/manifests/v2"]
    with pytest.raises(ProtocolError, match=r"its manifest sha256:.* is not what its digest says"):
        fetch(registry, repo, digest=digest)
    manifest = registry.routes["/v2/team/app/manifests/v1"]
    assert isinstance(manifest, Says)
    registry.routes["/v2/team/app/manifests/v1"] = Says(body=manifest.body + b" ", headers=manifest.headers)
    with pytest.raises(ProtocolError, match="its manifest v1 is not what its digest says"):
        fetch(registry, repo)


def test_a_blob_without_end_is_stopped(
    registry: Registry, repo: pygit2.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci, "MAX_BLOB_BYTES", 1000)
    registry.push("v1", (FLUX, tar(FILES), None))
    registry.routes[f"/v2/team/app/blobs/{sha256(tar(FILES))}"] = Says(body=b"x" * 999, endless=True)
    with pytest.raises(Permanent, match="has more than 1000 bytes"):
        fetch(registry, repo)


@pytest.mark.parametrize(("status", "kind"), [(403, Refused), (429, Transient), (500, Transient), (405, Permanent)])
def test_statuses_are_errors_of_their_kind(
    registry: Registry, repo: pygit2.Repository, status: int, kind: type[Exception]
) -> None:
    registry.routes["/v2/team/app/manifests/v1"] = Says(status=status)
    with pytest.raises(kind) as raised:
        fetch(registry, repo)
    assert type(raised.value) is kind


def test_a_password_is_sent_when_the_registry_asks_for_it(registry: Registry, repo: pygit2.Repository) -> None:
    registry.push("v1", (FLUX, tar(FILES), None))
    registry.guard('Basic realm="Registry"', lambda sent: sent == BASIC)
    assert fetch(registry, repo, login=login(registry)).revision == "v1"
    assert registry.authorizations() == [None, BASIC, BASIC]
    for wrong in (None, Login(addresses=(registry.address,), username="bot", password="wrong-secret")):
        with pytest.raises(Refused, match="check the credentials 'team'") as refused:
            fetch(registry, repo, login=wrong)
        assert "wrong-secret" not in str(refused.value)


def test_a_bearer_token_of_the_login_is_sent_at_once(registry: Registry, repo: pygit2.Repository) -> None:
    registry.push("v1", (FLUX, tar(FILES), None))
    registry.guard('Bearer realm="http://127.0.0.1:1/"', lambda sent: sent == "Bearer mine")
    assert fetch(registry, repo, login=Login(addresses=(registry.address,), token="mine")).revision == "v1"
    with pytest.raises(Refused):
        fetch(registry, repo, login=Login(addresses=(registry.address,), token="old"))


@pytest.mark.parametrize("key", ["token", "access_token"])
@pytest.mark.parametrize("named", [True, False], ids=["with a login", "without one"])
def test_a_token_server_of_the_registry_itself_is_asked(
    registry: Registry, repo: pygit2.Repository, key: str, named: bool
) -> None:
    registry.push("v1", (FLUX, tar(FILES), None))
    registry.guard(
        f'Bearer realm="{registry.url}/token",service="here",scope="repository:team/app:pull"',
        lambda sent: sent == "Bearer given",
    )
    registry.routes["/token"] = json.dumps({key: "given"}).encode()
    fetch(registry, repo, login=login(registry) if named else None)
    token = next(one for one in registry.asked if one.path == "/token")
    assert token.query == {"service": "here", "scope": "repository:team/app:pull"}
    assert token.headers.get("authorization") == (BASIC if named else None)
    assert registry.authorizations()[2:] == ["Bearer given"] * 2


def test_a_token_server_elsewhere_gets_the_password_only_if_it_is_for_it(
    registry: Registry, repo: pygit2.Repository
) -> None:
    registry.push("v1", (FLUX, tar(FILES), None))
    with Site({"/token": b'{"token": "given"}'}) as server:
        registry.guard(f'Bearer realm="{server.url}/token",service="here"', lambda sent: sent == "Bearer given")
        with pytest.raises(Refused, match=r"its token server http://.*/token is none of the addresses .*add it to"):
            fetch(registry, repo, login=login(registry))
        assert server.asked == []
        fetch(registry, repo, login=login(registry, f"{server.url}/token"))
        assert server.asked[0].headers["authorization"] == BASIC
        assert server.asked[0].query["scope"] == "repository:team/app:pull"
        fetch(registry, repo)
        assert "authorization" not in server.asked[1].headers


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ('Bearer realm="http://example.org/token"', "without TLS"),
        ('Bearer realm="ftp://127.0.0.1/"', "without TLS"),
        ("Bearer", "without other credentials"),
        ('Bearer realm="http://["', "without TLS"),
        ("Negotiate", "without other credentials"),
        ("", "without other credentials"),
    ],
)
def test_a_challenge_that_cannot_be_met_is_refused(
    registry: Registry, repo: pygit2.Repository, challenge: str, words: str
) -> None:
    registry.push("v1", (FLUX, tar(FILES), None))
    registry.guard(challenge, lambda sent: False)
    with pytest.raises(Refused, match=words):
        fetch(registry, repo, login=login(registry))
    assert set(registry.authorizations()) == {None}


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\nX: y"}'])
def test_a_token_server_without_a_token_is_told(registry: Registry, repo: pygit2.Repository, body: bytes) -> None:
    registry.push("v1", (FLUX, tar(FILES), None))
    registry.guard(f'Bearer realm="{registry.url}/token"', lambda sent: False)
    registry.routes["/token"] = body
    with pytest.raises(ProtocolError, match="/token"):
        fetch(registry, repo)


def test_a_blob_that_lies_elsewhere_is_fetched_without_the_login(registry: Registry, repo: pygit2.Repository) -> None:
    registry.push("v1", (FLUX, tar(FILES), None))
    blob = f"/v2/team/app/blobs/{sha256(tar(FILES))}"
    with Site({"/stored": tar(FILES)}) as storage:
        registry.routes[blob] = Says(status=307, headers={"Location": f"{storage.url}/stored?signature=x"})
        registry.guard("Basic", lambda sent: sent == BASIC)
        fetch(registry, repo, login=login(registry))
        assert "authorization" not in storage.asked[0].headers


def test_a_token_is_renewed_before_it_is_too_old(
    registry: Registry, repo: pygit2.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci, "_TOKEN_AGE_S", -1.0)
    registry.push("v1", (FLUX, tar(FILES), None))
    registry.guard(f'Bearer realm="{registry.url}/token"', lambda sent: sent == "Bearer given")
    registry.routes["/token"] = b'{"token": "given"}'
    fetch(registry, repo)
    assert registry.paths().count("/token") == 2


def test_a_registry_of_this_machine_needs_no_tls_and_others_do(registry: Registry, repo: pygit2.Repository) -> None:
    registry.push("v1", (FLUX, tar(FILES), None))
    here = OciSource(url=registry.address.replace("127.0.0.1", "127.0.0.2"), tag="v1")
    with pytest.raises(Transient, match=r"https://127.0.0.2"):
        oci.fetch(here, repo)
    assert registry.asked == []


@pytest.mark.parametrize("url", ["oci://x", "https://x/y", "oci://x/Y", "oci://a@x/y", "oci://x/y:z", "oci://x/../y"])
def test_what_is_no_address_of_an_artifact_is_refused(repo: pygit2.Repository, url: str) -> None:
    with pytest.raises(InvalidInput, match="is not an address of an artifact"):
        oci.fetch(OciSource(url=url, tag="v1"), repo)


@pytest.mark.parametrize("by", ["tag", "digest", "version"])
def test_a_chart_of_a_helm_index_may_lie_in_a_registry(registry: Registry, repo: pygit2.Repository, by: str) -> None:
    chart = tar({"web/Chart.yaml": "name: web\n"})
    digest = registry.push("1.0.0_b", (CHART, chart, None))
    url = registry.address + {"tag": ":1.0.0+b", "digest": f"@{digest}", "version": ""}[by]
    entry = {"version": "1.0.0+b", "urls": [url], "digest": sha256(chart).removeprefix("sha256:")}
    registry.routes["/index.yaml"] = json.dumps({"entries": {"web": [entry]}}).encode()
    pin = helm_repo.fetch(HelmSource(repository=registry.url, chart="web", version="1.x"), repo)
    assert (pin.revision, pin.digest) == ("1.0.0+b", sha256(chart))
    assert set(charts.listed(repo, pin.tree)) == {"Chart.yaml"}
