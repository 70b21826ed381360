"""Cluster, and ClusterTable, which stands for many of them. Pure. Next: `fleet`; `tables` reads the tables' rows."""

import posixpath
import re
from typing import Literal

from hub.model import Cluster
from hub.repo import tables
from hub.repo.kinds import gates
from hub.repo.kinds.common import METADATA
from hub.repo.schema import Section
from proto.ids import ClusterName

_DECOMMISSION: tuple[Literal["prune", "detach", ""], ...] = ("prune", "detach", "")
_KUBERNETES = re.compile(r"v?[0-9]{1,3}\.[0-9]{1,3}(\.[0-9]{1,3}([-+][-+.0-9A-Za-z]{1,40})?)?", re.ASCII)


def cluster(root: Section, where: str) -> Cluster:
    metadata = root.section("metadata", METADATA)
    fields = ("kubernetes", "variables", "decommission", "windows", "maxChanges")
    spec = root.section("spec", fields, not_yet=("signature", "tenant"))
    kubernetes = spec.text("kubernetes")
    if kubernetes and _KUBERNETES.fullmatch(kubernetes) is None:
        spec.problem(f"{kubernetes[:80]!r} is not a version", "kubernetes", remedy='write for example "1.36"')
    return Cluster(
        name=ClusterName(metadata.name(what="cluster")),
        labels=metadata.labels("labels"),
        kubernetes=kubernetes.removeprefix("v"),
        variables=spec.variables(),
        decommission=spec.choice("decommission", _DECOMMISSION, default=""),
        windows=gates.of_windows(spec),
        max_changes=spec.whole("maxChanges", default=0, least=1),
        where=where,
    )


def cluster_table(root: Section, where: str, *, folder: str) -> tables.Table:
    """`folder` is that of its file in the fleet repo."""
    root.section("metadata", METADATA).name(what="table", required=False)
    spec = root.section("spec", ("path", "columns"))
    path = posixpath.normpath(posixpath.join(folder, spec.text("path")))
    if not spec.has("path"):
        spec.problem("is missing", "path", remedy="write the table's path from here, such as stores.csv")
    elif not path.startswith("clusters/") or not path.endswith((".csv", ".json")):
        spec.problem(f"is {path[:200]!r}", "path", remedy="name a .csv or .json file in clusters/")
    columns = spec.mapping("columns")
    for field, column in columns.items():
        if problem := tables.field_problem(field, typed=path.endswith(".csv")):
            spec.problem(problem[0], "columns", field, remedy=problem[1])
        elif not isinstance(column, str):
            spec.problem("is not the name of a column", "columns", field, remedy="write it as a string")
    if columns and "name" not in columns:
        spec.problem("have no name", "columns", remedy="say which column has the clusters' names")
    return tables.Table(path=path, columns=columns, where=where)
