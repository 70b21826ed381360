"""How fast `flotilla simulate` is: a week of ten thousand clusters that fail, fall silent and flap."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from click.testing import CliRunner

from hub.cli import main

CLUSTERS: Final = 10_000
POLICY: Final = """
apiVersion: flotilla.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: careful}
spec:
  waves:
    - {name: canary, select: {matchLabels: {canary: "true"}}, soak: 30m, offlineBudget: 20%}
    - {name: eu, select: {matchLabels: {region: eu}}, maxConcurrent: 25%, soak: 5m, gates: [{approval: {}}]}
  failure: {budget: 10%, deadline: 10m}
"""
ODDS: Final = ("--bad", "10%", "--fail", "1%", "--offline", "5%", "--flap", "1%", "--approval", "30m..8h")


def measure(*, clusters: int = CLUSTERS) -> list[dict[str, Any]]:
    """Seconds for the week, and how often a second the rules were asked."""
    with tempfile.TemporaryDirectory(prefix="flotilla-bench-") as folder:
        policy = Path(folder) / "careful.yaml"
        policy.write_text(POLICY)
        args = ["--policy", str(policy), "--fleet", folder, "--clusters", str(clusters), "--days", "7", *ODDS]
        started = time.monotonic()
        result = CliRunner().invoke(main, ["simulate", *args, "-o", "json"])
        took_s = time.monotonic() - started
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    what = f"flotilla simulate --clusters {clusters} --days 7"
    detail = {"rollouts": made["rollouts"]["made"], "decisions": made["decisions"]}
    return [
        {"what": what, "value": round(took_s, 1), "unit": "s", "detail": detail},
        {"what": f"{what}: decisions", "value": round(made["decisions"] / took_s), "unit": "per second"},
    ]
