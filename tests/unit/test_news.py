"""What a turn is told: drift and findings on the event list, each told once."""

from dataclasses import replace

from hub import news
from hub.desired import Desired
from hub.model import Finding, Fleet
from proto.ids import ClusterName, Oid
from proto.messages import DriftReport, Report

EU = ClusterName("eu-1")
OLD, NEW = Oid("a" * 40), Oid("b" * 40)


def test_drift_told_twice_has_one_mark_for_the_journal() -> None:
    drift = DriftReport(id="boot/1", bundle="shop", object="ConfigMap/shop/a", what="changed")
    report = Report(number=1, boot_id="b", seq=1, commit="", full=True, drift=(drift,))
    [first], [second] = news.drifted(EU, report, 1.0), news.drifted(EU, report, 2.0)
    assert first.dedup == second.dedup == "eu-1/boot/1"
    assert first.text.startswith("ConfigMap/shop/a changed in eu-1 by unknown")


def test_a_finding_is_an_event_while_it_is_new() -> None:
    wrong = Finding(where="bundles/shop/bundle.yaml:3", message="no", about="bundle shop")
    more = replace(wrong, where="bundles/shop/bundle.yaml:4")
    before = Desired(commit=OLD, fleet=Fleet(), subtrees={}, failed=frozenset(), findings=(wrong,))
    after = replace(before, commit=NEW, findings=(wrong, more))
    assert [event.bundle for event in news.found(None, before, 1.0)] == ["shop"]
    assert [event.text for event in news.found(before, after, 1.0)] == [str(more)]


def test_what_a_hub_that_starts_finds_again_is_the_same_event() -> None:
    wrong = Finding(where="bundles/shop/web.yaml:3", message="no", about="bundle shop")
    wanted = Desired(commit=OLD, fleet=Fleet(), subtrees={}, failed=frozenset(), findings=(wrong,))
    [event], [again] = news.found(None, wanted, 1.0), news.found(None, wanted, 2.0)
    [worse] = news.found(None, replace(wanted, findings=(replace(wrong, message="never"),)), 2.0)
    [later] = news.found(None, replace(wanted, commit=NEW), 2.0)
    assert event.dedup == again.dedup
    assert len({event.dedup, worse.dedup, later.dedup}) == 3
