"""Random edits of live objects, and the truth about each: `kinds` (a slice) → `edits` → `runner` → `truth`.

`tests/contract/test_drift_fuzz.py` and `test_twice.py` run them.
"""
