"""Changes that were not ours: `kinds` (watches) → `observe` (events) → `suspects` (which, when) → `guard` → `revert`.

`drift` has the rules: what an event means, and what a repair brought back. All but `guard`, `kinds`, `revert` are pure.
"""
