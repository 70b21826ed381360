"""Which kinds an API server serves, and where: its discovery documents as `Resource`s. All of it is pure.

Aggregated discovery (Kubernetes 1.30 and newer) tells everything in two documents; the plain form tells one group and
version. Next: `kinds` asks for them and keeps what they say.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from agent.model import Resource

ACCEPT: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

Served = tuple[tuple[str, str], Resource]
"""((apiVersion, kind), how it is served)."""


def aggregated(answer: Mapping[str, Any]) -> Iterator[Served]:
    """Pure: the kinds of an APIGroupDiscoveryList; none when a server too old for it sends its list of names."""
    for group in answer.get("items") or ():
        name = group["metadata"].get("name", "")
        for version in group.get("versions") or ():
            api_version = f"{name}/{version['version']}" if name else version["version"]
            for served in version.get("resources") or ():
                kind = (served.get("responseKind") or {}).get("kind")
                if kind:
                    yield (
                        (api_version, kind),
                        Resource(
                            group=name,
                            version=version["version"],
                            kind=kind,
                            plural=served["resource"],
                            namespaced=served["scope"] == "Namespaced",
                            verbs=frozenset(served.get("verbs") or ()),
                        ),
                    )


def plain(api_version: str, answer: Mapping[str, Any]) -> Iterator[Served]:
    """Pure: the kinds of an APIResourceList, which holds one group and version."""
    group, _, version = api_version.rpartition("/")
    for served in answer.get("resources") or ():
        if "/" not in served["name"]:
            yield (
                (api_version, served["kind"]),
                Resource(
                    group=group,
                    version=version,
                    kind=served["kind"],
                    plural=served["name"],
                    namespaced=served["namespaced"],
                    verbs=frozenset(served.get("verbs") or ()),
                ),
            )
