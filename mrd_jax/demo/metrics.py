# SPDX-License-Identifier: Apache-2.0
"""Counts and times of requests in the text format of Prometheus, and the request log.

Every process of a server maps a file of its own in a shared folder; any of them can add up all.
"""

import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

import numpy as np
from starlette import types

ROUTES = (
    *("page", "static", "about", "find", "classify", "uploads", "shapes", "v1/about", "v1/search"),
    *("v1/embed", "v1/classify", "v1/neighbours", "v1/shapes", "v1/files", "openapi", "healthz"),
    *("metrics", "other"),
)
STATUSES = ("200", "201", "204", "304", "400", "401", "404", "405", "408", "409", "413", "415")
STATUSES += ("422", "429", "500", "503", "other")
# Upper limits in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, float("inf"))
_SUM = len(STATUSES) + len(BUCKETS)


def route_of(path: str) -> str:
    """Returns the name of the route of a path, without anything that a client chose."""
    if path == "/":
        return "page"
    for prefix in ("/api/", "/"):
        if path.startswith(prefix):
            words = path.removeprefix(prefix).removesuffix(".json").split("/")
            for name in ("/".join(words[:2]), words[0]):
                if name in ROUTES and name not in ("page", "other"):
                    return name
    return "other"


class Metrics:
    """ASGI middleware that counts requests.

    Args:
      app: application to wrap.
      folder: folder that the processes of the server share.
      log: request log, one JSON object per line; None for none.
    """

    def __init__(self, app: types.ASGIApp, folder: Path, log: TextIO | None = None):
        self._app = app
        self._log = log
        # [route, statuses, buckets and the sum of seconds]
        self._counts = np.memmap(
            folder / f"metrics-{os.getpid()}",
            np.float64,
            "w+",
            shape=(len(ROUTES), _SUM + 1),
        )

    async def __call__(self, scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        """Implements the ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_and_note(message: types.Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            seconds = time.perf_counter() - started
            route = route_of(scope["path"])
            self._count(route, status, seconds)
            self._write_log(scope, route, status, seconds)

    def _count(self, route: str, status: int, seconds: float) -> None:
        counts = self._counts[ROUTES.index(route)]
        text = str(status)
        counts[STATUSES.index(text if text in STATUSES else "other")] += 1
        counts[len(STATUSES) + int(np.searchsorted(BUCKETS, seconds))] += 1
        counts[_SUM] += seconds

    def _write_log(self, scope: types.Scope, route: str, status: int, seconds: float) -> None:
        """Logs who asked for what kind of thing, but no query, name, content or token."""
        if self._log is None:
            return
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"],
            "route": route,
            "status": status,
            "milliseconds": round(1_000 * seconds, 1),
        }
        print(json.dumps(entry), file=self._log, flush=True)


def render(folder: Path, gauges: Mapping[str, tuple[str, float]]) -> str:
    """Returns the metrics of all processes of a server.

    Args:
      folder: folder that the processes share.
      gauges: (description, value) of further metrics, by their names.
    """
    files = sorted(folder.glob("metrics-*"))
    shape = (len(ROUTES), _SUM + 1)
    total = np.zeros(shape)
    for file in files:
        total += np.fromfile(file, np.float64, total.size).reshape(shape)
    lines = [*_header("mrd_jax_requests_total", "counter", "Requests by route and status.")]
    for (row, route), (column, status) in itertools.product(enumerate(ROUTES), enumerate(STATUSES)):
        if count := total[row, column]:
            labels = f'route="{route}",status="{status}"'
            lines.append(f"mrd_jax_requests_total{{{labels}}} {count:g}")
    name = "mrd_jax_request_seconds"
    lines += _header(name, "histogram", "Time from the first byte of a request to its response.")
    for row, route in enumerate(ROUTES):
        counts = np.cumsum(total[row, len(STATUSES) : _SUM])
        if not counts[-1]:
            continue
        for limit, count in zip(BUCKETS, counts, strict=True):
            bound = "+Inf" if limit == float("inf") else f"{limit:g}"
            lines.append(f'{name}_bucket{{route="{route}",le="{bound}"}} {count:g}')
        lines.append(f'{name}_sum{{route="{route}"}} {total[row, _SUM]:.6f}')
        lines.append(f'{name}_count{{route="{route}"}} {counts[-1]:g}')
    for name, (text, value) in gauges.items():
        lines += [*_header(name, "gauge", text), f"{name} {value:g}"]
    return "\n".join(lines) + "\n"


def _header(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


@contextlib.contextmanager
def opened_log(path: Path | None) -> Iterator[TextIO | None]:
    """Yields the request log, opened for appending; None without a path."""
    if path is None:
        yield None
        return
    with path.open("a", encoding="utf-8") as file:
        yield file


def resident_bytes() -> int:
    """Returns the memory of this process; 0 where the system has no /proc."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except FileNotFoundError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
