"""Real fleets' manifests, podinfo and boutique: applied a second time nothing of them moves; edited at random, every
edit is found, told with who did it wherever the server kept a trace, and undone, and nothing else is told.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

from hub.render import build
from proto.messages import WakeUp
from proto.objects import ObjectKey
from tests.agents import Agent, agent, until
from tests.fuzz import runner
from tests.fuzz.runner import Admin, Fuzz, Gated, Subject
from tests.kube import Kube
from tests.slices import SliceMaker

REAL = Path(__file__).parents[3] / "shared/data/real"
"""Real fleets' sources lie beside a developer's checkout and are no part of it."""

MOVED_BY_THE_SERVER = {
    "PersistentVolumeClaim": "its binding and its status are written by controllers whenever they like",
    "ValidatingWebhookConfiguration": "an empty list of webhooks is dropped in storage, so each apply is a write",
}
"""Kinds whose resourceVersion may move without any change of ours, and why. Nothing loops on them."""
EMPTY_HOOKS = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingWebhookConfiguration",
    "metadata": {"name": "empty"},
    "webhooks": [],
}
WORKERS = 4

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the real fleets' manifests are not beside the checkout")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    runner.without_pauses(monkeypatch)


@dataclass
class Fleet:
    """podinfo and boutique in namespaces of this run, and an agent that made them."""

    kube: Kube
    api: Gated
    admin: Admin
    bundles: dict[str, list[dict[str, Any]]]
    wake: WakeUp

    async def run(self, one: Agent) -> None:
        """Deliver the slice, and wait until everything of it is healthy."""
        one.deliver(self.wake)
        try:
            await until(lambda: one.converged(self.wake, *self.bundles), what="podinfo and boutique", timeout_s=100)
        except AssertionError as error:
            raise AssertionError(f"{error}: {one.told.bundles}") from error

    def fuzz(self, one: Agent, seed: int) -> Fuzz:
        return Fuzz(self.api, self.admin, told=one.told.drift, seed=seed, say=print)

    async def subjects(self, fuzz: Fuzz) -> list[Subject]:
        return [await fuzz.subject(obj, name) for name, found in self.bundles.items() for obj in found]


def rendered(run: str) -> dict[str, list[dict[str, Any]]]:
    """The objects of both fleets, each namespace by a name of this run's own."""
    inputs = {"namespace": "shop", "helm": None, "variables": {}, "kubernetes": "", "policy": {"name": "x"}}
    found = {
        "podinfo": build.readable(build.render(REAL / "podinfo", {**inputs, "path": "overlays/dev"}, bundle="podinfo")),
        "boutique": build.readable(build.render(REAL / "boutique", {**inputs, "path": "base"}, bundle="boutique")),
    }
    for name, objects in found.items():
        for obj in objects:
            metadata = obj["metadata"]
            if obj["kind"] == "Namespace":
                metadata["name"] = f"{run}-{metadata['name']}"
            elif "namespace" in metadata:
                metadata["namespace"] = f"{run}-{metadata['namespace']}"
        spaces = {obj["metadata"]["namespace"] for obj in objects if "namespace" in obj["metadata"]}
        made = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "Namespace"}
        objects += [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one}} for one in spaces - made]
        assert len(objects) >= 25, name
    found["boutique"].append({**EMPTY_HOOKS, "metadata": {"name": f"{run}-empty"}})
    return found


@asynccontextmanager
async def fleet(kube: Kube) -> AsyncIterator[Fleet]:
    bundles = rendered(f"twice-{uuid4().hex[:6]}")
    async with Gated.connect(kube.kubeconfig) as api, Admin.connect(kube) as admin:
        yield Fleet(kube=kube, api=api, admin=admin, bundles=bundles, wake=SliceMaker().next(bundles))


async def states(subjects: list[Subject], fuzz: Fuzz) -> dict[ObjectKey, Mapping[str, Any]]:
    found: dict[ObjectKey, Mapping[str, Any]] = {}
    for one in subjects:
        live = await fuzz.get(one)
        assert live is not None, one.key
        found[one.key] = live
    return found


def moved(before: Mapping[ObjectKey, Mapping[str, Any]], after: Mapping[ObjectKey, Mapping[str, Any]]) -> list[str]:
    """The objects whose resourceVersion is another, unless their status alone is: controllers go on writing that."""
    return [
        str(key)
        for key, live in before.items()
        if live["metadata"]["resourceVersion"] != after[key]["metadata"]["resourceVersion"]
        and key.kind not in MOVED_BY_THE_SERVER
        and (live.get("status") == after[key].get("status") or written(live) != written(after[key]))
    ]


def written(live: Mapping[str, Any]) -> dict[str, Any]:
    """An object without what a status write moves."""
    metadata = {
        key: value for key, value in live["metadata"].items() if key not in ("resourceVersion", "managedFields")
    }
    entries = [one for one in live["metadata"]["managedFields"] if one.get("subresource") != "status"]
    return {**{key: value for key, value in live.items() if key != "status"}, "metadata": metadata, "entries": entries}


@pytest.mark.timeout(600)
async def test_a_second_full_pass_moves_nothing(kube: Kube, tmp_path: Path) -> None:
    async with fleet(kube) as ours:
        async with agent(ours.api, tmp_path / "first") as one:
            await ours.run(one)
            fuzz = ours.fuzz(one, 0)
            subjects = await ours.subjects(fuzz)
        before = await states(subjects, fuzz)
        sent = ours.api.requests.copy()
        # Another agent, that knows nothing: everything is sent again.
        async with agent(ours.api, tmp_path / "second", holder="agent-2") as other:
            await ours.run(other)
            for one_subject in subjects:
                await fuzz.settle(one_subject)
            assert (ours.api.requests - sent)["apply"] >= len(subjects)
            again = ours.api.requests.copy()
            assert other.told.drift == []
            assert other.told.problems == []
            assert moved(before, await states(subjects, fuzz)) == []
            # What the server itself moves is no reason to write it again and again.
            with anyio.move_on_after(2.0):
                await anyio.sleep_forever()
            assert (ours.api.requests - again)["apply"] == 0
            assert other.told.drift == []


@pytest.mark.timeout(3600)
async def test_every_edit_of_a_real_fleet_is_found_told_and_undone_and_nothing_else(
    kube: Kube, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seed = pytestconfig.getoption("--fuzz-seed")
    count = pytestconfig.getoption("--fuzz-edits") or 60
    async with fleet(kube) as ours, agent(ours.api, tmp_path) as one:
        await ours.run(one)
        fuzz = ours.fuzz(one, seed)
        subjects = await ours.subjects(fuzz)
        for subject in subjects:
            # Its Pod keeps a claim from going away.
            subject.used = subject.key.kind == "PersistentVolumeClaim"
        score = await fuzz.run([subjects[part::WORKERS] for part in range(WORKERS)], count)
    print(f"seed {seed}: {score}")
    assert not score.failures, f"{len(score.failures)} wrong (seed {seed}), see above: {dict(score.wrong)}"
