"""How long to wait before the next try of something that fails."""

import random
from collections.abc import Iterator


def delays(*, first_s: float, longest_s: float) -> Iterator[float]:
    """Seconds, without end: twice as long each time up to `longest_s`, with jitter, so that not all try together."""
    ceiling = first_s
    while True:
        yield random.uniform(ceiling / 2, ceiling)
        ceiling = min(ceiling * 2, longest_s)
