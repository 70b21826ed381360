"""Which clusters a bundle is for, and what has to be rendered for them.

A bundle's clusters are grouped by what their rendering depends on, so that those which share it share one render and
one subtree: they may differ in variables that the bundle's files do not mention. A variable's value is the one that was
said last: fleet, bundle, each matching variant in order, cluster. Next: `render` turns a request into a subtree.
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from hub.model import Bundle, Checks, Cluster, Fleet, HelmOptions, Requirement, Selector
from hub.renders import RenderRequest
from hub.repo import references
from proto.ids import BundleName, ClusterName, Oid
from proto.objects import canonical


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Pure: does the selector match, as Kubernetes has it? NotIn and DoesNotExist match where the label is missing."""
    return selector.match_labels.items() <= labels.items() and all(
        _holds(requirement, labels) for requirement in selector.match_expressions
    )


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None


def wanted(fleet: Fleet) -> Mapping[BundleName, tuple[ClusterName, ...]]:
    """Pure: the clusters of each bundle, sorted. A bundle without any is there too."""
    clusters = sorted(fleet.clusters.items())
    return {
        name: tuple(one for one, cluster in clusters if matches(bundle.targets, cluster.labels))
        for name, bundle in sorted(fleet.bundles.items())
    }


def render_requests(fleet: Fleet, folder_tree: Callable[[str], Oid], *, renderer: str) -> tuple[RenderRequest, ...]:
    """Pure: one request for each bundle and distinct inputs, sorted by bundle, then by first cluster.

    `folder_tree` gives the Git tree id of a bundle's folder, `renderer` is the renderer's version.
    """
    found: list[RenderRequest] = []
    for name, clusters in wanted(fleet).items():
        if not clusters:
            continue
        bundle = fleet.bundles[name]
        tree = folder_tree(bundle.folder)
        # A new renderer would give a pinned chart new random values, so it is none of its inputs.
        version = "" if bundle.pin_first_render else renderer
        shared: dict[tuple[bool, ...], Mapping[str, Any]] = {}
        keys: dict[tuple[tuple[bool, ...], str], _Keys] = {}
        groups: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], list[ClusterName]]] = {}
        for member in clusters:
            cluster = fleet.clusters[member]
            chosen = tuple([matches(variant.when, cluster.labels) for variant in bundle.variants])
            if chosen not in shared:
                shared[chosen] = _shared_inputs(bundle, chosen, fleet)
            every = {**shared[chosen]["variables"], **cluster.variables}
            variables = _mentioned(bundle, every, cluster)
            alike = chosen, cluster.kubernetes
            if alike not in keys:
                keys[alike] = _Keys(tree, {**shared[chosen], "kubernetes": cluster.kubernetes}, renderer=version)
            key = keys[alike].of(variables)
            if key not in groups:
                own: dict[str, Any] = {"variables": variables, "kubernetes": cluster.kubernetes}
                if others := sorted(every.keys() - variables.keys()):
                    own["known"] = others
                groups[key] = shared[chosen], own, []
            groups[key][2].append(member)
        found.extend(
            RenderRequest(bundle=bundle, clusters=tuple(members), folder_tree=tree, key=key, shared=common, own=own)
            for key, (common, own, members) in groups.items()
        )
    return tuple(found)


def render_key(folder_tree: Oid, inputs: Mapping[str, Any], *, renderer: str) -> str:
    """Pure: a hash of all that a subtree depends on. Checks count as far as they refuse: a warning changes nothing;
    `known`, the names of variables that the sources do not mention, is for messages."""
    return hashlib.sha256(_hashed(folder_tree, inputs, renderer)).hexdigest()


def _hashed(folder_tree: Oid, inputs: Mapping[str, Any], renderer: str) -> bytes:
    refusing = {what: word for what, word in inputs.get("checks", {}).items() if word in ("refuse", "error")}
    inputs = {key: value for key, value in inputs.items() if key not in ("checks", "known")}
    if refusing:
        inputs["checks"] = refusing
    return canonical({"tree": folder_tree, "inputs": inputs, "renderer": renderer})


class _Keys:
    """Pure: `render_key` of inputs that differ in nothing but their variables: what comes before those is written and
    hashed once for all clusters."""

    def __init__(self, folder_tree: Oid, inputs: Mapping[str, Any], *, renderer: str) -> None:
        place = (
            b'\n    "variables": '  # a line break stands in JSON only between its parts, so nothing else looks alike
        )
        before, found, after = _hashed(folder_tree, {**inputs, "variables": 0}, renderer).rpartition(place + b"0")
        self._before, self._after = hashlib.sha256(before + found[:-1]), after

    def of(self, variables: Mapping[str, Any]) -> str:
        inner = canonical(variables).rstrip(b"\n").replace(b"\n", b"\n    ")
        digest = self._before.copy()
        digest.update(inner + self._after)
        return digest.hexdigest()


def checks_for(bundle: Bundle, fleet: Fleet) -> Checks:
    """Pure: what is checked in the objects of the bundle: its tenant's word goes before the fleet's."""
    said = bundle.tenant.secrets if bundle.tenant else ""
    return replace(fleet.checks, secrets=said) if said else fleet.checks


def _words(checks: Checks) -> Mapping[str, Any]:
    """The input `checks`: what is not as by default. Without it a fleet that says nothing keeps its keys."""
    usual = msgspec.to_builtins(Checks())
    words = {what: word for what, word in msgspec.to_builtins(checks).items() if word != usual[what]}
    return {"checks": words} if words else {}


def _shared_inputs(bundle: Bundle, chosen: tuple[bool, ...], fleet: Fleet) -> Mapping[str, Any]:
    """What the clusters have in common for which the same variants match (`chosen`: one answer for each of them).

    `path`, `chart` (what a Kustomize folder at `path` is laid over, if it is a chart) and `helm.valuesFiles` are
    relative to the bundle's folder; `helm` is None without Helm options; `policy` is the content of `bundle.json`. A
    cluster's name and labels are not in it: they would part it from all others.
    """
    overlay, helm, patches = bundle.kustomize, bundle.helm, bundle.patches
    variables = {**fleet.variables, **bundle.variables}
    for variant in itertools.compress(bundle.variants, chosen):
        overlay = variant.kustomize if variant.kustomize is not None else overlay
        helm = _merged(helm, variant.helm)
        patches += variant.patches
        variables |= variant.variables
    return {
        "path": overlay if overlay is not None else bundle.source,
        **({"chart": bundle.source} if overlay not in (None, bundle.source) else {}),
        **_patch_files(bundle),
        **({"patches": [msgspec.to_builtins(patch) for patch in patches]} if patches else {}),
        "namespace": bundle.namespace,
        "helm": helm and {"values": helm.values, "valuesFiles": list(helm.values_files), "release": helm.release},
        "variables": variables,
        "policy": msgspec.to_builtins(bundle.policy),
        **({"pinFirstRender": True} if bundle.pin_first_render else {}),
        **_words(checks_for(bundle, fleet)),
        **({"rights": msgspec.to_builtins(bundle.tenant.rights)} if bundle.tenant else {}),
    }


def _patch_files(bundle: Bundle) -> Mapping[str, Any]:
    """The input `patchFiles`: those of all variants, for none of them is a manifest."""
    every = (*bundle.patches, *itertools.chain.from_iterable(variant.patches for variant in bundle.variants))
    files = sorted({patch.path for patch in every if patch.path})
    return {"patchFiles": files} if files else {}


def _mentioned(bundle: Bundle, every: Mapping[str, Any], cluster: Cluster) -> dict[str, Any]:
    """Of the variables, and of what the cluster is called and labelled, what the bundle's files mention."""
    names = bundle.mentions | every.keys() if references.EVERY in bundle.mentions else bundle.mentions
    found: dict[str, Any] = {}
    for name in sorted(names):
        if name == references.CLUSTER_NAME:
            found[name] = cluster.name
        elif name.startswith(references.LABEL) and (label := name.removeprefix(references.LABEL)) in cluster.labels:
            found[name] = cluster.labels[label]
        elif name in every:
            found[name] = every[name]
    return found


def _merged(below: HelmOptions | None, above: HelmOptions | None) -> HelmOptions | None:
    """Values merge key by key, values files of `above` come after those of `below`, its release name replaces.

    As everywhere with Helm all values files come before all values.
    """
    if below is None or above is None:
        return above or below
    return HelmOptions(
        values=_merged_values(below.values, above.values),
        values_files=(*below.values_files, *above.values_files),
        release=above.release or below.release,
    )


def _merged_values(below: Mapping[str, Any], above: Mapping[str, Any]) -> Mapping[str, Any]:
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            value = _merged_values(under, value)
        result[key] = value
    return result
