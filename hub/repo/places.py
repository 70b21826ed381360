"""Which paths of a fleet repo hold its own files, and of which kind.

Assumes nothing of their content. Next: `documents` reads them.
"""

import re

BUNDLES = "bundles"
PLACES: tuple[tuple[str, str, re.Pattern[str]], ...] = (
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
ROOTS = frozenset({"fleet.yaml", "fleet.yml", "clusters", "rollouts", BUNDLES})
"""What of a repo's root they are in; the folders of tenants are beside."""
_TABLE_KIND = "ClusterTable"
_TABLE = re.compile(r"clusters/.+\.(csv|json)", re.DOTALL)


def is_fleet_file(path: str) -> bool:
    """Pure: whether `fleet.load` wants this path of the repo: a file, or with `/` at its end what stands for a folder.
    `.yml` is as good as `.yaml`."""
    return kind_at(path) is not None or is_table(path)


def is_table(path: str) -> bool:
    """Pure: whether a ClusterTable may name this file."""
    return _TABLE.fullmatch(path) is not None


def kind_at(path: str) -> str | None:
    """Pure: the kind that belongs at this path of the repo, None if none does."""
    if path.endswith("/"):
        return next((kind for kind, pattern in _FOLDERS if pattern.fullmatch(path)), None)
    return next((kind for kind, _, pattern in PLACES if pattern.fullmatch(path)), None)


def folder_of(path: str) -> str:
    """Pure: the bundle's folder of the path of a `bundle.yaml`; another path is one itself."""
    folder, _, name = path.rpartition("/")
    return folder if name in ("bundle.yaml", "bundle.yml") else path
