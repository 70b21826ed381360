"""The simulated server's ValidatingAdmissionPolicies: which writes they are about, and what they say."""

from typing import Any

import pytest

from hub.sim.api import Api
from hub.sim.status import ApiError
from hub.sim.store import Store
from hub.sim.writes import Options

GROUP = "admissionregistration.k8s.io/v1"
ELSEWHERE = {"matchExpressions": [{"key": "x", "operator": "Exists"}]}
RULE = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}


def create(api: Api, obj: dict[str, Any], *, namespace: str = "") -> dict[str, Any]:
    kind = api.kinds.of(obj["apiVersion"], obj["kind"])
    assert kind is not None
    return api.create(kind, (namespace, obj["metadata"]["name"]), obj, Options(manager="tests"))


def config(name: str = "a", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "x"}}, "data": data}


def with_policy(*, binding: dict[str, Any] | None = None, **spec: Any) -> Api:
    api = Api(Store())
    validations = [{"expression": "object.data.color != 'red'", "message": "no red"}]
    policy = {"matchConstraints": {"resourceRules": [RULE]}, "validations": validations, **spec}
    bound = {"policyName": "p", "validationActions": ["Deny"], **(binding or {})}
    for kind, of in (("ValidatingAdmissionPolicy", policy), ("ValidatingAdmissionPolicyBinding", bound)):
        create(api, {"apiVersion": GROUP, "kind": kind, "metadata": {"name": "p"}, "spec": of})
    return api


@pytest.mark.parametrize(
    ("api", "denied"),
    [
        pytest.param(with_policy(), True, id="in force"),
        pytest.param(with_policy(binding={"validationActions": ["Warn"]}), False, id="only a warning"),
        pytest.param(with_policy(binding={"policyName": "other"}), False, id="bound to another policy"),
        pytest.param(
            with_policy(binding={"matchResources": {"objectSelector": {"matchLabels": {"app": "y"}}}}),
            False,
            id="bound to other objects",
        ),
        pytest.param(
            with_policy(binding={"matchResources": {"namespaceSelector": ELSEWHERE}}),
            False,
            id="bound to other namespaces",
        ),
        pytest.param(
            with_policy(matchConstraints={"resourceRules": [{**RULE, "operations": ["DELETE"]}]}), False, id="deletions"
        ),
        pytest.param(
            with_policy(matchConstraints={"resourceRules": [{**RULE, "resources": ["secrets"]}]}), False, id="Secrets"
        ),
        pytest.param(
            with_policy(matchConditions=[{"name": "c", "expression": "request.name == 'b'"}]), False, id="a condition"
        ),
        pytest.param(
            with_policy(
                variables=[{"name": "color", "expression": "object.data.color"}],
                validations=[{"expression": "variables.color == 'blue'"}],
            ),
            True,
            id="by a variable",
        ),
        pytest.param(with_policy(validations=[{"expression": "object.none.at.all"}]), True, id="an error denies"),
        pytest.param(
            with_policy(validations=[{"expression": "object.none.at.all"}], failurePolicy="Ignore"),
            False,
            id="an error is ignored",
        ),
    ],
)
def test_a_policy_denies_what_it_is_about(api: Api, denied: bool) -> None:
    if not denied:
        create(api, config(color="red"), namespace="default")
        return
    with pytest.raises(ApiError) as refused:
        create(api, config(color="red"), namespace="default")
    assert refused.value.code == 422
    assert "ValidatingAdmissionPolicy 'p' with binding 'p' denied request: " in refused.value.message


def test_what_the_policy_allows_is_written() -> None:
    assert create(with_policy(), config(color="blue"), namespace="default")["data"] == {"color": "blue"}
