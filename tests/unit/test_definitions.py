"""Which definitions of custom kinds each request is rendered with."""

from collections.abc import Iterable, Mapping

import pytest

from hub.model import Bundle, Selector
from hub.renders import Notes, RenderRequest
from hub.repo import definitions
from proto.ids import BundleName, ClusterName, Oid
from proto.slices import BundlePolicy

EU, US = ClusterName("eu-1"), ClusterName("us-1")
OLD, NEW = Oid("1" * 40), Oid("2" * 40)
USES = Notes(uses=("Bed.example.org", "Room.example.org"))


def request(name: str, *clusters: ClusterName, key: str = "", pinned: bool = False) -> RenderRequest:
    bundle = Bundle(
        name=BundleName(name),
        folder=f"bundles/{name}",
        targets=Selector(),
        policy=BundlePolicy(name=name),
        pin_first_render=pinned,
    )
    return RenderRequest(
        bundle=bundle, clusters=clusters, folder_tree=Oid("f" * 40), key=key or name, shared={}, own={}
    )


def settled(
    requests: Iterable[RenderRequest],
    notes: Mapping[str, Notes],
    kept: Mapping[ClusterName, Iterable[Notes]] | None = None,
) -> dict[tuple[str, ClusterName], Mapping[str, Oid]]:
    """(bundle, cluster) → the definitions that it is rendered with."""
    made = definitions.settled(requests, notes, kept=kept or {}, renderer="1")
    assert all(one.key in notes for one in made if "definitions" not in one.inputs)
    assert not {one.key for one in made if "definitions" in one.inputs} & notes.keys()
    return {(one.bundle.name, c): one.inputs.get("definitions", {}) for one in made for c in one.clusters}


def test_each_cluster_has_the_definition_that_its_own_bundles_bring() -> None:
    notes = {
        "a": USES,
        "crd-old": Notes(defines={"Room.example.org": OLD}),
        "crd-new": Notes(defines={"Room.example.org": NEW}),
    }
    requests = [request("a", EU, US), request("crd", EU, key="crd-old"), request("crd", US, key="crd-new")]
    found = settled(requests, notes)
    assert (found["a", EU], found["a", US]) == ({"Room.example.org": OLD}, {"Room.example.org": NEW})


def test_a_cluster_without_a_definition_keeps_the_render_that_is_there() -> None:
    notes = {"a": USES, "crd": Notes(defines={"Room.example.org": OLD})}
    found = settled([request("a", EU, US), request("crd", EU)], notes)
    assert (found["a", EU], found["a", US]) == ({"Room.example.org": OLD}, {})


def test_definitions_that_nobody_uses_change_nothing() -> None:
    notes = {"a": Notes(uses=("Other.example.org",)), "crd": Notes(defines={"Room.example.org": OLD})}
    requests = (request("a", EU), request("crd", EU))
    assert definitions.settled(requests, notes, kept={}, renderer="1") == requests


def test_the_key_depends_on_what_is_used_alone() -> None:
    def key(defines: Mapping[str, Oid]) -> str:
        notes = {"a": USES, "crd": Notes(defines=defines)}
        made = definitions.settled([request("a", EU), request("crd", EU)], notes, kept={}, renderer="1")
        return next(one.key for one in made if one.bundle.name == "a")

    rooms = {"Room.example.org": OLD}
    assert key(rooms) == key({**rooms, "Other.example.org": NEW})
    assert len({key({}), key(rooms), key({"Room.example.org": NEW}), key({**rooms, "Bed.example.org": OLD})}) == 4


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        pytest.param({EU: [Notes(defines={"Room.example.org": OLD})]}, {"Room.example.org": OLD}, id="it runs"),
        pytest.param({US: [Notes(defines={"Room.example.org": OLD})]}, {}, id="it runs elsewhere"),
    ],
)
def test_a_definition_that_stays_counts(
    kept: Mapping[ClusterName, Iterable[Notes]], expected: Mapping[str, Oid]
) -> None:
    assert settled([request("a", EU)], {"a": USES}, kept)["a", EU] == expected


def test_of_two_definitions_that_clash_the_first_bundles_counts() -> None:
    notes = {name: Notes(defines={"Room.example.org": oid}) for name, oid in (("x", OLD), ("y", NEW))}
    found = settled([request("a", EU), request("x", EU), request("y", EU)], {"a": USES, **notes})
    assert found["a", EU] == {"Room.example.org": OLD}


def test_a_bundle_that_is_pinned_or_does_not_render_is_left_as_it_is() -> None:
    notes = {"p": USES, "crd": Notes(defines={"Room.example.org": OLD})}
    requests = (request("broken", EU), request("crd", EU), request("p", EU, pinned=True))
    assert definitions.settled(requests, notes, kept={}, renderer="1") == requests
