"""Names and ids, and what each may look like."""

import re
from typing import NewType

from proto.errors import InvalidInput

ClusterName = NewType("ClusterName", str)
BundleName = NewType("BundleName", str)
Oid = NewType("Oid", str)
"""Git object id: 40 lower-case hex digits."""
RolloutId = NewType("RolloutId", str)
"""`<bundle>-<n>`, n counted per hub; sorts by age within a bundle only when compared as a number."""

NO_OID = Oid("0" * 40)

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_OID = re.compile(r"[0-9a-f]{40}")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it is a DNS label (RFC 1123), which is safe in refs, paths, labels and URLs.

    Raises InvalidInput.
    """
    if _DNS_LABEL.fullmatch(name) is None:
        raise InvalidInput(
            f"{kind} {name[:80]!r}",
            "is not a valid name",
            "use at most 63 lower-case letters, digits and '-', starting and ending with a letter or digit",
        )
    return name


def is_oid(text: str) -> bool:
    return _OID.fullmatch(text) is not None


def slice_ref(cluster: str) -> str:
    """The ref of the hub's slice repository that holds one cluster's slice."""
    return f"refs/heads/clusters/{cluster}"
