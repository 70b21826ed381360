"""What a render says, as findings: its errors and warnings are texts that begin with their place. Pure.

| the text begins with                                    | the finding's place           |
|---------------------------------------------------------|-------------------------------|
| a file of the bundle's folder, maybe with a line, or    | that                          |
| the folder that Kustomize built                         |                               |
| anything else: the folder itself, a limit, a worker     | the bundle's own file         |

Next: `desired` and the commands that work on a checkout tell them.
"""

from hub.model import Bundle, Finding
from proto.errors import FlotillaError


def of_error(error: FlotillaError, bundle: Bundle) -> Finding:
    """Pure: why the bundle does not render. `bundle shop: file:line: object` is the thing of such an error."""
    where, thing = _placed(error.thing.removeprefix(f"bundle {bundle.name}").removeprefix(": "), bundle)
    message = f"{thing}: {error.cause}" if thing else error.cause
    return Finding(where=where, message=message, remedy=error.remedy, about=f"bundle {bundle.name}")


def of_warning(text: str, bundle: Bundle) -> Finding:
    """Pure: what a render warns of."""
    where, message = _placed(text, bundle)
    return Finding(where=where, message=message, severity="warning", about=f"bundle {bundle.name}")


def _placed(text: str, bundle: Bundle) -> tuple[str, str]:
    place, _, rest = text.partition(": ")
    if place.startswith((f"{bundle.folder}/", f"{bundle.folder} (")):
        return place, rest
    return bundle.where or bundle.folder, rest if place == bundle.folder else text
