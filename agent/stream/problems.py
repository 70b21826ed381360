"""The agent's own problems: logged as they begin, told the hub as they are. Next: `report`."""

import logging

from agent.stream.report import Reporter

log = logging.getLogger(__name__)


class Problems:
    """Call it with what a problem is about and a whole sentence, "" once it is over."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._known: dict[str, str] = {}

    def __call__(self, source: str, text: str) -> None:
        if self._known.get(source, "") == text:
            return
        if text:
            log.warning("%s", text)
            self._known[source] = text
        else:
            del self._known[source]
        self._reporter.set_problems([self._known[name] for name in sorted(self._known)])
