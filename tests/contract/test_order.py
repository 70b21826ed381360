"""Order, hooks, what waits for what, and what an empty, suspended or limited bundle does, with the whole agent."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.kube.cluster import Cluster
from tests.agents import Agent, agent, until
from tests.kube import Kube
from tests.slices import SliceMaker, manifests

DONE_S = 60.0


@pytest.fixture(autouse=True)
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"o-{abs(hash(request.node.name)) % 10**8}"
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    kube.call("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
async def cluster(kubeconfig: Path) -> AsyncIterator[Cluster]:
    async with Cluster.connect(kubeconfig) as cluster:
        yield cluster


@pytest.fixture
async def one(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Agent]:
    async with agent(cluster, tmp_path) as running:
        yield running


class Place:
    """One namespace of the API server, as a test looks at it."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.kube = kube
        self.namespace = namespace

    def objects(self, text: str) -> list[dict[str, Any]]:
        """Manifests in YAML, in this namespace."""
        found = manifests(text)
        for obj in found:
            obj["metadata"].setdefault("namespace", self.namespace)
        return found

    def path(self, what: str) -> str:
        plural, name = what.split("/")
        base = {"jobs": "apis/batch/v1", "deployments": "apis/apps/v1", "configmaps": "api/v1"}[plural]
        return f"/{base}/namespaces/{self.namespace}/{plural}/{name}"

    def get(self, what: str) -> dict[str, Any] | None:
        status, found = self.kube.call("GET", self.path(what))
        assert status in (200, 404), found
        return found if status == 200 else None

    def has(self, what: str) -> bool:
        return self.get(what) is not None

    def version(self, what: str) -> int:
        """When it was written last: resourceVersions grow over all kinds."""
        found = self.get(what)
        assert found is not None, f"{what} is not there"
        return int(found["metadata"]["resourceVersion"])

    def uid(self, what: str) -> str:
        found = self.get(what)
        assert found is not None, f"{what} is not there"
        return str(found["metadata"]["uid"])

    def is_complete(self, job: str) -> bool:
        return self._condition(job, "Complete")

    def has_failed(self, job: str) -> bool:
        return self._condition(job, "Failed")

    def _condition(self, job: str, kind: str) -> bool:
        found = self.get(f"jobs/{job}") or {}
        conditions = found.get("status", {}).get("conditions", [])
        return any(one["type"] == kind and one["status"] == "True" for one in conditions)


@pytest.fixture
def place(kube: Kube, namespace: str) -> Place:
    return Place(kube, namespace)


def config(name: str, color: str = "red", **annotations: str) -> str:
    metadata = {"name": name, "annotations": {key: value for key, value in annotations.items() if value}}
    return yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"color": color}})


def with_note(name: str, note: str, value: str, color: str = "red") -> str:
    return config(name, color, **{note: value})


def deployment(name: str) -> str:
    return f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: web, image: "example.org/web:1"}}]}}
"""


def job(name: str, *, image: str = "example.org/run:1", spec: str = "", pod: str = "", **annotations: str) -> str:
    """`spec` and `pod` are more fields of the Job and its Pods; annotations are Helm's: `hook_weight`, say."""
    notes = {f"helm.sh/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return f"""
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}, annotations: {notes}}}
spec:
  {spec}
  template:
    spec:
      {pod}
      restartPolicy: Never
      containers: [{{name: run, image: "{image}"}}]
"""


ENDLESS = 'nodeSelector: {example.org/none: "yes"}'
"""Of Pods that find no node: their Job runs for ever."""
DOOMED: dict[str, str] = {"pod": ENDLESS, "spec": "activeDeadlineSeconds: 1"}


def bundle(*objects: str) -> str:
    return "\n---\n".join(objects)


def waiting(running: Agent, name: str) -> list[str]:
    """What of a bundle is not there yet, and why."""
    report = running.told.bundles.get(name)
    return [problem.message for problem in report.problems if problem.reason == "Waiting"] if report else []


def reasons(running: Agent, name: str) -> set[str]:
    report = running.told.bundles.get(name)
    return {problem.reason for problem in report.problems} if report else set()


# --- order ----------------------------------------------------------------------------------------------------------


def gadgets(namespace: str) -> str:
    """A custom resource and its definition."""
    return f"""
apiVersion: order.example.org/v1
kind: Gadget
metadata: {{name: g, namespace: {namespace}}}
spec: {{size: 1}}
status: {{conditions: [{{type: Ready, status: "True"}}]}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: gadgets.order.example.org}}
spec:
  group: order.example.org
  scope: Namespaced
  names: {{kind: Gadget, plural: gadgets, singular: gadget, listKind: GadgetList}}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"""


async def test_a_definition_and_its_resource_in_one_slice_converge_in_one_pass(
    one: Agent, kube: Kube, place: Place
) -> None:
    maker = SliceMaker()
    wake = maker.next({"gadgets": gadgets(place.namespace)}, gadgets={"destructive_prune": True})
    one.deliver(wake)
    stuck: set[str] = set()

    def done() -> bool:
        told = one.told.bundles.get("gadgets")
        stuck.update(problem.message for problem in (told.problems if told else ()) if problem.health == "Failed")
        return one.converged(wake, "gadgets")

    await until(done, what="the definition and its resource", timeout_s=DONE_S)
    assert not stuck
    gadget = f"/apis/order.example.org/v1/namespaces/{place.namespace}/gadgets/g"
    assert kube.must("GET", gadget)["spec"] == {"size": 1}
    gone = maker.next({})
    one.deliver(gone)
    await until(lambda: one.converged(gone, "gadgets"), what="the end of both", timeout_s=DONE_S)
    assert kube.call("GET", gadget)[0] == 404


@pytest.mark.parametrize("note", ["flotilla.dev/phase", "argocd.argoproj.io/sync-wave"])
async def test_waves_are_applied_one_after_the_other(one: Agent, place: Place, note: str) -> None:
    waves = (("c", "-1"), ("a", "0"), ("d", "1"), ("b", "2"))
    objects = place.objects(bundle(*(with_note(name, note, wave) for name, wave in reversed(waves))))
    wake = SliceMaker().next({"waves": objects})
    one.deliver(wake)
    await until(lambda: one.converged(wake, "waves"), what="the waves", timeout_s=DONE_S)
    versions = [place.version(f"configmaps/{name}") for name, _ in waves]
    assert versions == sorted(versions)


async def test_a_wave_waits_until_the_one_before_is_current(one: Agent, place: Place) -> None:
    late = with_note("late", "flotilla.dev/phase", "1")
    wake = SliceMaker().next({"waves": place.objects(bundle(late, deployment("web")))})
    one.deliver(wake)
    await until(lambda: one.converged(wake, "waves"), what="the waves", timeout_s=DONE_S)
    assert place.version("deployments/web") < place.version("configmaps/late")


async def test_what_depends_on_an_object_is_applied_once_that_is_current(one: Agent, place: Place) -> None:
    on = f"apps/namespaces/{place.namespace}/Deployment/web"
    late = with_note("late", "config.kubernetes.io/depends-on", on)
    wake = SliceMaker().next({"app": place.objects(bundle(late, deployment("web")))})
    one.deliver(wake)
    await until(lambda: one.converged(wake, "app"), what="both", timeout_s=DONE_S)
    assert place.version("deployments/web") < place.version("configmaps/late")


async def test_a_circle_stops_what_is_in_it_and_what_depends_on_it_and_nothing_else(one: Agent, place: Place) -> None:
    note, base = "config.kubernetes.io/depends-on", f"/namespaces/{place.namespace}/ConfigMap"
    objects = bundle(
        with_note("a", note, f"{base}/b"),
        with_note("b", note, f"{base}/a"),
        with_note("c", note, f"{base}/a"),
        config("d"),
    )
    wake = SliceMaker().next({"circle": place.objects(objects), "other": place.objects(config("e"))})
    one.deliver(wake)
    await until(lambda: one.converged(wake, "other") and place.has("configmaps/d"), what="the others", timeout_s=DONE_S)
    await until(lambda: reasons(one, "circle") == {"Stopped"}, what="what is stopped alone", timeout_s=DONE_S)
    told = one.told.bundles["circle"]
    assert {problem.object.rpartition("/")[2] for problem in told.problems} == set("abc")
    assert not any(place.has(f"configmaps/{name}") for name in "abc")
    assert told.health == "Failed"
    assert not told.converged


async def test_a_bundle_waits_until_the_one_it_depends_on_is_current_and_its_jobs_are_complete(
    one: Agent, place: Place
) -> None:
    maker = SliceMaker()
    top = place.objects(config("top"))
    first = maker.next({"base": place.objects(job("load", pod=ENDLESS)), "top": top}, top={"depends_on": ("base",)})
    one.deliver(first)
    await until(lambda: waiting(one, "top") and one.converged(first, "base"), what="a running Job", timeout_s=DONE_S)
    assert waiting(one, "top") == ["bundle top: waits for bundle base to be applied and Current"]
    assert not place.has("configmaps/top")
    second = maker.next({"base": place.objects(job("quick")), "top": top}, top={"depends_on": ("base",)})
    one.deliver(second)
    await until(lambda: one.converged(second, "base", "top"), what="both", timeout_s=DONE_S)
    assert place.version("jobs/quick") < place.version("configmaps/top")
    assert not place.has("jobs/load")


# --- hooks and Jobs -------------------------------------------------------------------------------------------------


def release(color: str = "red", *, image: str = "example.org/run:1", policy: str = "before-hook-creation") -> str:
    return bundle(
        with_note("after", "helm.sh/hook", "post-install,post-upgrade", color),
        deployment("web"),
        config("settings", color),
        job("migrate", image=image, hook="pre-install,pre-upgrade", hook_weight="1", hook_delete_policy=policy),
        with_note("before", "helm.sh/hook", "pre-install,pre-upgrade"),
        job("test", hook="test"),
    )


async def test_hooks_run_before_and_after_the_rest_and_only_again_with_new_content(one: Agent, place: Place) -> None:
    maker = SliceMaker()
    first = maker.next({"release": place.objects(release())})
    one.deliver(first)
    await until(lambda: one.converged(first, "release"), what="the release", timeout_s=DONE_S)
    order = ("configmaps/before", "jobs/migrate", "configmaps/settings", "deployments/web", "configmaps/after")
    versions = [place.version(what) for what in order]
    assert versions == sorted(versions)
    assert place.is_complete("migrate")
    assert not place.has("jobs/test")
    old = place.uid("jobs/migrate")

    second = maker.next({"release": place.objects(release("blue"))})
    one.deliver(second)
    await until(lambda: one.converged(second, "release"), what="the next release", timeout_s=DONE_S)
    assert place.uid("jobs/migrate") == old

    third = maker.next({"release": place.objects(release("green", image="example.org/run:2"))})
    one.deliver(third)
    await until(lambda: one.converged(third, "release"), what="the third release", timeout_s=DONE_S)
    assert place.uid("jobs/migrate") != old
    assert place.is_complete("migrate")
    versions = [place.version(what) for what in ("jobs/migrate", "configmaps/settings", "configmaps/after")]
    assert versions == sorted(versions)
    assert not one.told.drift


async def test_nothing_follows_a_hook_that_failed_and_other_bundles_go_on(one: Agent, place: Place) -> None:
    maker = SliceMaker()
    bad = bundle(config("settings"), job("migrate", hook="pre-install", **DOOMED))
    first = maker.next({"release": place.objects(bad), "other": place.objects(config("other"))})
    one.deliver(first)
    await until(lambda: one.converged(first, "other"), what="the other bundle", timeout_s=DONE_S)
    await until(
        lambda: "JobFailed" in reasons(one, "release") and any("Failed" in text for text in waiting(one, "release")),
        what="the failed hook",
        timeout_s=DONE_S,
    )
    assert one.told.bundles["release"].health == "Failed"
    assert not place.has("configmaps/settings")
    good = bundle(config("settings"), job("migrate", hook="pre-install"))
    second = maker.next({"release": place.objects(good), "other": place.objects(config("other"))})
    one.deliver(second)
    await until(lambda: one.converged(second, "release", "other"), what="the mended hook", timeout_s=DONE_S)
    assert place.version("jobs/migrate") < place.version("configmaps/settings")


async def test_a_hook_that_succeeded_goes_if_it_says_so_and_is_neither_missing_nor_made_again(
    cluster: Cluster, place: Place, tmp_path: Path
) -> None:
    maker = SliceMaker()
    first = maker.next({"release": place.objects(release(policy="before-hook-creation,hook-succeeded"))})
    async with agent(cluster, tmp_path) as one:
        one.deliver(first)
        await until(lambda: one.converged(first, "release"), what="the release", timeout_s=DONE_S)
        await until(lambda: not place.has("jobs/migrate"), what="the end of the hook", timeout_s=DONE_S)
        assert not one.told.drift
    stay = ("configmaps/before", "configmaps/settings", "deployments/web", "configmaps/after")
    versions = [place.version(what) for what in stay]
    async with agent(cluster, tmp_path) as again:
        await until(lambda: again.converged(first, "release"), what="the restart", timeout_s=DONE_S)
        assert not place.has("jobs/migrate")
        assert [place.version(what) for what in stay] == versions
        (hook,) = (entry for entry in again.inventory.entries.values() if entry.key.kind == "Job")
        old = hook.blob
        newer = release(image="example.org/run:2", policy="before-hook-creation,hook-succeeded")
        second = maker.next({"release": place.objects(newer)})
        again.deliver(second)
        await until(lambda: again.converged(second, "release"), what="the next release", timeout_s=DONE_S)
        assert hook.finished
        assert hook.blob != old
        assert not place.has("jobs/migrate")
        assert [place.version(what) for what in stay] == versions
        assert not again.told.drift
        gone = maker.next({})
        again.deliver(gone)
        await until(lambda: again.converged(gone, "release"), what="the end of the release", timeout_s=DONE_S)
        assert not again.inventory.entries


async def test_a_running_hook_is_no_proof_and_a_running_job_is_current(one: Agent, place: Place) -> None:
    text = bundle(config("settings"), job("check", hook="post-install", pod=ENDLESS))
    wake = SliceMaker().next({"hook": place.objects(text), "plain": place.objects(job("endless", pod=ENDLESS))})
    one.deliver(wake)
    await until(lambda: one.converged(wake, "plain"), what="the running Job", timeout_s=DONE_S)
    await until(lambda: "JobRunning" in reasons(one, "hook"), what="the running hook", timeout_s=DONE_S)
    assert place.has("configmaps/settings")
    assert not one.told.bundles["hook"].converged
    assert one.told.bundles["hook"].health == "InProgress"


@pytest.mark.parametrize(
    ("spec", "deleted"),
    [pytest.param("ttlSecondsAfterFinished: 0", False, id="its TTL"), pytest.param("", True, id="somebody")],
)
async def test_a_complete_job_that_is_deleted_is_not_missing(
    cluster: Cluster, place: Place, kube: Kube, tmp_path: Path, spec: str, deleted: bool
) -> None:
    maker = SliceMaker()
    wake = maker.next({"jobs": place.objects(bundle(job("load", spec=spec), config("settings")))})
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: one.converged(wake, "jobs"), what="the bundle", timeout_s=DONE_S)
        if deleted:
            await until(lambda: place.is_complete("load"), what="the end of the Job", timeout_s=DONE_S)
            await until(lambda: all(e.finished for e in one.inventory.entries.values() if e.key.kind == "Job"))
            kube.must("DELETE", place.path("jobs/load") + "?propagationPolicy=Background")
        await until(lambda: not place.has("jobs/load"), what="no Job", timeout_s=DONE_S)
        await until(
            lambda: all(e.baseline is None for e in one.inventory.entries.values() if e.key.kind == "Job"),
            what="an agent that knows it is gone",
        )
        kube.edit(place.path("configmaps/settings"), {"data": {"color": "green"}})
        await until(lambda: len(one.told.drift) == 1, what="another drift")
        await until(lambda: one.converged(wake, "jobs"), what="the bundle again")
        assert not place.has("jobs/load")
        assert [told.object for told in one.told.drift] == [f"ConfigMap/{place.namespace}/settings"]
    version = place.version("configmaps/settings")
    async with agent(cluster, tmp_path) as again:
        await until(lambda: again.converged(wake, "jobs"), what="the restart", timeout_s=DONE_S)
        assert place.version("configmaps/settings") == version
        assert not place.has("jobs/load")
        assert not again.told.drift


async def test_an_edit_of_a_complete_job_is_drift_all_the_same(one: Agent, place: Place, kube: Kube) -> None:
    wake = SliceMaker().next({"jobs": place.objects(job("load", hook="pre-install"))})
    one.deliver(wake)
    await until(lambda: one.converged(wake, "jobs"), what="the bundle", timeout_s=DONE_S)
    before = place.uid("jobs/load")
    kube.edit(place.path("jobs/load"), {"metadata": {"annotations": {"helm.sh/hook": "test"}}})
    await until(lambda: len(one.told.drift) == 1, what="a told edit")
    found = place.get("jobs/load")
    assert found is not None
    assert found["metadata"]["annotations"]["helm.sh/hook"] == "pre-install"
    assert found["metadata"]["uid"] == before
    await until(lambda: one.converged(wake, "jobs"), what="the bundle again")


# --- what is not pruned ---------------------------------------------------------------------------------------------


async def test_a_bundle_emptied_in_git_keeps_its_objects_until_it_says_that_this_is_meant(
    one: Agent, place: Place
) -> None:
    maker = SliceMaker()
    first = maker.next({"shop": place.objects(config("settings")), "other": place.objects(config("other"))})
    one.deliver(first)
    await until(lambda: one.converged(first, "shop", "other"), what="both", timeout_s=DONE_S)
    second = maker.next({"shop": [], "other": place.objects(config("other", "blue"))})
    one.deliver(second)
    await until(lambda: one.converged(second, "other") and "Empty" in reasons(one, "shop"), what="the refusal")
    told = one.told.bundles["shop"]
    assert (told.health, told.converged) == ("Failed", False)
    assert "nothing is pruned unless the bundle says allowEmpty: true" in told.problems[0].message
    assert place.has("configmaps/settings")
    third = maker.next({"shop": [], "other": place.objects(config("other", "blue"))}, shop={"allow_empty": True})
    one.deliver(third)
    await until(lambda: one.converged(third, "shop", "other"), what="the prune", timeout_s=DONE_S)
    assert not place.has("configmaps/settings")


async def test_a_controller_is_pruned_once_the_custom_resources_that_need_it_are_gone(
    one: Agent, kube: Kube, place: Place
) -> None:
    maker = SliceMaker()
    operator = place.objects(bundle(deployment("operator"), config("settings")))
    objects = [*manifests(gadgets(place.namespace)), *operator]
    first = maker.next({"all": objects}, all={"destructive_prune": True})
    one.deliver(first)
    await until(lambda: one.converged(first, "all"), what="everything", timeout_s=DONE_S)
    gadget = f"/apis/order.example.org/v1/namespaces/{place.namespace}/gadgets/g"
    kube.edit(gadget, {"metadata": {"finalizers": ["order.example.org/operator"]}})
    last = maker.next({})
    one.deliver(last)
    await until(
        lambda: any("order.example.org/operator" in problem.message for problem in one.told.bundles["all"].problems),
        what="a deletion that hangs",
        timeout_s=DONE_S,
    )
    assert place.has("deployments/operator")
    kube.edit(gadget, {"metadata": {"finalizers": None}})
    await until(lambda: one.converged(last, "all"), what="the end of everything", timeout_s=DONE_S)
    assert not place.has("deployments/operator")
    assert kube.call("GET", gadget)[0] == 404


async def test_a_bundle_that_left_the_slice_is_pruned_and_what_moved_is_kept(one: Agent, place: Place) -> None:
    maker = SliceMaker()
    first = maker.next({"old": place.objects(bundle(config("moves"), config("goes"))), "new": []})
    one.deliver(first)
    await until(lambda: one.converged(first, "old", "new"), what="the old bundle", timeout_s=DONE_S)
    before = place.uid("configmaps/moves")
    second = maker.next({"new": place.objects(config("moves"))})
    one.deliver(second)
    await until(lambda: one.converged(second, "old", "new"), what="the new bundle", timeout_s=DONE_S)
    assert not place.has("configmaps/goes")
    assert place.uid("configmaps/moves") == before
