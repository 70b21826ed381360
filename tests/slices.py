"""Builds slices by hand: the Git objects that a hub would send, from literal manifests."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from proto.ids import Oid
from proto.messages import GitObject, WakeUp
from proto.objects import blob_id, canonical, git_id, key_of, tree_bytes
from proto.slices import POLICY_FILE, SLICE_FILE, BundleEntry, BundlePolicy, SliceManifest, to_file, with_membership

CLUSTER = "eu-1"


def manifests(text: str) -> list[dict[str, Any]]:
    return [obj for obj in yaml.safe_load_all(text) if obj]


class SliceMaker:
    """Makes one cluster's slice commits, each on top of the last."""

    def __init__(self, cluster: str = CLUSTER) -> None:
        self.cluster = cluster
        self.seq = 0
        self.commit = ""
        self.subtrees: dict[str, str] = {}

    def next(self, bundles: Mapping[str, str | Iterable[Mapping[str, Any]]], **policies: Mapping[str, Any]) -> WakeUp:
        """The next commit, with these bundles (YAML text or objects) and nothing else; `policies` are fields of
        BundlePolicy by bundle, `-` written as `_`."""
        found: dict[Oid, GitObject] = {}
        entries: dict[str, BundleEntry] = {}
        trees: dict[str, tuple[bool, Oid]] = {}
        self.seq += 1
        for name, objects in bundles.items():
            policy = BundlePolicy(name=name, **policies.get(name.replace("-", "_"), {}))
            files = {POLICY_FILE: to_file(policy)}
            for obj in manifests(objects) if isinstance(objects, str) else objects:
                files[key_of(obj).path] = canonical(with_membership(obj, name))
            subtree = _tree(files, found)
            trees[name] = (True, subtree)
            entries[name] = BundleEntry(subtree=subtree, revision="r" * 40, rollout=f"{name}-{self.seq}")
        self.subtrees = {name: entry.subtree for name, entry in entries.items()}
        manifest = to_file(SliceManifest(cluster=self.cluster, seq=self.seq, bundles=entries))
        root = {SLICE_FILE: (False, _keep("blob", manifest, found))}
        if trees:
            root["bundles"] = (True, _keep("tree", tree_bytes(trees), found))
        lines = [
            f"tree {_keep('tree', tree_bytes(root), found)}",
            *([f"parent {self.commit}"] if self.commit else []),
            f"author Flotilla <flotilla@localhost> {1_767_225_600 + self.seq} +0000",
            f"committer Flotilla <flotilla@localhost> {1_767_225_600 + self.seq} +0000",
        ]
        parent = self.commit
        text = "\n".join(lines) + f"\n\n{self.cluster} #{self.seq}\n"
        self.commit = _keep("commit", text.encode(), found)
        return WakeUp(seq=self.seq, commit=self.commit, parent=parent, objects=tuple(found.values()))


def _tree(files: Mapping[str, bytes], found: dict[Oid, GitObject]) -> Oid:
    here: dict[str, tuple[bool, Oid]] = {}
    below: dict[str, dict[str, bytes]] = {}
    for path, data in files.items():
        name, slash, rest = path.partition("/")
        if slash:
            below.setdefault(name, {})[rest] = data
        else:
            here[name] = (False, _keep("blob", data, found))
    here |= {name: (True, _tree(inner, found)) for name, inner in below.items()}
    return _keep("tree", tree_bytes(here), found)


def _keep(kind: str, data: bytes, found: dict[Oid, GitObject]) -> Oid:
    oid = git_id(kind, data)
    found[oid] = GitObject(kind=kind, data=data)
    assert kind != "blob" or oid == blob_id(data)
    return oid
