"""The guard ConfigMap's contents: read strictly, and what cannot be read closes what it was to guard."""

import pytest

from agent.model import Limits
from agent.owner import limits
from proto.objects import ObjectKey


def refused(found: Limits, text: str) -> str:
    """Why an object (`Kind.group/namespace/name`) is refused."""
    gk, namespace, name = text.split("/")
    kind, _, group = gk.partition(".")
    return found.refuses(ObjectKey(group=group, kind=kind, namespace=namespace, name=name))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param({}, Limits(), id="empty"),
        pytest.param({"forbiddenKinds": ""}, Limits(), id="an empty list"),
        pytest.param(
            {"forbiddenKinds": "Secret, *.rbac.authorization.k8s.io"},
            Limits(forbidden_kinds=("Secret", "*.rbac.authorization.k8s.io")),
            id="commas",
        ),
        pytest.param(
            {"forbiddenKinds": "# no rights\n- ClusterRole*.rbac.authorization.k8s.io\n\n- Secret\n"},
            Limits(forbidden_kinds=("ClusterRole*.rbac.authorization.k8s.io", "Secret")),
            id="lines as YAML lists have them, and a comment",
        ),
        pytest.param(
            {"protectedNamespaces": "kube-*\npayments"},
            Limits(protected_namespaces=("kube-*", "payments")),
            id="namespaces",
        ),
        pytest.param({"maxPrunedShare": "30%"}, Limits(max_pruned_share=0.3), id="percent"),
        pytest.param({"maxPrunedShare": " 0.25 "}, Limits(max_pruned_share=0.25), id="a fraction"),
        pytest.param({"maxPrunedShare": "1"}, Limits(max_pruned_share=1.0), id="all"),
        pytest.param(
            {"maxPrunedShare": "50%", "prune": "false"}, Limits(max_pruned_share=0.0), id="the lower one wins"
        ),
        pytest.param({"prune": "True"}, Limits(), id="prune: True"),
    ],
)
def test_what_can_be_read_is_obeyed(data: dict[str, str], expected: Limits) -> None:
    found, problems = limits.read(data)
    assert problems == ()
    assert (found.forbidden_kinds, found.protected_namespaces, found.max_pruned_share, found.closed) == (
        expected.forbidden_kinds,
        expected.protected_namespaces,
        expected.max_pruned_share,
        "",
    )


@pytest.mark.parametrize(
    ("data", "named", "is_closed"),
    [
        pytest.param({"forbiddenkinds": "Secret"}, "forbiddenkinds is no key", True, id="an unknown key"),
        pytest.param({"forbiddenKinds": "secrets"}, "'secrets'", True, id="a plural is no kind"),
        pytest.param({"forbiddenKinds": '["Secret"]'}, "'[\"Secret\"]'", True, id="JSON"),
        pytest.param({"forbiddenKinds": "Se[cret"}, "'Se[cret'", True, id="an open bracket"),
        pytest.param({"forbiddenKinds": None}, "is not text", True, id="null"),
        pytest.param({"protectedNamespaces": "Prod"}, "'Prod'", True, id="a namespace has no capitals"),
        pytest.param({"protectedNamespaces": "a b"}, "'a b'", True, id="spaces do not separate"),
        pytest.param({"maxPrunedShare": "30"}, "'30'", False, id="more than all"),
        pytest.param({"maxPrunedShare": "-1%"}, "'-1%'", False, id="less than nothing"),
        pytest.param({"maxPrunedShare": "nan"}, "'nan'", False, id="nan"),
        pytest.param({"maxPrunedShare": ""}, "''", False, id="an empty share"),
        pytest.param({"prune": "no"}, "'no'", False, id="neither true nor false"),
        pytest.param({"prune": "sure", "maxPrunedShare": "1"}, "'sure'", False, id="the unreadable one wins"),
    ],
)
def test_what_cannot_be_read_closes_what_it_was_to_guard(
    data: dict[str, str | None], named: str, is_closed: bool
) -> None:
    found, problems = limits.read(data)
    [problem] = problems
    assert named in problem
    assert "flotilla-system/flotilla-guard" in problem
    assert bool(found.closed) is is_closed
    assert bool(refused(found, "ConfigMap/shop/settings")) is is_closed
    if not is_closed:
        assert found.max_pruned_share == 0.0


def test_the_readable_rest_of_a_broken_guard_counts() -> None:
    found, problems = limits.read({"forbiddenKinds": "Secret", "maxPrunedShare": "lots"})
    assert len(problems) == 1
    assert refused(found, "Secret/shop/key")
    assert not refused(found, "ConfigMap/shop/settings")


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        pytest.param("Secret/shop/key", True, id="a core kind by its name"),
        pytest.param("Secret.example.org/shop/key", False, id="not the same kind of another group"),
        pytest.param("Role.rbac.authorization.k8s.io/shop/r", True, id="all kinds of a group"),
        pytest.param("ConfigMap/kube-system/x", True, id="a protected namespace"),
        pytest.param("Namespace//kube-system", True, id="and the namespace itself"),
        pytest.param("ConfigMap/shop/kube-system", False, id="a name is no namespace"),
        pytest.param("ClusterIssuer.cert-manager.io//kube-x", False, id="cluster-scoped"),
    ],
)
def test_patterns_match_kinds_and_namespaces(text: str, is_refused: bool) -> None:
    found, _ = limits.read({"forbiddenKinds": "Secret,*.rbac.authorization.k8s.io", "protectedNamespaces": "kube-*"})
    assert bool(refused(found, text)) is is_refused


@pytest.mark.parametrize("found", [limits.NONE, limits.read({})[0], limits.closed("x"), limits.UNKNOWN])
def test_the_guard_itself_and_the_lease_are_never_touched(found: Limits) -> None:
    assert found.refuses(limits.KEY)
    assert refused(found, "Lease.coordination.k8s.io/flotilla-system/flotilla-agent")


def test_until_it_is_known_nothing_is_touched() -> None:
    assert "not known yet" in refused(limits.UNKNOWN, "ConfigMap/shop/settings")
