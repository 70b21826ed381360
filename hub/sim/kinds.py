"""Which kinds the simulated server serves: the built-in ones and those of CustomResourceDefinitions.

A definition counts from its creation to its deletion, as its status says. Next: `api` looks kinds up by path,
`discovery` lists them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hub.openapi import schema
from hub.openapi.schema import Node, ResourceInfo, Subresource
from hub.sim.store import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind in one version, and its schema."""

    info: ResourceInfo
    node: Node
    custom: bool = False

    @property
    def table(self) -> Table:
        return self.info.group, self.info.plural

    @property
    def has_status(self) -> bool:
        """Whether `status` is written through its own endpoint only."""
        return self.info.subresource("status") is not None

    @property
    def names(self) -> tuple[str, str]:
        """Group and kind."""
        return self.info.group, self.info.kind


class Kinds:
    """Kinds by (group, version, plural)."""

    def __init__(self) -> None:
        self._infos: dict[tuple[str, str, str], ResourceInfo] = {
            (info.group, info.version, info.plural): info for info in schema.schemas().resources()
        }
        self._custom: dict[tuple[str, str, str], Kind] = {}

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        """The kind at a path; None when there is none."""
        info = self._infos.get((group, version, plural))
        if info is not None:
            return Kind(info=info, node=schema.schemas().of(group, version, info.kind))
        return self._custom.get((group, version, plural))

    def of(self, api_version: str, kind: str) -> Kind | None:
        """The kind that manifests name so."""
        group, _, version = api_version.rpartition("/")
        for info in self.infos():
            if (info.group, info.version, info.kind) == (group, version, kind):
                return self.find(group, version, info.plural)
        return None

    def of_table(self, table: Table) -> Kind | None:
        """A kind by what its objects are stored under, in any of its versions."""
        for info in self.infos():
            if (info.group, info.plural) == table:
                return self.find(info.group, info.version, info.plural)
        return None

    def infos(self) -> Iterator[ResourceInfo]:
        """Everything that is served."""
        yield from self._infos.values()
        for kind in self._custom.values():
            yield kind.info

    def define(self, definition: Mapping[str, Any]) -> None:
        """Serve what a CustomResourceDefinition says, instead of what it said before."""
        spec = definition["spec"]
        self.undefine(definition)
        for version in spec["versions"]:
            if version.get("served"):
                kind = _custom(spec, version)
                self._custom[(spec["group"], version["name"], spec["names"]["plural"])] = kind

    def undefine(self, definition: Mapping[str, Any]) -> None:
        """Serve it no more."""
        table = definition["spec"]["group"], definition["spec"]["names"]["plural"]
        self._custom = {path: kind for path, kind in self._custom.items() if kind.table != table}


def _custom(spec: Mapping[str, Any], version: Mapping[str, Any]) -> Kind:
    group, names = spec["group"], spec["names"]
    subresources = []
    offered = version.get("subresources") or {}
    if "status" in offered:
        subresources.append(
            Subresource(
                name="status",
                group=group,
                version=version["name"],
                kind=names["kind"],
                verbs=("get", "patch", "update"),
            )
        )
    if "scale" in offered:
        subresources.append(
            Subresource(name="scale", group="autoscaling", version="v1", kind="Scale", verbs=("get", "patch", "update"))
        )
    info = ResourceInfo(
        group=group,
        version=version["name"],
        kind=names["kind"],
        plural=names["plural"],
        singular=names.get("singular") or names["kind"].lower(),
        namespaced=spec["scope"] == "Namespaced",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=tuple(subresources),
    )
    node = schema.schemas().from_crd((version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"})
    return Kind(info=info, node=node, custom=True)


def unestablished(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Pure: the status of a definition that nobody looked at yet."""
    stored = [version["name"] for version in definition["spec"].get("versions") or () if version.get("storage")]
    return {"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}


def established(definition: Mapping[str, Any], *, now: str) -> dict[str, Any]:
    """Pure: the status of a definition that is served."""
    names, status = definition["spec"]["names"], definition.get("status") or {}
    stored = list(status.get("storedVersions") or ())
    storage = next(version["name"] for version in definition["spec"]["versions"] if version.get("storage"))
    conditions = status.get("conditions") or [
        {"type": type_, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message}
        for type_, reason, message in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]
    return {
        "conditions": conditions,
        "acceptedNames": {"singular": names.get("singular") or names["kind"].lower(), **names},
        "storedVersions": stored if storage in stored else [*stored, storage],
    }
