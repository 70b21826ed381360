"""The fleet repo's own files one by one: each document to its value, and what is wrong with it.

What is broken is named as far as it can be: by what the document says, by its place, by what may be there. What the
documents say of each other is for `fleet`, which comes next.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from hub.model import Bundle, Cluster, Finding, Fleet, RolloutPolicy
from hub.repo import kinds, places, salvage, schema, tables, tenants
from hub.repo.schema import Section
from hub.repo.yaml_reader import Document
from proto import ids
from proto.errors import InvalidInput

_GROUP = "flotilla.dev/"
API_VERSION = f"{_GROUP}v1alpha1"
_TABLE_KIND = "ClusterTable"
_RENAMED = re.compile(rb"""^\s*["']?renamedFrom["']?:\s*["']?([a-z0-9][-a-z0-9]{0,62})""", re.MULTILINE)
"""The old name in a file that is no YAML: without it the old bundle would be removed."""
FIELDS = ("apiVersion", "kind", "metadata", "spec")
_FOR_ALL = ("variables", "secrets", "validation", "tenants", "requireTenant", "freezes", "maxChanges")
"""Fields of a Fleet's spec without which no bundle is rendered."""


@dataclass(slots=True, kw_only=True)
class Names:
    """What was read of one kind: `valid` by name, `places` (file:line) of the names, the names that are `broken`."""

    word: str
    valid: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def refuse(self, name: str) -> None:
        self.valid.pop(name, None)
        self.broken.add(name)


class Documents:
    """Takes the files one by one; what each says by itself is in here, and what is wrong with it in `findings`."""

    def __init__(self, paths: Set[str]) -> None:
        self._paths = paths
        self.findings: list[Finding] = []
        self.names = {
            "Cluster": Names(word="cluster"),
            "Bundle": Names(word="bundle"),
            "RolloutPolicy": Names(word="rollout policy"),
        }
        self.stated = Fleet()
        """What the Fleet says itself; of use only while it is `_known`."""
        self.known = True
        self._holders = {places.BUNDLES}
        """Folders whose folders are bundles."""
        self._fleet_at = ""
        self.claimed: set[str] = set()
        """Bundles that something names which is not a valid Bundle."""
        self.bundle_documents: dict[str, Document] = {}
        self.policy_documents: dict[str, Document] = {}
        self.misplaced: list[tuple[str, str]] = []
        self.tables: dict[str, bytes | InvalidInput] = {}
        self.stated_tables: list[tables.Table] = []
        self.renamed: dict[str, set[str]] = defaultdict(set)
        """Old name → the bundles that say they had it."""
        self.lost_bundles = self.lost_clusters = False

    def is_bundle_folder(self, folder: str) -> bool:
        """Whether a `bundle.yaml` counts in `folder`: the Fleet has to be added before."""
        above = folder.rpartition("/")[0]
        a_tenants = folder != places.BUNDLES and any(folder == tenant.folder for tenant in self.stated.tenants)
        return above in self._holders or (a_tenants and not self._is_in_bundle(above))

    def _is_in_bundle(self, folder: str) -> bool:
        """Whether `folder` or one above it has a `bundle.yaml`: then its files are sources of that bundle."""
        parts = folder.split("/")
        above = ["/".join(parts[:depth]) for depth in range(2, len(parts) + 1)]
        return any({f"{place}/bundle.yaml", f"{place}/bundle.yml"} & self._paths for place in above)

    def add_file(self, path: str, data: bytes) -> None:
        kind = places.kind_at(path) or ""
        found, broken = salvage.read(data, where=path)
        for lost in broken:
            self._add_broken(lost, kind, path)
        if kind == "Bundle" and broken and (renamed := _RENAMED.search(data)):
            self.renamed[renamed[1].decode()].add(places.folder_of(path).rpartition("/")[2])
        for document in found:
            self._add_document(document, kind, path)
        if kind == "Bundle" and not found and not broken:
            self.find(
                path,
                "is empty",
                "write a Bundle into it, or remove its folder",
                about=self._about(kind, self._lose(kind, path)),
            )

    def add_unreadable(self, path: str, error: InvalidInput) -> None:
        kind = places.kind_at(path) or places.kind_at(f"{path}/")
        if kind == "Bundle" and not self.is_bundle_folder(places.folder_of(path)) and not self._holds_bundles(path):
            return
        if kind is not None:
            self.find(path, error.cause, error.remedy, about=self._about(kind, self._lose(kind, path)))

    def add_table(self, path: str, content: bytes | InvalidInput) -> None:
        """It counts only if a ClusterTable names it."""
        self.tables[path] = content

    def add_misplaced(self, path: str, data: bytes) -> None:
        """A `bundle.yaml` where none counts: somebody took the wrong folder, or it is any file of a bundle."""
        found, broken = salvage.read(data, where=path)
        for document in found:
            value = document.value if isinstance(document.value, Mapping) else {}
            if str(value.get("apiVersion")).startswith(_GROUP) and value.get("kind") == "Bundle":
                self.misplaced.append((f"{path}:{document.line}", _said(value)[1]))
        if _GROUP.encode() in data:
            self.misplaced += [
                (lost.error.thing, name) for lost in broken for kind, name in lost.things if kind == "Bundle"
            ]

    def finish(self) -> None:
        """After the last file: the rows of tables, and Bundles where none counts."""
        for table in self.stated_tables:
            self._read_table(table)
        for path in sorted(self.tables.keys() - {table.path for table in self.stated_tables}):
            content = self.tables[path]
            if isinstance(content, bytes) and f'"{_GROUP}'.encode() in content:
                message, remedy = "is not read: JSON counts only as the table of a ClusterTable", "name it .yaml"
                self.findings.append(Finding(where=path, message=message, remedy=remedy, severity="warning"))
        for where, name in self.misplaced:
            self._find_misplaced(where, name)

    def find(self, where: str, message: str, remedy: str, *, about: str) -> None:
        self.findings.append(Finding(where=where, message=message, remedy=remedy, about=about))

    def _read_table(self, table: tables.Table) -> None:
        content = self.tables.get(table.path)
        if isinstance(content, bytes):
            found, broken = tables.read(content, table)
            for lost in broken:
                self._add_broken(lost, "Cluster", table.path)
            for document in found:
                self._add_document(document, "Cluster", table.path)
            return
        self._lose("Cluster", table.path)
        if content is None:
            near = schema.nearest(table.path, self.tables, else_="correct spec.path, or add the file")
            self.find(table.where, f"spec.path: there is no file {table.path!r}", near, about="")
        else:
            self.find(table.path, content.cause, content.remedy, about="")

    def _find_misplaced(self, where: str, name: str) -> None:
        there = name in self.names["Bundle"].valid
        if not there and _is_name(name):
            self.claimed.add(name)
        if not self.known:  # then nobody can say that it is misplaced
            return
        self.findings.append(
            Finding(
                where=where,
                message="a Bundle counts only as bundles/<name>/bundle.yaml"
                + (" or <a tenant's folder>/<name>/bundle.yaml" if self.stated.tenants else "")
                + ("" if there else ": this one is not read"),
                remedy=f"move its folder to bundles/{name or '<name>'}, or remove the file",
                severity="warning" if there else "error",
                about="" if there else self._about("Bundle", name),
            )
        )

    def _lose(self, kind: str, path: str) -> str:
        """Mark all that may be at `path`, a place of this kind, as broken. Returns its name if the path tells it."""
        match kind:
            case "Fleet":
                self.known = False
            case "Cluster":
                self.lost_clusters = True
            case "Bundle":
                if self._holds_bundles(path):
                    self.lost_bundles = True
                    return ""
                name = places.folder_of(path).rpartition("/")[2]
                if _is_name(name):
                    self.names[kind].refuse(name)
                return name
        return ""

    def _holds_bundles(self, path: str) -> bool:
        """Whether bundles are, or would be, somewhere below the folder `path`."""
        return any(f"{holder}/".startswith(f"{path}/") for holder in self._holders)

    def _refuse(self, stated: str, name: str, path: str) -> tuple[str, str]:
        """Mark as broken what a document is, as far as it says so, and what it may be by its place. Returns kind and
        name for messages: what stands in a bundle's folder goes by the folder's name."""
        place = places.kind_at(path) or "Cluster"  # a table's
        kind = stated if stated in self.names else place
        if stated == _TABLE_KIND:  # its name is no cluster's
            name = ""
        folder = self._lose(place, path)
        if kind == "Bundle" and _is_name(name):
            self.claimed.add(name)
        elif kind in self.names and _is_name(name):
            self.names[kind].refuse(name)
        return (place, folder) if place == "Bundle" else (kind, name)

    def _about(self, kind: str, name: str) -> str:
        return f"{self.names[kind].word} {name}" if kind in self.names and name else ""

    def _add_broken(self, broken: salvage.Broken, kind: str, path: str) -> None:
        self._lose(kind, path)  # it may hold more than shows
        refused = [self._refuse(stated, name, path) for stated, name in broken.things or (("", ""),)]
        about = self._about(*refused[0]) if len(set(refused)) == 1 else ""
        self.find(broken.error.thing, broken.error.cause, broken.error.remedy, about=about)

    def _add_document(self, document: Document, kind: str, path: str) -> None:
        where = f"{document.where}:{document.line}"
        findings: list[Finding] = []
        root = Section(document, findings, value=document.value, fields=FIELDS)
        stated, name = _said(document.value)
        if isinstance(document.value, Mapping) and _is_of_kind(root, kind):
            match kind:
                case "Fleet":
                    self._add_fleet(root, findings, where)
                case "Cluster" if stated == _TABLE_KIND:
                    table = kinds.cluster_table(root, where, folder=path.rpartition("/")[0])
                    self._add_stated_table(table, root, findings)
                case "Cluster":
                    self._add_named(kind, kinds.cluster(root, where), findings)
                case "Bundle":
                    self.bundle_documents[name] = document
                    made = kinds.bundle(root, where, folder=places.folder_of(path))
                    if made.renamed_from:
                        self.renamed[made.renamed_from].add(places.folder_of(path).rpartition("/")[2])
                    self._add_named(kind, tenants.assigned(made, self.stated.tenants), findings)
                case _:
                    self.policy_documents[name] = document
                    self._add_named(kind, kinds.policy(root, where), findings)
        elif kind == "Fleet":
            self.known = False
        if findings:
            about = "" if kind == stated == "Fleet" else self._about(*self._refuse(stated, name, path))
            self.findings.extend(replace(finding, about=about) for finding in findings)

    def _add_named(self, kind: str, made: Cluster | Bundle | RolloutPolicy, findings: Sequence[Finding]) -> None:
        names = self.names[kind]
        name = made.folder.rpartition("/")[2] if isinstance(made, Bundle) else made.name
        first = names.places.setdefault(name, made.where)
        if name == made.name and name and first != made.where:
            for here, there in ((first, made.where), (made.where, first)):
                message, remedy = f"metadata.name {name!r} is also in {there}", "rename or remove one of the two"
                self.find(here, message, remedy, about=self._about(kind, name))
            names.refuse(name)
        elif not findings and name not in names.broken:
            names.valid[name] = made

    def _add_stated_table(self, table: tables.Table, root: Section, findings: Sequence[Finding]) -> None:
        first = next((other for other in self.stated_tables if other.path == table.path), None)
        if first is not None:
            root.problem(f"{table.path} is read already by {first.where}", "spec", "path", remedy="keep one of the two")
        elif not findings:
            self.stated_tables.append(table)

    def _add_fleet(self, root: Section, findings: Sequence[Finding], where: str) -> None:
        if self._fleet_at:
            root.problem(f"a second Fleet, the first is in {self._fleet_at}", remedy="keep one of the two")
            self.known = False
            return
        self._fleet_at = where
        self.stated = kinds.fleet(root)
        for tenant in self.stated.tenants:
            if not self._is_in_bundle(tenant.folder):
                self._holders.add(tenant.folder)
        wrong = tuple(f"spec.{field}" for field in _FOR_ALL)
        meant = {f"did you mean {field!r}?" for field in _FOR_ALL}
        # With another field wrong they count only if they are there: they may stand where nobody looked for them.
        if any(finding.message.startswith(wrong) or finding.remedy in meant for finding in findings) or (
            findings and not self.stated.variables
        ):
            self.known = False


def _is_of_kind(root: Section, kind: str) -> bool:
    """Whether the document is of the kind that belongs here; adds a finding when it is not."""
    found, version = root.text("kind"), root.text("apiVersion")
    stands = {name: place for name, place, _ in places.PLACES}
    stands[_TABLE_KIND] = stands["Cluster"]
    if version != API_VERSION:
        root.problem(f"is {version[:80]!r}" if version else "is missing", "apiVersion", remedy=f"write {API_VERSION}")
    elif found not in stands:
        remedy = schema.nearest(found, stands, else_=f"write {kind}")
        root.problem(f"{found[:80]!r} is not known" if found else "is missing", "kind", remedy=remedy)
    elif stands[found] != stands[kind]:
        root.problem(f"a {found} does not belong here", "kind", remedy=f"move it to {stands[found]}")
    else:
        return True
    return False


def _said(value: Any) -> tuple[str, str]:
    """Kind and name as the document states them, valid or not."""
    value = value if isinstance(value, Mapping) else {}
    metadata = value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return str(value.get("kind", "")), name if isinstance(name, str) else ""


def _is_name(name: str) -> bool:
    try:
        ids.check_name("", name)
    except InvalidInput:
        return False
    return True
