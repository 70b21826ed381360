"""The record of a rollout in words: `why` reads it, `members` says what became of a cluster, `waiting` what was waited
for, `now` why nothing moves at this moment. Pure, like all of `rollout`, and nothing decides by it.
"""
