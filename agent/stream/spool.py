"""Drift reports on disk until the hub has them, so that neither a restart nor days without the hub lose what was seen.

One file of JSON lines in the state folder: drift reports in order, and a `cut` line that says how many of the oldest
were dropped to stay within `limit`. Adding appends; the rest rewrites the file whole, so a crash leaves the old lines
or the new ones, at worst with a torn last line that is skipped. Nothing waits for the disk itself, because this runs on
the event loop: a power cut may cost the newest reports, and a full disk costs the durability (they stay in memory).
Only `report` uses this.
"""

import logging
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from proto.messages import DriftReport

FILE: Final = "drift.jsonl"
LIMIT: Final = 1000

log = logging.getLogger(__name__)


class _Cut(msgspec.Struct, frozen=True, kw_only=True):
    cut: int


_decode_fields = msgspec.json.Decoder(type=dict[str, msgspec.Raw]).decode
_decode_cut = msgspec.json.Decoder(type=_Cut).decode
_decode_drift = msgspec.json.Decoder(type=DriftReport).decode


class Spool:
    """Drift reports that the hub has not acknowledged, oldest first; `cut` counts dropped ones it was not told of."""

    def __init__(self, folder: Path, *, limit: int = LIMIT) -> None:
        self.cut = 0
        self._path = folder / FILE
        self._limit = limit
        self._waiting: OrderedDict[str, DriftReport] = OrderedDict()
        self._lines = 0
        self._load()

    @property
    def waiting(self) -> Collection[DriftReport]:
        return self._waiting.values()

    def add(self, drift: DriftReport) -> None:
        """Keep one more; an id that waits already is replaced in its place."""
        self._waiting[drift.id] = drift
        if len(self._waiting) > self._limit:
            self._waiting.popitem(last=False)
            self.cut += 1
        if self._lines >= 2 * self._limit:
            self._rewrite()
        else:
            self._append(drift)

    def drop(self, ids: Collection[str], *, cut: int) -> None:
        """Forget what the hub has: the reports with these ids, and `cut` of the dropped ones."""
        if not ids and not cut:
            return
        for drift_id in ids:
            self._waiting.pop(drift_id, None)
        self.cut -= cut
        self._rewrite()

    def _load(self) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("spool %s cannot be read (%s): what was in it is lost", self._path, error.strerror)
            return
        for line in lines:
            try:
                read = _decode_fields(line)
                if "cut" in read:
                    self.cut += _decode_cut(line).cut
                else:
                    drift = _decode_drift(line)
                    self._waiting[drift.id] = drift
            except msgspec.DecodeError:
                log.warning("spool %s has a torn line, which is left out", self._path)
        while len(self._waiting) > self._limit:
            self._waiting.popitem(last=False)
            self.cut += 1
        self._rewrite()

    def _append(self, drift: DriftReport) -> None:
        try:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(drift) + b"\n")
            self._lines += 1
        except OSError as error:
            self._not_kept(error)

    def _rewrite(self) -> None:
        lines = [msgspec.json.encode(drift) for drift in self._waiting.values()]
        if self.cut:
            lines.insert(0, msgspec.json.encode(_Cut(cut=self.cut)))
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_bytes(b"".join(line + b"\n" for line in lines))
            temporary.replace(self._path)
            self._lines = len(lines)
        except OSError as error:
            self._not_kept(error)

    def _not_kept(self, error: OSError) -> None:
        log.warning("spool %s cannot be written (%s): drift reports are in memory only", self._path, error.strerror)
