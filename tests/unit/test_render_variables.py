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
    "cluster.name": "eu-1",
    "cluster.labels.example.org/tier-1": "prod",
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
        pytest.param("${empty:-9}", 9, id="an empty variable has the default, as in a shell"),
        pytest.param("a ${empty:=b}", "a b", id="an empty variable in a text"),
        pytest.param("$${domain}", "${domain}", id="an escape"),
        pytest.param("$$${replicas}", "$3", id="a dollar, escaped, before a variable"),
        pytest.param("$$$${domain} $$$$${domain}", "$${domain} $$eu.example.org", id="dollars"),
        pytest.param("$$$${domain%%x}", "$${domain%%x}", id="dollars before a form"),
        pytest.param("$$ $$$(HOME) $$$5", "$$ $$$(HOME) $$$5", id="dollars before anything else"),
        pytest.param("a $${domain} b ${domain}", "a ${domain} b eu.example.org", id="an escape beside a variable"),
        pytest.param("${cost}", "$${replicas}", id="what was filled in is not looked at again"),
        pytest.param("$(POD_IP) $domain ${} ${1} ${a b}", "$(POD_IP) $domain ${} ${1} ${a b}", id="other dollars"),
        pytest.param("${env:X} ${a.b} ${a[0]} ${sys:a:-b}", "${env:X} ${a.b} ${a[0]} ${sys:a:-b}", id="other tools'"),
        pytest.param("${none:=fallback}", "fallback", id="a default as Flux has it too"),
        pytest.param(
            "$${domain%%x} $${#a} $${none:-${domain}}", "${domain%%x} ${#a} ${none:-eu.example.org}", id="forms"
        ),
        pytest.param("${cluster.name}", "eu-1", id="the cluster's name"),
        pytest.param("${cluster.labels.example.org/tier-1}", "prod", id="a label"),
        pytest.param("${cluster.labels.zone:-none}", "none", id="a label with a default"),
        pytest.param("$${cluster.name}", "${cluster.name}", id="the name, escaped"),
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


def test_keys_are_texts_too() -> None:
    obj = {"kind": "ConfigMap", "data": {"${domain}-${replicas}.conf": "x", "$${domain}": "y"}}
    found = variables.substitute(obj, VARIABLES, what="X/x")[0]["data"]
    assert found == {"eu.example.org-3.conf": "x", "${domain}": "y"}


@pytest.mark.parametrize("keys", [("${replicas}", "3"), ("3", "${replicas}"), ("${replicas}", "${none:-3}")])
def test_keys_that_become_one_are_refused(keys: tuple[str, str]) -> None:
    obj = {"kind": "ConfigMap", "data": dict.fromkeys(keys, "x")}
    with pytest.raises(InvalidInput, match="has the key '3' twice in data"):
        variables.substitute(obj, VARIABLES, what="X/x")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("${domain%%.*}", id="cut"),
        pytest.param("a ${HOME#/}", id="cut in front"),
        pytest.param("${domain^^}", id="upper"),
        pytest.param("${domain,,}", id="lower"),
        pytest.param("${domain/eu/us}", id="replace"),
        pytest.param("${domain:0:3}", id="a part"),
        pytest.param("${domain: -3}", id="the end"),
        pytest.param("${#domain}", id="length"),
        pytest.param("${domain:+x}", id="an alternative"),
        pytest.param("${domain:?x}", id="an error"),
        pytest.param("${domain-x}", id="a default with other rules, or a name with a hyphen"),
        pytest.param("${domain=x}", id="an assignment"),
        pytest.param("${none:-${domain}}", id="a default with a variable"),
        pytest.param("${none:-a$b}", id="a default with a dollar"),
        pytest.param("${ domain }", id="spaces"),
        pytest.param("${domain }", id="a space"),
        pytest.param("${ .ClusterName }", id="another tool's"),
    ],
)
def test_a_form_that_is_not_filled_in_is_refused_but_not_in_scripts(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"X/x: has .* in spec\.list\[0\]\.field, and only \$\{name\}") as caught:
        variables.substitute({"kind": "X", "spec": {"list": [{"field": text}]}}, VARIABLES, what="X/x")
    assert "write $${" in caught.value.remedy
    script = {"kind": "X", "spec": {"args": [text.replace("${domain}", "$y")]}}
    found, warnings = variables.substitute(script, VARIABLES, what="X/x")
    assert found == script
    assert all("is left to its script" in warning for warning in warnings)


def test_a_form_of_one_of_our_variables_in_a_script_is_warned_of() -> None:
    _, warnings = variables.substitute({"kind": "X", "args": ["echo ${domain%%.*}"]}, VARIABLES, what="X/x")
    assert warnings == ("X/x: ${domain%%.*} is left to its script; only ${domain} is filled in",)


@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_what_opts_out_of_flux_opts_out_here(field: str) -> None:
    obj = {"metadata": {field: {"kustomize.toolkit.fluxcd.io/substitute": "disabled"}}, "data": {"a": "${NONE} ${a^^}"}}
    assert variables.substitute(obj, {}, what="X/x")[0] is obj


def test_a_variable_that_no_file_mentions_is_told_as_that() -> None:
    with pytest.raises(InvalidInput, match=r"no file of the bundle has \$\{ratio2\} in one piece"):
        variables.substitute({"kind": "X", "spec": "${ratio2:-1}"}, VARIABLES, what="X/x", known=["ratio2"])
    with pytest.raises(InvalidInput, match="ratio3") as caught:
        variables.substitute({"kind": "X", "spec": "${ratio3}"}, {}, what="X/x", known=["ratio2"])
    assert "did you mean ratio2" in caught.value.remedy


def test_a_label_that_the_cluster_has_not_is_an_error() -> None:
    with pytest.raises(InvalidInput, match=r"'cluster\.labels\.zone', which is not defined") as caught:
        variables.substitute({"kind": "X", "spec": "${cluster.labels.zone}"}, VARIABLES, what="X/x")
    assert "give the cluster the label" in caught.value.remedy


@pytest.mark.parametrize(
    "value",
    ["${HOME} $${x} ${a%%b}", {"${k}": ["${v}", 3, None, {"a": "$"}]}, "$\ue000 {"],
)
def test_a_shield_hides_all_and_is_taken_off_again(value: Any) -> None:
    hidden = variables.shielded(value)
    assert variables.substitute_values(hidden, {}, what="values") == hidden
    assert variables.unshielded(hidden) == value


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
