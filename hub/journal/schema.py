"""The tables of the journal, version by version. Next: `database` brings a file up to the newest."""

_TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE slices(
    cluster TEXT PRIMARY KEY, seq INTEGER NOT NULL, commit_id TEXT NOT NULL, time_s INTEGER NOT NULL,
    manifest BLOB NOT NULL
) STRICT;
CREATE TABLE moves(
    cluster TEXT NOT NULL, seq INTEGER NOT NULL, old_commit TEXT NOT NULL, new_commit TEXT NOT NULL,
    time_s INTEGER NOT NULL, causes BLOB NOT NULL, PRIMARY KEY(cluster, seq)
) STRICT;
CREATE INDEX moves_by_commit ON moves(new_commit);
CREATE TABLE rollouts(
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, phase TEXT NOT NULL, alive INTEGER NOT NULL,
    state BLOB NOT NULL
) STRICT;
CREATE INDEX rollouts_alive ON rollouts(alive) WHERE alive = 1;
CREATE TABLE last_good(
    cluster TEXT NOT NULL, bundle TEXT NOT NULL, subtree TEXT NOT NULL, PRIMARY KEY(cluster, bundle)
) STRICT;
CREATE TABLE completed(
    bundle TEXT NOT NULL, cluster TEXT NOT NULL, subtree TEXT NOT NULL, PRIMARY KEY(bundle, cluster)
) STRICT;
CREATE TABLE holds(
    bundle TEXT PRIMARY KEY, rollout TEXT NOT NULL, reason TEXT NOT NULL, time_s REAL NOT NULL, refused BLOB NOT NULL
) STRICT;
CREATE TABLE renders(
    key TEXT PRIMARY KEY, bundle TEXT NOT NULL, subtree TEXT NOT NULL, revision TEXT NOT NULL
) STRICT;
CREATE INDEX renders_by_subtree ON renders(subtree);
CREATE TABLE join_tokens(
    id TEXT PRIMARY KEY, cluster TEXT NOT NULL, mac_key BLOB NOT NULL, expires_s REAL NOT NULL, used_s REAL,
    used_by TEXT
) STRICT;
CREATE TABLE agents(cluster TEXT PRIMARY KEY, public_key TEXT NOT NULL, enrolled_s REAL NOT NULL) STRICT;
CREATE TABLE events(
    id INTEGER PRIMARY KEY AUTOINCREMENT, time_s REAL NOT NULL, kind TEXT NOT NULL, cluster TEXT NOT NULL,
    bundle TEXT NOT NULL, rollout TEXT NOT NULL, text TEXT NOT NULL, data BLOB NOT NULL, dedup TEXT UNIQUE
) STRICT;
"""
_DIRECTIVES = """
CREATE TABLE directives(
    kind TEXT NOT NULL, cluster TEXT NOT NULL, bundle TEXT NOT NULL, why TEXT NOT NULL, time_s REAL NOT NULL,
    value REAL NOT NULL, PRIMARY KEY(kind, cluster, bundle)
) STRICT;
"""
_NOTES = """
CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;
ALTER TABLE renders ADD COLUMN notes INTEGER;
CREATE INDEX renders_by_notes ON renders(notes) WHERE notes IS NOT NULL;
CREATE TRIGGER notes_go_with_their_renders AFTER DELETE ON renders
WHEN old.notes IS NOT NULL AND NOT EXISTS (SELECT 1 FROM renders WHERE notes = old.notes)
BEGIN DELETE FROM notes WHERE id = old.notes; END;
"""
"""Many clusters' renders say the same, so each text is there once."""
_PINS = """
CREATE TABLE pins(
    bundle TEXT PRIMARY KEY, folder TEXT NOT NULL, source TEXT NOT NULL, revision TEXT NOT NULL, digest TEXT NOT NULL,
    tree TEXT NOT NULL, time_s REAL NOT NULL
) STRICT;
"""
_STEPS = """
CREATE TABLE begins(rollout INTEGER PRIMARY KEY, state BLOB NOT NULL) STRICT;
INSERT INTO begins SELECT number, state FROM rollouts;
CREATE TABLE wholes(rollout INTEGER PRIMARY KEY, n INTEGER NOT NULL, state BLOB NOT NULL) STRICT;
CREATE TABLE steps(
    rollout INTEGER NOT NULL, n INTEGER NOT NULL, step BLOB NOT NULL, PRIMARY KEY(rollout, n)
) STRICT, WITHOUT ROWID;
ALTER TABLE rollouts DROP COLUMN state;
"""
"""The record of a rollout that is older begins with the state that it had then."""
_AUDIT = """
CREATE TABLE audit(
    id INTEGER PRIMARY KEY AUTOINCREMENT, time_s REAL NOT NULL, actor TEXT NOT NULL, role TEXT NOT NULL,
    verb TEXT NOT NULL, reason TEXT NOT NULL, clusters TEXT NOT NULL, bundles TEXT NOT NULL, rollout TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit(time_s);
INSERT INTO audit(time_s, actor, role, verb, reason, clusters, bundles, rollout, text)
SELECT time_s, '', '', kind, '', iif(cluster = '', '[]', json_array(cluster)),
    iif(bundle = '', '[]', json_array(bundle)), rollout, text
FROM events WHERE kind IN ('command', 'released', 'join-token') ORDER BY id;
"""
"""The words that an older hub kept as events come along, as far as they are still there: their text has it all."""
_OUTBOX = """
CREATE TABLE outbox(
    id INTEGER PRIMARY KEY AUTOINCREMENT, receiver TEXT NOT NULL, message TEXT NOT NULL, gravity INTEGER NOT NULL,
    time_s REAL NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE INDEX outbox_by_receiver ON outbox(receiver, id);
CREATE TABLE outbox_lost(receiver TEXT PRIMARY KEY, many INTEGER NOT NULL) STRICT;
"""


def revision_rows(where: str = "") -> str:
    """The statement that notes which rollouts (those of `where`) brought which revision of a bundle: by what they began
    as, which nobody can read but as JSON."""
    text = "iif(json_valid(CAST(state AS TEXT)), CAST(state AS TEXT), '{}')"
    return f"""
WITH begun AS MATERIALIZED (SELECT rollout, {text} AS text FROM begins {where})
INSERT OR IGNORE INTO revisions
SELECT each.value, begun.rollout, json_extract(begun.text, '$.value.rollout.revision'),
    json_extract(begun.text, '$.value.rollout.made_at')
FROM begun, json_each(begun.text, '$.value.rollout.bundles') AS each"""


_KEEPS = f"""
ALTER TABLE holds ADD COLUMN keep BLOB NOT NULL DEFAULT (x'6e756c6c');
CREATE TABLE revisions(
    bundle TEXT NOT NULL, number INTEGER NOT NULL, revision TEXT NOT NULL, made_s REAL NOT NULL,
    PRIMARY KEY(bundle, number)
) STRICT, WITHOUT ROWID;
{revision_rows()};
"""
SCHEMAS = (_TABLES, _DIRECTIVES, _NOTES, _PINS, _STEPS, _AUDIT, _OUTBOX, _KEEPS)
"""What each schema version adds to the one before; a released one never changes."""
SCHEMA = len(SCHEMAS)
