"""One agent's stream as the hub keeps it: where its reports are, what waits to be sent, who waits for an answer.

Nothing here speaks to a socket. Of wake-ups and directives only the newest waits; what the agent said it does not
understand never does. Next: `sessions`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import anyio

from hub.agents.admission import Denial
from proto.messages import Directives, DriftDetail, DriftQuery, Message, Report, ReportRequest, WakeUp


@dataclass(frozen=True, slots=True)
class Base:
    """The newest report of a session that is safe: deltas continue from it."""

    boot_id: str
    number: int


def place(base: Base | None, report: Report) -> Literal["next", "known", "gap"]:
    """Pure: what a report is after `base`."""
    ahead = report.number - base.number if base is not None and base.boot_id == report.boot_id else None
    if ahead == 0 or (ahead is not None and ahead < 0 and not report.full):
        return "known"
    return "next" if report.full or ahead == 1 else "gap"


class Question:
    """One that a person waits for; `detail` stays None when the session ends before the answer."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.detail: DriftDetail | None = None


class Session:
    """One accepted stream. `changed` is set when there is something to send."""

    def __init__(self, *, since: float, understands: Collection[str] = ()) -> None:
        self.since = since
        self.understands = frozenset(understands)
        self.questions: dict[str, Question] = {}
        self.scope = anyio.CancelScope()
        self.denial: Denial | None = None
        self.base: Base | None = None
        self.full_asked = False
        self.changed = anyio.Event()
        self._wake: WakeUp | None = None
        self._request: ReportRequest | None = None
        self._directives: Directives | None = None
        self._queries: list[DriftQuery] = []

    def wake(self, wake: WakeUp) -> None:
        if self._wake is None or wake.seq >= self._wake.seq:
            self._wake = wake
            self.changed.set()

    def request_full(self, reason: str) -> None:
        self.base = None
        if not self.full_asked:
            self.full_asked = True
            self._request = ReportRequest(reason=reason)
            self.changed.set()

    def direct(self, directives: Directives) -> None:
        if tag(Directives) in self.understands:
            self._directives = directives
            self.changed.set()

    def ask(self, query: DriftQuery) -> Question:
        question = self.questions[query.query] = Question()
        self._queries.append(query)
        self.changed.set()
        return question

    def answered(self, detail: DriftDetail) -> None:
        """What nobody waits for any more is dropped."""
        if question := self.questions.pop(detail.query, None):
            question.detail = detail
            question.done.set()

    def took(self, report: Report) -> None:
        self.base = Base(report.boot_id, report.number)
        self.full_asked = False

    def end(self, denial: Denial) -> None:
        self.denial = denial
        self.scope.cancel()

    def take(self) -> list[Message]:
        """What waits to be sent."""
        told = (self._request, self._directives, self._wake, *self._queries)
        waiting: list[Message] = [message for message in told if message is not None]
        self._request = self._directives = self._wake = None
        self._queries = []
        self.changed = anyio.Event()
        return waiting


def tag(kind: type[Message]) -> str:
    """The name of a message on the wire."""
    return str(kind.__struct_config__.tag)
