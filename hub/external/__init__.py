"""Sources outside the fleet repo: each resolved to a digest, fetched once for the fleet, kept as a Git tree."""
