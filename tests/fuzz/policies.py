"""Admission in play: policies that change what others write, refuse some of it, and refuse some of our own writes.

    who writes                             what                                    becomes
    `edits.MUTATED`                        anything                                an annotation added, `note` changed
    helm                                   an annotation `added-1`                 refused
    anyone, we too                         a ConfigMap that asks for it by label   its `mode` is changed
    we                                     an object that has `edits.LOCKED`       refused: nothing can be undone

The simulated API server keeps policies and does not follow them: there, they are objects like others.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from proto.slices import FIELD_MANAGER
from tests.fuzz import edits
from tests.fuzz.runner import Admin

_GROUP = "/apis/admissionregistration.k8s.io/v1"
_ALL = {
    "resourceRules": [
        {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*"]}
    ]
}
_MANAGER = "has(request.options.fieldManager) && request.options.fieldManager"
_ANNOTATED = "has({0}.metadata.annotations) && '{1}' in {0}.metadata.annotations"

MUTATING: dict[str, tuple[str, str]] = {
    "annotate": (
        f"{_MANAGER} == '{edits.MUTATED}'",
        "Object{metadata: Object.metadata{annotations: {'mutated': 'yes', 'note': 'mutated'}}}",
    ),
    "mode": (
        (
            "object.kind == 'ConfigMap' && has(object.metadata.labels) && 'mutate' in object.metadata.labels"
            " && has(object.data) && 'mode' in object.data"
        ),
        "Object{data: {'mode': 'mutated'}}",
    ),
}
"""By name: when, and what is applied."""
VALIDATING = {
    "refuse": (f"{_MANAGER} == 'helm' && {_ANNOTATED.format('object', 'added-1')}"),
    "lock": (
        f"{_MANAGER} == '{FIELD_MANAGER}' && request.operation == 'UPDATE'"
        f" && {_ANNOTATED.format('oldObject', edits.LOCKED)}"
    ),
}
"""By name: what is refused."""


@asynccontextmanager
async def in_play(admin: Admin, suffix: str, *, followed: bool) -> AsyncIterator[None]:
    """The policies, until the end of the block; returns once they can be seen to work, where they are `followed`."""
    made = list(_policies(suffix))
    try:
        for plural, obj in made:
            status, answer = await admin.call("POST", f"{_GROUP}/{plural}", obj)
            assert status == 201, answer
        if followed:
            await _until_followed(admin)
        yield
    finally:
        with anyio.CancelScope(shield=True):
            for plural, obj in reversed(made):
                await admin.call("DELETE", f"{_GROUP}/{plural}/{obj['metadata']['name']}")


def _policies(suffix: str) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for name, (when, applied) in MUTATING.items():
        spec: dict[str, Any] = {
            "failurePolicy": "Ignore",
            "reinvocationPolicy": "Never",
            "matchConstraints": _ALL,
            "matchConditions": [{"name": "who", "expression": when}],
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": applied}}],
        }
        found += _bound("MutatingAdmissionPolicy", f"fuzz-{name}-{suffix}", spec, {})
    for name, refused in VALIDATING.items():
        spec = {
            "failurePolicy": "Ignore",
            "matchConstraints": _ALL,
            "validations": [{"expression": f"!({refused})", "message": f"refused by {name}"}],
        }
        found += _bound("ValidatingAdmissionPolicy", f"fuzz-{name}-{suffix}", spec, {"validationActions": ["Deny"]})
    return found


def _bound(kind: str, name: str, spec: dict[str, Any], how: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    plural = f"{kind.lower().removesuffix('y')}ies"
    version = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    return [
        (plural, {**version, "kind": kind, "spec": spec}),
        (f"{kind.lower()}bindings", {**version, "kind": f"{kind}Binding", "spec": {"policyName": name, **how}}),
    ]


async def _until_followed(admin: Admin) -> None:
    """All of them: they were made in one go, and take a second or two."""
    probe = "/api/v1/namespaces/default"
    query = f"?dryRun=All&fieldManager={edits.MUTATED}"
    locked = {"metadata": {"annotations": {"added-1": "x"}}}
    with anyio.fail_after(60):
        while True:
            _, seen = await admin.call("PATCH", probe + query, {"metadata": {}}, content_type=edits.MERGE)
            status, _ = await admin.call(
                "PATCH", f"{probe}?dryRun=All&fieldManager=helm", locked, content_type=edits.MERGE
            )
            if status == 422 and "mutated" in json.dumps(seen["metadata"].get("annotations", {})):
                return
            await anyio.sleep(0.1)
