"""The demo: its steps fail when what they wait for is not seen, and what it shows is what the hub says."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from hub.cli import main
from hub.demo import command, fleet, kubectl, live, screen, seen, story, view, world
from hub.demo.command import check_memory
from hub.demo.processes import Process
from hub.demo.story import Outcome, Step
from proto.errors import InvalidInput, Permanent, Transient


class Silent:
    """A world that no step needs."""

    repo: Any = None
    clusters: Mapping[str, Any] = {}

    async def api(self, path: str) -> Any:
        raise AssertionError(path)

    async def nothing(self, *arguments: str) -> None: ...

    stop_hub = start_hub = connect = cut = nothing

    async def flotilla(self, *words: str) -> str:
        raise AssertionError(words)


async def unheard(text: str) -> None:
    """Tells nobody."""


def step(name: str, play: Callable[[], Awaitable[str]]) -> Step:
    async def played(world: seen.World, say: seen.Say) -> str:
        await say(f"{name} begins")
        return await play()

    return Step(name=name, title=name, play=played)


async def test_a_step_that_does_not_see_what_it_waits_for_fails_with_what_was_missing() -> None:
    async def never() -> bool:
        return False

    async def wait() -> str:
        await world.wait_for("the revert", never, timeout_s=0.01)
        return "seen"

    said: list[str] = []

    async def hear(text: str) -> None:
        said.append(text)

    outcome = await story.play(step("drift", wait), Silent(), hear)
    assert not outcome.ok
    assert "the revert" in outcome.detail
    assert said == ["drift begins"]


async def test_a_step_that_sees_everything_says_what_it_saw() -> None:
    async def seen() -> str:
        return "six clusters"

    outcome = await story.play(step("waves", seen), Silent(), unheard)
    assert (outcome.name, outcome.ok, outcome.detail) == ("waves", True, "six clusters")


class Watched(Silent):
    """A world whose hub is away."""

    url = "http://127.0.0.1:1"
    hub_runs = False
    offline: frozenset[str] = frozenset()

    async def api(self, path: str) -> Any:
        raise Transient("hub", "does not answer")


async def test_the_story_goes_on_after_a_step_that_failed_and_tells_both() -> None:
    async def failing() -> str:
        raise Permanent("canary", "never moved")

    async def fine() -> str:
        return "all well"

    lines: list[view.Line] = []
    show = live.Show(Watched(), told=lines.append)  # type: ignore[arg-type]
    outcomes = await show.play((step("one", failing), step("two", fine)))
    assert [outcome.ok for outcome in outcomes] == [False, True]
    assert [told.state for told in show.view.story] == ["failed", "ok"]
    assert any("canary: never moved" in line.text and line.mark == "✘" for line in lines)
    assert not show.view.hub


def test_the_summary_is_json_with_each_step() -> None:
    made = story.summary(
        [
            Outcome(name="waves", ok=True, seconds=1.5, detail="fine"),
            Outcome(name="drift", ok=False, seconds=2.0, detail="no report"),
        ],
        seconds=3.512,
    )
    assert json.loads(json.dumps(made)) == {
        "steps": [
            {"name": "waves", "ok": True, "seconds": 1.5, "detail": "fine"},
            {"name": "drift", "ok": False, "seconds": 2.0, "detail": "no report"},
        ],
        "seconds": 3.51,
    }


ROLLOUT = {
    "id": "shop-4",
    "waves": [{"name": "canary", "clusters": 1}, {"name": "eu", "clusters": 2}],
    "members": [{"cluster": name, "phase": "proven"} for name in ("canary", "eu-1", "eu-2")],
}


def opened(number: int, wave: str) -> dict[str, Any]:
    return {"id": number, "kind": "wave-opened", "rollout": "shop-4", "cluster": "", "data": {"wave": wave}}


def proven(number: int, cluster: str, rollout: str = "shop-4") -> dict[str, Any]:
    return {"id": number, "kind": "cluster-proven", "rollout": rollout, "cluster": cluster}


def test_waves_that_open_after_the_proof_of_the_ones_before_are_in_order() -> None:
    events = [
        proven(1, "eu-1", rollout="shop-3"),
        opened(2, "canary"),
        proven(3, "canary"),
        opened(4, "eu"),
        proven(5, "eu-2"),
        proven(6, "eu-1"),
    ]
    assert seen.waves_in_order(ROLLOUT, events) == "canary → eu"


@pytest.mark.parametrize(
    ("events", "missing"),
    [
        pytest.param(
            [
                opened(1, "canary"),
                opened(2, "eu"),
                *(proven(3 + n, c) for n, c in enumerate(("canary", "eu-1", "eu-2"))),
            ],
            "wave eu: opened after 0 proofs",
            id="opened-too-early",
        ),
        pytest.param(
            [opened(1, "canary"), proven(2, "canary"), opened(3, "eu"), proven(4, "eu-1")],
            "no proof of eu-2",
            id="unproven-cluster",
        ),
        pytest.param(
            [opened(1, "canary"), proven(2, "canary"), proven(3, "eu-1"), proven(4, "eu-2")],
            "wave eu: was never seen to open",
            id="wave-not-seen",
        ),
        pytest.param(
            [opened(1, "canary"), proven(2, "canary"), proven(3, "eu-1"), opened(4, "eu"), proven(5, "eu-2")],
            "wave eu: opened after 2 proofs",
            id="moved-before-its-wave",
        ),
    ],
)
def test_waves_out_of_order_fail_the_step(events: list[dict[str, Any]], missing: str) -> None:
    with pytest.raises(Permanent, match=re.escape(missing)):
        seen.waves_in_order(ROLLOUT, events)


@pytest.mark.parametrize(
    ("phases", "why"),
    [
        pytest.param({"canary": "reverted", "eu-1": "pending"}, None, id="canary-only"),
        pytest.param({"canary": "failed", "eu-1": "pending"}, "not reverted", id="not-rolled-back"),
        pytest.param({"canary": "reverted", "eu-1": "reverted"}, "reached eu-1", id="others-got-it"),
        pytest.param({"canary": "reverted"}, "reached eu-1", id="other-unknown"),
        pytest.param({"eu-1": "pending"}, "no member", id="no-canary"),
    ],
)
def test_a_bad_commit_may_only_touch_the_canary(phases: dict[str, str], why: str | None) -> None:
    rollout = {"id": "shop-5", "members": [{"cluster": c, "phase": p} for c, p in phases.items()]}
    if why is None:
        seen.never_reached(rollout, "canary", ["eu-1"])
    else:
        with pytest.raises(Permanent, match=why):
            seen.never_reached(rollout, "canary", ["eu-1"])


@pytest.mark.parametrize(
    ("phases", "why"),
    [
        pytest.param({"canary": "proven", "eu-1": "pending"}, None, id="stopped"),
        pytest.param({"canary": "soaking", "eu-1": "pending"}, "canary: is soaking", id="gate-asked-too-early"),
        pytest.param({"canary": "proven", "eu-1": "moving"}, "went past its gate to eu-1", id="not-stopped"),
        pytest.param({"canary": "proven"}, "went past its gate to eu-1", id="other-unknown"),
    ],
)
def test_at_the_gate_the_canary_alone_has_the_commit(phases: dict[str, str], why: str | None) -> None:
    rollout = {"id": "shop-5", "members": [{"cluster": c, "phase": p} for c, p in phases.items()]}
    if why is None:
        seen.stopped_behind(rollout, "canary", ["eu-1"])
    else:
        with pytest.raises(Permanent, match=why):
            seen.stopped_behind(rollout, "canary", ["eu-1"])


WAVES = {"canary": "canary", "eu-1": "eu", "us-1": "us", "us-2": "us"}


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        pytest.param({"us-1": 2, "us-2": 1, "eu-1": 2, "canary": 3}, None, id="last-wave-first"),
        pytest.param({"us-1": 1, "us-2": 1, "canary": 2, "eu-1": 3}, "last wave first", id="canary-too-early"),
        pytest.param({"eu-1": 1, "us-1": 2, "us-2": 2, "canary": 3}, "last wave first", id="failed-wave-too-late"),
    ],
)
def test_clusters_go_back_in_reverse_wave_order(sent: dict[str, int], why: str | None) -> None:
    members = [{"cluster": c, "phase": "reverted", "moved_at": f"10:00:0{at}"} for c, at in sent.items()]
    rollout = {"id": "shop-6", "waves": [{"name": name} for name in ("canary", "eu", "us")], "members": members}
    if why is None:
        assert seen.in_reverse(rollout, WAVES) == ["us-2", "us-1", "eu-1", "canary"]
    else:
        with pytest.raises(Permanent, match=why):
            seen.in_reverse(rollout, WAVES)


def test_a_cluster_that_did_not_go_back_is_told() -> None:
    members = [{"cluster": c, "phase": "reverted", "moved_at": "10:00:01"} for c in ("us-1", "eu-1", "canary")]
    rollout = {"id": "shop-6", "waves": [], "members": [*members, {"cluster": "us-2", "phase": "revert-failed"}]}
    with pytest.raises(Permanent, match="did not bring back us-2"):
        seen.in_reverse(rollout, WAVES)


def test_only_the_offline_cluster_may_be_left_behind() -> None:
    phases = {"canary": "proven", "eu-1": "offline", "us-1": "moving"}
    rollout = {"id": "shop-6", "members": [{"cluster": c, "phase": p} for c, p in phases.items()]}
    assert seen.left_behind(rollout) == [("eu-1", "offline"), ("us-1", "moving")]


DRIFT = {
    "object": "Deployment/shop/web",
    "what": "changed",
    "fields": [".spec.replicas"],
    "manager": "kubectl-scale",
    "time": "2026-03-01T10:20:30Z",
    "action": "reverted",
}


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        pytest.param({}, True, id="as-wanted"),
        pytest.param({"manager": "somebody"}, False, id="another-manager"),
        pytest.param({"fields": [".spec.paused"]}, False, id="other-fields"),
        pytest.param({"action": "reported"}, False, id="not-reverted"),
        pytest.param({"what": "deleted"}, False, id="another-change"),
        pytest.param({"object": "Deployment/shop/other"}, False, id="another-object"),
    ],
)
def test_only_a_report_with_who_which_fields_and_a_revert_counts(changed: dict[str, Any], counts: bool) -> None:
    found = seen.told(
        [{**DRIFT, **changed}],
        "Deployment/shop/web",
        manager="kubectl-scale",
        field=".spec.replicas",
        what="changed",
    )
    assert (found is not None) == counts


def test_a_drift_line_says_where_what_who_when_and_what_was_done() -> None:
    assert view.drifted("us-1", DRIFT) == (
        "us-1: kubectl-scale changed Deployment/shop/web at 10:20:30, reverted: .spec.replicas"
    )
    many = {"object": "Service/shop/web", "what": "changed", "fields": list("abcde"), "action": "reverted"}
    assert view.drifted("eu-1", many) == "eu-1: somebody changed Service/shop/web, reverted: a, b and 3 more"


def test_single_clusters_have_lines_only_in_a_small_fleet() -> None:
    events = [{"id": 1, "kind": "cluster-proven", "time": "2026-03-01T10:20:30.000Z", "cluster": "eu-1", "text": "yes"}]
    assert [line.text for line in view.lines(events, one_by_one=True)] == ["yes"]
    assert view.lines(events, one_by_one=False) == []


def shown(count: int, *, hub: bool = True) -> view.View:
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "health": "Failed" if name == "us-2" else "Current",
            "decided": {"seq": 4},
            "applied": {"seq": 3 if name == "us-2" else 4},
            "drift_total": 2 if name == "eu-1" else 0,
            "problems": [],
        }
        for name in fleet.cluster_names(count)
    ]
    rollout = {
        "id": "shop-4",
        "number": 4,
        "phase": "running",
        "reason": "wave us waits for us-2",
        "final": False,
        "waves": [
            {"name": "canary", "state": "done", "clusters": 1, "phases": {"proven": 1}},
            {"name": "us", "state": "open", "clusters": 3, "phases": {"proven": 1, "moving": 1, "pending": 1}},
        ],
    }
    old = {**rollout, "id": "shop-3", "number": 3, "phase": "completed", "reason": "", "final": True}
    return view.View(
        url="http://127.0.0.1:8470",
        hub=hub,
        clusters=view.clusters(rows, offline=["us-1"]),
        rollouts=view.rollouts([old, rollout], most=4),
        lines=(view.Line(clock="10:20:30", mark="▶", style="cyan", text="wave us is open"),),
        story=(view.Told(title="① first", state="ok", detail="fine"), view.Told(title="② second", state="now")),
        keys=(("c", "commit"),),
    )


def drawn(what: view.View, *, width: int = 110, height: int = 36) -> str:
    console = Console(width=width, height=height, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as text:
        console.print(screen.draw(what, height=height, width=width))
    return text.get()


def test_the_screen_shows_clusters_waves_events_the_address_and_the_keys() -> None:
    text = drawn(shown(6))
    for wanted in (
        "http://127.0.0.1:8470",
        "○ Offline",
        "✘ Failed",
        "#3→4",
        "⚑ 2",
        "shop-4 running",
        "1 proven, 1 moving, 1 waiting",
        "wave us is open",
        "✔ ① first",
        "▸ ② second",
        "c  commit",
    ):
        assert wanted in text, wanted
    assert text.index("shop-4") < text.index("shop-3")
    assert len(text.splitlines()) == 36


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20), (200, 60)])
def test_the_screen_fits_any_terminal(width: int, height: int) -> None:
    lines = drawn(shown(6), width=width, height=height).splitlines()
    assert len(lines) == height
    assert all(len(line) <= width for line in lines)


@pytest.mark.parametrize(
    ("phase", "reason", "said"),
    [
        pytest.param(
            "running",
            "wave eu waits at gate eu/approval: needs the word of a person",
            ("wave eu waits at gate eu/approval:", "needs the word of a person"),
            id="a gate",
        ),
        pytest.param(
            "running",
            "wave canary waits for canary (pending); frozen by stocktaking: the shops count",
            ("wave canary waits for canary", "(pending); frozen by stocktaking: the…"),
            id="a freeze",
        ),
        pytest.param(
            "rolling-back",
            "us-2 failed in wave us: Failed: Deployment/shop/web",
            ("us-2 failed in wave us: Failed:", "Deployment/shop/web"),
            id="a rollback",
        ),
    ],
)
def test_in_eighty_columns_no_word_of_health_and_of_why_a_rollout_waits_is_cut(
    phase: str, reason: str, said: tuple[str, ...]
) -> None:
    what = shown(6)
    rollouts = tuple(replace(row, phase=phase, reason=reason) for row in what.rollouts[:1])
    text = drawn(replace(what, rollouts=rollouts), width=80, height=24)
    for wanted in (*said, f"shop-4 {phase}", "● Current", "○ Offline", "1 proven, 1 moving"):
        assert wanted in text, text


def test_the_newest_lines_are_whole_in_eighty_columns() -> None:
    said = "you commit shop 1.2, which can start in the canary, but not in us: approve it, and see"
    lines = tuple(view.Line(clock=f"10:20:{n}", mark="★", style="cyan", text=f"{n} {said}") for n in range(10, 40))
    text = drawn(view.View(url="http://127.0.0.1:8470", hub=True, lines=lines), width=80, height=24)
    told = text[text.index("what happens") :].splitlines()[1:-1]
    joined = " ".join(" ".join(line.strip("│").split()) for line in told)
    assert f"10:20:39 ★ 39 {said}" in joined
    assert "10:20:38" in joined
    assert "10:20:10" not in joined


@pytest.mark.parametrize(("width", "lines"), [(80, 2), (110, 1)])
def test_no_key_is_cut_off(width: int, lines: int) -> None:
    show = live.Show(Watched())  # type: ignore[arg-type]
    show.playing_along()
    text = drawn(show.view, width=width, height=24).splitlines()
    assert len(text) == 24
    told = " ".join(text[-lines:]).split()
    assert told == [word for key, what in show.view.keys for word in (key, *what.split())]
    assert "╯" in text[-lines - 1]


def test_in_a_large_fleet_troubled_clusters_are_shown_first() -> None:
    rows = tuple(
        view.ClusterRow(name=f"eu-{n:02}", health="Failed" if n == 99 else "Current", decided=1, applied=1, drift=0)
        for n in range(100)
    )
    text = drawn(view.View(url="http://127.0.0.1:8470", hub=True, clusters=rows))
    assert "not shown" in text
    assert text.index("eu-99") < text.index("eu-00")


def test_a_stopped_hub_is_said_where_its_address_was() -> None:
    text = drawn(shown(6, hub=False))
    assert "the hub is stopped" in text
    assert "status page" not in text


def test_a_bundle_on_hold_is_said_above_the_rollouts() -> None:
    assert "on hold" not in drawn(shown(6))
    assert "rollouts · on hold: shop" in drawn(replace(shown(6), holds=("shop",)))


def test_all_keys_fit_the_picture() -> None:
    show = live.Show(Watched())  # type: ignore[arg-type]
    show.playing_along()
    last = drawn(show.view, width=live.PICTURE_WIDTH).splitlines()[-1]
    assert last.split()[-2:] == ["q", "quit"]


def test_a_picture_is_svg_and_small() -> None:
    made = live.picture(shown(6))
    assert made.startswith("<svg")
    assert len(made) < 150_000


@pytest.mark.parametrize("count", [5, 6, 7, 20, 100])
def test_any_number_of_clusters_has_one_canary_and_two_regions_with_two_or_more(count: int) -> None:
    names = fleet.cluster_names(count)
    assert len(set(names)) == count
    assert names[0] == "canary"
    assert names[1].startswith("eu-")
    assert names[-1].startswith("us-")
    assert names[-2].startswith("us-")


def test_more_clusters_than_there_is_memory_for_are_refused_with_how_many_would_do() -> None:
    check_memory(6, free_mb=4000)
    check_memory(1000, free_mb=None)
    with pytest.raises(InvalidInput, match=r"try --clusters \d+"):
        check_memory(100, free_mb=4000)
    with pytest.raises(InvalidInput, match="end something else first"):
        check_memory(6, free_mb=200)


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Any) -> None:
    (tmp_path / "mine").write_text("precious")
    done = CliRunner().invoke(main, ["demo", "--dir", str(tmp_path)])
    assert done.exit_code == 1
    assert "is not empty" in done.output
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_summary_needs_the_story() -> None:
    done = CliRunner().invoke(main, ["demo", "--json", "out.json"])
    assert done.exit_code == 2
    assert "--once" in done.output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param(["--context=a", "--context=b"], "go together", id="no-kubeconfig"),
        pytest.param(["--kubeconfig=FILE"], "go together", id="no-context"),
        pytest.param(["--kubeconfig=FILE", "--context=a"], "2 times or more", id="one-context"),
        pytest.param(["--kubeconfig=FILE", "--context=a", "--context=a"], "2 times or more", id="one-context-twice"),
        pytest.param(
            ["--kubeconfig=FILE", "--context=a", "--context=b", "--clusters=6"], "simulated", id="simulated-too"
        ),
        pytest.param(["--yes"], "--yes goes with --kubeconfig", id="nothing-to-agree-to"),
    ],
)
def test_real_clusters_are_named_in_full_or_not_at_all(tmp_path: Path, arguments: list[str], why: str) -> None:
    file = tmp_path / "config"
    file.touch()
    done = CliRunner().invoke(main, ["demo", *(each.replace("FILE", str(file)) for each in arguments)])
    assert done.exit_code == 2
    assert why in done.output


KUBECONFIG = {
    "clusters": [
        {"name": "one", "cluster": {"server": "https://one.example.org"}},
        {"name": "two", "cluster": {"server": "https://two.example.org"}},
    ],
    "contexts": [
        {"name": "kind-one", "context": {"cluster": "one", "user": "me"}},
        {"name": "kind-two", "context": {"cluster": "two", "user": "me"}},
        {"name": "also-one", "context": {"cluster": "one", "user": "root"}},
        {"name": "nowhere", "context": {"cluster": "gone", "user": "me"}},
    ],
}


def test_without_a_terminal_nothing_is_written_unless_agreed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **KUBECONFIG}))

    def never(wanted: object) -> None:
        raise AssertionError("a cluster was reached")

    monkeypatch.setattr(kubectl, "check_untouched", never)
    options = ["demo", f"--kubeconfig={file}", "--context=kind-two", "--context=kind-one"]
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 1
    assert "give --yes" in done.output
    assert "kind-two  https://two.example.org  (as kind-two)" in done.output


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_only_a_yes_is_a_yes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(command, "_terminal", lambda: True)
    file = tmp_path / "config"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **KUBECONFIG}))
    monkeypatch.setattr(kubectl, "check_untouched", lambda wanted: pytest.fail("a cluster was reached"))
    options = ["demo", f"--kubeconfig={file}", "--context=kind-two", "--context=kind-one"]
    done = CliRunner().invoke(main, options, input=answer)
    assert done.exit_code == 1
    assert "Go on? [y/N]" in done.output
    assert "Aborted" in done.output


def test_a_yes_leads_to_the_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_terminal", lambda: True)
    file = tmp_path / "config"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **KUBECONFIG}))

    def taken(wanted: tuple[kubectl.Target, ...]) -> None:
        raise InvalidInput(f"context {wanted[0].context}", "has namespace/shop already")

    monkeypatch.setattr(kubectl, "check_untouched", taken)
    options = ["demo", f"--kubeconfig={file}", "--context=kind-two", "--context=kind-one"]
    done = CliRunner().invoke(main, options, input="y\n")
    assert done.exit_code == 1
    assert "context kind-two: has namespace/shop already" in done.output
    assert "these commands remove it" not in done.output


@pytest.mark.parametrize(
    ("contexts", "why"),
    [
        pytest.param(["kind-one", "kind-six"], "kind-six: is not in .*also-one, kind-one", id="unknown"),
        pytest.param(["kind-one", "nowhere"], "nowhere: is not in", id="no-server"),
        pytest.param(["kind-one", "also-one"], "is the same cluster as kind-one", id="one-cluster-twice"),
    ],
)
def test_contexts_that_are_not_clusters_of_their_own_are_refused(contexts: list[str], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        kubectl.targets(KUBECONFIG, Path("config"), contexts=contexts)


@pytest.mark.parametrize(
    ("contexts", "names"),
    [
        pytest.param(["kind-a", "kind-b"], ["kind-a", "kind-b"], id="labels-already"),
        pytest.param(["admin@Prod.EU_1"], ["admin-prod-eu-1"], id="other-characters"),
        pytest.param(["a/b", "a.b", "a-b"], ["a-b", "a-b-2", "a-b-3"], id="alike"),
        pytest.param(["a-2", "a", "A"], ["a-2", "a", "a-3"], id="a-number-that-is-taken"),
        pytest.param(["@", "ü"], ["cluster", "cluster-2"], id="nothing-left"),
        pytest.param([f"arn:{'x' * 100}:eu"], [f"{'x' * 37}-eu"], id="long"),
    ],
)
def test_each_context_has_a_name_of_its_own_that_is_a_dns_label(contexts: list[str], names: list[str]) -> None:
    assert kubectl.names(contexts) == names


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        pytest.param(seen.WEB, ["deployments.v1.apps", "web", "--namespace=shop"], id="group"),
        pytest.param(seen.SETTINGS, ["configmaps", "settings", "--namespace=shop"], id="core"),
        pytest.param(
            f"{seen.WEB}/scale",
            ["deployments.v1.apps", "web", "--namespace=shop", "--subresource=scale"],
            id="subresource",
        ),
    ],
)
def test_an_api_path_is_what_kubectl_calls_it(path: str, arguments: list[str]) -> None:
    assert kubectl.resource(path) == arguments


def test_what_is_left_is_told_as_commands_that_a_shell_understands() -> None:
    target = kubectl.Target(kubeconfig=Path("/tmp/my config"), context="a&b", cluster="a-b", server="https://x")
    start = "  kubectl --kubeconfig '/tmp/my config' --context 'a&b' delete --ignore-not-found"
    assert kubectl.remains([target]).splitlines()[1:] == [
        f"{start} namespace shop hello flotilla-system",
        f"{start} customresourcedefinition appliedbundles.flotilla.dev",
    ]


def test_of_real_clusters_the_first_is_the_canary_and_the_others_are_in_turn_in_two_waves() -> None:
    found = [json.loads(text)["metadata"] for text in fleet.real_cluster_files(["us-a", "b", "c"]).split("\n---\n")]
    assert [(one["name"], one["labels"]["region"], one["labels"].get("canary")) for one in found] == [
        ("us-a", "eu", "true"),
        ("b", "eu", None),
        ("c", "us", None),
    ]


async def test_real_clusters_run_images_that_exist_and_a_break_that_no_node_fits(tmp_path: Path) -> None:
    repo = fleet.Repo(tmp_path / "fleet", real=True)
    await repo.create(fleet.SAMPLE, None)
    assert not [file for file in repo.path.glob("bundles/hello/*") if "registry.example.org" in file.read_text()]
    kustomization = repo.path / "bundles/shop/base/kustomization.yaml"
    assert "newName: nginx" in kustomization.read_text()
    assert "progressDeadlineSeconds: 20" in (repo.path / "bundles/shop/base/web.yaml").read_text()
    assert [(await repo.release())[1] for _ in range(10)] == [*(f"1.{n}" for n in range(21, 30)), "1.20"]
    await repo.break_()
    assert "nodeSelector" in kustomization.read_text()
    await repo.release()
    assert "nodeSelector" not in kustomization.read_text()


async def test_versions_of_the_sample_fleet_go_up_and_a_fix_ends_what_was_broken(tmp_path: Any) -> None:
    repo = fleet.Repo(tmp_path / "fleet")
    await repo.create(fleet.SAMPLE, fleet.cluster_files(fleet.cluster_names(7)))
    first, version = await repo.release()
    assert version == "1.1"
    await repo.break_()
    file = repo.path / "bundles/shop/base/kustomization.yaml"
    assert 'newTag: "1.2-broken"' in file.read_text()
    last, version = await repo.release()
    assert version == "1.3"
    assert 'newTag: "1.3"' in file.read_text()
    assert first != last


async def test_what_cannot_start_in_one_region_is_gone_with_the_next_version(tmp_path: Path) -> None:
    repo = fleet.Repo(tmp_path / "fleet")
    await repo.create(fleet.SAMPLE, None)
    bundle = repo.path / "bundles/shop/bundle.yaml"
    before = bundle.read_text()
    for region in ("us", "eu"):
        _, version = await repo.unfit(region)
        assert f"matchLabels: {{region: {region}}}, matchExpressions:" in bundle.read_text()
        loaded = yaml.safe_load(bundle.read_text())["spec"]["variants"]
        assert len(loaded) == 3, "of an earlier one nothing is left"
    assert version == "1.2"
    await repo.release()
    assert bundle.read_text() == before


async def test_a_freeze_is_committed_and_ends_once(tmp_path: Path) -> None:
    repo = fleet.Repo(tmp_path / "fleet")
    await repo.create(fleet.SAMPLE, None)
    file = repo.path / "fleet.yaml"
    before = file.read_text()
    assert not await repo.thaw()
    await repo.freeze()
    assert [freeze["name"] for freeze in yaml.safe_load(file.read_text())["spec"]["freezes"]] == [fleet.FREEZE]
    assert await repo.thaw()
    assert file.read_text() == before
    assert not await repo.thaw()


async def test_a_process_that_will_not_end_is_ended(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.demo.processes.STOP_S", 0.05)
    process = Process(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"], log=tmp_path / "log")
    await process.start()

    async def up() -> bool:
        return "up" in process.tail()

    await world.wait_for("the process", up, timeout_s=10)
    await process.stop()
    assert not process.alive
    await process.stop()


async def test_a_process_that_ends_while_it_starts_is_told_with_its_last_words(tmp_path: Any) -> None:
    process = Process(["sh", "-c", "echo no such port"], log=tmp_path / "log")
    await process.start()

    async def never() -> bool:
        return False

    with pytest.raises(Permanent, match="no such port"):
        await world.wait_for("the hub", never, timeout_s=10, process=process)
