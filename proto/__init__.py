"""What crosses the wire between hub and agent, and nothing else.

`errors` (one tree) → `ids` (names) → `objects` (keys, canonical JSON, Git ids) → `slices` (the tree an agent
pulls) → `messages` (what the stream carries) → `wire` (bytes) → `identity` (who is who) → `keyfile` (where each half
keeps its own key) → `telemetry` (names, ids of traces). Nothing here imports `agent` or `hub`.
"""
