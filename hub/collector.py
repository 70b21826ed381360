"""How often a process of the hub looks for circles of garbage: seldom.

Nearly everything here goes when its last user does. Python looks for the rest whenever there are 700 more objects than
before, and every now and then through all that there are: with hundreds of thousands of requests, subtrees and rows
that are alive, half of the time in which a commit becomes them, and more the larger the fleet [m].
"""

import gc

_NEW, _YOUNG, _OLD = 50_000, 20, 20
"""So many more objects than before, some ten megabytes; then each so often what survived one look, and two."""


def seldom() -> None:
    """Once, when the process has loaded its code: that stays, and is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW, _YOUNG, _OLD)
