"""What the benches share: CPU time and memory of a process, from /proc, and percentiles."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

USER_AGENT: Final = "flotilla-agent"
"""How the API server's audit log knows the agent."""


def cpu_s(pid: int) -> float:
    """User and system time of a process, of its children, and of those that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    total = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread or child that ends meanwhile
            total += sum(cpu_s(int(child)) for child in (task / "children").read_text().split())
    return total


def memory_mb(pid: int) -> tuple[float, float]:
    """(resident now, its peak)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    resident, peak = (int(sizes[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return resident, peak


def own_mb(pid: int) -> float:
    """What is resident of its own: without files that it has mapped (packs), which the kernel may drop."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["RssAnon"].split()[0]) / 1024


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
