"""An air-gapped cluster: the agent as a process that knows no hub, and takes slices from files that somebody brings."""

import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pygit2
import pytest

from agent.stream.slice_reader import KINDS
from hub.slices import signing
from proto.ids import slice_ref
from proto.sshsig import CommitSigner
from tests.agent_process import AgentProcess
from tests.kube import Kube
from tests.real import Process, wait_until
from tests.signing import SshKey, needs, run
from tests.slices import CLUSTER, SliceMaker

NAMESPACE = "air-gap"
REF = slice_ref(CLUSTER)


def color(value: str) -> str:
    return f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: web, namespace: {NAMESPACE}}}
data: {{color: {value}}}
"""


class Site(AgentProcess):
    """A hub's slice repository out there, a folder that bundles are carried to, and the agent's process."""

    def __init__(self, kube: Kube, folder: Path) -> None:
        super().__init__(kube.kubeconfig, folder)
        self.kube = kube
        self.slices = pygit2.init_repository(str(folder / "slices.git"), bare=True)
        self.maker = SliceMaker()
        self.stick = folder / "stick"
        self.stick.mkdir()
        self.report = folder / "report.json"

    def move(self, value: str, key: CommitSigner | None = None) -> str:
        wake = self.maker.next({"shop": color(value)})
        for item in wake.objects:
            signed = key is not None and item.kind == "commit"
            made = self.slices.odb.write(KINDS[item.kind], key.sign(item.data) if signed and key else item.data)
        self.maker.commit = str(made)
        self.slices.references.create(REF, self.maker.commit, force=True)
        return self.maker.commit

    def bundle(self, name: str, revisions: str = REF) -> Path:
        run("git", "bundle", "create", "-q", str(self.folder / name), revisions, cwd=Path(self.slices.path))
        return self.folder / name

    def carry(self, file: Path) -> None:
        (self.stick / file.name).write_bytes(file.read_bytes())

    def start(self, *options: str) -> Process:
        return super().start(f"--slice-bundles={self.stick}", f"--report-file={self.report}", *options)

    def has(self, value: str) -> bool:
        found = self.kube.call("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps/web")[1]
        return bool(found.get("data") == {"color": value})

    def said(self) -> dict[str, Any]:
        return dict(json.loads(self.report.read_text())["report"]) if self.report.exists() else {}

    def says(self, *, seq: int, problem: str = "") -> bool:
        """The report names this slice, healthy, and this problem or none."""
        said = self.said()
        told = " ".join(said.get("problems", ()))
        shop = said.get("bundles", {}).get("shop", {})
        healthy = shop.get("converged") is True and shop.get("health") == "Current"
        return said.get("seq") == seq and healthy and (problem in told if problem else not told)


@pytest.fixture
def site(kube: Kube, tmp_path: Path) -> Iterator[Site]:
    needs("git")
    made = Site(kube, tmp_path)
    yield made
    made.end()


def test_files_bring_slices_forward_and_a_report_goes_out(site: Site) -> None:
    first = site.move("red")
    old = site.bundle("1.bundle")
    second = site.move("green")
    next_ = site.bundle("2.bundle", f"{first}..{REF}")
    site.move("blue")
    last = site.bundle("3.bundle", f"{second}..{REF}")

    process = site.start()
    wait_until("a report of an empty folder", lambda: "no file" in str(site.said().get("problems")), process=process)
    site.carry(old)
    wait_until("the first slice", partial(site.has, "red"), process=process)
    wait_until("its report", partial(site.says, seq=1), process=process)

    site.carry(last)
    missing = f"needs commit {second}"
    wait_until("what is missing is told", partial(site.says, seq=1, problem=missing), process=process)
    assert f"flotilla bundle export {CLUSTER} --since 1" in str(site.said()["problems"])
    assert site.has("red")
    site.carry(next_)
    wait_until("both", partial(site.has, "blue"), process=process)
    wait_until("their report", partial(site.says, seq=3), process=process)

    site.kube.must("DELETE", f"/api/v1/namespaces/{NAMESPACE}/configmaps/web")
    wait_until("drift undone", partial(site.has, "blue"), process=process)
    wait_until("drift in the report", lambda: len(site.said().get("drift", ())) == 1, process=process)
    process.stop(signal.SIGTERM)
    assert process.child.returncode == 0


def test_killed_while_a_bundle_comes_it_goes_on_with_what_it_has(site: Site) -> None:
    site.move("red")
    site.carry(site.bundle("a.bundle"))
    process = site.start()
    wait_until("the first slice", partial(site.has, "red"), process=process)
    process.kill()

    site.move("green")
    whole = site.bundle("b.bundle").read_bytes()
    (site.stick / "b.bundle").write_bytes(whole[:-10])
    (site.stick / "a.bundle").unlink()
    site.kube.must("DELETE", f"/api/v1/namespaces/{NAMESPACE}/configmaps/web")
    process = site.start()
    wait_until("the old slice, enforced", partial(site.has, "red"), process=process)
    wait_until("the half file is told", partial(site.says, seq=1, problem="is not whole"), process=process)

    (site.stick / "b.bundle").write_bytes(whole)
    wait_until("the next slice", partial(site.has, "green"), process=process)
    wait_until("nothing is wrong any more", partial(site.says, seq=2), process=process)


def test_a_slice_that_nobody_signed_is_refused_and_told(site: Site) -> None:
    key = SshKey(site.folder, "hub")
    (site.folder / "signers").write_text(f"{key.signer()}\n")
    site.move("red", signing.load(key.file))
    site.carry(site.bundle("1.bundle"))
    process = site.start(f"--slice-signers={site.folder / 'signers'}")
    wait_until("the signed slice", partial(site.has, "red"), process=process)

    site.move("green")
    site.carry(site.bundle("2.bundle"))
    wait_until("the refusal is told", partial(site.says, seq=1, problem="is not signed"), process=process)
    assert site.has("red")

    site.move("blue", signing.load(key.file))
    site.carry(site.bundle("3.bundle"))
    wait_until("the next signed slice, on top of it", partial(site.has, "blue"), process=process)
    wait_until("who is signed is enough", partial(site.says, seq=3), process=process)
