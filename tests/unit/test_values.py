"""What is kept of the values of a drift, and what never is."""

from typing import Any

import pytest
import yaml

from agent.drift import values
from agent.drift.values import DETAILS, LONGEST, RETOLD_S, Memory
from agent.fields import ownership
from agent.model import Baseline
from proto.messages import DriftReport, FieldValue
from proto.objects import ObjectKey

WEB = ObjectKey(group="apps", kind="Deployment", namespace="shop", name="web")
CONFIG = ObjectKey(group="", kind="ConfigMap", namespace="shop", name="a")
SECRET = ObjectKey(group="", kind="Secret", namespace="shop", name="a")


def of(key: ObjectKey, fields: str, wanted: str, live: str) -> list[FieldValue]:
    paths = ownership.owned({"fieldsV1": yaml.safe_load(fields)})
    return list(values.of_fields(key, paths, wanted=yaml.safe_load(wanted), live=yaml.safe_load(live)))


def env(name: str, value: str) -> str:
    return f"{{spec: {{env: [{{name: {name}, value: {value}}}]}}}}"


@pytest.mark.parametrize(
    ("fields", "wanted", "live", "expected"),
    [
        pytest.param(
            "{f:spec: {f:replicas: {}}}", "{spec: {replicas: 2}}", "{spec: {replicas: 5}}", ("2", "5"), id="a"
        ),
        pytest.param("{f:data: {f:a: {}}}", "{data: {a: x}}", "{data: {}}", ('"x"', ""), id="removed"),
        pytest.param("{f:data: {f:a: {}}}", "{}", "{data: {a: x}}", ("", '"x"'), id="added"),
        pytest.param("{f:a: {}}", "{a: null}", "{a: ''}", ("", '""'), id="null is absent, an empty text is not"),
        pytest.param(
            '{f:ports: {\'k:{"port":80,"protocol":"TCP"}\': {f:name: {}}}}',
            "{ports: [{port: 80, name: a}]}",
            "{ports: [{port: 81, protocol: TCP}, {port: 80, protocol: TCP, name: b}]}",
            ('"a"', '"b"'),
            id="an item by its keys, of which Git leaves out a default",
        ),
        pytest.param(
            "{f:l: {f:m: {}}}", "{l: {m: {b: 1, a: [2]}}}", "{}", ('{"a":[2],"b":1}', ""), id="a struct, in order"
        ),
    ],
)
def test_values_are_json_texts_of_what_git_wants_and_what_was_there(
    fields: str, wanted: str, live: str, expected: tuple[str, str]
) -> None:
    ((found),) = of(WEB, fields, wanted, live)
    assert (found.wanted, found.live, found.redacted) == (*expected, False)


def test_a_long_value_is_shortened() -> None:
    (found,) = of(CONFIG, "{f:data: {f:a: {}}}", f"{{data: {{a: {'x' * 1000}}}}}", "{}")
    assert len(found.wanted) == LONGEST
    assert found.wanted.endswith("…")


@pytest.mark.parametrize(
    ("key", "fields", "wanted", "live"),
    [
        pytest.param(SECRET, "{f:data: {f:user: {}}}", "{data: {user: s3cr3t}}", "{}", id="a Secret's data"),
        pytest.param(SECRET, "{f:data: {}}", "{data: {user: s3cr3t}}", "{}", id="all of a Secret's data"),
        pytest.param(SECRET, "{f:stringData: {f:u: {}}}", "{stringData: {u: s3cr3t}}", "{}", id="stringData"),
        pytest.param(CONFIG, "{f:data: {f:db-password: {}}}", "{data: {db-password: s3cr3t}}", "{}", id="a key's name"),
        pytest.param(CONFIG, "{f:data: {f:API_KEY: {}}}", "{}", "{data: {API_KEY: s3cr3t}}", id="live only"),
        pytest.param(CONFIG, "{f:data: {}}", "{data: {accessKey: s3cr3t}}", "{}", id="inside of a map"),
        pytest.param(CONFIG, "{f:data: {f:pw: {}}}", "{data: {pw: s3cr3t}}", "{}", id="a short name"),
        pytest.param(
            CONFIG, "{f:data: {f:url: {}}}", "{}", "{data: {url: 'postgres://app:s3cr3t@db/x'}}", id="a URL's password"
        ),
        pytest.param(
            CONFIG,
            "{f:data: {f:tls: {}}}",
            "{data: {tls: '-----BEGIN RSA PRIVATE KEY----- s3cr3t'}}",
            "{}",
            id="a private key",
        ),
        pytest.param(
            CONFIG,
            "{f:data: {f:h: {}}}",
            "{data: {h: 'Authorization: Bearer s3cr3ts3cr3t'}}",
            "{}",
            id="a bearer token",
        ),
        pytest.param(
            WEB,
            '{f:spec: {f:env: {\'k:{"name":"DB_PASSWORD"}\': {f:value: {}}}}}',
            env("DB_PASSWORD", "s3cr3t"),
            env("DB_PASSWORD", "x"),
            id="a variable's value",
        ),
        pytest.param(
            WEB,
            '{f:spec: {f:env: {\'k:{"name":"AUTH_TOKEN"}\': {}}}}',
            env("AUTH_TOKEN", "s3cr3t"),
            "{}",
            id="a whole variable",
        ),
        pytest.param(WEB, "{f:spec: {}}", env("AUTH_TOKEN", "s3cr3t"), "{}", id="a struct with a variable in it"),
        pytest.param(
            WEB, "{f:args: {}}", "{args: [serve, --db-password=s3cr3t]}", "{args: []}", id="an argument of a command"
        ),
        pytest.param(
            WEB,
            "{f:metadata: {f:annotations: {f:kubectl.kubernetes.io/last-applied-configuration: {}}}}",
            "{}",
            "{metadata: {annotations: {kubectl.kubernetes.io/last-applied-configuration: s3cr3t}}}",
            id="what kubectl applied last",
        ),
    ],
)
def test_what_may_be_a_secret_is_left_out(key: ObjectKey, fields: str, wanted: str, live: str) -> None:
    (found,) = of(key, fields, wanted, live)
    assert (found.redacted, found.wanted, found.live) == (True, "", "")


@pytest.mark.parametrize(
    ("key", "fields", "obj"),
    [
        pytest.param(SECRET, "{f:metadata: {f:labels: {f:app: {}}}}", "{metadata: {labels: {app: x}}}", id="a label"),
        pytest.param(WEB, "{f:secret: {f:secretName: {}}}", "{secret: {secretName: x}}", id="which secret"),
        pytest.param(WEB, "{f:imagePullSecrets: {}}", "{imagePullSecrets: [{name: x}]}", id="which pull secrets"),
        pytest.param(
            WEB, "{f:env: {}}", "{env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: a, key: b}}}]}", id="ref"
        ),
        pytest.param(
            WEB, "{f:automountServiceAccountToken: {}}", "{automountServiceAccountToken: false}", id="a switch"
        ),
        pytest.param(WEB, "{f:tokenExpirationSeconds: {}}", "{tokenExpirationSeconds: 3600}", id="a time"),
        pytest.param(CONFIG, "{f:data: {f:author: {}}}", "{data: {author: x}}", id="a word that begins like one"),
    ],
)
def test_what_only_sounds_like_a_secret_is_shown(key: ObjectKey, fields: str, obj: str) -> None:
    (found,) = of(key, fields, obj, "{}")
    assert not found.redacted
    assert found.wanted


@pytest.mark.parametrize(
    ("live", "after", "expected"),
    [
        pytest.param(
            "{spec: {l: [{name: a}, {name: b}]}}", "{spec: {l: [{name: b}, {name: a}]}}", (".spec.l",), id="order"
        ),
        pytest.param(
            "{spec: {l: [{name: a, v: 1}]}}", "{spec: {l: [{name: a, v: 2}]}}", ('.spec.l[name="a"].v',), id="an item"
        ),
        pytest.param("{spec: {l: [1, 2]}}", "{spec: {l: [2, 1]}}", (".spec.l",), id="plain values"),
        pytest.param("{spec: {x: 1}}", "{spec: {}}", (), id="what Git does not say"),
        pytest.param(
            "{metadata: {resourceVersion: '1', generation: 1, managedFields: []}, status: {a: 1}}",
            "{metadata: {resourceVersion: '2', generation: 2, managedFields: [{}]}, status: {a: 2}}",
            (),
            id="what the server writes",
        ),
    ],
)
def test_what_ownership_does_not_tell_is_seen_by_comparing(live: str, after: str, expected: tuple[str, ...]) -> None:
    before, wanted = ({"metadata": {}, **yaml.safe_load(text)} for text in (live, after))
    found = values.difference(before, wanted, wanted)
    assert ownership.render(found) == expected


# --- Memory -------------------------------------------------------------------------------------------------------


def report(name: str, **more: Any) -> DriftReport:
    return DriftReport(id=name, bundle="shop", object="o", what="changed", action="reported", first_seen="1", **more)


def test_only_the_values_of_the_last_drifts_are_kept() -> None:
    memory = Memory()
    for number in range(DETAILS + 1):
        memory.keep(f"d{number}", [FieldValue(path=".a", wanted="1", live=str(number))])
    assert "not among the last" in memory.detail("q", "d0").problem
    assert memory.detail("q", f"d{DETAILS}").values[0].live == str(DETAILS)


def test_a_drift_without_known_fields_has_no_values_but_a_reason() -> None:
    memory = Memory()
    memory.keep("d", [])
    assert "cannot be known" in memory.detail("q", "d").problem


def state(managed: int) -> Baseline:
    return Baseline(uid="u", resource_version="1", generation=1, managed=managed, own=1, status=1)


def stands(memory: Memory, *reports: DriftReport, now: float, known: int = 1, left: int = 1) -> list[DriftReport]:
    return memory.stands(WEB, reports, now=now, known=state(known), left=state(left))


def test_drift_that_stays_is_told_once_and_since_when() -> None:
    memory = Memory()
    first = report("a", observed="1")
    assert stands(memory, first, now=0.0) == [first]
    assert stands(memory, report("a", observed="2"), now=RETOLD_S + 1) == []
    (other,) = stands(memory, report("a", observed="3"), report("b", manager="m"), now=RETOLD_S + 2)
    assert other.id == "b"


def test_drift_that_stays_and_changes_is_told_anew_after_a_while() -> None:
    memory = Memory()
    stands(memory, report("a", time="1"), now=0.0)
    assert stands(memory, report("b", time="2"), now=1.0) == []
    (again,) = stands(memory, report("c", time="3", observed="9"), now=RETOLD_S)
    assert (again.id, again.time, again.first_seen, again.observed) == ("c", "3", "1", "9")


def test_drift_that_went_away_and_came_back_is_new() -> None:
    memory = Memory()
    stands(memory, report("a"), now=0.0)
    assert stands(memory, now=1.0) == []
    assert stands(memory, report("a"), now=2.0) == [report("a")]


def test_the_same_drift_after_a_write_of_ours_is_new() -> None:
    memory = Memory()
    stands(memory, report("a"), now=0.0, left=2)
    assert stands(memory, report("b"), now=1.0, known=2, left=2) == []
    assert stands(memory, report("c"), now=2.0, known=3) == [report("c")]
