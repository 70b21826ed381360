"""Discovery documents: what is served, all at once (aggregated) or one group and version at a time. All of it is pure.

Next: `server` answers with these under /api and /apis.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hub.openapi.schema import ResourceInfo
from hub.sim.status import NoSuchGroup

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


def aggregated(infos: Iterable[ResourceInfo]) -> dict[str, Any]:
    """Pure: the APIGroupDiscoveryList of these resources."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for info in infos:
        groups.setdefault(info.group, {}).setdefault(info.version, []).append(_discovered(info))
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": group} if group else {},
                "versions": [
                    {"version": version, "resources": resources, "freshness": "Current"}
                    for version, resources in versions.items()
                ],
            }
            for group, versions in groups.items()
        ],
    }


def _discovered(info: ResourceInfo) -> dict[str, Any]:
    return {
        "resource": info.plural,
        "responseKind": {"group": info.group, "version": info.version, "kind": info.kind},
        "scope": "Namespaced" if info.namespaced else "Cluster",
        "singularResource": info.singular,
        "verbs": list(info.verbs),
        **({"shortNames": list(info.short_names)} if info.short_names else {}),
        **({"categories": list(info.categories)} if info.categories else {}),
        **(
            {
                "subresources": [
                    {
                        "subresource": sub.name,
                        "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                        "verbs": list(sub.verbs),
                    }
                    for sub in info.subresources
                ]
            }
            if info.subresources
            else {}
        ),
    }


def groups(infos: Iterable[ResourceInfo]) -> dict[str, Any]:
    """Pure: the APIGroupList of all named groups."""
    versions: dict[str, list[str]] = {}
    for info in infos:
        if info.group and info.version not in versions.setdefault(info.group, []):
            versions[info.group].append(info.version)
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(name, served) for name, served in versions.items()],
    }


def _group(name: str, versions: list[str]) -> dict[str, Any]:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def group(infos: Iterable[ResourceInfo], name: str) -> Mapping[str, Any] | None:
    """Pure: the APIGroup of this name; None when nothing of it is served."""
    found = next((one for one in groups(infos)["groups"] if one["name"] == name), None)
    return {"kind": "APIGroup", "apiVersion": "v1", **found} if found else None


def resources(infos: Iterable[ResourceInfo], group: str, version: str) -> dict[str, Any] | None:
    """Pure: the APIResourceList of a group and version; None when it is not served."""
    listed: list[dict[str, Any]] = []
    for info in infos:
        if (info.group, info.version) == (group, version):
            listed.append(
                {
                    "name": info.plural,
                    "singularName": info.singular,
                    "namespaced": info.namespaced,
                    "kind": info.kind,
                    "verbs": list(info.verbs),
                    **({"shortNames": list(info.short_names)} if info.short_names else {}),
                }
            )
            listed += [
                {
                    "name": f"{info.plural}/{sub.name}",
                    "singularName": "",
                    "namespaced": info.namespaced,
                    "group": sub.group,
                    "version": sub.version,
                    "kind": sub.kind,
                    "verbs": list(sub.verbs),
                }
                for sub in info.subresources
            ]
    if not listed:
        return None
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": listed}


def document(parts: Sequence[str], infos: Sequence[ResourceInfo], *, wants_all: bool) -> Mapping[str, Any] | None:
    """Pure: the document at a path, aggregated if `wants_all`; None when no document has such a path. Raises
    NoSuchGroup."""
    match parts:
        case ["api"] if wants_all:
            return aggregated(info for info in infos if not info.group)
        case ["apis"] if wants_all:
            return aggregated(info for info in infos if info.group)
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["apis"]:
            return groups(infos)
        case ["api", version]:
            found: Mapping[str, Any] | None = resources(infos, "", version)
        case ["apis", name]:
            found = group(infos, name)
        case ["apis", name, version]:
            found = resources(infos, name, version)
        case _:
            return None
    if found is None:
        raise NoSuchGroup
    return found
