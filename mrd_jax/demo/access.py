# SPDX-License-Identifier: Apache-2.0
"""Who may use the server, and how often: tokens, rate limits and CORS."""

import dataclasses
import hashlib
import math
import os
import stat
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from starlette import datastructures, requests, responses, types

# Shortest token: 128 bits as base64 have 22 characters.
MIN_TOKEN = 20
# Query parameters that other programs send tokens in.
_TOKEN_NAMES = ("token", "access_token", "api_key", "apikey", "key", "authorization", "bearer")
# Paths that need no token: a supervisor asks whether the process is alive.
_OPEN = ("/healthz",)
# Paths whose requests count towards the limit of a client: those that use a model or the index.
_COUNTED = ("/api/v1/", "/api/find", "/api/classify", "/api/uploads", "/api/map", "/api/list")
# Clients that are remembered; those that were idle longest are forgotten first.
_MAX_CLIENTS = 10_000


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is allowed.

    Attributes:
      tokens: SHA-256 of each token; () if no token is needed, and nothing can be added.
      public: whether only changes of the index need a token.
      per_minute: requests of a client per minute; 0 for any number.
      origins: origins of pages whose scripts may use the API, such as https://shop.example.
    """

    tokens: tuple[bytes, ...] = ()
    public: bool = False
    per_minute: float = 0
    origins: Sequence[str] = ()

    def accepts(self, token: str) -> bool:
        """Returns whether a token is one of those of the file."""
        # Comparing digests takes the same time wherever they differ.
        return hashlib.sha256(token.encode()).digest() in self.tokens


def read_tokens(path: Path) -> tuple[bytes, ...]:
    """Reads a file with one token per line; empty lines and lines with # are skipped.

    Raises:
      OSError: the file cannot be read.
      ValueError: other users may read it, it has no token, or a token is too short to be safe.
    """
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
        raise ValueError(f"--token_file {path}: every user may read it; run chmod o= {path}")
    lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens:
        raise ValueError(f"--token_file {path} has no token; expected one per line")
    if short := [number for number, token in enumerate(tokens, 1) if len(token) < MIN_TOKEN]:
        raise ValueError(
            f"--token_file {path}: token {short[0]} has less than {MIN_TOKEN} characters; make one "
            'with python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    return tuple(hashlib.sha256(token.encode()).digest() for token in tokens)


class Access:
    """ASGI middleware that refuses requests against the `Rules`, before their bodies are read.

    Args:
      app: application to wrap.
      rules: what is allowed.
    """

    def __init__(self, app: types.ASGIApp, rules: Rules):
        self._app = app
        self._rules = rules
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    async def __call__(self, scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        """Implements the ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = requests.Request(scope)
        origin = request.headers.get("origin", "")
        allowed = origin in self._rules.origins and scope["path"].startswith("/api/v1/")
        if allowed and request.method == "OPTIONS":
            refusal: responses.Response | None = responses.Response(status_code=204)
        else:
            refusal = self._refusal(request)

        async def send_with_cors(message: types.Message) -> None:
            if message["type"] == "http.response.start" and allowed:
                headers = datastructures.MutableHeaders(scope=message)
                headers["Access-Control-Allow-Origin"] = origin
                headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
                headers["Access-Control-Allow-Methods"] = "GET, POST"
                headers.add_vary_header("Origin")
            await send(message)

        await (refusal or self._app)(scope, receive, send_with_cors)

    def _refusal(self, request: requests.Request) -> responses.Response | None:
        """Returns the response to a request that is not allowed, None if it is."""
        for name, value in request.query_params.multi_items():
            if name.lower() in _TOKEN_NAMES or self._rules.accepts(value):
                return _error(
                    400,
                    "a token in an address ends up in logs and histories, and is refused. Send it "
                    "in the header Authorization: Bearer TOKEN, and replace this one",
                )
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        has_token = scheme.lower() == "bearer" and self._rules.accepts(token.strip())
        if request.url.path.startswith(_COUNTED):
            client = token if has_token else (request.client.host if request.client else "")
            if wait := self._take(client):
                message = f"more than {self._rules.per_minute:g} requests per minute; wait {wait} s"
                return _error(429, message, {"Retry-After": str(wait)})
        if self._needs_token(request) and not has_token:
            message = "a valid token is needed: send the header Authorization: Bearer TOKEN"
            return _error(401, message, {"WWW-Authenticate": "Bearer"})
        return None

    def _needs_token(self, request: requests.Request) -> bool:
        if not self._rules.tokens or request.url.path in _OPEN:
            return False
        is_change = request.method == "POST" and request.url.path == "/api/v1/shapes"
        return is_change or not self._rules.public

    def _take(self, client: str) -> int:
        """Counts a request of a client; returns the seconds to wait if there were too many."""
        rate = self._rules.per_minute / 60
        if not rate:
            return 0
        with self._lock:
            now = time.monotonic()
            left, last = self._buckets.pop(client, (self._rules.per_minute, now))
            left = min(left + (now - last) * rate, self._rules.per_minute)
            self._buckets[client] = (max(left - 1, 0) if left >= 1 else left, now)
            while len(self._buckets) > _MAX_CLIENTS:
                del self._buckets[next(iter(self._buckets))]
        return 0 if left >= 1 else math.ceil((1 - left) / rate)


def _error(
    status: int, message: str, headers: dict[str, str] | None = None
) -> responses.JSONResponse:
    return responses.JSONResponse({"error": message}, status, headers=headers)
