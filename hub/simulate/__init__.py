"""A fleet on a virtual clock, driven by the very rules of the hub: what a rollout policy costs, and what it saves.

`fleets` makes the fleet, `chance` draws what happens to it, `world` runs it, `ledger` keeps what each rollout waited
for, `figures` counts, `picture` draws. Nothing here asks a hub or a cluster.
"""
