"""What the last completed revision of a bundle is on clusters that joined since, with real repositories."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub import joining, worker
from hub.desired import Desired
from hub.journal import RevisionRow
from hub.model import Fleet
from hub.render import build
from hub.state import Base
from proto.errors import Transient
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from tests.served import Repo, Served
from tests.unit import test_pins
from tests.unit.test_desired import CLUSTERS, EU, FILES, HOTEL, A, B, Hub, bundle, config

NEW, OTHER = ClusterName("new-1"), ClusterName("new-2")


def cluster(name: str, **labels: str) -> str:
    told = ", ".join(f"{label}: {value}" for label, value in labels.items())
    variables = f"{{domain: {name}.example.org}}"
    metadata = f"{{name: {name}, labels: {{{told}}}}}"
    return f"apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {metadata}\nspec: {{variables: {variables}}}\n"


JOINED = {"clusters/new.yaml": cluster("new-1")}


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    made = Hub(tmp_path)
    made.works_here(monkeypatch)
    yield made
    made.journal.close()


def completed(found: Desired, *, name: BundleName = A, made_s: float = 5_000.0) -> RevisionRow:
    id_ = RolloutId(f"{name}-7")
    return RevisionRow(number=7, rollout=id_, phase="completed", revision=found.commit, made_s=made_s)


async def base_of(
    hub: Hub | test_pins.Hub, row: RevisionRow | None, now: Desired, name: BundleName = A, **more: Any
) -> Base:
    """What the bundle is on the newcomers of `now`."""
    mirror = hub.mirror if isinstance(hub, Hub) else hub.folder / "mirror"
    clusters = {one: found for one, found in now.fleet.clusters.items() if one.startswith("new")}
    plain: dict[str, Any] = {"clusters": clusters, "fleet": now.fleet, "beside": {}}
    given = {**plain, **more, "mirror": mirror, "store": hub.store, "journal": hub.journal, "pins": hub.pins}
    return await joining.base(name, row, **given)


async def test_a_newcomer_like_others_gets_their_very_bits_and_nothing_is_rendered(hub: Hub) -> None:
    before = await hub.wants(FILES)
    now = await hub.wants({**FILES, **JOINED, "bundles/a/config.yaml": config("a", "two")})
    hub.rendered.clear()
    found = await base_of(hub, completed(before), now)
    assert (found.subtrees, found.refused) == ({NEW: before.subtrees[A][EU]}, {})
    assert found.subtrees[NEW] != now.subtrees[A][NEW]
    assert (found.rollout, found.number, found.revision) == ("a-7", 7, before.commit)
    assert hub.rendered == []


async def test_todays_cluster_file_meets_the_bundle_and_the_fleet_as_they_were(hub: Hub) -> None:
    fleet = "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {variables: {domain: none, of: FLEET}}\n"
    own = {**FILES, "bundles/a/config.yaml": config("a", "'one ${domain} ${of}'")}
    before = await hub.wants({**own, "fleet.yaml": fleet.replace("FLEET", "then")})
    files = {**own, **JOINED, "fleet.yaml": fleet.replace("FLEET", "now")}
    now = await hub.wants({**files, "bundles/a/config.yaml": config("a", "'two ${domain}'")})
    hub.rendered.clear()
    found = await base_of(hub, completed(before), now)
    (text,) = (data for path, data in test_pins.files_of(hub.store, found.subtrees[NEW]).items() if "ConfigMap" in path)
    assert b"one new-1.example.org then" in text
    assert hub.rendered == ["bundle a"]
    assert hub.journal.revision_of(found.subtrees[NEW]) == before.commit
    assert (await base_of(hub, completed(before), now)).subtrees == found.subtrees
    assert hub.rendered == ["bundle a"], "once"


TARGETED = {
    **FILES,
    "bundles/a/bundle.yaml": bundle("a").replace("targets: {}", "targets: {matchLabels: {tier: prod}}"),
    "clusters/all.yaml": CLUSTERS.replace("{name: eu-1}", "{name: eu-1, labels: {tier: prod}}"),
}


@pytest.mark.parametrize(
    ("before", "why"),
    [
        pytest.param(TARGETED, "which completed last, is not for it", id="it was not for such clusters"),
        pytest.param(
            {path: text for path, text in FILES.items() if "/a/" not in path},
            "bundle a: is not in revision",
            id="it was not there",
        ),
        pytest.param(
            {
                **FILES,
                "bundles/a/config.yaml": config("a", "'${region}'"),
                "clusters/all.yaml": CLUSTERS.replace("spec: {}", "spec: {variables: {region: eu}}"),
            },
            "region",
            id="it does not render for this one",
        ),
    ],
)
async def test_a_newcomer_waits_where(hub: Hub, before: Mapping[str, str], why: str) -> None:
    then = await hub.wants(before)
    now = await hub.wants({**FILES, **JOINED})
    found = await base_of(hub, completed(then), now)
    assert found.subtrees == {}
    assert why in found.refused[NEW]


async def test_of_several_newcomers_each_gets_its_own_answer(hub: Hub) -> None:
    then = await hub.wants(TARGETED)
    joined = {"clusters/new.yaml": cluster("new-1", tier="prod") + "---\n" + cluster("new-2", tier="lab")}
    found = await base_of(hub, completed(then), await hub.wants({**FILES, **joined}))
    assert found.subtrees == {NEW: then.subtrees[A][EU]}
    assert found.refused.keys() == {OTHER}
    assert found.clusters.keys() == {NEW, OTHER}


async def test_where_nothing_ever_completed_a_newcomer_waits(hub: Hub) -> None:
    now = await hub.wants({**FILES, **JOINED})
    found = await base_of(hub, None, now)
    assert (found.rollout, found.subtrees) == ("", {})
    assert found.refused == {NEW: "no rollout of it has completed yet"}


async def test_a_revision_that_the_mirror_has_no_more_is_refused_and_trouble_of_the_hub_is_not(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = await hub.wants({**FILES, **JOINED})
    gone = replace(completed(now), revision=Oid("9" * 40))
    assert (await base_of(hub, gone, now)).refused.keys() == {NEW}

    async def busy(*arguments: Any, **options: Any) -> Any:
        raise Transient("worker", "was killed for want of memory")

    monkeypatch.setattr(worker, "run", busy)
    with pytest.raises(Transient):
        await base_of(hub, completed(now), now)


# --- tenants ------------------------------------------------------------------------------------------------------


def fleet(rules: str) -> str:
    tenants = f"[{{name: team-a, folder: bundles/a{rules}}}]"
    return f"apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {{tenants: {tenants}}}\n"


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        pytest.param(", clusters: {matchLabels: {tier: lab}}", "may not have cluster new-1", id="another cluster"),
        pytest.param(", kinds: {deny: [ConfigMap]}", "may not have ConfigMap", id="another kind"),
        pytest.param(", namespaces: [lab]", "may not use namespace shop", id="another namespace"),
    ],
)
async def test_rights_of_today_count_and_not_those_of_then(hub: Hub, rules: str, why: str) -> None:
    before = await hub.wants({**FILES, "fleet.yaml": fleet("")})
    assert A in before.subtrees
    now = await hub.wants({**FILES, **JOINED, "fleet.yaml": fleet(rules)})
    found = await base_of(hub, completed(before), now)
    assert found.subtrees == {}
    assert why in found.refused[NEW]


async def test_a_bundle_of_nobody_is_refused_once_each_needs_a_tenant(hub: Hub) -> None:
    before = await hub.wants(FILES)
    now = await hub.wants({**FILES, **JOINED})
    strict = replace(now, fleet=replace(now.fleet, require_tenant=True))
    assert "requireTenant" in (await base_of(hub, completed(before), strict)).refused[NEW]


# --- custom kinds -------------------------------------------------------------------------------------------------


async def test_it_is_rendered_with_the_definitions_that_other_bundles_bring_there(hub: Hub) -> None:
    before = await hub.wants(HOTEL)
    now = await hub.wants({**HOTEL, **JOINED, "bundles/a/more.yaml": config("more")})
    found = await base_of(hub, completed(before), now, beside={NEW: [now.subtrees[B][NEW]]})
    assert found.subtrees == {NEW: before.subtrees[A][EU]}
    without = await base_of(hub, completed(before), now)
    assert without.subtrees[NEW] != found.subtrees[NEW], "the scope of a kind that nobody defines is a guess"


# --- sources from outside -----------------------------------------------------------------------------------------


@pytest.fixture
async def outside(tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[test_pins.Hub]:
    made = test_pins.Hub(tmp_path, served.url)

    async def run(function: Callable[..., Any], *arguments: Any, what: str, **options: Any) -> Any:
        return function(*arguments)

    monkeypatch.setattr(worker, "run", run)
    build._kept.clear()
    yield made
    made.stop()


SHOP = BundleName("shop")
BRANCH = "{git: {url: URL/app.git, branch: main}}"


async def test_a_source_from_outside_is_what_was_pinned_then(repo: Repo, outside: test_pins.Hub) -> None:
    hub = outside
    repo.commit({"a.yaml": test_pins.config("a", "1")})
    hub.bundle("shop", BRANCH)
    before = await hub.wants()
    repo.commit({"a.yaml": test_pins.config("a", "2")})
    hub.files |= JOINED
    now = await hub.wants()
    found = await base_of(hub, completed(before, name=SHOP), now, SHOP)
    assert (found.subtrees, found.refused) == ({NEW: before.subtrees[SHOP][test_pins.EU]}, {})


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(True, id="the bundle's own files changed, and it was pinned anew"),
        pytest.param(False, id="it was asked for again, at the same commit"),
    ],
)
async def test_a_source_that_was_pinned_anew_since_is_not_taken_for_what_it_was(
    repo: Repo, outside: test_pins.Hub, changed: bool
) -> None:
    hub = outside
    repo.commit({"a.yaml": test_pins.config("a", "1")})
    hub.bundle("shop", BRANCH)
    before = await hub.wants()
    repo.commit({"a.yaml": test_pins.config("a", "2")})
    hub.files |= JOINED
    hub.now_s = 9_000.0
    if changed:
        hub.bundle("shop", BRANCH, more="  namespace: shop\n")
    else:
        hub.pins.refresh(["shop"])
    now = await hub.wants()
    assert hub.texts(now) == {"a": "2"}
    found = await base_of(hub, completed(before, name=SHOP), now, SHOP)
    assert found.subtrees == {}
    assert "its source from outside is not known any more as it was then" in found.refused[NEW]


async def test_a_fleet_is_needed_only_as_far_as_it_is_asked_about(hub: Hub) -> None:
    before = await hub.wants(FILES)
    found = await base_of(hub, completed(before), replace(before, fleet=Fleet()))
    assert (found.subtrees, found.refused) == ({}, {})
