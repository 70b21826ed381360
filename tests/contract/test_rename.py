"""A bundle under a new name, on a whole agent: its objects go over in one slice commit, and none is made anew."""

from pathlib import Path
from typing import Any
from uuid import uuid4

from agent.kube.cluster import Cluster
from proto.slices import BUNDLE_LABEL
from tests.agents import agent, until
from tests.kube import Kube
from tests.slices import SliceMaker


def objects(run: str, *, color: str = "red") -> list[dict[str, Any]]:
    namespace = f"rename-{run}"
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "settings", "namespace": namespace},
            "data": {"color": color},
        },
    ]


async def test_a_renamed_bundle_keeps_its_objects_and_goes_back_with_them(kube: Kube, tmp_path: Path) -> None:
    run = uuid4().hex[:8]
    old, new = f"old-{run}", f"new-{run}"
    paths = [f"/api/v1/namespaces/rename-{run}", f"/api/v1/namespaces/rename-{run}/configmaps/settings"]
    maker = SliceMaker()
    first = maker.next({old: objects(run)})
    renamed = maker.next({new: objects(run, color="blue")})
    back = maker.next({old: objects(run)})

    def uids(bundle: str) -> list[str]:
        found = [kube.must("GET", path)["metadata"] for path in paths]
        assert {metadata["labels"][BUNDLE_LABEL] for metadata in found} == {bundle}
        return [metadata["uid"] for metadata in found]

    async with Cluster.connect(kube.kubeconfig) as api, agent(api, tmp_path) as one:
        one.deliver(first)
        await until(lambda: one.converged(first, old), what="the bundle")
        before = uids(old)
        one.deliver(renamed)
        await until(lambda: one.converged(renamed, old, new), what="its new name")
        assert uids(new) == before
        assert kube.must("GET", paths[1])["data"] == {"color": "blue"}
        one.deliver(back)
        await until(lambda: one.converged(back, old, new), what="its old name")
        assert uids(old) == before
        assert kube.must("GET", paths[1])["data"] == {"color": "red"}
