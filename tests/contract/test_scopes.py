"""Which kinds have a namespace is known at render, without a cluster: the API server says the same."""

from hub.render import objects
from proto.objects import ObjectKey
from tests.kube import Kube


def test_the_scopes_that_rendering_knows_are_those_of_the_api_server(kube: Kube) -> None:
    groups = [("", "/api/v1")]
    for group in kube.must("GET", "/apis")["groups"]:
        if "." not in group["name"] or group["name"].endswith(".k8s.io"):  # not those of another test's definitions
            groups += [(group["name"], f"/apis/{version['groupVersion']}") for version in group["versions"]]
    wrong: list[str] = []
    seen = 0
    for name, path in groups:
        for served in kube.must("GET", path)["resources"]:
            if "/" in served["name"] or "patch" not in served["verbs"]:
                continue
            key = ObjectKey(group=served.get("group") or name, kind=served["kind"], namespace="", name="x")
            seen += 1
            if objects.cluster_scoped(key, {}) is served["namespaced"]:
                wrong.append(f"{key.gk}: namespaced is {served['namespaced']}")
    assert wrong == []
    assert seen > 30
