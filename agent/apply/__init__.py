"""From a slice to the cluster: `order` → `plan` (both pure) → `reconcile`, which uses `parents`, `apply`, `prune`."""
