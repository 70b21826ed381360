"""The fleet repo's own files to a `Fleet`: clusters, bundles, rollout policies, and what is wrong with them.

| file                                   | kind                                             |
|----------------------------------------|--------------------------------------------------|
| `fleet.yaml`                           | Fleet, one                                       |
| `clusters/**.yaml`                     | Cluster and ClusterTable, one or many            |
| `clusters/**.csv`, `.json`             | read where a ClusterTable names it               |
| `rollouts/**.yaml`                     | RolloutPolicy, one or many                       |
| `bundles/<name>/bundle.yaml`           | Bundle, one                                      |
| `<tenant's folder>/<name>/bundle.yaml` | the same, unless the folder is in a bundle's     |

What is broken stops only itself, and is named as far as it can be, so that it keeps what it runs:

| what                                               | what keeps what it runs                                   |
|----------------------------------------------------|-----------------------------------------------------------|
| a Cluster or Bundle that is not valid              | it alone                                                  |
| two of one name                                    | both: nobody knows which was meant                        |
| a Bundle that does not name its folder             | the folder's name, and the other unless it is a Bundle    |
| a Bundle with a missing or broken rollout policy,  | it alone                                                  |
| such as one that waits for a bundle that is none   |                                                           |
| a Bundle that depends on one that does not exist   | it alone; on a broken one: nothing                        |
| Bundles that depend on, or wait for, each other in | those of the circle                                       |
| a circle                                           |                                                           |
| a Bundle with `renamedFrom`, whatever is wrong     | it, and the bundle of the old name                        |
| a Fleet whose variables, checks or tenants cannot  | every bundle: to render without them would change it, and |
| be told                                            | the places of tenants' bundles are not known              |
| a Bundle beyond its tenant's rights                | it alone                                                  |
| a link, submodule or huge file in a bundle's place | the bundle of that folder; for `bundles` itself, or a     |
|                                                    | tenant's folder, all that are missing                     |
| anything in `clusters/` that is broken, also a row | every missing cluster too: it may be that one             |
| of a table, or a table that is not there           |                                                           |
| a `bundle.yaml` at another depth                   | the bundle that it names, unless that is there            |

Longer than other modules: what is broken in one file decides what may be believed of the others. Next: `targets`.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from hub.model import Bundle, Cluster, Finding, Fleet, RolloutPolicy
from hub.repo import agreement, kinds, salvage, schema, tables, tenants
from hub.repo.schema import Section
from hub.repo.yaml_reader import Document
from proto import ids
from proto.errors import InvalidInput
from proto.ids import BundleName, ClusterName

_GROUP = "flotilla.dev/"
API_VERSION = f"{_GROUP}v1alpha1"
MAX_FINDINGS = 1000
"""Kept of one load: nobody reads more, and all of them are in the hub's memory and in its API."""

_PLACES: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    ("Fleet", "fleet.yaml", re.compile(r"fleet\.ya?ml")),
    ("Cluster", "clusters/<any>.yaml", re.compile(r"clusters/.+\.ya?ml", re.DOTALL)),
    ("RolloutPolicy", "rollouts/<any>.yaml", re.compile(r"rollouts/.+\.ya?ml", re.DOTALL)),
    ("Bundle", "bundles/<name>/bundle.yaml", re.compile(r"bundles/(.+/)?bundle\.ya?ml", re.DOTALL)),
)
_FOLDERS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("Cluster", re.compile(r"clusters/(.+/)?", re.DOTALL)),
    ("RolloutPolicy", re.compile(r"rollouts/(.+/)?", re.DOTALL)),
    ("Bundle", re.compile(r"bundles/(.+/)?", re.DOTALL)),
)
"""Where a link or submodule hides what may be fleet files."""
_BUNDLES = "bundles"
_TABLE_KIND = "ClusterTable"
_TABLE = re.compile(r"clusters/.+\.(csv|json)", re.DOTALL)
_RENAMED = re.compile(rb"""^\s*["']?renamedFrom["']?:\s*["']?([a-z0-9][-a-z0-9]{0,62})""", re.MULTILINE)
"""The old name in a file that is no YAML: without it the old bundle would be removed."""
_FIELDS = ("apiVersion", "kind", "metadata", "spec")
_FOR_ALL = ("variables", "secrets", "validation", "tenants", "requireTenant", "freezes", "maxChanges")
"""Fields of a Fleet's spec without which no bundle is rendered."""


def is_fleet_file(path: str) -> bool:
    """Pure: whether `load` wants this path of the repo: a file, or with `/` at its end what stands for a folder.
    `.yml` is as good as `.yaml`."""
    return _kind_at(path) is not None or _TABLE.fullmatch(path) is not None


def load(files: Mapping[str, bytes | InvalidInput]) -> Fleet:
    """Pure: the fleet that `files` describe: path → content, or why it cannot be read (`sources.Tree.files`). Paths
    that are no fleet files are passed over."""
    loader = _Loader(files.keys())
    # What the Fleet says comes first: where bundles are depends on it.
    for path, content in sorted(files.items(), key=lambda item: (_kind_at(item[0]) != "Fleet", item[0])):
        kind = _kind_at(path)
        if _TABLE.fullmatch(path):
            loader.add_table(path, content)
        elif isinstance(content, InvalidInput):
            loader.add_unreadable(path, content)
        elif kind == "Bundle" and not loader.is_bundle_folder(_folder_of(path)):
            loader.add_misplaced(path, content)
        elif kind is not None:
            loader.add_file(path, content)
    return loader.finish()


def without(fleet: Fleet, failed: Mapping[BundleName, Finding]) -> Fleet:
    """Pure: the fleet when some of its bundles turned out to be broken."""
    return replace(
        fleet,
        bundles={name: bundle for name, bundle in fleet.bundles.items() if name not in failed},
        broken_bundles=fleet.broken_bundles | failed.keys(),
        findings=(*fleet.findings, *failed.values()),
    )


def _kind_at(path: str) -> str | None:
    if path.endswith("/"):
        return next((kind for kind, pattern in _FOLDERS if pattern.fullmatch(path)), None)
    return next((kind for kind, _, pattern in _PLACES if pattern.fullmatch(path)), None)


def _folder_of(path: str) -> str:
    """The bundle's folder of the path of a `bundle.yaml`; another path is one itself."""
    folder, _, name = path.rpartition("/")
    return folder if name in ("bundle.yaml", "bundle.yml") else path


@dataclass(slots=True, kw_only=True)
class _Names:
    """What was read of one kind: `valid` by name, `places` (file:line) of the names, the names that are `broken`."""

    word: str
    valid: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def refuse(self, name: str) -> None:
        self.valid.pop(name, None)
        self.broken.add(name)


class _Loader:
    """Takes the files one by one; `finish` checks what they say of each other."""

    def __init__(self, paths: Set[str]) -> None:
        self._paths = paths
        self._findings: list[Finding] = []
        self._names = {
            "Cluster": _Names(word="cluster"),
            "Bundle": _Names(word="bundle"),
            "RolloutPolicy": _Names(word="rollout policy"),
        }
        self._stated = Fleet()
        """What the Fleet says itself; of use only while it is `_known`."""
        self._known = True
        self._holders = {_BUNDLES}
        """Folders whose folders are bundles."""
        self._fleet_at = ""
        self._claimed: set[str] = set()
        """Bundles that something names which is not a valid Bundle."""
        self._policy_documents: dict[str, Document] = {}
        self._misplaced: list[tuple[str, str]] = []
        self._tables: dict[str, bytes | InvalidInput] = {}
        self._stated_tables: list[tables.Table] = []
        self._renamed: dict[str, set[str]] = defaultdict(set)
        """Old name → the bundles that say they had it."""
        self._lost_bundles = self._lost_clusters = False

    def is_bundle_folder(self, folder: str) -> bool:
        """Whether a `bundle.yaml` counts in `folder`: the Fleet has to be added before."""
        above = folder.rpartition("/")[0]
        a_tenants = folder != _BUNDLES and any(folder == tenant.folder for tenant in self._stated.tenants)
        return above in self._holders or (a_tenants and not self._is_in_bundle(above))

    def _is_in_bundle(self, folder: str) -> bool:
        """Whether `folder` or one above it has a `bundle.yaml`: then its files are sources of that bundle."""
        parts = folder.split("/")
        above = ["/".join(parts[:depth]) for depth in range(2, len(parts) + 1)]
        return any({f"{place}/bundle.yaml", f"{place}/bundle.yml"} & self._paths for place in above)

    def add_file(self, path: str, data: bytes) -> None:
        kind = _kind_at(path) or ""
        found, broken = salvage.read(data, where=path)
        for lost in broken:
            self._add_broken(lost, kind, path)
        if kind == "Bundle" and broken and (renamed := _RENAMED.search(data)):
            self._renamed[renamed[1].decode()].add(_folder_of(path).rpartition("/")[2])
        for document in found:
            self._add_document(document, kind, path)
        if kind == "Bundle" and not found and not broken:
            self._find(
                path,
                "is empty",
                "write a Bundle into it, or remove its folder",
                about=self._about(kind, self._lose(kind, path)),
            )

    def add_unreadable(self, path: str, error: InvalidInput) -> None:
        kind = _kind_at(path) or _kind_at(f"{path}/")
        if kind == "Bundle" and not self.is_bundle_folder(_folder_of(path)) and not self._holds_bundles(path):
            return
        if kind is not None:
            self._find(path, error.cause, error.remedy, about=self._about(kind, self._lose(kind, path)))

    def add_table(self, path: str, content: bytes | InvalidInput) -> None:
        """It counts only if a ClusterTable names it."""
        self._tables[path] = content

    def add_misplaced(self, path: str, data: bytes) -> None:
        """A `bundle.yaml` where none counts: somebody took the wrong folder, or it is any file of a bundle."""
        found, broken = salvage.read(data, where=path)
        for document in found:
            value = document.value if isinstance(document.value, Mapping) else {}
            if str(value.get("apiVersion")).startswith(_GROUP) and value.get("kind") == "Bundle":
                self._misplaced.append((f"{path}:{document.line}", _said(value)[1]))
        if _GROUP.encode() in data:
            self._misplaced += [
                (lost.error.thing, name) for lost in broken for kind, name in lost.things if kind == "Bundle"
            ]

    def finish(self) -> Fleet:
        clusters, bundles = self._names["Cluster"], self._names["Bundle"]
        for table in self._stated_tables:
            self._read_table(table)
        for where, name in self._misplaced:
            self._find_misplaced(where, name)
        bundles.broken |= self._claimed - bundles.valid.keys()
        if not self._known:
            self._lost_bundles = True
            for name in list(bundles.valid):
                bundles.refuse(name)
            message = "what it says for all bundles is not known, so every bundle keeps what it runs"
            self._find("fleet.yaml", message, "correct fleet.yaml", about="")
        self._check_policies()
        for name, bundle in sorted(bundles.valid.items()):
            self._check_references(name, bundle)
        for name, circle in agreement.dependencies(bundles.valid).items():
            message = f"spec.dependsOn: the bundles depend on each other in a circle: {' → '.join(circle)}"
            remedy = "remove one of these dependencies"
            self._find(bundles.valid[name].where, message, remedy, about=f"bundle {name}")
            bundles.refuse(name)
        for name, circle in agreement.waiting(bundles.valid, self._names["RolloutPolicy"].valid).items():
            message = f"spec.rollout: rollouts would wait for each other for ever: {' → '.join(circle)}"
            remedy = "remove one of these gates or 'after', or give the bundle another policy"
            self._find(bundles.valid[name].where, message, remedy, about=f"bundle {name}")
            bundles.refuse(name)
        fleet = replace(
            self._stated,
            clusters={ClusterName(name): cluster for name, cluster in clusters.valid.items()},
            bundles={BundleName(name): bundle for name, bundle in bundles.valid.items()},
            policies=self._names["RolloutPolicy"].valid,
            broken_bundles=frozenset(bundles.broken),
            broken_clusters=frozenset(clusters.broken),
            renamed={
                BundleName(old): BundleName(min(heirs))
                for old, heirs in sorted(self._renamed.items())
                if old not in bundles.valid and old not in bundles.broken
            },
            lost_bundles=self._lost_bundles,
            lost_clusters=self._lost_clusters,
        )
        return replace(fleet, findings=bounded((*self._findings, *agreement.without_clusters(fleet))))

    def _find(self, where: str, message: str, remedy: str, *, about: str) -> None:
        self._findings.append(Finding(where=where, message=message, remedy=remedy, about=about))

    def _read_table(self, table: tables.Table) -> None:
        content = self._tables.get(table.path)
        if isinstance(content, bytes):
            found, broken = tables.read(content, table)
            for lost in broken:
                self._add_broken(lost, "Cluster", table.path)
            for document in found:
                self._add_document(document, "Cluster", table.path)
            return
        self._lose("Cluster", table.path)
        if content is None:
            near = schema.nearest(table.path, self._tables, else_="correct spec.path, or add the file")
            self._find(table.where, f"spec.path: there is no file {table.path!r}", near, about="")
        else:
            self._find(table.path, content.cause, content.remedy, about="")

    def _find_misplaced(self, where: str, name: str) -> None:
        there = name in self._names["Bundle"].valid
        if not there and _is_name(name):
            self._claimed.add(name)
        if not self._known:  # then nobody can say that it is misplaced
            return
        self._findings.append(
            Finding(
                where=where,
                message="a Bundle counts only as bundles/<name>/bundle.yaml"
                + (" or <a tenant's folder>/<name>/bundle.yaml" if self._stated.tenants else "")
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
                self._known = False
            case "Cluster":
                self._lost_clusters = True
            case "Bundle":
                if self._holds_bundles(path):
                    self._lost_bundles = True
                    return ""
                name = _folder_of(path).rpartition("/")[2]
                if _is_name(name):
                    self._names[kind].refuse(name)
                return name
        return ""

    def _holds_bundles(self, path: str) -> bool:
        """Whether bundles are, or would be, somewhere below the folder `path`."""
        return any(f"{holder}/".startswith(f"{path}/") for holder in self._holders)

    def _refuse(self, stated: str, name: str, path: str) -> tuple[str, str]:
        """Mark as broken what a document is, as far as it says so, and what it may be by its place. Returns kind and
        name for messages: what stands in a bundle's folder goes by the folder's name."""
        place = _kind_at(path) or "Cluster"  # a table's
        kind = stated if stated in self._names else place
        if stated == _TABLE_KIND:  # its name is no cluster's
            name = ""
        folder = self._lose(place, path)
        if kind == "Bundle" and _is_name(name):
            self._claimed.add(name)
        elif kind in self._names and _is_name(name):
            self._names[kind].refuse(name)
        return (place, folder) if place == "Bundle" else (kind, name)

    def _about(self, kind: str, name: str) -> str:
        return f"{self._names[kind].word} {name}" if kind in self._names and name else ""

    def _add_broken(self, broken: salvage.Broken, kind: str, path: str) -> None:
        self._lose(kind, path)  # it may hold more than shows
        refused = [self._refuse(stated, name, path) for stated, name in broken.things or (("", ""),)]
        about = self._about(*refused[0]) if len(set(refused)) == 1 else ""
        self._find(broken.error.thing, broken.error.cause, broken.error.remedy, about=about)

    def _add_document(self, document: Document, kind: str, path: str) -> None:
        where = f"{document.where}:{document.line}"
        findings: list[Finding] = []
        root = Section(document, findings, value=document.value, fields=_FIELDS)
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
                    made = kinds.bundle(root, where, folder=_folder_of(path))
                    if made.renamed_from:
                        self._renamed[made.renamed_from].add(_folder_of(path).rpartition("/")[2])
                    self._add_named(kind, tenants.assigned(made, self._stated.tenants), findings)
                case _:
                    self._policy_documents[name] = document
                    self._add_named(kind, kinds.policy(root, where), findings)
        elif kind == "Fleet":
            self._known = False
        if findings:
            about = "" if kind == stated == "Fleet" else self._about(*self._refuse(stated, name, path))
            self._findings.extend(replace(finding, about=about) for finding in findings)

    def _add_named(self, kind: str, made: Cluster | Bundle | RolloutPolicy, findings: Sequence[Finding]) -> None:
        names = self._names[kind]
        name = made.folder.rpartition("/")[2] if isinstance(made, Bundle) else made.name
        first = names.places.setdefault(name, made.where)
        if name == made.name and name and first != made.where:
            for here, there in ((first, made.where), (made.where, first)):
                message, remedy = f"metadata.name {name!r} is also in {there}", "rename or remove one of the two"
                self._find(here, message, remedy, about=self._about(kind, name))
            names.refuse(name)
        elif not findings and name not in names.broken:
            names.valid[name] = made

    def _add_stated_table(self, table: tables.Table, root: Section, findings: Sequence[Finding]) -> None:
        first = next((other for other in self._stated_tables if other.path == table.path), None)
        if first is not None:
            root.problem(f"{table.path} is read already by {first.where}", "spec", "path", remedy="keep one of the two")
        elif not findings:
            self._stated_tables.append(table)

    def _add_fleet(self, root: Section, findings: Sequence[Finding], where: str) -> None:
        if self._fleet_at:
            root.problem(f"a second Fleet, the first is in {self._fleet_at}", remedy="keep one of the two")
            self._known = False
            return
        self._fleet_at = where
        self._stated = kinds.fleet(root)
        for tenant in self._stated.tenants:
            if not self._is_in_bundle(tenant.folder):
                self._holders.add(tenant.folder)
        wrong = tuple(f"spec.{field}" for field in _FOR_ALL)
        meant = {f"did you mean {field!r}?" for field in _FOR_ALL}
        # With another field wrong they count only if they are there: they may stand where nobody looked for them.
        if any(finding.message.startswith(wrong) or finding.remedy in meant for finding in findings) or (
            findings and not self._stated.variables
        ):
            self._known = False

    def _check_policies(self) -> None:
        """Policies that name bundles, waves or clusters which do not exist."""
        bundles, clusters, policies = (self._names[kind] for kind in ("Bundle", "Cluster", "RolloutPolicy"))
        waves = {name: agreement.waves_of(bundle, policies.valid) for name, bundle in bundles.valid.items()}
        known = agreement.Known(
            bundles=None if self._lost_bundles else bundles.valid.keys() | bundles.broken,
            clusters=None if self._lost_clusters else clusters.valid.keys() | clusters.broken,
            waves={name: found for name, found in waves.items() if found is not None},
            renamed={old: min(heirs) for old, heirs in self._renamed.items()},
        )
        for name in sorted(policies.valid):
            errors: list[Finding] = []
            warnings: list[Finding] = []
            document = self._policy_documents[name]
            agreement.check_policy(
                document.value,
                known,
                errors=Section(document, errors, value=document.value, fields=_FIELDS),
                warnings=Section(document, warnings, value=document.value, fields=_FIELDS),
            )
            about = f"rollout policy {name}"
            self._findings += [replace(each, about=about) for each in errors]
            self._findings += [replace(each, about=about, severity="warning") for each in warnings]
            if errors:
                policies.refuse(name)

    def _check_references(self, name: str, bundle: Bundle) -> None:
        bundles, policies = self._names["Bundle"], self._names["RolloutPolicy"]
        wrong: list[tuple[str, str]] = []
        if bundle.rollout in policies.broken:
            wrong.append((f"spec.rollout: the policy {bundle.rollout!r} is not valid", "correct the policy"))
        elif bundle.rollout and bundle.rollout not in policies.valid:
            remedy = schema.nearest(bundle.rollout, policies.valid, else_="add it to rollouts/")
            wrong.append((f"spec.rollout: there is no rollout policy {bundle.rollout!r}", remedy))
        others = bundles.valid.keys() | bundles.broken
        heirs = self._renamed.get(bundle.renamed_from, set())
        if bundle.renamed_from in others:
            message = f"spec.renamedFrom: there is still a bundle {bundle.renamed_from!r}"
            wrong.append((message, "remove its folder; if the renaming is long done, remove this line"))
        elif len(heirs) > 1:
            message = f"spec.renamedFrom: {' and '.join(sorted(heirs))} are all renamed from {bundle.renamed_from!r}"
            wrong.append((message, "remove the line from all but one"))
        for other in bundle.depends_on:
            if other not in others:
                remedy = schema.nearest(other, others, else_="remove it, or add the bundle")
                wrong.append((f"spec.dependsOn: there is no bundle {other!r}", remedy))
        if bundle.tenant is None and self._stated.require_tenant:
            message = f"{bundle.folder} is in no tenant's folder, and fleet.yaml has requireTenant"
            wrong.append((message, "move it into a tenant's folder"))
        wrong.extend(tenants.problems(bundle, self._names["Cluster"].valid.values()))
        for message, remedy in wrong:
            self._find(bundle.where, message, remedy, about=f"bundle {name}")
            bundles.refuse(name)


def _is_of_kind(root: Section, kind: str) -> bool:
    """Whether the document is of the kind that belongs here; adds a finding when it is not."""
    found, version = root.text("kind"), root.text("apiVersion")
    places = {name: place for name, place, _ in _PLACES}
    places[_TABLE_KIND] = places["Cluster"]
    if version != API_VERSION:
        root.problem(f"is {version[:80]!r}" if version else "is missing", "apiVersion", remedy=f"write {API_VERSION}")
    elif found not in places:
        remedy = schema.nearest(found, places, else_=f"write {kind}")
        root.problem(f"{found[:80]!r} is not known" if found else "is missing", "kind", remedy=remedy)
    elif places[found] != places[kind]:
        root.problem(f"a {found} does not belong here", "kind", remedy=f"move it to {places[found]}")
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


def bounded(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Pure: at most MAX_FINDINGS, and how many more; errors first to stay, in their order."""
    if len(findings) <= MAX_FINDINGS:
        return tuple(findings)
    kept = sorted(findings, key=lambda finding: finding.severity)[:MAX_FINDINGS]
    return (*kept, Finding(where="fleet repo", message=f"{len(findings) - MAX_FINDINGS} more findings are not shown"))
