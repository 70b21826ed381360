"""What several kinds of the fleet repo share."""

import re

METADATA = ("name", "labels", "annotations")
ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
"""A service account's name."""
