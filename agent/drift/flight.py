"""Which events are not to be judged, because a write of ours is under way or was answered since.

An event of our own write usually comes before its response: judged then, against the old baseline, it would be a
suspicion. And what others did before our write was answered is undone by it, but its event may come after: judged
then, it would be told twice. Pure but for what it remembers. Next: `observe` judges the rest.
"""

from collections import Counter

from agent.model import Baseline, WatchEvent
from proto.objects import ObjectKey


class Flight:
    """Which objects have a write of ours under way: `begin`, write, take over the new baseline, `end`, and judge what
    `end` returns."""

    def __init__(self) -> None:
        self._writes: Counter[ObjectKey] = Counter()
        self._kept: dict[ObjectKey, WatchEvent] = {}
        self._answered: dict[ObjectKey, int] = {}

    def begin(self, key: ObjectKey) -> None:
        self._writes[key] += 1

    def keeps(self, key: ObjectKey, event: WatchEvent) -> bool:
        """Whether an event is not to be judged now: a write of its object is under way (the event is kept, in place of
        an earlier one), or it is older than the answer to the last one (it is dropped)."""
        if key in self._writes:
            self._kept[key] = event
            return True
        return self._is_old(key, event)

    def end(self, key: ObjectKey, answer: Baseline | None = None) -> WatchEvent | None:
        """The write was answered, or failed (`answer` None). Returns the event to judge once no other write of the
        object is under way."""
        if answer is not None and answer.resource_version.isdecimal():
            self._answered[key] = int(answer.resource_version)
        self._writes[key] -= 1
        if self._writes[key] > 0:
            return None
        del self._writes[key]
        event = self._kept.pop(key, None)
        return None if event is None or self._is_old(key, event) else event

    def restarted(self, group: str, kind: str) -> None:
        """A watch began anew: only now may resourceVersions be lower than before (a restored etcd), so none is old."""
        self._answered = {key: at for key, at in self._answered.items() if (key.group, key.kind) != (group, kind)}

    def _is_old(self, key: ObjectKey, event: WatchEvent) -> bool:
        answered = self._answered.get(key)
        version = str(event.object["metadata"].get("resourceVersion", ""))
        if answered is None or not version.isdecimal():
            return False
        if int(version) < answered:
            return True
        # The watch has caught up with our write; everything after this is news.
        del self._answered[key]
        return False
