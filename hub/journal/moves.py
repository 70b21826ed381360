"""What ran where, since when and until when, by which rollout: every move of every cluster, kept for ever, bundle by
bundle; and whose word that was. Blocks, and a scan of all moves takes seconds in a large fleet: for a thread.

| asked for                | what is read                                                                    |
|--------------------------|---------------------------------------------------------------------------------|
| the newest of all, or of | the moves from the newest one back, until there are enough                      |
| a bundle                 |                                                                                 |
| a cluster                | its own moves                                                                   |
| what ran at a moment     | all moves until then, of the cluster if there is one; the newest of each bundle |

Next: `journal`, which writes them.
"""

import json
from collections.abc import Collection

from hub.journal.audit import Audit
from hub.journal.rows import AuditRow, OriginRow, RanRow
from proto.ids import BundleName, ClusterName, Oid, RolloutId

_CAUSES = """
SELECT moves.rowid AS place, cluster, seq, time_s,
    json_extract(each.value, '$[0]') AS bundle, json_extract(each.value, '$[1]') AS subtree,
    json_extract(each.value, '$[2]') AS rollout, json_extract(each.value, '$[3]') AS wave
FROM moves, json_each(CAST(causes AS TEXT)) AS each
"""
_OTHERS = f"FROM ({_CAUSES}) AS other WHERE other.cluster = ran.cluster AND other.bundle = ran.bundle"
_TOLD = f"""
SELECT ran.*,
    coalesce((SELECT other.time_s {_OTHERS} AND other.seq > ran.seq ORDER BY other.seq LIMIT 1), 0),
    EXISTS (SELECT 1 {_OTHERS} AND other.seq < ran.seq AND other.rollout = ran.rollout),
    coalesce((
        SELECT other.rollout {_OTHERS} AND other.seq < ran.seq AND other.subtree = ran.subtree
        ORDER BY other.seq LIMIT 1
    ), '')
FROM ran ORDER BY place, bundle
"""
"""A second move of a rollout on a cluster is its way back, to what came there with an earlier one."""
_MADE = """
WITH made AS MATERIALIZED (
    SELECT id, iif(json_valid(CAST(state AS TEXT)), json_extract(CAST(state AS TEXT),
        '$.value.rollout.bundles', '$.value.rollout.revision', '$.value.rollout.made_at',
        '$.value.rollout.author', '$.value.rollout.subject'), '[]') AS told
    FROM rollouts JOIN begins ON begins.rollout = number WHERE id IN (SELECT value FROM json_each(?))
)
SELECT made.id, each.value, json_extract(told, '$[1]'), json_extract(told, '$[2]'),
    coalesce(json_extract(told, '$[3]'), ''), coalesce(json_extract(told, '$[4]'), '')
FROM made, json_each(told, '$[0]') AS each
"""
"""What a rollout began as is large, so it is read once."""


class Moves(Audit):
    """Reads of the table `moves`, with whose word they were."""

    def ran(self, *, cluster: str = "", bundle: str = "", at_s: float | None = None, limit: int = 200) -> list[RanRow]:
        """What the newest moves brought, oldest first; with `at_s` (Unix seconds) what ran then. "" matches all."""
        # One cluster's moves have an index, which an OR would not use.
        where = f"WHERE {'cluster = ?1' if cluster else '?1 = ?1'} AND (?2 = '' OR bundle = ?2)"
        found = f"{_CAUSES} {where} ORDER BY place DESC LIMIT ?3"
        if at_s is not None:
            newest = f"SELECT *, max(seq) FROM ({_CAUSES} {where} AND time_s <= ?4) GROUP BY cluster, bundle"
            found = f"""SELECT place, cluster, seq, time_s, bundle, subtree, rollout, wave FROM ({newest})
                WHERE subtree != '' ORDER BY place DESC LIMIT ?3"""
        moment = () if at_s is None else (at_s,)
        rows = self._read_aside(f"WITH ran AS MATERIALIZED ({found}) {_TOLD}", cluster, bundle, limit, *moment)
        return [
            RanRow(
                cluster=ClusterName(name),
                seq=seq,
                since_s=since_s,
                until_s=until_s,
                bundle=BundleName(of),
                subtree=Oid(subtree),
                rollout=RolloutId(rollout),
                wave=wave,
                back=bool(back),
                work_of=RolloutId(earlier if back else rollout),
            )
            for _, name, seq, since_s, of, subtree, rollout, wave, until_s, back, earlier in rows
        ]

    def origins(self, rollouts: Collection[RolloutId]) -> dict[RolloutId, OriginRow]:
        """Whose commit each rollout brought, and the words that people gave to it; one without a commit of its own has
        the word by which it began."""
        rows = self._read_aside(_MADE, json.dumps(list(rollouts)))
        words = self.words_to(rollouts, bundles={bundle for _, bundle, *_ in rows})
        found: dict[RolloutId, OriginRow] = {}
        for id_, bundle, revision, made_s, author, subject in rows:
            told = [word for word in words if word.rollout == id_]
            if not author:
                told = [*_began(words, bundle, made_s), *told]
            made = OriginRow(revision=Oid(revision), author=author, subject=subject, words=tuple(told))
            found.setdefault(RolloutId(id_), made)
        return found


def _began(words: Collection[AuditRow], bundle: str, made_s: float) -> list[AuditRow]:
    """The word by which a rollout of the bundle began that goes back to an earlier revision."""
    asked = [word for word in words if not word.rollout and bundle in word.word.bundles and word.time_s <= made_s]
    return asked[-1:]
