"""Rollouts, pure: which begin (`waves`, `exchange`), and what each does next (`rollouts` and the modules it uses).

`transitions` has the tables and the invariants, `proof` says what a report proves, `rollback` is the way back,
`suspension` who stands still, `turn` one call of `decide`, `rollouts_json` the bytes for the journal.
"""
