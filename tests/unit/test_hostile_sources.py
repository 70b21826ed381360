"""A fleet repo with one hostile bundle: it is refused with its name and file, and every other bundle goes on.

What `sources` alone refuses, and in which forms, is in `test_sources`; Kustomize's remote bases are in
`test_render_kustomize`. Here each way in is tried once from the commit to the finding.
"""

import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pygit2
import pytest
from pygit2.enums import ObjectType

from hub import isolation, rendering, worker
from hub.desired import Desired, desired
from hub.journal import Journal
from hub.pins import Pins
from hub.render import build, limits
from hub.repo import listing, sources
from hub.slices.gitstore import GitStore
from proto.errors import InvalidInput, Permanent
from proto.ids import BundleName, ClusterName, Oid

FILE, LINK, SUBMODULE, FOLDER = 0o100644, 0o120000, 0o160000, 0o040000
GOOD, EVIL, EU = BundleName("good"), BundleName("evil"), ClusterName("eu-1")
Entry = tuple[int, bytes]
"""Mode, and content or target."""

CLUSTER = b"apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: eu-1}\n"
CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {text: 'größe\tone'}\n"
CHART = b"apiVersion: v2\nname: web\nversion: 1.2.3\n"


def bundle(name: str) -> bytes:
    spec = "spec: {targets: {}, namespace: shop}"
    return f"apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {{name: {name}}}\n{spec}\n".encode()


BESIDE: Mapping[bytes, Entry] = {
    b"clusters/eu.yaml": (FILE, CLUSTER),
    b"bundles/good/bundle.yaml": (FILE, bundle("good")),
    b"bundles/good/config.yaml": (FILE, CONFIG.replace("web", "good").encode()),
    b"bundles/evil/bundle.yaml": (FILE, bundle("evil")),
}


def commit(repo: pygit2.Repository, files: Mapping[bytes, Entry]) -> Oid:
    """A commit with exactly these entries, as no Git client would write it."""

    def tree(node: Mapping[bytes, Any]) -> pygit2.Oid:
        body = b""
        for name, child in sorted(node.items()):
            if isinstance(child, dict):
                mode, oid = FOLDER, tree(child)
            elif child[0] == SUBMODULE:
                mode, oid = SUBMODULE, pygit2.Oid(raw=b"\1" * 20)
            else:
                mode, oid = child[0], repo.create_blob(child[1])
            body += b"%o %s\0" % (mode, name.replace(b"|", b"/")) + oid.raw
        return repo.odb.write(ObjectType.TREE, body)

    root: dict[bytes, Any] = {}
    for path, entry in files.items():
        *parents, name = path.split(b"/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = entry
    text = b"tree %s\nauthor A <a@x> 0 +0000\ncommitter A <a@x> 0 +0000\n\nm\n" % str(tree(root)).encode()
    return Oid(str(repo.odb.write(ObjectType.COMMIT, text)))


class Hub:
    def __init__(self, folder: Path) -> None:
        self.mirror = pygit2.init_repository(str(folder / "mirror"), bare=True)
        self.store = GitStore.create(folder / "slices.git")
        self.journal = Journal(folder / "journal.db")
        self.pins = Pins(self.journal, folder / "sources")

    async def wants(self, evil: Mapping[bytes, Entry]) -> Desired:
        """With these files in the hostile bundle."""
        files = {**BESIDE, **{b"bundles/evil/" + path: entry for path, entry in evil.items()}}
        oid = commit(self.mirror, files)
        return await desired(
            oid, mirror=Path(self.mirror.path), store=self.store, journal=self.journal, pins=self.pins, current={}
        )


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    made = Hub(tmp_path)
    yield made
    made.journal.close()


@pytest.fixture
def workers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers do is done in this process: faster, where nothing dies of it."""

    async def run(function: Callable[..., Any], *arguments: Any, what: str, **_: Any) -> Any:
        return function(*arguments)

    monkeypatch.setattr(worker, "run", run)


def refused(found: Desired, file: str) -> None:
    """The hostile bundle alone has failed, with a finding that names it and the file, and what to do."""
    assert found.failed == {EVIL}
    assert found.subtrees.keys() == {GOOD}
    [finding] = [finding for finding in found.findings if finding.severity == "error"]
    assert finding.about == "bundle evil"
    assert file in f"{finding.where} {finding.message}"
    assert finding.remedy


def chart(template: str) -> Mapping[bytes, Entry]:
    return {b"Chart.yaml": (FILE, CHART), b"templates/x.yaml": (FILE, template.encode())}


ALIASES = b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 12)
)
MERGES = b"a0: &a0 {x: {y: 1}}\n" + b"".join(
    b"a%d: &a%d {<<: *a%d, b%d: *a%d, c%d: *a%d}\n" % (n, n, n - 1, n, n - 1, n, n - 1) for n in range(1, 40)
)
PLUGIN = b"""apiVersion: v1
kind: Touch
metadata:
  name: x
  annotations:
    config.kubernetes.io/function: |
      exec: {path: ./run.sh}
"""


@pytest.mark.usefixtures("workers_here")
@pytest.mark.parametrize(
    ("evil", "file"),
    [
        pytest.param({b"l.yaml": (LINK, b"/etc/passwd")}, "bundles/evil/l.yaml", id="a link to the machine"),
        pytest.param({b"l.yaml": (LINK, b"../good/config.yaml")}, "bundles/evil/l.yaml", id="a link to another bundle"),
        pytest.param({b"d/..": (FILE, b"x")}, "bundles/evil/d/..", id="a file named .."),
        pytest.param({b"..|..|up.yaml": (FILE, b"x")}, "up.yaml", id="a name that climbs"),
        pytest.param({b".git/config": (FILE, b"[core]")}, "bundles/evil/.git", id="a repository in the bundle"),
        pytest.param({b".Git/hooks/x": (FILE, b"x")}, "bundles/evil/.Git", id="a repository, in capitals"),
        pytest.param({b"lib": (SUBMODULE, b"")}, "bundles/evil/lib", id="a submodule"),
        pytest.param(
            {b"--upload-pack=touch x": (SUBMODULE, b"")}, "--upload-pack", id="a submodule named as an option"
        ),
        pytest.param({b"..|..|.git|hooks": (SUBMODULE, b"")}, "bundles/evil/", id="a submodule with a path as name"),
        pytest.param(
            {b"big.yaml": (FILE, b"#" * (listing.MAX_FILE_BYTES + 1))}, "bundles/evil/big.yaml", id="a huge blob"
        ),
        pytest.param({b"d/" * 70 + b"x.yaml": (FILE, b"x")}, "bundles/evil/d/d/", id="folders without end"),
        pytest.param({b"a\xff.yaml": (FILE, b"x")}, r"bundles/evil/a\xff.yaml", id="a name that is not UTF-8"),
        pytest.param({b"x.yaml": (FILE, b"a: \xff\n")}, "bundles/evil/x.yaml:1", id="text that is not UTF-8"),
        pytest.param({b"x.yaml": (FILE, b"a: \0\n")}, "bundles/evil/x.yaml:1", id="a NUL"),
        pytest.param({b"x.yaml": (FILE, b"[" * 100_000)}, "bundles/evil/x.yaml:1", id="deep nesting"),
        pytest.param({b"x.json": (FILE, b'{"a":' * 100_000)}, "bundles/evil/x.json:1", id="deep nesting in JSON"),
        pytest.param({b"x.yaml": (FILE, ALIASES)}, "bundles/evil/x.yaml:", id="aliases of aliases"),
        pytest.param({b"x.yaml": (FILE, b"a: &a [*a]\n")}, "bundles/evil/x.yaml:1", id="an alias of itself"),
        pytest.param(
            {b"kustomization.yaml": (FILE, b"resources: [https://127.0.0.1:1/x]")},
            "bundles/evil/kustomization.yaml",
            id="a remote base",
        ),
        pytest.param(
            {b"kustomization.yaml": (FILE, b"resources: [../good]")},
            "bundles/evil/kustomization.yaml",
            id="a base outside",
        ),
        pytest.param(
            {b"kustomization.yaml": (FILE, b"configMapGenerator: [{name: x, files: [/etc/passwd]}]")},
            "bundles/evil",
            id="a generator that reads the machine",
        ),
        pytest.param({b"kustomization.yaml": (FILE, b"resources: [.]")}, "bundles/evil", id="a base of itself"),
        pytest.param(chart("{{ fail .Values.nothing }}"), "templates/x.yaml", id="a template that fails"),
        pytest.param(
            chart('{{ define "x" }}{{ include "x" . }}{{ end }}{{ include "x" . }}'), "templates/x.yaml", id="recursion"
        ),
        pytest.param(
            chart('{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}'),
            "templates/x.yaml",
            id="recursion too",
        ),
        pytest.param(chart('a: {{ env "HOME" }}'), "templates/x.yaml", id="the environment"),
        pytest.param(
            chart('a: {{ .Files.Get "x" | fromYaml }}{{ readFile "/etc/passwd" }}'), "x.yaml", id="no function"
        ),
        pytest.param(
            {b"Chart.yaml": (FILE, CHART.replace(b"web", b"../../web"))}, "bundles/evil", id="a chart that climbs"
        ),
        pytest.param({b"Chart.yaml": (FILE, ALIASES)}, "bundles/evil", id="a chart of aliases"),
        pytest.param({b"x.yaml": (FILE, MERGES)}, "bundles/evil/x.yaml:", id="merge keys of merge keys"),
        pytest.param(
            {**chart("a: b"), b"values.schema.json": (FILE, b'{"$ref": "#"}')}, "bundles/evil", id="a schema of itself"
        ),
    ],
)
async def test_a_hostile_bundle_stops_itself_alone(hub: Hub, evil: Mapping[bytes, Entry], file: str) -> None:
    refused(await hub.wants(evil), file)


@pytest.mark.usefixtures("workers_here")
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(CONFIG.replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(b"\xef\xbb\xbf" + CONFIG.encode(), id="a byte order mark"),
        pytest.param(CONFIG.encode("utf-16"), id="UTF-16"),
        pytest.param(b"\xfe\xff" + CONFIG.encode("utf-16-be"), id="UTF-16, the other end first"),
    ],
)
async def test_text_from_elsewhere_gives_the_same_objects(hub: Hub, text: bytes) -> None:
    usual = await hub.wants({b"x.yaml": (FILE, CONFIG.encode())})
    found = await hub.wants({b"x.yaml": (FILE, text)})
    assert found.failed == frozenset()
    assert found.subtrees[EVIL] == usual.subtrees[EVIL]


# --- what does not end by itself, in worker processes -------------------------------------------------------------


def render_with_little(*args: Any) -> Any:
    """In the worker process."""
    limits.CPU_S, limits.MEMORY_BYTES = 2, 700 << 20
    return _render(*args)


_render = rendering._render


@pytest.mark.parametrize(
    ("evil", "cause"),
    [
        pytest.param(
            chart("{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}"),
            "its worker process died",
            id="a loop without end",
        ),
        pytest.param(chart('a: {{ repeat 1200000000 "x" }}'), "its worker process died", id="a value without end"),
        pytest.param(
            {**chart("{{ tpl .Values.x . }}"), b"values.yaml": (FILE, b"x: '{{ tpl .Values.x . }}'\n")},
            "its worker process died",
            id="a template that is its own value",
        ),
        pytest.param(
            {b"kustomization.yaml": (FILE, b"resources: [x.yaml]"), b"x.yaml": (FILE, CONFIG.encode() + ALIASES)},
            "does not build: it takes more memory than a render may have",
            id="aliases of aliases below a kustomization",
        ),
        pytest.param(
            chart('a: {{ repeat 17000000 "x" }}'),
            "has 17000003 bytes, the limit is 16777216",
            id="a file of 17 MB",
        ),
    ],
)
async def test_a_chart_that_takes_all_it_can_get_ends_alone(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, evil: Mapping[bytes, Entry], cause: str
) -> None:
    monkeypatch.setattr(rendering, "_render", render_with_little)
    refused(await hub.wants(evil), cause)


def hoard() -> int:
    limits.MEMORY_BYTES = 100 << 20
    with limits.bounded():
        return len(bytearray(1 << 30))


def room() -> int:
    """Bytes that this process may have after a render that was bound."""
    with suppress(MemoryError):
        hoard()
    return len(bytearray(200 << 20))


async def test_memory_is_bound_for_the_time_of_a_render(hub: Hub) -> None:
    with pytest.raises(Permanent, match="MemoryError"):
        await worker.run(hoard)
    assert await worker.run(room) == 200 << 20


# --- what would lead out of the bundle ----------------------------------------------------------------------------


@pytest.mark.usefixtures("workers_here")
async def test_a_chart_reads_no_file_but_its_own(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the hub")
    reads = "".join(
        f"  f{index}: {{{{ .Files.Get {path!r} | quote }}}}\n".replace("'", '"')
        for index, path in enumerate(("../good/config.yaml", f"{tmp_path}/secret", "../../secret", "/etc/passwd"))
    )
    globs = '  glob: {{ (.Files.Glob "../**").AsConfig | quote }}\n'
    lines = '  lines: {{ .Files.Lines "/etc/passwd" | join "" | quote }}\n'
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n"
    found = await hub.wants(chart(head + reads + globs + lines))
    assert found.failed == frozenset()
    read = Path(hub.mirror.path)
    rendered = build.render_request(
        sources.CommitTree(read, found.commit), "bundles/evil", {"policy": {"name": "evil"}}, "evil"
    )
    (data,) = (json.loads(data)["data"] for path, data in rendered.files.items() if path != "bundle.json")
    assert set(data.values()) <= {"", "{}"}


@pytest.mark.usefixtures("workers_here")
@pytest.mark.parametrize("field", ["generators", "transformers", "validators"])
async def test_plugins_of_kustomize_are_never_run(hub: Hub, tmp_path: Path, field: str) -> None:
    program = b"#!/bin/sh\ntouch " + bytes(tmp_path / "ran") + b"\ncat\n"
    evil = {
        b"kustomization.yaml": (FILE, f"resources: [x.yaml]\n{field}: [plugin.yaml]\n".encode()),
        b"x.yaml": (FILE, CONFIG.encode()),
        b"plugin.yaml": (FILE, PLUGIN),
        b"run.sh": (0o100755, program),
    }
    refused(await hub.wants(evil), "bundles/evil")
    assert not (tmp_path / "ran").exists()


def render_curiously(mirror: Path, *_: Any) -> Any:
    """In the worker process: what it can reach, as the reason of a failure."""
    reached = []
    for path in (mirror.parent / "journal.db", mirror.parent / "slices.git/HEAD", Path("/proc/1/environ")):
        with suppress(PermissionError):
            reached.append(str(len(path.read_bytes())))
    with suppress(PermissionError):
        socket.socket(socket.AF_INET).close()
        reached.append("network")
    raise InvalidInput("bundle evil", f"reached {', '.join(reached) or 'nothing'} but {len(os.listdir(mirror))} files")


@pytest.mark.skipif(isolation._landlock_abi() < 1, reason="the kernel lacks Landlock")
async def test_a_render_reaches_neither_the_hubs_files_nor_the_network(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "_render", render_curiously)
    found = await hub.wants({b"config.yaml": (FILE, b"{}")})
    told = [finding.message for finding in found.findings if finding.about == "bundle evil"]
    assert len(told) == 1
    assert "reached nothing but " in told[0]
