"""Many seeds of the simulated fleet, on all processors: `make soak SEEDS=20000 FROM=1000`.

Says how far it is each few seconds, and which seed breaks which rule, and how to play it again. Exit code 1 then.
"""

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.sim.world import World

TOLD_S = 5.0
CHUNK = 25


def play(seeds: range) -> tuple[Counter[str], list[tuple[int, str]]]:
    """What happened in these seeds, and which broke a rule."""
    seen: Counter[str] = Counter()
    broken = []
    for seed in seeds:
        world = World(seed)
        try:
            world.run()
        except Exception as error:
            broken.append((seed, f"{type(error).__name__}: {error}"))
        seen += world.seen
    return seen, broken


def replay(seed: int) -> str:
    """Pure: the command that plays one seed again."""
    return f"FLOTILLA_SIM_SEED={seed} {os.path.relpath(sys.executable)} -m pytest tests/property/test_rollouts_sim.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5000)
    parser.add_argument("--from", dest="first", type=int, default=0)
    options = parser.parse_args()
    last, began_s, told_s, done, broken = options.first + options.seeds, time.monotonic(), 0.0, 0, 0
    total: Counter[str] = Counter()
    with ProcessPoolExecutor() as pool:
        chunks = {
            pool.submit(play, seeds): len(seeds)
            for start in range(options.first, last, CHUNK)
            if (seeds := range(start, min(start + CHUNK, last)))
        }
        for chunk in as_completed(chunks):
            seen, found = chunk.result()
            total += seen
            done += chunks[chunk]
            broken += len(found)
            for seed, why in found:
                print(f"seed {seed} breaks a rule: {why}\n  {replay(seed)}", flush=True)
            if time.monotonic() - told_s > TOLD_S or done == options.seeds:
                told_s = time.monotonic()
                print(f"{done} of {options.seeds} seeds, {broken} broken, {told_s - began_s:.0f} s", flush=True)
    print(", ".join(f"{times} {what}" for what, times in total.most_common()))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
