"""Changes that were not ours: `kinds` (watches) → `observe` (events) → `suspects` (which, when) → `guard` → `revert`.

`drift` has the rules: what an event means, and what a repair brought back; `findings` what is told of that, `values`
what fields were and are, `flight` which events are not to be judged, `resync` when each object is looked at without an
event. All but `guard`, `kinds`, `observe` and `revert` are pure.
"""
