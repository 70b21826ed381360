"""A cluster whose slices come from a mirror on stock Git: the agent as a process, with no hub to be reached."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pygit2
import pytest

from agent.stream.slice_reader import KINDS
from proto.ids import slice_ref
from tests.agent_process import AgentProcess
from tests.git_host import PASSWORD, USER, GitHost, git_host
from tests.kube import Kube
from tests.real import Process, wait_until
from tests.slices import CLUSTER, SliceMaker

NAMESPACE = "mirror"
REF = slice_ref(CLUSTER)


def colors(*values: str) -> str:
    namespace = f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}"
    metadata = f"namespace: {NAMESPACE}"
    configs = (
        f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c{n}, {metadata}}}, data: {{color: {value}}}}}"
        for n, value in enumerate(values)
    )
    return "\n---\n".join([namespace, *configs])


class Site(AgentProcess):
    """A mirror, and the agent's process that pulls from it."""

    def __init__(self, kube: Kube, host: GitHost, folder: Path) -> None:
        super().__init__(kube.kubeconfig, folder)
        self.kube, self.host = kube, host
        self.slices = pygit2.Repository(str(host.create()))
        self.maker = SliceMaker()

    def move(self, *values: str) -> str:
        """What the hub pushes next."""
        wake = self.maker.next({"shop": colors(*values)})
        for item in wake.objects:
            self.slices.odb.write(KINDS[item.kind], item.data)
        self.slices.references.create(REF, wake.commit, force=True)
        return wake.commit

    def start(self, *options: str) -> Process:
        login = self.folder / "login"
        login.write_text(f"{USER}:{PASSWORD}\n")
        mirror = f"--slices={self.host.url}/slices.git"
        return super().start(mirror, f"--slices-login-file={login}", "--slices-poll=0.2", *options)

    def has(self, *values: str) -> bool:
        found = self.kube.call("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps")[1].get("items", [])
        return sorted(item["data"]["color"] for item in found if "color" in item.get("data", {})) == sorted(values)


@pytest.fixture
def site(kube: Kube, tmp_path: Path) -> Iterator[Site]:
    with git_host(tmp_path / "host") as host:
        made = Site(kube, host, tmp_path)
        yield made
        made.end()


def asked(site: Site, more: int) -> None:
    """Returns once the agent has looked at the mirror so many times again."""
    before = len(site.host.asked)
    wait_until("looks at the mirror", lambda: len(site.host.asked) >= before + more, process=site.process)


def test_slices_arrive_through_the_mirror_and_lies_of_it_prune_nothing(site: Site) -> None:
    first = site.move("red", "red")
    process = site.start()
    wait_until("the first slice", partial(site.has, "red", "red"), process=process)
    second = site.move("green")
    wait_until("the second, with what it prunes", partial(site.has, "green"), process=process)

    site.slices.references.create(REF, first, force=True)
    asked(site, 4)
    site.slices.references.delete(REF)
    asked(site, 4)
    empty = site.slices.TreeBuilder().write()
    who = pygit2.Signature("eve", "eve@example.org", 1, 0)
    site.slices.create_commit(REF, who, who, "nothing\n", empty, [second])
    asked(site, 4)
    site.host.before = lambda _: 404
    asked(site, 4)
    assert site.has("green")

    process.kill()
    site.host.before = lambda _: None
    site.slices.references.create(REF, second, force=True)
    site.move("blue", "blue")
    process = site.start()
    wait_until("the third, after a kill", partial(site.has, "blue", "blue"), process=process)
