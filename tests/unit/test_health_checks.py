"""Health by a bundle's own CEL expressions: which word, what is refused before it is ever asked, and its bounds."""

from typing import Any

import pytest
import yaml

from proto import health, health_checks
from proto.messages import Health
from proto.slices import HealthCheck


def check(current: str = "status.phase == 'Ready'", *, in_progress: str = "", failed: str = "") -> HealthCheck:
    return HealthCheck(
        api_version="example.org/v1", kind="Database", current=current, in_progress=in_progress, failed=failed
    )


def database(text: str = "{}", *, generation: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "example.org/v1",
        "kind": "Database",
        "metadata": {"name": "db", "generation": generation},
        "spec": {"size": 3},
        "status": yaml.safe_load(text),
    }


def word(asked: HealthCheck, obj: dict[str, Any], *, applied_generation: int = 0) -> str:
    found, reason, _ = health.health(obj, applied_generation=applied_generation, check=health_checks.compiled(asked))
    return f"{found} {reason}"


FULL = check(
    "status.phase == 'Ready' && status.ready >= spec.size",
    in_progress="status.phase in ['Creating', 'Upgrading']",
    failed="status.conditions.exists(c, c.type == 'Degraded' && c.status == 'True')",
)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param("{phase: Ready, ready: 3}", "Current", id="current"),
        pytest.param("{phase: Ready, ready: 2}", "InProgress", id="none is true"),
        pytest.param("{phase: Creating}", "InProgress", id="in progress"),
        pytest.param(
            "{phase: Ready, ready: 3, conditions: [{type: Degraded, status: 'True'}]}",
            "Failed",
            id="failed comes first",
        ),
        pytest.param(
            "{phase: Ready, ready: 3, conditions: [{type: Degraded, status: 'False'}]}", "Current", id="not failed"
        ),
        pytest.param("{}", "InProgress", id="no field yet"),
        pytest.param("null", "InProgress", id="no status yet"),
        pytest.param("[]", "InProgress", id="a status that is no map"),
        pytest.param("{phase: 7, ready: many}", "InProgress", id="fields of other types"),
        pytest.param("{phase: Ready, ready: 3.0, conditions: 5}", "Current", id="failed cannot be evaluated"),
    ],
)
def test_the_first_expression_that_is_true_decides(status: str, expected: str) -> None:
    assert word(FULL, database(status)) == f"{expected} HealthCheck"


@pytest.mark.parametrize(
    "current",
    [
        pytest.param("object.status.phase == 'Ready'", id="the object"),
        pytest.param("status.phase == 'Ready'", id="its bare status"),
        pytest.param("metadata.name == 'db' && spec.size == 3", id="its metadata and spec"),
        pytest.param("apiVersion == 'example.org/v1' && kind == 'Database'", id="its kind"),
        pytest.param("!has(data.anything)", id="a field that it does not have"),
        pytest.param("status.conditions.filter(e, e.type == 'Ready').all(e, e.status == 'True')", id="as for Flux"),
        pytest.param("object.?status.?nothing.orValue('x') == 'x'", id="optional fields"),
        pytest.param("status.phase.lowerAscii() == 'ready'", id="functions of strings"),
        pytest.param("status.nothing.deep == 1 || status.phase == 'Ready'", id="one side of an or is enough"),
        pytest.param("metadata.generation == status.seen", id="numbers"),
    ],
)
def test_what_an_expression_can_say(current: str) -> None:
    status = "{phase: Ready, seen: 1, conditions: [{type: Ready, status: 'True'}]}"
    assert health_checks.problem(check(current)) == ""
    assert word(check(current), database(status)) == "Current HealthCheck"


def test_a_stale_status_is_never_asked() -> None:
    assert word(check(), database("{phase: Ready, observedGeneration: 1}", generation=2)).startswith(
        "InProgress Latest"
    )
    assert word(check(), database("{phase: Ready}"), applied_generation=2).startswith("InProgress Latest")
    assert word(check(), database("{phase: Ready, observedGeneration: 2}", generation=2)) == "Current HealthCheck"


def test_what_is_being_deleted_is_terminating_whatever_the_check_says() -> None:
    obj = database("{phase: Ready}")
    obj["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    assert word(check(), obj) == "Terminating Deleting"


def test_a_check_stands_above_the_generic_conditions() -> None:
    status = "{phase: Ready, conditions: [{type: Ready, status: 'False'}, {type: Reconciling, status: 'True'}]}"
    assert word(check(), database(status)) == "Current HealthCheck"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        pytest.param(check("status.phase =="), "current is no CEL expression: 1:16", id="syntax"),
        pytest.param(check("phase == 'Ready'"), "undeclared reference to 'phase'", id="unknown name"),
        pytest.param(check("ready(status)"), "undeclared reference to 'ready'", id="unknown function"),
        pytest.param(check("kind == 1"), "no matching overload", id="types that never fit"),
        pytest.param(check("size(status)"), "current is of type INT, not BOOL", id="a number"),
        pytest.param(check("status"), "not BOOL", id="a map"),
        pytest.param(check(" "), "current is empty", id="nothing"),
        pytest.param(check(failed="1 +"), "failed is no CEL", id="failed"),
        pytest.param(check(in_progress="status ="), "inProgress is no CEL", id="inProgress"),
        pytest.param(check("true" + " || true" * 600), "4804 characters long, more than 4096", id="too long"),
        pytest.param(check("(" * 2000), "recursion limit", id="too deep"),
    ],
)
def test_what_can_never_work_is_a_problem_at_once_and_unknown_in_a_cluster(wrong: HealthCheck, says: str) -> None:
    assert says in health_checks.problem(wrong)
    assert "\n" not in health_checks.problem(wrong)
    found, reason, message = health.health(database("{phase: Ready}"), check=health_checks.compiled(wrong))
    assert (found, reason) == (Health.UNKNOWN, "HealthCheck")
    assert says in message


def test_an_expression_that_would_run_for_long_is_stopped() -> None:
    nested = "".join(f"status.all.all(x{level}, " for level in range(6)) + "true" + ")" * 6
    found, _, message = health_checks.compiled(check(nested))(database(f"{{all: {list(range(100))}}}"))
    assert found is Health.IN_PROGRESS
    assert "budget exceeded" in message


def test_messages_say_which_expression_and_what_the_object_says() -> None:
    status = "{phase: Broken, conditions: [{type: Ready, status: 'False', message: disk is full}]}"
    asked = check(failed="status.phase == 'Broken'")
    assert health_checks.compiled(asked)(database(status))[2] == (
        "its health check's failed is true; Ready is False: disk is full"
    )
    assert health_checks.compiled(check())(database())[2] == (
        'its health check\'s current is not true yet (Key not found in map : "phase")'
    )
    assert health_checks.compiled(check("dyn(status.n)"))(database("{n: 1}"))[2].endswith(
        "(it is of type INT, not BOOL)"
    )


def test_nothing_of_a_secret_is_told() -> None:
    asked = HealthCheck(api_version="v1", kind="Secret", current="int(data.password) > 0 && data[data.password] == ''")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"password": "aHVudGVyMg=="}}
    assert "aHVudGVyMg" not in health_checks.compiled(asked)(secret)[2]


@pytest.mark.parametrize(
    ("api_version", "kind", "expected"),
    [
        pytest.param("example.org/v1", "Database", "v1", id="its version"),
        pytest.param("example.org/v1beta1", "Database", "v1beta1", id="another one"),
        pytest.param("example.org/v2", "Database", "v1", id="one that has no check of its own"),
        pytest.param("example.org/v1", "Cache", None, id="another kind"),
        pytest.param("example.com/v1", "Database", None, id="another group"),
        pytest.param("v1", "Database", None, id="the core group"),
    ],
)
def test_the_check_of_a_kind(api_version: str, kind: str, expected: str | None) -> None:
    checks = [
        HealthCheck(api_version=f"example.org/{version}", kind="Database", current=f"status.v == '{version}'")
        for version in ("v1", "v1beta1")
    ]
    found = health_checks.check_for(checks, api_version, kind)
    answers = [version for version in ("v1", "v1beta1") if found and found({"status": {"v": version}})[0] == "Current"]
    assert answers == ([expected] if expected else [])
