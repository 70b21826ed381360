"""One rollout is one linked set of traces, from the commit to healthy pods, as a real OTLP receiver sees it."""

from tests.e2e.collector import Collector
from tests.e2e.story import bundle, config, namespace
from tests.e2e.world import World


def test_a_rollout_is_one_linked_set_of_traces_from_hub_and_agents(started: World, collector: Collector) -> None:
    revision = started.repo.commit(
        "Something to trace",
        {
            "bundles/traced/bundle.yaml": bundle("traced"),
            "bundles/traced/namespace.yaml": namespace("traced"),
            "bundles/traced/config.yaml": config("config", text="one"),
        },
    )
    rollout = started.wait_rollout("traced", revision)
    clusters = [member["cluster"] for member in rollout["members"]]
    assert len(clusters) >= 2

    def complete() -> bool:
        names = [(span.name, span.attributes.get("flotilla.cluster")) for span in collector.of(rollout=rollout["id"])]
        wanted = [("rollout", None), ("render", None), ("wave", None)]
        wanted += [(name, c) for c in clusters for name in ("cluster", "move", "receive", "apply", "healthy")]
        return set(wanted) <= set(names)

    started.wait("all spans", complete)
    spans = collector.of(rollout=rollout["id"])

    [root] = [span for span in spans if span.name == "rollout"]
    assert root.service == "flotilla-hub"
    assert root.parent == ""
    below = [span for span in spans if span.name in ("render", "wave")]
    assert {span.trace for span in below} == {root.trace}
    assert {span.parent for span in below} == {root.id}
    assert sorted(span.attributes["flotilla.wave"] for span in below if span.name == "wave") == ["canary", "eu"]

    for cluster in clusters:
        mine = [span for span in spans if span.attributes.get("flotilla.cluster") == cluster]
        [top] = [span for span in mine if span.name == "cluster"]
        assert top.links == (root.trace,)
        assert top.trace != root.trace
        others = [span for span in mine if span is not top]
        assert {span.trace for span in others} == {top.trace}
        assert {span.service for span in others} == {"flotilla-hub", "flotilla-agent"}
        first = {name: min(s.start_ns for s in others if s.name == name) for name in ("receive", "apply", "healthy")}
        assert first["receive"] <= first["apply"] <= first["healthy"]
    assert not any(span.failed for span in spans)


def test_a_collector_that_hangs_delays_no_rollout(started: World, collector: Collector) -> None:
    collector.hang.set()
    try:
        revision = started.repo.commit(
            "Unseen",
            {
                "bundles/traced/bundle.yaml": bundle("traced"),
                "bundles/traced/namespace.yaml": namespace("traced"),
                "bundles/traced/config.yaml": config("config", text="two"),
            },
        )
        started.wait_rollout("traced", revision, timeout_s=50)  # the collector hangs for 60
    finally:
        collector.hang.clear()
