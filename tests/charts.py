"""Charts, packed and indexed by Helm's own code, and what a Git tree holds."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pygit2

from proto.ids import Oid

CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}-{{ .Chart.Name }}"}
data: {value: "{{ .Values.value }}", version: "{{ .Chart.Version }}"}
"""


def write(
    folder: Path, name: str, *, version: str = "1.0.0", more: str = "", files: Mapping[str, str] | None = None
) -> Path:
    """A chart with one ConfigMap in `folder/name`; `more` is for its Chart.yaml."""
    chart = folder / name
    texts = {
        "Chart.yaml": f"apiVersion: v2\nname: {name}\nversion: {version}\n{more}",
        "values.yaml": f"value: {name} as it is\n",
        "templates/config.yaml": CONFIG_MAP,
        **(files or {}),
    }
    for path, text in texts.items():
        (chart / path).parent.mkdir(parents=True, exist_ok=True)
        (chart / path).write_text(text)
    return chart


def pack(folder: Path, name: str, *, version: str = "1.0.0", into: Path, more: str = "") -> Path:
    """`name-version.tgz` in the folder `into`, by `helm package`."""
    from helm_python import chart

    into.mkdir(parents=True, exist_ok=True)
    return Path(chart.package(write(folder, name, version=version, more=more), destination=into))


def index(folder: Path) -> bytes:
    """`helm repo index` of a folder of packed charts."""
    from helm_python import registry

    registry.repo_index_generate(folder)
    return (folder / "index.yaml").read_bytes()


def store(repo: pygit2.Repository, files: Mapping[str, str]) -> Oid:
    """A tree of texts."""
    made = pygit2.Index()
    for path, text in files.items():
        made.add(pygit2.IndexEntry(path, repo.create_blob(text.encode()), pygit2.enums.FileMode.BLOB))
    return Oid(str(made.write_tree(repo)))


def store_folder(repo: pygit2.Repository, folder: Path) -> Oid:
    return store(
        repo, {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    )


def listed(repo: pygit2.Repository, tree: Oid) -> dict[str, bytes]:
    """Path to content."""

    def below(found: Any, at: str) -> Iterator[tuple[str, bytes]]:
        for entry in found:
            if isinstance(entry, pygit2.Tree):
                yield from below(entry, f"{at}{entry.name}/")
            else:
                yield f"{at}{entry.name}", entry.data

    return dict(below(repo[tree], ""))
