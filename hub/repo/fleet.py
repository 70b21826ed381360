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

`documents` reads them one by one; here is what they say of each other. Next: `targets`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hub.model import Bundle, Finding, Fleet
from hub.repo import agreement, places, schema, tenants
from hub.repo.documents import FIELDS, Documents
from hub.repo.schema import Section
from proto.errors import InvalidInput
from proto.ids import BundleName, ClusterName

MAX_FINDINGS = 1000
"""Kept of one load: nobody reads more, and all of them are in the hub's memory and in its API."""


def load(files: Mapping[str, bytes | InvalidInput]) -> Fleet:
    """Pure: the fleet that `files` describe: path → content, or why it cannot be read (`sources.Tree.files`). Paths
    that are no fleet files are passed over."""
    read = Documents(files.keys())
    # What the Fleet says comes first: where bundles are depends on it.
    for path, content in sorted(files.items(), key=lambda item: (places.kind_at(item[0]) != "Fleet", item[0])):
        kind = places.kind_at(path)
        if places.is_table(path):
            read.add_table(path, content)
        elif isinstance(content, InvalidInput):
            read.add_unreadable(path, content)
        elif kind == "Bundle" and not read.is_bundle_folder(places.folder_of(path)):
            read.add_misplaced(path, content)
        elif kind is not None:
            read.add_file(path, content)
    read.finish()
    return _agreed(read)


def without(fleet: Fleet, failed: Mapping[BundleName, Finding]) -> Fleet:
    """Pure: the fleet when some of its bundles turned out to be broken."""
    return replace(
        fleet,
        bundles={name: bundle for name, bundle in fleet.bundles.items() if name not in failed},
        broken_bundles=fleet.broken_bundles | failed.keys(),
        findings=(*fleet.findings, *failed.values()),
    )


def _agreed(read: Documents) -> Fleet:
    """What the documents say of each other."""
    clusters, bundles = read.names["Cluster"], read.names["Bundle"]
    bundles.broken |= read.claimed - bundles.valid.keys()
    if not read.known:
        read.lost_bundles = True
        for name in list(bundles.valid):
            bundles.refuse(name)
        message = "what it says for all bundles is not known, so every bundle keeps what it runs"
        read.find("fleet.yaml", message, "correct fleet.yaml", about="")
    _check_policies(read)
    for name, bundle in sorted(bundles.valid.items()):
        _check_references(read, name, bundle)
    for name, circle in agreement.dependencies(bundles.valid).items():
        message = f"spec.dependsOn: the bundles depend on each other in a circle: {' → '.join(circle)}"
        remedy = "remove one of these dependencies"
        read.find(bundles.valid[name].where, message, remedy, about=f"bundle {name}")
        bundles.refuse(name)
    for name, circle in agreement.waiting(bundles.valid, read.names["RolloutPolicy"].valid).items():
        message = f"spec.rollout: rollouts would wait for each other for ever: {' → '.join(circle)}"
        remedy = "remove one of these gates or 'after', or give the bundle another policy"
        read.find(bundles.valid[name].where, message, remedy, about=f"bundle {name}")
        bundles.refuse(name)
    fleet = replace(
        read.stated,
        clusters={ClusterName(name): cluster for name, cluster in clusters.valid.items()},
        bundles={BundleName(name): bundle for name, bundle in bundles.valid.items()},
        policies=read.names["RolloutPolicy"].valid,
        broken_bundles=frozenset(bundles.broken),
        broken_clusters=frozenset(clusters.broken),
        renamed={
            BundleName(old): BundleName(min(heirs))
            for old, heirs in sorted(read.renamed.items())
            if old not in bundles.valid and old not in bundles.broken
        },
        lost_bundles=read.lost_bundles,
        lost_clusters=read.lost_clusters,
        lost_freezes=not read.known,
    )
    unused = (_at_its_field(read, finding) for finding in agreement.without_clusters(fleet))
    return replace(fleet, findings=bounded((*read.findings, *unused)))


def _check_policies(read: Documents) -> None:
    """Policies that name bundles, waves or clusters which do not exist."""
    bundles, clusters, policies = (read.names[kind] for kind in ("Bundle", "Cluster", "RolloutPolicy"))
    waves = {name: agreement.waves_of(bundle, policies.valid) for name, bundle in bundles.valid.items()}
    known = agreement.Known(
        bundles=None if read.lost_bundles else bundles.valid.keys() | bundles.broken,
        clusters=None if read.lost_clusters else clusters.valid.keys() | clusters.broken,
        waves={name: found for name, found in waves.items() if found is not None},
        renamed={old: min(heirs) for old, heirs in read.renamed.items()},
    )
    for name in sorted(policies.valid):
        errors: list[Finding] = []
        warnings: list[Finding] = []
        document = read.policy_documents[name]
        agreement.check_policy(
            document.value,
            known,
            errors=Section(document, errors, value=document.value, fields=FIELDS),
            warnings=Section(document, warnings, value=document.value, fields=FIELDS),
        )
        about = f"rollout policy {name}"
        read.findings += [replace(each, about=about) for each in errors]
        read.findings += [replace(each, about=about, severity="warning") for each in warnings]
        if errors:
            policies.refuse(name)


def _check_references(read: Documents, name: str, bundle: Bundle) -> None:
    bundles, policies = read.names["Bundle"], read.names["RolloutPolicy"]
    wrong: list[tuple[str, str]] = []
    if bundle.rollout in policies.broken:
        wrong.append((f"spec.rollout: the policy {bundle.rollout!r} is not valid", "correct the policy"))
    elif bundle.rollout and bundle.rollout not in policies.valid:
        remedy = schema.nearest(bundle.rollout, policies.valid, else_="add it to rollouts/")
        wrong.append((f"spec.rollout: there is no rollout policy {bundle.rollout!r}", remedy))
    others = bundles.valid.keys() | bundles.broken
    heirs = read.renamed.get(bundle.renamed_from, set())
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
    if bundle.tenant is None and read.stated.require_tenant:
        message = f"{bundle.folder} is in no tenant's folder, and fleet.yaml has requireTenant"
        wrong.append((message, "move it into a tenant's folder"))
    wrong.extend(tenants.problems(bundle, read.names["Cluster"].valid.values()))
    for message, remedy in wrong:
        found = Finding(where=bundle.where, message=message, remedy=remedy, about=f"bundle {name}")
        read.findings.append(_at_its_field(read, found))
        bundles.refuse(name)


def _at_its_field(read: Documents, finding: Finding) -> Finding:
    """A finding about a bundle whose message begins with a field, at the line of that."""
    document = read.bundle_documents.get(finding.about.removeprefix("bundle "))
    field = re.match(r"spec\.(\w+)", finding.message)
    if document is None or field is None:
        return finding
    return replace(finding, where=f"{document.where}:{document.lines.at('spec', field[1])}")


def bounded(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Pure: at most MAX_FINDINGS, and how many more; errors first to stay, in their order."""
    if len(findings) <= MAX_FINDINGS:
        return tuple(findings)
    kept = sorted(findings, key=lambda finding: finding.severity)[:MAX_FINDINGS]
    return (*kept, Finding(where="fleet repo", message=f"{len(findings) - MAX_FINDINGS} more findings are not shown"))
