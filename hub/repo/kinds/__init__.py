"""The kinds of the fleet repo, each from a `Section` of its document to its value in `model`.

What is wrong becomes a finding of the section; the value that is returned then has defaults in those places and is
not to be used. Fields of the design that are not carried out yet are refused, never ignored. Next: `fleet`.
"""

from hub.repo.kinds.bundles import bundle, health_checks
from hub.repo.kinds.clusters import cluster, cluster_table
from hub.repo.kinds.fleets import fleet
from hub.repo.kinds.policies import policy

__all__ = ["bundle", "cluster", "cluster_table", "fleet", "health_checks", "policy"]
