"""What a test does to a Kubernetes API server by itself: the real one (`real`) or a simulated one (`simulated`)."""

import json
import ssl
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Kube(ABC):
    """One API server. `kubeconfig` is an administrator's; `call` and `edit` are what a test does itself."""

    url: str
    token: str
    kubeconfig: Path

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        token: str | None = None,
    ) -> tuple[int, Any]:
        """One request by an administrator (or `token`): (status, parsed body)."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token or self.token}", "Content-Type": content_type},
        )
        try:
            with urllib.request.urlopen(request, timeout=30, context=unverified()) as response:
                status, data = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, data = error.code, error.read()
            error.close()
        try:
            return status, json.loads(data)
        except ValueError:
            return status, data.decode(errors="replace")

    def must(self, method: str, path: str, body: Any = None, *, content_type: str = "application/json") -> Any:
        """Like `call`, but anything beyond 2xx fails the test."""
        status, answer = self.call(method, path, body, content_type=content_type)
        assert 200 <= status < 300, f"{method} {path}: {status} {answer}"
        return answer

    def edit(self, path: str, patch: Any, *, manager: str = "kubectl-edit", kind: str = "merge") -> Any:
        """A hand edit: a merge or JSON patch as `kubectl edit` or `kubectl patch` would send."""
        query = "&" if "?" in path else "?"
        return self.must(
            "PATCH", f"{path}{query}fieldManager={manager}", patch, content_type=f"application/{kind}-patch+json"
        )

    def remove(self, namespace: str) -> None:
        """Delete a namespace, at once what the next test's agent would find in it and take for its bundle's: a real
        server takes seconds for the rest."""
        for kind in ("configmaps", "secrets"):
            self.call("DELETE", f"/api/v1/namespaces/{namespace}/{kind}")
        self.call("DELETE", f"/api/v1/namespaces/{namespace}")

    @abstractmethod
    def restart(self) -> None:
        """Kill the API server and start it again on the same port and data."""

    @abstractmethod
    def stop(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


@cache
def unverified() -> ssl.SSLContext:
    """One for all requests: to make one reads every certificate of the machine."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
