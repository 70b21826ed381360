"""What a tenant's bundles may do: which clusters, rollout policies, sources, namespaces, kinds, and in whose name.

A bundle is of the tenant with the longest folder that holds it; one in no tenant's folder may do everything, unless
the fleet says `requireTenant`. What a rule leaves open is not restricted, but for one thing:

| kind of a rendered object                         | allowed when a pattern of `kinds.allow` matches         |
|---------------------------------------------------|---------------------------------------------------------|
| any that `kinds.deny` matches                     | never                                                   |
| namespaced                                        | any; without `kinds.allow` always                       |
| cluster-scoped, Namespaces too                    | one that says more than `*`                             |
| custom, and nothing here tells if it is namespaced | one that says more than `*`: it may be cluster-scoped  |

`fleet` asks `problems` when it loads, `targets` puts the rights into what a render depends on, `render.build` asks
`refusal` for each object: so `check`, `render`, `diff` and the hub all say the same.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase

import msgspec

from hub.model import Bundle, Cluster, Rights, Tenant
from hub.repo import addresses, targets
from proto.objects import ObjectKey

KIND_PATTERN = re.compile(r"[A-Za-z0-9*]+(\.[-a-z0-9.*]+)?", re.ASCII)
NAMESPACE_PATTERN = re.compile(r"[-a-z0-9*]{1,63}", re.ASCII)
CORE_KINDS = frozenset(
    {
        *("Binding", "ComponentStatus", "ConfigMap", "Endpoints", "Event", "LimitRange", "Namespace", "Node"),
        *("PersistentVolume", "PersistentVolumeClaim", "Pod", "PodTemplate", "ReplicationController"),
        *("ResourceQuota", "Secret", "Service", "ServiceAccount"),
    }
)
"""The kinds that a pattern may name without a group."""

_SOME = 3
"""Clusters named in a message."""


def assigned(bundle: Bundle, tenants: Iterable[Tenant]) -> Bundle:
    """Pure: the bundle with its tenant, and in the name of the tenant's account if it states none itself."""
    holding = [tenant for tenant in tenants if f"{bundle.folder}/".startswith(f"{tenant.folder}/")]
    if not holding:
        return bundle
    tenant = max(holding, key=lambda tenant: len(tenant.folder))
    account = bundle.policy.service_account or _account(tenant, bundle)
    policy = msgspec.structs.replace(bundle.policy, service_account=account)
    return replace(bundle, tenant=tenant, policy=policy)


def problems(bundle: Bundle, clusters: Iterable[Cluster]) -> Iterator[tuple[str, str]]:
    """Pure: what the bundle asks for beyond its tenant's rights, each as message and remedy."""
    tenant = bundle.tenant
    if tenant is None:
        return
    who = f"tenant {tenant.name}"
    reached = [cluster for cluster in clusters if targets.matches(bundle.targets, cluster.labels)]
    outside = sorted(cluster.name for cluster in reached if not targets.matches(tenant.clusters, cluster.labels))
    if outside:
        more = f" and {len(outside) - _SOME} more" if len(outside) > _SOME else ""
        message = f"spec.targets: {who} may not have cluster {', '.join(outside[:_SOME])}{more}"
        yield message, f"narrow the targets to the clusters that {who} may have"
    if tenant.rollouts is not None and bundle.rollout not in tenant.rollouts:
        stated = f"the rollout policy {bundle.rollout!r}" if bundle.rollout else "the default rollout policy"
        yield f"spec.rollout: {who} may not use {stated}", _one_of(tenant.rollouts)
    namespaces = tenant.rights.namespaces
    if bundle.namespace and not _is_among(namespaces, bundle.namespace):
        yield f"spec.namespace: {who} may not use namespace {bundle.namespace}", _one_of(namespaces or ())
    if bundle.external is not None and tenant.sources is not None:
        address = addresses.of(bundle.external)
        if not any(addresses.within(address, prefix) for prefix in tenant.sources):
            yield f"spec.source: {who} may not fetch from {address}", _one_of(tenant.sources)
    account, stated = _account(tenant, bundle), bundle.policy.service_account
    if tenant.service_account and not account:
        yield f"spec.namespace is missing: {who} runs as {tenant.service_account} in it", "set spec.namespace"
    elif account and stated != account:
        yield f"spec.serviceAccount: {who} runs as {account}, not as {stated}", "remove it from the bundle"


def refusal(rights: Rights, key: ObjectKey, *, cluster_scoped: bool | None) -> tuple[str, str] | None:
    """Pure: why the tenant may not have the object, and the remedy; None when it may. `cluster_scoped` is None when
    nobody here knows."""
    who, gk = f"tenant {rights.tenant}", key.gk
    grant = f"remove the object, or have {gk} added to kinds.allow of {who} in fleet.yaml"
    if denying := next((pattern for pattern in rights.deny if fnmatchcase(gk, pattern)), ""):
        return f"{who} may not have {gk}: its kinds.deny has {denying}", "remove the object"
    allowing = [pattern for pattern in rights.allow or () if fnmatchcase(gk, pattern)]
    if cluster_scoped is not False and all(pattern.strip("*.") == "" for pattern in allowing):
        kind = "is cluster-scoped" if cluster_scoped else "is a custom kind that may be cluster-scoped"
        return f"{who} may not have {gk}: it {kind}, and its kinds.allow does not name it", grant
    if rights.allow is not None and not allowing:
        return f"{who} may not have {gk}: its kinds.allow does not have it", grant
    namespace = key.name if gk == "Namespace" else "" if cluster_scoped else key.namespace
    if namespace and not _is_among(rights.namespaces, namespace):
        return f"{who} may not use namespace {namespace}", _one_of(rights.namespaces or ())
    return None


def _account(tenant: Tenant, bundle: Bundle) -> str:
    """`namespace/name` of the account that is forced on the bundle; "" when there is none, or no namespace for it."""
    namespace, _, name = tenant.service_account.rpartition("/")
    namespace = namespace or bundle.namespace
    return f"{namespace}/{name}" if name and namespace else ""


def _is_among(patterns: Collection[str] | None, text: str) -> bool:
    return patterns is None or any(fnmatchcase(text, pattern) for pattern in patterns)


def _one_of(names: Collection[str]) -> str:
    return f"use one of: {', '.join(names)}" if names else "it may use none: have one added to it in fleet.yaml"
