"""Variables in manifests and in Helm values."""

from collections.abc import Mapping
from typing import Any

import pytest

from hub.render import variables
from proto.errors import InvalidInput

VARIABLES = {
    "domain": "eu.example.org",
    "replicas": 3,
    "debug": True,
    "ratio": 0.5,
    "cost": "$${replicas}",
    "empty": "",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("${domain}", "eu.example.org", id="a text"),
        pytest.param("https://${domain}/x?${replicas}", "https://eu.example.org/x?3", id="inside a text"),
        pytest.param("${replicas}", 3, id="a number alone"),
        pytest.param("${debug}", True, id="a boolean alone"),
        pytest.param("${debug}-${ratio}", "true-0.5", id="typed ones inside a text"),
        pytest.param("${empty}", "", id="an empty one"),
        pytest.param("${none:-fallback}", "fallback", id="a default"),
        pytest.param("${none:-}", "", id="an empty default"),
        pytest.param("${none:-3}", 3, id="a default that is a number, alone"),
        pytest.param("${none:-false}", False, id="a default that is a boolean, alone"),
        pytest.param("v${none:-3}", "v3", id="a default inside a text"),
        pytest.param("${none:-1.20}", "1.20", id="a default that may be a version"),
        pytest.param("${none:-007}", "007", id="a default that may be a code"),
        pytest.param("${replicas:-9}", 3, id="a default that is not needed"),
        pytest.param("${empty:-9}", "", id="an empty variable is defined"),
        pytest.param("$${domain}", "${domain}", id="an escape"),
        pytest.param("a $${domain} b ${domain}", "a ${domain} b eu.example.org", id="an escape beside a variable"),
        pytest.param("${cost}", "$${replicas}", id="what was filled in is not looked at again"),
        pytest.param("$(POD_IP) $domain ${} ${1} ${a b}", "$(POD_IP) $domain ${} ${1} ${a b}", id="other dollars"),
        pytest.param(
            "${VAR%%x} ${#a} ${a:+b} ${a/b/c} ${a[0]}", "${VAR%%x} ${#a} ${a:+b} ${a/b/c} ${a[0]}", id="shell"
        ),
        pytest.param("${größe}", "${größe}", id="a name that is not ASCII"),
        pytest.param("${domain", "${domain", id="an open brace"),
    ],
)
def test_a_scalar_is_filled_in(text: str, expected: Any) -> None:
    obj = {"apiVersion": "v1", "kind": "X", "spec": {"field": text}}
    result, _ = variables.substitute(obj, VARIABLES, what="X/x")
    assert result["spec"]["field"] == expected
    assert type(result["spec"]["field"]) is type(expected)


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        pytest.param({"metadata": {"labels": {"a": "${replicas}"}}}, ("metadata", "labels", "a"), id="label"),
        pytest.param(
            {"metadata": {"annotations": {"a": "${replicas}"}}}, ("metadata", "annotations", "a"), id="annotation"
        ),
        pytest.param({"metadata": {"name": "${replicas}"}}, ("metadata", "name"), id="name"),
        pytest.param(
            {"kind": "Service", "spec": {"selector": {"a": "${replicas}"}}}, ("spec", "selector", "a"), id="selector"
        ),
        pytest.param(
            {"spec": {"selector": {"matchLabels": {"a": "${replicas}"}}}},
            ("spec", "selector", "matchLabels", "a"),
            id="matchLabels",
        ),
        pytest.param(
            {"spec": {"x": {"matchExpressions": [{"values": ["${replicas}"]}]}}},
            ("spec", "x", "matchExpressions", 0, "values", 0),
            id="matchExpressions",
        ),
        pytest.param(
            {"spec": {"template": {"metadata": {"labels": {"a": "${replicas}"}}}}},
            ("spec", "template", "metadata", "labels", "a"),
            id="label of a template",
        ),
        pytest.param(
            {"spec": {"nodeSelector": {"a": "${replicas}"}}}, ("spec", "nodeSelector", "a"), id="nodeSelector"
        ),
        pytest.param({"kind": "ConfigMap", "data": {"a": "${replicas}"}}, ("data", "a"), id="ConfigMap data"),
        pytest.param(
            {"kind": "Secret", "stringData": {"a": "${replicas}"}}, ("stringData", "a"), id="Secret stringData"
        ),
        pytest.param({"kind": "Secret", "data": {"a": "${replicas}"}}, ("data", "a"), id="Secret data"),
        pytest.param({"spec": {"env": [{"name": "A", "value": "${replicas}"}]}}, ("spec", "env", 0, "value"), id="env"),
        pytest.param({"spec": {"args": ["-n", "${replicas}"]}}, ("spec", "args", 1), id="args"),
        pytest.param({"spec": {"command": ["${replicas}"]}}, ("spec", "command", 0), id="command"),
    ],
)
def test_where_kubernetes_takes_text_a_number_becomes_text(obj: Mapping[str, Any], path: tuple[str | int, ...]) -> None:
    found: Any = variables.substitute(obj, VARIABLES, what="X/x")[0]
    for step in path:
        found = found[step]
    assert found == "3"


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"ports": [{"containerPort": "${replicas}"}]}, id="a port"),
        pytest.param({"data": {"n": "${replicas}"}}, id="data that is not a ConfigMap's"),
        pytest.param(
            {"parameters": [{"name": "n", "value": "${replicas}"}]}, id="a value that is not an environment's"
        ),
    ],
)
def test_elsewhere_a_number_stays_a_number(spec: Mapping[str, Any]) -> None:
    assert '"3"' not in str(variables.substitute({"kind": "X", "spec": spec}, VARIABLES, what="X/x")[0]).replace(
        "'", '"'
    )


def test_keys_are_left_alone() -> None:
    obj = {"kind": "ConfigMap", "data": {"${domain}": "${domain}"}}
    assert variables.substitute(obj, VARIABLES, what="X/x")[0]["data"] == {"${domain}": "eu.example.org"}


def test_an_object_without_variables_is_returned_as_it_is() -> None:
    obj = {"kind": "ConfigMap", "data": {"a": "$(b) $c"}}
    assert variables.substitute(obj, {}, what="X/x")[0] is obj


def test_the_argument_is_not_changed() -> None:
    obj = {"kind": "X", "spec": {"list": ["${domain}"]}}
    variables.substitute(obj, VARIABLES, what="X/x")
    assert obj == {"kind": "X", "spec": {"list": ["${domain}"]}}


def test_an_object_can_opt_out() -> None:
    obj = {
        "metadata": {"annotations": {"flotilla.dev/substitute": "disabled"}},
        "data": {"run.sh": "echo ${UNDEFINED}"},
    }
    assert variables.substitute(obj, {}, what="X/x")[0] is obj


def test_an_undefined_variable_names_the_object_and_its_neighbours() -> None:
    obj = {"kind": "X", "spec": {"host": "a.${domian}"}}
    with pytest.raises(InvalidInput, match="ConfigMap/shop/a: uses the variable 'domian'") as caught:
        variables.substitute(obj, VARIABLES, what="ConfigMap/shop/a")
    assert "did you mean domain" in caught.value.remedy
    assert "$${domian}" in caught.value.remedy


def test_helm_values_keep_types_everywhere() -> None:
    values = {
        "env": [{"name": "A", "value": "${replicas}"}],
        "host": "x.${domain}",
        "labels": {"n": "${replicas}"},
        "n": 1,
    }
    assert variables.substitute_values(values, VARIABLES, what="values") == {
        "env": [{"name": "A", "value": 3}],
        "host": "x.eu.example.org",
        "labels": {"n": 3},
        "n": 1,
    }


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"args": ["-c", "curl ${FRONTEND_ADDR} ${x:-3} ${domain}"]}, id="args"),
        pytest.param({"command": ["sh", "curl ${FRONTEND_ADDR} ${x:-3} ${domain}"]}, id="command"),
        pytest.param({"run": "#!/bin/sh\ncurl ${FRONTEND_ADDR} ${x:-3} ${domain}"}, id="a script in a field"),
    ],
)
def test_a_script_keeps_its_own_variables(spec: Mapping[str, Any]) -> None:
    result, warnings = variables.substitute({"kind": "X", "spec": spec}, VARIABLES, what="X/x")
    assert "curl ${FRONTEND_ADDR} ${x:-3} eu.example.org" in str(result)
    assert warnings == ()


def test_a_mistyped_variable_in_a_script_is_warned_of() -> None:
    _, warnings = variables.substitute({"kind": "X", "args": ["--host=${domian}"]}, VARIABLES, what="X/x")
    assert warnings == ("X/x: ${domian} is left to its script; domain is defined",)
