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
from mrd_jax.demo import (
    access,
    api,
    live_index,
    metrics,
    security,
    shape_pages,
    terms,
    upload_store,
    worker_pool,
)
from mrd_jax.search import filters, queries, shape_index

STATIC = Path(__file__).parent / "static"


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


@dataclasses.dataclass(frozen=True)
class Service:
    """How the application is run.

    Attributes:
      rules: who may use it, and how often.
      shared: folder that the processes of the server share; None for one process.
      request_log: file that requests are logged to; None for no log.
      poll_seconds: time between two looks for a new version of the index.
    """

    rules: access.Rules = access.Rules()
    shared: Path | None = None
    request_log: Path | None = None
    poll_seconds: float = 2.0


class Handlers:
    """Request handlers of the page, one method per route.

    Starlette runs the methods without `async` in threads. Each takes the searcher once, so that it
    finishes on the version of the index that it began with.

    Args:
      live: searcher of the current version of the index, with an encoder and a teacher.
      uploads: receives and keeps uploaded files.
    """

    def __init__(self, live: live_index.LiveIndex, uploads: upload_store.UploadStore):
        self._live = live
        self._uploads = uploads

    def _engine(self) -> terms.Engine:
        return terms.Engine(self._live.searcher, self._uploads)

    def about(self, request: requests.Request) -> responses.Response:
        """Returns the size of the index and the limits of the page."""
        return responses.JSONResponse(
            {
                "shapes": len(self._live.searcher.index),
                "upload_bytes": self._uploads.max_bytes,
                "upload_types": upload_store.TYPES,
            }
        )

    async def upload(self, request: requests.Request) -> responses.Response:
        """Receives a file; returns its id, kind, name, faults and the bytes of its mesh."""
        upload = await self._uploads.receive(request)
        return responses.JSONResponse(upload.as_result())

    def find(self, request: requests.Request) -> responses.Response:
        """Returns the shapes nearest to a query, or without a query those that pass the filters.

        The parts of the query are the parameters `text`, `upload` (an id) and `shape` (a key); the
        n-th `weight` belongs to the n-th part. `creator`, `licence` and `label` may be repeated;
        `folder`, `sort`, `offset` and `count` may not.
        """
        started = time.perf_counter()
        count = terms.parse_count(request.query_params.get("count", "12"))
        pairs = request.query_params.multi_items()
        parts = [pair for pair in pairs if pair[0] in terms.KINDS]
        weights = [
            terms.parse_number(value, name="weight") for kind, value in pairs if kind == "weight"
        ]
        if weights and len(weights) != len(parts):
            raise HTTPException(
                400,
                f"the query has {len(parts)} parts and {len(weights)} weights; expected one weight "
                "each",
            )
        query = [
            terms.Term(kind, value, weight)
            for (kind, value), weight in zip(parts, weights or [1.0] * len(parts), strict=True)
        ]
        lists = {field: request.query_params.getlist(field) for field in filters.FIELDS}
        options: dict[str, Any] = {
            "count": count,
            "wanted": filters.Filters(**lists, folder=request.query_params.get("folder", "")),
            "offset": terms.parse_offset(request.query_params.get("offset", "0")),
            "order": terms.parse_order(request.query_params.get("sort", "similarity")),
        }
        engine = self._engine()
        is_listing = not query and (options["wanted"] or "sort" in request.query_params)
        page = engine.browse(**options) if is_listing else engine.find(query, **options)
        milliseconds = round(1_000 * (time.perf_counter() - started), 1)
        return responses.JSONResponse(
            {"found": page.found, "total": page.total, "milliseconds": milliseconds}
        )

    def classify(self, request: requests.Request) -> responses.Response:
        """Returns class names by their similarity with an upload or a shape, highest first."""
        names = request.query_params.getlist("class")
        query = [
            terms.Term(kind, request.query_params[kind])
            for kind in ("upload", "shape")
            if kind in request.query_params
        ][:1]
        if not query and any(name.strip() for name in names):
            raise HTTPException(400, "nothing to classify; pass upload or shape")
        return responses.JSONResponse({"classes": self._engine().classify(query, names)})

    def shape_cloud(self, request: requests.Request) -> responses.Response:
        """Returns the points of a shape: int16 coordinates, then uint8 colours."""
        engine = self._engine()
        number = engine.number(request.path_params["key"])
        return _cloud_response(engine.index.xyz[number], engine.index.rgb[number])

    def upload_cloud(self, request: requests.Request) -> responses.Response:
        """Returns the points of an upload in the format of `shape_cloud`."""
        upload = self._uploads.get(request.path_params["id"])
        return _cloud_response(np.rint(upload.xyz * np.float32(shape_index.STEPS)), upload.rgb)

    def picture(self, request: requests.Request) -> responses.Response:
        """Returns the picture of a shape."""
        engine = self._engine()
        data = engine.index.picture(engine.number(request.path_params["key"]))
        return responses.Response(data, media_type="image/jpeg", headers=shape_pages.CACHE_HEADERS)


@contextlib.contextmanager
def serving(
    searcher: queries.Searcher, limits: Limits, service: Service | None = None
) -> Iterator[applications.Starlette]:
    """Yields the application; its workers and temporary folder live as long as the context.

    Args:
      searcher: searcher with an encoder and a teacher.
      limits: limits on requests.
      service: how the application is run; None for the default.
    """
    service = service or Service()
    with contextlib.ExitStack() as resources:
        folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="mrd_jax_demo_"))
        conventions = clouds.Conventions.of(searcher.index.card)
        pool = worker_pool.WorkerPool(
            conventions, seconds=limits.read_seconds, memory=limits.read_bytes
        )
        resources.callback(pool.close)
        received = Path(folder, "received")
        received.mkdir()
        uploads = upload_store.UploadStore(
            searcher,
            pool,
            folder=received,
            max_bytes=limits.upload_bytes,
            shared=service.shared,
        )
        live = live_index.LiveIndex(searcher)
        resources.enter_context(live.polling(service.poll_seconds))
        log = resources.enter_context(metrics.opened_log(service.request_log))
        shared = service.shared or Path(folder)
        handlers = api.Api(live, uploads, shared=shared, can_add=bool(service.rules.tokens))
        shapes = shape_pages.ShapePages(live, uploads, shared=shared)
        hosts = {"allowed_hosts": list(limits.hosts), "www_redirect": False}
        yield applications.Starlette(
            routes=[*_routes(Handlers(live, uploads)), *shapes.routes(), *handlers.routes()],
            middleware=[
                middleware.Middleware(metrics.Metrics, folder=shared, log=log),
                middleware.Middleware(security.Headers),
                middleware.Middleware(trustedhost.TrustedHostMiddleware, **hosts),
                middleware.Middleware(access.Access, rules=service.rules),
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
        routing.Route("/api/shapes/{key}/cloud", handlers.shape_cloud),
        routing.Route("/api/shapes/{key}/picture", handlers.picture),
        routing.Mount("/static", static),
    ]


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
    return responses.Response(
        data, media_type="application/octet-stream", headers=shape_pages.CACHE_HEADERS
    )
