"""The charts that a chart depends on, put into its `charts` folder, so that rendering it never needs the network.

| `dependencies` of Chart.yaml (or requirements.yaml) | what happens                                                  |
|-----------------------------------------------------|---------------------------------------------------------------|
| one of that name is in `charts/`                    | used as it is, folder or packed                               |
| `repository: https://…`, `http://…`, `oci://…`      | to be fetched, at the version of the lock, else of the range  |
| `repository: file://…`                              | that folder of the same tree, completed itself                |
| no `repository`                                     | left to the render to complain about: Helm fetches none       |
| `repository: "@name"`, `alias:name`                 | refused: the name is known to somebody's own Helm only        |

`Chart.lock` (or requirements.lock) counts if it has an entry of the same name and repository, with a version in the
range, for each of them; else it is refused as out of date. Its own digest is not looked at: it changes with conditions
and aliases too, which decide nothing here. `condition`, `tags`, `alias` and `import-values` are Helm's work when it
renders: every dependency has to be there for that, a disabled one too.

Reads and writes Git trees, nothing else. Next: `fetch` and `pins` bring what is named here.
"""

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pygit2
from pygit2.enums import FileMode

from hub.model import HelmSource, OciSource
from hub.repo import addresses, listing, versions, yaml_reader
from proto.errors import InvalidInput
from proto.ids import Oid

Chart = HelmSource | OciSource

CHART_FILE = "Chart.yaml"
MAX_DEPENDENCIES = 100
MAX_DEPTH = 8
"""Of charts that depend on charts; also what ends a circle of them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_LISTS = ((CHART_FILE, "Chart.lock"), ("requirements.yaml", "requirements.lock"))
_UPDATE = "run 'helm dependency update' and commit Chart.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dependency:
    """One that is not in `charts/`: `source` to be fetched, or else `folder` of the same tree."""

    name: str
    source: Chart | None = None
    folder: str = ""


def dependencies(repo: pygit2.Repository, tree: Oid, *, path: str = "", at: str = "") -> tuple[Chart, ...]:
    """What has to be fetched for the chart in the folder `path` of `tree`, each once, without credentials; nothing when
    there is no chart. `at` names the tree in messages. Raises InvalidInput for what cannot be understood."""
    root = _tree(repo, tree)
    found = (one.source for one in _all(root, _normal(path), at, depth=0) if one.source is not None)
    return tuple(dict.fromkeys(found))


def needed(repo: pygit2.Repository, tree: Oid, *, path: str = "") -> bool:
    """Whether the chart in the folder `path` of `tree` lacks any, from outside or from beside. Raises InvalidInput."""
    return next(_missing(_tree(repo, tree), _normal(path), ""), None) is not None


def complete(repo: pygit2.Repository, tree: Oid, fetched: Mapping[Chart, Oid], *, path: str = "", at: str = "") -> Oid:
    """`tree` with every one of `dependencies` in the chart's `charts` folder. `fetched` maps them to their trees, which
    have to be in `repo` and complete themselves; with nothing to do it is `tree`. Raises as `dependencies`."""
    root = _tree(repo, tree)
    made = _completed(repo, root, _normal(path), fetched, at, depth=0)
    return Oid(str(_put(repo, root, _normal(path), made))) if made is not None else tree


def completed(
    repo: pygit2.Repository, tree: Oid, fetch: Callable[[Chart], Oid], *, path: str = "", at: str = "", depth: int = 0
) -> Oid:
    """`complete` with what `fetch` brings into `repo`, which may have dependencies itself. Raises as both do."""
    if depth > MAX_DEPTH:
        raise _too_deep(at)
    fetched: dict[Chart, Oid] = {}
    for source in dependencies(repo, tree, path=path, at=at):
        name = f"{at}/charts/{name_of(source)}" if at else name_of(source)
        fetched[source] = completed(repo, fetch(source), fetch, at=name, depth=depth + 1)
    return complete(repo, tree, fetched, path=path, at=at)


def _all(root: pygit2.Tree, path: str, at: str, *, depth: int) -> Iterator[_Dependency]:
    """The missing dependencies of a chart, and of the charts of the same tree that it depends on."""
    if depth > MAX_DEPTH:
        raise _too_deep(at)
    for one in _missing(root, path, at):
        yield one
        if one.source is None:
            yield from _all(root, one.folder, at, depth=depth + 1)


def _completed(
    repo: pygit2.Repository, root: pygit2.Tree, path: str, fetched: Mapping[Chart, Oid], at: str, *, depth: int
) -> pygit2.Oid | None:
    """The tree of the chart in `path` of `root`; None when nothing is missing."""
    if depth > MAX_DEPTH:
        raise _too_deep(at)
    missing = list(_missing(root, path, at))
    if not missing:
        return None
    chart = _folder(root, path)
    assert chart is not None  # something is missing in it
    charts = _folder(chart, "charts")
    made = repo.TreeBuilder(charts) if charts is not None else repo.TreeBuilder()
    placed: set[tuple[str, str]] = set()
    for one in missing:
        if one.source is not None:
            tree = repo[str(fetched[one.source])].id
        else:
            there = _folder(root, one.folder)
            assert there is not None  # `_missing` looked
            tree = _completed(repo, root, one.folder, fetched, at, depth=depth + 1) or there.id
        if (one.name, str(tree)) in placed:
            continue  # the same chart twice, by two aliases
        placed.add((one.name, str(tree)))
        made.insert(_free(made, one.name), tree, FileMode.TREE)
    return _put(repo, chart, "charts", made.write())


def _missing(root: pygit2.Tree, path: str, at: str) -> Iterator[_Dependency]:
    chart = _folder(root, path)
    if chart is None or CHART_FILE not in chart:
        return
    name = "/".join(part for part in (at, path) if part)
    listed, locked, where = _listed(chart, name)
    vendored = _vendored(chart) if listed else frozenset()
    for index, entry in enumerate(listed):
        if index >= MAX_DEPENDENCIES:
            raise InvalidInput(where, f"has more than {MAX_DEPENDENCIES} dependencies", "split the chart")
        dependency = _text(entry, "name")
        if dependency in vendored or not _text(entry, "repository"):
            continue
        if _NAME.fullmatch(dependency) is None:
            raise InvalidInput(
                where, f"its dependency {listing.shown(dependency)!r} is no name of a chart", "correct it"
            )
        yield _read(root, path, entry, locked, where)


def _read(
    root: pygit2.Tree, path: str, entry: Mapping[str, Any], locked: list[Mapping[str, Any]] | None, where: str
) -> _Dependency:
    name, version, repository = _text(entry, "name"), _text(entry, "version"), _text(entry, "repository")
    where = f"{where}: dependency {name}"
    if repository.startswith("file://"):
        folder = posixpath.normpath(posixpath.join(path, repository.removeprefix("file://")))
        there = None if folder.startswith(("..", "/")) else _folder(root, _normal(folder))
        if there is None or CHART_FILE not in there:
            shown = listing.shown(repository)
            raise InvalidInput(where, f"{shown} is not a chart of the bundle's files", "put it beside, or publish it")
        return _Dependency(name=name, folder=_normal(folder))
    if repository.startswith(("@", "alias:")):
        cause = f"names its repository {listing.shown(repository)!r}, which only your own Helm knows"
        raise InvalidInput(where, cause, "write the repository's address")
    try:
        versions.newest(version, ())
    except InvalidInput as error:
        raise InvalidInput(where, f"its {error.thing} {error.cause}", error.remedy) from error
    try:
        address = addresses.normal(repository, schemes=("https", "http", "oci"))
    except InvalidInput as error:
        raise InvalidInput(where, f"its repository {error.cause}", error.remedy) from error
    if locked is not None:
        version = _locked(name, version, repository, locked, where)
    if address.startswith("oci://"):
        return _Dependency(name=name, source=OciSource(url=f"{address}/{name}", tag=version))
    return _Dependency(name=name, source=HelmSource(repository=address, chart=name, version=version))


def _locked(name: str, version: str, repository: str, locked: list[Mapping[str, Any]], where: str) -> str:
    """The version that the lock names for a dependency."""
    for entry in locked:
        if _text(entry, "name") == name and _text(entry, "repository").rstrip("/") == repository.rstrip("/"):
            exact = _text(entry, "version")
            if versions.newest(version, [exact]) is not None:
                return exact
    raise InvalidInput(where, f"{version} of {listing.shown(repository)} is not what the chart's lock has", _UPDATE)


def _listed(chart: pygit2.Tree, name: str) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]] | None, str]:
    """The dependencies, what the lock has if there is one, and the name of the file."""
    for file, lock in _LISTS:
        where = f"{name}/{file}" if name else file
        if entries := _entries(chart, file, where):
            locked = _entries(chart, lock, f"{name}/{lock}" if name else lock) if lock in chart else None
            return entries, locked, where
    return [], None, name


def _entries(chart: pygit2.Tree, file: str, where: str) -> list[Mapping[str, Any]]:
    entries = _document(chart, file, where).get("dependencies")
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise InvalidInput(where, "its dependencies are not a list of name, version and repository", "correct it")
    return entries


def _document(chart: pygit2.Tree, file: str, where: str) -> Mapping[str, Any]:
    """What stands in a file; nothing when it is not there, or is none of ours."""
    blob = _at(chart, file)
    if not isinstance(blob, pygit2.Blob) or blob.size > listing.MAX_FILE_BYTES:
        return {}
    documents = yaml_reader.documents(blob.data, where=where, strict=False)
    value = documents[0].value if documents else None
    return value if isinstance(value, Mapping) else {}


def _vendored(chart: pygit2.Tree) -> frozenset[str]:
    """The names of the charts in `charts/`. Of a packed one the file's name tells it, as `helm package` writes it."""
    found: set[str] = set()
    for entry in _folder(chart, "charts") or ():
        if isinstance(entry, pygit2.Tree):
            found.add(_text(_document(entry, CHART_FILE, f"charts/{entry.name}/{CHART_FILE}"), "name"))
        elif (name := entry.name or "").endswith(".tgz"):
            parts = name.removesuffix(".tgz").split("-")
            for index in range(1, len(parts)):
                if versions.newest("*-0", ["-".join(parts[index:])]) is not None:
                    found.add("-".join(parts[:index]))
    return frozenset(found)


def _text(entry: Mapping[str, Any], key: str) -> str:
    """A number, as in `version: 1.2`, is the text that Helm makes of it."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return value if isinstance(value, str) else f"{value:.15g}"


def name_of(source: Chart) -> str:
    """Pure: the chart's name."""
    return source.chart if isinstance(source, HelmSource) else source.url.rpartition("/")[2]


def _free(made: pygit2.TreeBuilder, name: str) -> str:
    """`name`, or with a number when there is something of that name."""
    number, free = 1, name
    while made.get(free) is not None:
        number += 1
        free = f"{name}-{number}"
    return free


def _put(repo: pygit2.Repository, tree: pygit2.Tree | None, path: str, made: pygit2.Oid) -> pygit2.Oid:
    """`tree` with `made` in place of its folder `path`."""
    if not path:
        return made
    name, _, rest = path.partition("/")
    below = _folder(tree, name) if tree is not None else None
    builder = repo.TreeBuilder(tree) if tree is not None else repo.TreeBuilder()
    builder.insert(name, _put(repo, below, rest, made), FileMode.TREE)
    return builder.write()


def _normal(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _tree(repo: pygit2.Repository, tree: Oid) -> pygit2.Tree:
    return repo[str(tree)].peel(pygit2.Tree)


def _folder(tree: pygit2.Tree, path: str) -> pygit2.Tree | None:
    found = _at(tree, path)
    return found if isinstance(found, pygit2.Tree) else None


def _at(tree: pygit2.Tree, path: str) -> pygit2.Object | None:
    try:
        return tree[path] if path else tree
    except KeyError:
        return None


def _too_deep(at: str) -> InvalidInput:
    cause = f"its charts depend on each other in a circle, or more than {MAX_DEPTH} deep"
    return InvalidInput(at or CHART_FILE, cause, "depend on them directly")
