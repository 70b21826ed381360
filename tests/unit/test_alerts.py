"""The alerts in `deploy/alerts`: on metrics that the hub has, and telling where to begin."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub.api.metrics import HubMetrics
from hub.loop import Loop
from tests.unit.test_metrics import loop

__all__ = ["loop"]

RULES = Path(__file__).parents[2] / "deploy/alerts/rules.yaml"


def alerts() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert["alert"]))
def test_an_alert_is_on_what_the_hub_measures_and_says_how_grave_it_is_and_where_to_begin(
    alert: dict[str, Any], loop: Loop
) -> None:
    families = HubMetrics(
        loop,
        denied=lambda: {},  # type: ignore[arg-type,return-value]
        unpublished=lambda: 0,
        receivers=list,
        clock=lambda: 0.0,
        heartbeat_s=10.0,
    ).collect()
    known = {family.name: set(family._labelnames) for family in families}
    asked = re.findall(r"(flotilla_[a-z_]+)(?:\{([a-z]+)!?=)?", alert["expr"])
    assert asked
    for name, label in asked:
        assert name in known, f"{name} is no metric: {sorted(known)}"
        assert not label or label in known[name], f"{name} has no label {label}"
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "do"}
    for label in re.findall(r"\$labels\.([a-z]+)", alert["annotations"]["summary"]):
        assert all(label in known[name] for name, _ in asked)
