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

from hub.model import (
    Bundle,
    Checks,
    Cluster,
    Fleet,
    HelmOptions,
    RenderRequest,
    Requirement,
    Selector,
)
from hub.repo import references
from proto.ids import BundleName, ClusterName, Oid
from proto.objects import canonical


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Pure: does the selector match, as Kubernetes has it? NotIn and DoesNotExist match where the label is missing."""
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
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
    return {
        name: tuple(
            sorted(cluster.name for cluster in fleet.clusters.values() if matches(bundle.targets, cluster.labels))
        )
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
        shared: dict[tuple[bool, ...], Mapping[str, Any]] = {}
        keys: dict[object, str] = {}
        groups: dict[str, tuple[Mapping[str, Any], list[ClusterName]]] = {}
        for member in clusters:
            cluster = fleet.clusters[member]
            chosen = tuple(matches(variant.when, cluster.labels) for variant in bundle.variants)
            if chosen not in shared:
                shared[chosen] = _shared_inputs(bundle, chosen, fleet)
            every = {**shared[chosen]["variables"], **cluster.variables}
            variables = _mentioned(bundle, every, cluster)
            alike = chosen, cluster.kubernetes, tuple((name, type(value), value) for name, value in variables.items())
            if alike not in keys:
                inputs = {**shared[chosen], "variables": variables, "kubernetes": cluster.kubernetes}
                # A new renderer would give a pinned chart new random values, so it is none of its inputs.
                keys[alike] = render_key(tree, inputs, renderer="" if bundle.pin_first_render else renderer)
                if others := sorted(every.keys() - variables.keys()):
                    inputs["known"] = others
                groups.setdefault(keys[alike], (inputs, []))
            groups[keys[alike]][1].append(member)
        found.extend(
            RenderRequest(bundle=bundle, clusters=tuple(members), folder_tree=tree, inputs=inputs, key=key)
            for key, (inputs, members) in groups.items()
        )
    return tuple(found)


def render_key(folder_tree: Oid, inputs: Mapping[str, Any], *, renderer: str) -> str:
    """Pure: a hash of all that a subtree depends on. Checks count as far as they refuse: a warning changes nothing;
    `known`, the names of variables that the sources do not mention, is for messages."""
    refusing = {what: word for what, word in inputs.get("checks", {}).items() if word in ("refuse", "error")}
    inputs = {key: value for key, value in inputs.items() if key not in ("checks", "known")}
    if refusing:
        inputs["checks"] = refusing
    return hashlib.sha256(canonical({"tree": folder_tree, "inputs": inputs, "renderer": renderer})).hexdigest()


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
    own = {references.CLUSTER_NAME: cluster.name, **{references.LABEL + key: v for key, v in cluster.labels.items()}}
    names = bundle.mentions | every.keys() if references.EVERY in bundle.mentions else bundle.mentions
    return {name: found[name] for name in sorted(names) for found in (every, own) if name in found}


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
