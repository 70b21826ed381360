"""Many seeds of the simulated fleet, on all processors: `make soak SEEDS=20000 FROM=1000`.

Says how far it is each few seconds, and which seed breaks which rule, and how to play it again. Exit code 1 then. A
seed that takes more than `SEED_CPU_S` is broken too: something in it goes round for ever. After `--minutes` no further
seeds are begun.
"""

import argparse
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from types import FrameType

from tests.sim.world import World

TOLD_S = 5.0
CHUNK = 25
SEED_CPU_S = 60.0
"""Of the processor, however busy the machine is; a seed needs half a second."""


class Endless(Exception):
    """A seed that does not end."""


@contextmanager
def bounded(cpu_s: float, world: World) -> Iterator[None]:
    """Raises Endless in the midst of what takes longer. For the main thread of a process."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Endless(f"no end after {cpu_s:g} s of the processor, {world.now - world.began_at:.0f} s into its story")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def play(
    seeds: range, *, cpu_s: float = SEED_CPU_S, until_s: float = math.inf
) -> tuple[int, Counter[str], list[tuple[int, str]]]:
    """How many of these seeds were played until then (`time.monotonic`), what happened in them, which broke a rule."""
    seen: Counter[str] = Counter()
    broken, played = [], 0
    for seed in seeds:
        if time.monotonic() > until_s:
            break
        world = World(seed)
        try:
            with bounded(cpu_s, world):
                world.run()
        except Exception as error:
            broken.append((seed, f"{type(error).__name__}: {error}"))
        seen += world.seen
        played += 1
    return played, seen, broken


def replay(seed: int) -> str:
    """Pure: the command that plays one seed again."""
    return f"FLOTILLA_SIM_SEED={seed} {os.path.relpath(sys.executable)} -m pytest tests/property/test_rollouts_sim.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5000)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no further seeds after so long")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args()
    last, began_s, told_s, done, broken = options.first + options.seeds, time.monotonic(), 0.0, 0, 0
    until_s = began_s + 60 * options.minutes if options.minutes else math.inf
    total: Counter[str] = Counter()
    with ProcessPoolExecutor(options.jobs) as pool:
        chunks = [
            pool.submit(play, range(start, min(start + CHUNK, last)), until_s=until_s)
            for start in range(options.first, last, CHUNK)
        ]
        for chunk in as_completed(chunks):
            played, seen, found = chunk.result()
            total += seen
            done += played
            broken += len(found)
            for seed, why in found:
                print(f"seed {seed} breaks a rule: {why}\n  {replay(seed)}", flush=True)
            if played and time.monotonic() - told_s > TOLD_S:
                told_s = time.monotonic()
                print(f"{done} of {options.seeds} seeds, {broken} broken, {told_s - began_s:.0f} s", flush=True)
    print(f"{done} of {options.seeds} seeds, {broken} broken, {time.monotonic() - began_s:.0f} s")
    print(", ".join(f"{times} {what}" for what, times in total.most_common()))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
