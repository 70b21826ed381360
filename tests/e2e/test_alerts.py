"""The alerts in `deploy/alerts`, by Debian's promtool: which fire when, and which do not."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

RULES = Path(__file__).parents[2] / "deploy/alerts/rules.yaml"
CALM = {
    "flotilla_deciding": "1",
    'flotilla_clusters{health="Current"}': "20",
    'flotilla_clusters{health="Unknown"}': "1",
    'flotilla_rollouts{phase="running"}': "3",
    'flotilla_gate_waiting_seconds{check="approval"}': "600",
    'flotilla_rollout_age_seconds{phase="running"}': "7200",
    "flotilla_bundles_on_hold": "0",
    "flotilla_findings": "0",
}


def promtool(*arguments: str) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.fail("no 'promtool' on PATH: run tests/tools/prometheus.sh")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules() -> None:
    assert "14 rules found" in promtool("check", "rules", str(RULES))


@pytest.mark.parametrize(
    ("changed", "after", "fires"),
    [
        pytest.param({}, "3h", {}, id="a calm fleet, although a rollout waits for a word since ten minutes"),
        pytest.param(
            {'flotilla_rollouts{phase="rollback-failed"}': "1"}, "0m", {"FlotillaRollbackFailed": {}}, id="not back"
        ),
        pytest.param({'flotilla_rollouts{phase="paused"}': "1"}, "10m", {}, id="paused a moment ago"),
        pytest.param({'flotilla_rollouts{phase="paused"}': "1"}, "16m", {"FlotillaPaused": {}}, id="paused"),
        pytest.param(
            {'flotilla_gate_waiting_seconds{check="approval"}': "15000"},
            "1m",
            {"FlotillaWaitsForAWord": {"check": "approval"}},
            id="nobody approves",
        ),
        pytest.param(
            {'flotilla_gates_erring{check="http"}': "1", 'flotilla_gate_waiting_seconds{check="http"}': "700"},
            "11m",
            {"FlotillaGateErring": {"check": "http"}},
            id="a gate that cannot be asked",
        ),
        pytest.param({"flotilla_deciding": "0"}, "3m", {"FlotillaNotDeciding": {}}, id="the disk is full"),
        pytest.param({"flotilla_deciding": None}, "6m", {"FlotillaHubAway": {}}, id="no hub"),
        pytest.param(
            {'flotilla_clusters{health="Unknown"}': "5"}, "6m", {"FlotillaClustersSilent": {}}, id="many are silent"
        ),
    ],
)
def test_what_fires_is_what_somebody_has_to_look_at(
    tmp_path: Path, changed: dict[str, str | None], after: str, fires: dict[str, dict[str, str]]
) -> None:
    series = {name: value for name, value in {**CALM, **changed}.items() if value is not None}
    rules = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    expected = []
    for name, rule in rules.items():
        annotations, labels = rule["annotations"], fires.get(name, {})
        kept = _labels(rule["expr"], series) if name in fires else {}
        summary = annotations["summary"].replace("{{ $labels.check }}", labels.get("check", ""))
        alerts = [
            {"exp_labels": {**rule["labels"], **kept, **labels}, "exp_annotations": {**annotations, "summary": summary}}
        ]
        expected.append({"eval_time": after, "alertname": name, "exp_alerts": alerts if name in fires else []})
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": f"{value}x300"} for name, value in series.items()],
                "alert_rule_test": expected,
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    promtool("test", "rules", str(file))


def _labels(expression: str, series: dict[str, str]) -> dict[str, str]:
    """Of the one series that the expression picks out by a phase: an alert has them too."""
    name, _, rest = expression.partition("{")
    label, _, value = rest.partition("}")[0].partition("=")
    return {label: value.strip('"')} if label == "phase" and f"{name}{{{label}={value}}}" in series else {}
