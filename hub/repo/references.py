"""References to variables as they are written: `${name}`, in sources and in bundle.yaml.

| name                      | what it is                                                  |
|---------------------------|-------------------------------------------------------------|
| `domain`, `_x1`           | a variable of Fleet, Bundle, variant or Cluster             |
| `cluster.name`            | the cluster's name                                          |
| `cluster.labels.KEY`      | the cluster's label; KEY may be `example.org/tier`          |

`mentioned` says which names files can be about, so that clusters which differ in other variables share one render. It
may say too much, never too little: a text that could spell a reference otherwise mentions every variable. Pure. Next:
`targets` makes inputs of them, `render.variables` fills them in.
"""

import codecs
import re
from collections.abc import Iterable

EVERY = "*"
"""Stands for every variable, but not for what a cluster is called and labelled, which would part it from all others."""
CLUSTER_NAME = "cluster.name"
LABEL = "cluster.labels."
NAME = r"cluster\.name|cluster\.labels\.[A-Za-z0-9][-A-Za-z0-9_./]*|[A-Za-z_][A-Za-z0-9_]*"

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MENTION = re.compile(rb"\$\{(%s)" % NAME.encode())
_SPELLED = re.compile(rb"\\(?:u0024|x24|U00000024|u007[bB]|x7[bB]|U0000007[bB])")
"""`$` or `{` in an escape of YAML or JSON."""


def mentioned(texts: Iterable[bytes]) -> frozenset[str]:
    """Pure: the names that the texts' references can have, with EVERY when that can be any variable."""
    found: set[bytes] = set()
    for text in texts:
        if text.startswith(_UTF16):
            text += text.decode("utf-16", "replace").encode()
        if _SPELLED.search(text):
            found.add(EVERY.encode())
        if b"${" in text:
            found.update(_MENTION.findall(text))
    return frozenset(name.decode() for name in found)
