# SPDX-License-Identifier: Apache-2.0
"""Web application of the search page: its routes, their handlers and limits."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette import applications, middleware, requests, responses, routing
from starlette.exceptions import HTTPException
from starlette.middleware import gzip, trustedhost
from starlette.staticfiles import StaticFiles

from data_prep.geometry import clouds
from mrd_jax.demo import security, upload_store, worker_pool
from mrd_jax.search import queries, shape_index

STATIC = Path(__file__).parent / "static"
# Limits per request: results, parts of a query, classes, and characters of a text.
MAX_RESULTS, MAX_PARTS, MAX_CLASSES, MAX_CHARACTERS = 60, 8, 50, 300


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on requests from untrusted clients.

    Attributes:
      upload_bytes: maximum size of an uploaded file.
      read_seconds: time limit to read it.
      read_bytes: memory limit to read it; a mesh needs ten to twenty times its file size.
      hosts: host names that the page may be requested by; ("*",) for any.
    """

    upload_bytes: int = 32 * 2**20
    read_seconds: float = 10
    read_bytes: int = 6 * 2**30
    hosts: Sequence[str] = ("localhost", "127.0.0.1")


class Handlers:
    """Request handlers of the API, one method per route.

    Starlette runs the methods without `async` in threads.

    Args:
      searcher: searcher with an encoder and a teacher.
      uploads: receives and keeps uploaded files.
    """

    def __init__(self, searcher: queries.Searcher, uploads: upload_store.UploadStore):
        self._searcher = searcher
        self._index = searcher.index
        self._uploads = uploads

    def about(self, request: requests.Request) -> responses.Response:
        """Returns the size of the index and the limits of the page."""
        return responses.JSONResponse(
            {
                "shapes": len(self._index),
                "upload_bytes": self._uploads.max_bytes,
                "upload_types": upload_store.TYPES,
            }
        )

    async def upload(self, request: requests.Request) -> responses.Response:
        """Receives a file; returns its id, kind, name and faults."""
        upload = await self._uploads.receive(request)
        return responses.JSONResponse(
            {
                "id": upload.id,
                "kind": upload.kind,
                "name": upload.name,
                "faults": upload.faults,
            }
        )

    def find(self, request: requests.Request) -> responses.Response:
        """Returns the shapes nearest to a query.

        The parts of the query are the parameters `text`, `upload` (an id) and `shape` (a row of the
        index); the n-th `weight` belongs to the n-th part.
        """
        started = time.perf_counter()
        count = int(_read_number(request, "count", default=12, lower=1, upper=MAX_RESULTS))
        parts, weights, exclude = [], [], None
        for kind, value in request.query_params.multi_items():
            if kind in ("text", "upload", "shape"):
                parts.append(self._embed(kind, value))
                exclude = self._read_shape(value) if kind == "shape" else exclude
            elif kind == "weight":
                weights.append(_parse_number(value, name="weight"))
        if not parts:
            raise HTTPException(400, "nothing to search for; pass text, upload or shape")
        if len(parts) > MAX_PARTS:
            raise HTTPException(400, f"the query has {len(parts)} parts; at most {MAX_PARTS}")
        try:
            query = queries.mix(parts, weights or [1.0] * len(parts))
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        matches = self._searcher.find(query, count=count, exclude=exclude)
        return responses.JSONResponse(
            {
                "found": [
                    self._describe(number, score)
                    for number, score in zip(matches.numbers.tolist(), matches.scores, strict=True)
                ],
                "milliseconds": round(1_000 * (time.perf_counter() - started), 1),
            }
        )

    def classify(self, request: requests.Request) -> responses.Response:
        """Returns class names by their similarity with an upload or a shape, highest first."""
        names = [name for name in request.query_params.getlist("class") if name.strip()]
        if not 0 < len(names) <= MAX_CLASSES:
            raise HTTPException(400, f"{len(names)} classes; expected 1 to {MAX_CLASSES}")
        for name in names:
            _check_length(name)
        for kind in ("upload", "shape"):
            if kind in request.query_params:
                row = self._embed(kind, request.query_params[kind])
                classes = self._searcher.classify(row, names)
                return responses.JSONResponse(
                    {"classes": [{"name": name, "score": score} for name, score in classes]}
                )
        raise HTTPException(400, "nothing to classify; pass upload or shape")

    def shape_cloud(self, request: requests.Request) -> responses.Response:
        """Returns the points of a shape: int16 coordinates, then uint8 colours."""
        number = self._read_shape(request.path_params["number"])
        return _cloud_response(self._index.xyz[number], self._index.rgb[number])

    def upload_cloud(self, request: requests.Request) -> responses.Response:
        """Returns the points of an upload in the format of `shape_cloud`."""
        upload = self._uploads.get(request.path_params["id"])
        return _cloud_response(np.rint(upload.xyz * np.float32(shape_index.STEPS)), upload.rgb)

    def picture(self, request: requests.Request) -> responses.Response:
        """Returns the picture of a shape."""
        number = self._read_shape(request.path_params["number"])
        return responses.FileResponse(
            self._index.picture_path(number), media_type="image/jpeg", headers=_CACHE_HEADERS
        )

    def _embed(self, kind: str, value: str) -> np.ndarray:
        """Returns the embedding of a part of a query, unit norm."""
        if kind == "upload":
            return self._uploads.get(value).row
        if kind == "shape":
            return self._searcher.shape_row(self._read_shape(value))
        _check_length(value)
        try:
            return self._searcher.embed_text(value)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error

    def _read_shape(self, value: str) -> int:
        """Parses the number of a shape and checks that it is in the index."""
        if not (value.isascii() and value.isdigit() and len(value) < 12):
            raise HTTPException(400, f"shape is {value!r}; expected a whole number")
        if int(value) >= len(self._index):
            raise HTTPException(404, f"shape {value} does not exist")
        return int(value)

    def _describe(self, number: int, score: float) -> dict[str, Any]:
        item = self._index.items[number]
        return {
            "number": number,
            "score": round(float(score), 4),
            "title": item.title,
            "creator": item.creator,
            "licence": item.licence,
        }


@contextlib.contextmanager
def serving(searcher: queries.Searcher, limits: Limits) -> Iterator[applications.Starlette]:
    """Yields the application; its workers and temporary folder live as long as the context.

    Args:
      searcher: searcher with an encoder and a teacher.
      limits: limits on requests.
    """
    with contextlib.ExitStack() as resources:
        folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="mrd_jax_demo_"))
        conventions = clouds.Conventions.of(searcher.index.card)
        pool = worker_pool.WorkerPool(
            conventions, seconds=limits.read_seconds, memory=limits.read_bytes
        )
        resources.callback(pool.close)
        uploads = upload_store.UploadStore(
            searcher, pool, folder=Path(folder), max_bytes=limits.upload_bytes
        )
        hosts = {"allowed_hosts": list(limits.hosts), "www_redirect": False}
        yield applications.Starlette(
            routes=_routes(Handlers(searcher, uploads)),
            middleware=[
                middleware.Middleware(security.Headers),
                middleware.Middleware(trustedhost.TrustedHostMiddleware, **hosts),
            ],
            exception_handlers={HTTPException: _client_error, Exception: _server_error},
        )


def _routes(handlers: Handlers) -> list[routing.BaseRoute]:
    static = gzip.GZipMiddleware(StaticFiles(directory=STATIC), minimum_size=1_000)
    return [
        routing.Route("/", _page),
        routing.Route("/api/about", handlers.about),
        routing.Route("/api/find", handlers.find),
        routing.Route("/api/classify", handlers.classify),
        routing.Route("/api/uploads", handlers.upload, methods=["POST"]),
        routing.Route("/api/uploads/{id}/cloud", handlers.upload_cloud),
        routing.Route("/api/shapes/{number}/cloud", handlers.shape_cloud),
        routing.Route("/api/shapes/{number}/picture", handlers.picture),
        routing.Mount("/static", static),
    ]


# Short, since another index may be served at the same address later.
_CACHE_HEADERS = {"Cache-Control": "private, max-age=3600"}


def _page(request: requests.Request) -> responses.Response:
    return responses.FileResponse(STATIC / "index.html")


def _client_error(request: requests.Request, error: Exception) -> responses.Response:
    """Returns the error message that the page shows."""
    return responses.JSONResponse({"error": error.detail}, error.status_code)


def _server_error(request: requests.Request, error: Exception) -> responses.Response:
    """Hides the details of an internal error, which Starlette raises again for the log."""
    return responses.JSONResponse({"error": "internal server error; see the server's log"}, 500)


def _cloud_response(xyz: np.ndarray, rgb: np.ndarray) -> responses.Response:
    data = np.asarray(xyz, "<i2").tobytes() + np.asarray(rgb, np.uint8).tobytes()
    return responses.Response(data, media_type="application/octet-stream", headers=_CACHE_HEADERS)


def _check_length(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise HTTPException(
            400, f"the text has {len(text)} characters; at most {MAX_CHARACTERS} are allowed"
        )


def _read_number(
    request: requests.Request, name: str, *, default: float, lower: float, upper: float
) -> float:
    """Returns a numeric query parameter within its bounds."""
    value = _parse_number(request.query_params.get(name, str(default)), name=name)
    if not lower <= value <= upper:
        raise HTTPException(400, f"{name} is {value:g}; expected {lower} to {upper}")
    return value


def _parse_number(text: str, *, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise HTTPException(400, f"{name} is {text!r}; expected a number")
    return value
