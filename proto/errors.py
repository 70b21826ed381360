"""The error tree: whether to try again is a class, and a message names the thing, the cause and the remedy.

Every boundary (Kubernetes, Git, HTTP, database) raises one of these `from` the error it met.
"""


class FlotillaError(Exception):
    """Root of all our errors.

    `thing` is what it is about (`Deployment/shop/web`, `cluster eu-1`, `bundles/shop/bundle.yaml:4`), `cause` what
    happened, `remedy` what a person can do, or "" when nothing is to be done.
    """

    def __init__(self, thing: str, cause: str, remedy: str = "") -> None:
        super().__init__(thing, cause, remedy)
        self.thing = thing
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.thing}: {self.cause}" if self.thing else self.cause
        return f"{text} ({self.remedy})" if self.remedy else text


class Transient(FlotillaError):
    """May succeed when tried again; `retry_after_s` is the least wait that the other side asked for."""

    def __init__(self, thing: str, cause: str, remedy: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(thing, cause, remedy)
        self.retry_after_s = retry_after_s


class Permanent(FlotillaError):
    """Trying the same again cannot succeed; something has to change first."""


class InvalidInput(Permanent):
    """Something that a person wrote (fleet repo, flag, manifest) is not valid."""


class Refused(Permanent):
    """The other side knows what we want and says no (credentials, rights, a used token)."""


class ProtocolError(Permanent):
    """A message or a Git object is not what the protocol allows."""


class UnsupportedVersion(ProtocolError):
    """A message or slice is of a newer format than this build knows."""


class TooLarge(ProtocolError):
    """A message or object is beyond its size limit."""
