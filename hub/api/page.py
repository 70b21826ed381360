"""`GET /`: the status page, one file with its own style and script, which reads `/api/v1/stream` and nothing else.

The browser is told to run exactly what this file holds (hashes, no `unsafe-inline`), to load nothing from anywhere, and
to show the page in no frame. Texts from the fleet reach the page as JSON and are set as text, never as HTML.
"""

import base64
import hashlib
import re
from pathlib import Path

from aiohttp import web

FILE = Path(__file__).parent / "static/status.html"


class Page:
    """The page and the headers that go with it, read once."""

    def __init__(self) -> None:
        self.html = FILE.read_text(encoding="utf-8")
        self.headers = {
            "Content-Security-Policy": _policy(self.html),
            "Cache-Control": "no-cache",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Opener-Policy": "same-origin",
        }

    async def handler(self, request: web.Request) -> web.Response:
        return web.Response(text=self.html, content_type="text/html", headers=self.headers)


def _policy(html: str) -> str:
    """What a browser may do with the page: its own inline parts by hash, and requests to this hub."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(html, 'script')}",
            f"style-src {_hashes(html, 'style')}",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _hashes(html: str, tag: str) -> str:
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(p.encode()).digest()).decode()}'" for p in parts)
