"""ValidatingAdmissionPolicies as they are stored: each write is held against every policy that a binding puts in force.

Evaluated are: resource rules and selectors of a policy and of its binding, match conditions, variables, validations,
and the action Deny. Not evaluated: params, authorizer, audit, and the costs of expressions. An expression that cannot
be evaluated denies, unless `failurePolicy` is Ignore.
Assumes that `writes` calls this after the mutating admission. Source: kubernetes.io, Validating Admission Policy.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from hub.sim import status
from hub.sim.review import Review
from hub.sim.status import ApiError
from hub.sim.store import Record, Store, Table

if TYPE_CHECKING:
    from cel_expr_python.cel import Expression

Json = Mapping[str, Any]

GROUP: Final = "admissionregistration.k8s.io"
POLICIES: Final[Table] = (GROUP, "validatingadmissionpolicies")
BINDINGS: Final[Table] = (GROUP, "validatingadmissionpolicybindings")
_VARIABLES: Final = ("object", "oldObject", "request", "namespaceObject", "variables")


class Policies:
    """All policies of one cluster; false while there are none."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._parsed: dict[tuple[Table, str], tuple[Record, Json]] = {}

    def __bool__(self) -> bool:
        return any(True for _ in self._store.items(BINDINGS))

    def check(self, review: "Review") -> None:
        """Raises ApiError for a write that a policy denies."""
        if review.kind.info.group == GROUP or not self:
            return
        policies = dict(self._objects(POLICIES))
        for name, binding in self._objects(BINDINGS):
            policy = policies.get(binding["spec"].get("policyName", ""))
            if policy is not None and "Deny" in (binding["spec"].get("validationActions") or ()):
                self._check(review, policy, name, binding["spec"].get("matchResources") or {})

    def _check(self, review: "Review", policy: Json, binding: str, bound: Json) -> None:
        spec = policy["spec"]
        within = [spec.get("matchConstraints") or {}, *([bound] if bound else [])]
        namespace = self._namespace(review)
        if not all(_matches(one, review, namespace) for one in within):
            return
        values = _values(review, namespace)
        try:
            if not all(_true(one["expression"], values) for one in spec.get("matchConditions") or ()):
                return
            variables: dict[str, Any] = {}
            for one in spec.get("variables") or ():
                variables[one["name"]] = _value(one["expression"], {**values, "variables": variables})
            values["variables"] = variables
            for one in spec.get("validations") or ():
                if not _true(one["expression"], values):
                    message = one.get("message") or f"failed expression: {one['expression'].strip()}"
                    raise _denied(review, policy, binding, message, one.get("reason", "Invalid"))
        except (RuntimeError, ValueError, TypeError) as error:
            if spec.get("failurePolicy", "Fail") == "Fail":
                raise _denied(review, policy, binding, f"expression resulted in error: {error}", "Invalid") from error

    def _namespace(self, review: "Review") -> Json | None:
        record = self._store.get(("", "namespaces"), ("", review.key[0])) if review.key[0] else None
        return record.read() if record is not None else None

    def _objects(self, table: Table) -> Iterator[tuple[str, Json]]:
        """Parsed once for each version: every write asks."""
        for (_, name), record in self._store.items(table):
            known = self._parsed.get((table, name))
            if known is None or known[0] is not record:
                known = self._parsed[table, name] = (record, record.read())
            yield name, known[1]


_CODES: Final = {"Unauthorized": 401, "Forbidden": 403, "RequestEntityTooLarge": 413, "Invalid": 422}


def _denied(review: "Review", policy: Json, binding: str, message: str, reason: str) -> ApiError:
    name = policy["metadata"]["name"]
    text = f"ValidatingAdmissionPolicy '{name}' with binding '{binding}' denied request: {message}"
    forbidden = status.forbidden(*review.kind.table, review.key[1], text, causes=[{"message": text}])
    return ApiError(_CODES.get(reason, 422), forbidden.message, reason=reason, details=forbidden.details)


def _matches(within: Json, review: "Review", namespace: Json | None) -> bool:
    """Whether a policy's or a binding's `matchResources` are about a write. Without rules they are about all."""
    rules = within.get("resourceRules")
    labels = ((review.object or review.old or {}).get("metadata") or {}).get("labels") or {}
    of_namespace = ((namespace or {}).get("metadata") or {}).get("labels") or {}
    return (
        (rules is None or any(_rule(rule, review) for rule in rules))
        and not any(_rule(rule, review) for rule in within.get("excludeResourceRules") or ())
        and _selects(within.get("objectSelector") or {}, labels)
        and (namespace is None or _selects(within.get("namespaceSelector") or {}, of_namespace))
    )


def _rule(rule: Json, review: "Review") -> bool:
    info = review.kind.info
    resource = f"{info.plural}/{review.subresource}" if review.subresource else info.plural
    return (
        _listed(info.group, rule.get("apiGroups"))
        and _listed(info.version, rule.get("apiVersions"))
        and _listed(review.operation, rule.get("operations"))
        and (resource in (rule.get("resources") or ()) or bool({"*", "*/*"} & set(rule.get("resources") or ())))
        and (not rule.get("resourceNames") or review.key[1] in rule["resourceNames"])
    )


def _listed(value: str, values: Any) -> bool:
    return value in (values or ()) or "*" in (values or ())


def _selects(selector: Json, labels: Json) -> bool:
    for one in selector.get("matchExpressions") or ():
        there, values = labels.get(one["key"]), one.get("values") or ()
        fits = {
            "In": there in values,
            "NotIn": there not in values,
            "Exists": there is not None,
            "DoesNotExist": there is None,
        }
        if not fits[one["operator"]]:
            return False
    return (selector.get("matchLabels") or {}).items() <= labels.items()


def _values(review: "Review", namespace: Json | None) -> dict[str, Any]:
    info = review.kind.info
    request = {
        "operation": review.operation,
        "name": review.key[1],
        "namespace": review.key[0],
        "subResource": review.subresource,
        "dryRun": review.dry_run,
        "kind": {"group": info.group, "version": info.version, "kind": info.kind},
        "resource": {"group": info.group, "version": info.version, "resource": info.plural},
        "userInfo": {"username": review.user},
    }
    found = {"object": review.object, "oldObject": review.old, "request": request, "namespaceObject": namespace}
    return {**found, "variables": {}}


def _true(expression: str, values: Json) -> bool:
    return _value(expression, values) is True


def _value(expression: str, values: Json) -> Any:
    """Raises RuntimeError, TypeError or ValueError for what cannot be evaluated."""
    result = _compiled(expression).eval(data=values)
    if result.type().name() == "ERROR":
        raise ValueError(str(result.value()))
    return result.value()


@lru_cache(maxsize=256)
def _compiled(expression: str) -> "Expression":
    # The library takes 15 MB of memory, and few clusters have a policy.
    from cel_expr_python import cel
    from cel_expr_python.ext import ext_optional, ext_strings

    environment = cel.NewEnv(
        variables={name: cel.Type("dyn") for name in _VARIABLES},
        extensions=[ext_optional.ExtOptional(), ext_strings.ExtStrings()],
    )
    return environment.compile(expression)
