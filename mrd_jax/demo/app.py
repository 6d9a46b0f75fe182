# SPDX-License-Identifier: Apache-2.0
"""The routes of the page, and what they answer."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette import applications, exceptions, middleware, requests, responses, routing
from starlette.middleware import gzip, trustedhost
from starlette.staticfiles import StaticFiles

from data_prep.geometry import clouds
from mrd_jax.demo import pool as pools
from mrd_jax.demo import security
from mrd_jax.demo import uploads as uploads_lib
from mrd_jax.search import index as indices
from mrd_jax.search import queries

STATIC = Path(__file__).parent / "static"
# Most shapes of one answer, parts of one question, classes, and letters of words.
MOST_FOUND, MOST_PARTS, MOST_CLASSES, MOST_LETTERS = 60, 8, 50, 300


@dataclasses.dataclass(frozen=True)
class Limits:
    """What strangers may ask for.

    Attributes:
      upload_bytes: of one file.
      read_seconds: that opening it may take.
      read_bytes: of memory that opening it may take: a mesh takes ten to twenty times its size.
      hosts: names that the page may be reached by; ("*",) is any.
    """

    upload_bytes: int = 32 * 2**20
    read_seconds: float = 10
    read_bytes: int = 6 * 2**30
    hosts: Sequence[str] = ("localhost", "127.0.0.1")


class Answers:
    """One method a question; those without `async` run in threads."""

    def __init__(self, searcher: queries.Searcher, uploads: uploads_lib.Uploads):
        self._searcher = searcher
        self._index = searcher.index
        self._uploads = uploads

    def about(self, request: requests.Request) -> responses.Response:
        """What there is to search, and what may be dropped."""
        return responses.JSONResponse(
            {
                "shapes": len(self._index),
                "upload_bytes": self._uploads.most_bytes,
                "upload_types": [*clouds.TYPES, *uploads_lib.PICTURE_TYPES],
                "most_classes": MOST_CLASSES,
            }
        )

    async def upload(self, request: requests.Request) -> responses.Response:
        """Takes a file."""
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
        """The shapes nearest to text, upload and shape, each with its weight."""
        started = time.perf_counter()
        count = int(_number(request, "count", default=12, least=1, most=MOST_FOUND))
        parts, weights, own = [], [], None
        for kind, value in request.query_params.multi_items():
            if kind in ("text", "upload", "shape"):
                parts.append(self._row(kind, value))
                own = self._shape(value) if kind == "shape" else own
            elif kind == "weight":
                weights.append(_finite(value, what="weight"))
        if not parts:
            raise exceptions.HTTPException(400, "there is nothing to search for")
        if len(parts) > MOST_PARTS:
            raise exceptions.HTTPException(400, f"at most {MOST_PARTS} parts may be mixed")
        try:
            query = queries.mix(parts, weights or [1.0] * len(parts))
        except ValueError as error:
            raise exceptions.HTTPException(400, str(error)) from error
        found = self._searcher.find(query, count=count, leave_out=own)
        return responses.JSONResponse(
            {
                "found": [
                    self._described(number, score)
                    for number, score in zip(found.numbers.tolist(), found.scores, strict=True)
                ],
                "milliseconds": round(1_000 * (time.perf_counter() - started), 1),
            }
        )

    def classify(self, request: requests.Request) -> responses.Response:
        """Class names by their likeness to an upload or a shape."""
        names = [name for name in request.query_params.getlist("class") if name.strip()]
        if not 0 < len(names) <= MOST_CLASSES:
            raise exceptions.HTTPException(
                400, f"{len(names)} classes to choose among; expected 1 to {MOST_CLASSES}"
            )
        for name in names:
            _check_letters(name)
        for kind in ("upload", "shape"):
            if kind in request.query_params:
                row = self._row(kind, request.query_params[kind])
                classes = self._searcher.classify(row, names)
                return responses.JSONResponse(
                    {"classes": [{"name": name, "score": score} for name, score in classes]}
                )
        raise exceptions.HTTPException(400, "there is no shape to name")

    def shape_cloud(self, request: requests.Request) -> responses.Response:
        """A shape's points: all coordinates as int16, then all colours as bytes."""
        number = self._shape(request.path_params["number"])
        return _binary(self._index.xyz[number], self._index.rgb[number])

    def upload_cloud(self, request: requests.Request) -> responses.Response:
        """Likewise of an upload."""
        upload = self._uploads.get(request.path_params["id"])
        return _binary(np.rint(upload.xyz * np.float32(indices.STEPS)), upload.rgb)

    def picture(self, request: requests.Request) -> responses.Response:
        """A shape's picture."""
        number = self._shape(request.path_params["number"])
        return responses.FileResponse(
            self._index.picture(number), media_type="image/jpeg", headers=_KEEP
        )

    def _row(self, kind: str, value: str) -> np.ndarray:
        """A part of a question as a unit row."""
        if kind == "upload":
            return self._uploads.get(value).row
        if kind == "shape":
            return self._searcher.shape(self._shape(value))
        _check_letters(value)
        try:
            return self._searcher.text(value)
        except ValueError as error:
            raise exceptions.HTTPException(400, str(error)) from error

    def _shape(self, value: str) -> int:
        """The number of a shape that there is."""
        if not (value.isascii() and value.isdigit() and len(value) < 12):
            raise exceptions.HTTPException(400, f"{value!r} is no number of a shape")
        if int(value) >= len(self._index):
            raise exceptions.HTTPException(404, f"there is no shape {value}")
        return int(value)

    def _described(self, number: int, score: float) -> dict[str, Any]:
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
    """The application, while its workers and its temporary folder are there.

    Args:
      searcher: with an encoder and a teacher.
      limits: for strangers.
    """
    with contextlib.ExitStack() as resources:
        folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="mrd_jax_demo_"))
        conventions = clouds.Conventions.of(searcher.index.card)
        pool = pools.Pool(conventions, seconds=limits.read_seconds, memory=limits.read_bytes)
        resources.callback(pool.close)
        uploads = uploads_lib.Uploads(
            searcher, pool, folder=Path(folder), most_bytes=limits.upload_bytes
        )
        hosts = {"allowed_hosts": list(limits.hosts), "www_redirect": False}
        yield applications.Starlette(
            routes=_routes(Answers(searcher, uploads)),
            middleware=[
                middleware.Middleware(security.Headers),
                middleware.Middleware(trustedhost.TrustedHostMiddleware, **hosts),
            ],
            exception_handlers={exceptions.HTTPException: _in_words, Exception: _unexpected},
        )


def _routes(answers: Answers) -> list[routing.BaseRoute]:
    static = gzip.GZipMiddleware(StaticFiles(directory=STATIC), minimum_size=1_000)
    return [
        routing.Route("/", _page),
        routing.Route("/api/about", answers.about),
        routing.Route("/api/find", answers.find),
        routing.Route("/api/classify", answers.classify),
        routing.Route("/api/uploads", answers.upload, methods=["POST"]),
        routing.Route("/api/uploads/{id}/cloud", answers.upload_cloud),
        routing.Route("/api/shapes/{number}/cloud", answers.shape_cloud),
        routing.Route("/api/shapes/{number}/picture", answers.picture),
        routing.Mount("/static", static),
    ]


# An index does not change while it is served, but another may be served here tomorrow.
_KEEP = {"Cache-Control": "private, max-age=3600"}


def _page(request: requests.Request) -> responses.Response:
    return responses.FileResponse(STATIC / "index.html")


def _in_words(request: requests.Request, error: Exception) -> responses.Response:
    """An error that somebody made, for the page to show."""
    return responses.JSONResponse({"error": error.detail}, error.status_code)


def _unexpected(request: requests.Request, error: Exception) -> responses.Response:
    """An error of ours; Starlette raises it again, so that the log has it."""
    return responses.JSONResponse({"error": "the server failed; its log says why"}, 500)


def _binary(xyz: np.ndarray, rgb: np.ndarray) -> responses.Response:
    data = np.asarray(xyz, "<i2").tobytes() + np.asarray(rgb, np.uint8).tobytes()
    return responses.Response(data, media_type="application/octet-stream", headers=_KEEP)


def _check_letters(text: str) -> None:
    if len(text) > MOST_LETTERS:
        raise exceptions.HTTPException(
            400, f"{len(text)} letters are too many; at most {MOST_LETTERS} are read"
        )


def _number(request: requests.Request, name: str, *, default: float, least: float, most: float):
    """A number among the parameters, within its bounds."""
    value = _finite(request.query_params.get(name, str(default)), what=name)
    if not least <= value <= most:
        raise exceptions.HTTPException(400, f"{name} is {value:g}; expected {least} to {most}")
    return value


def _finite(text: str, *, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise exceptions.HTTPException(400, f"{what} is {text!r}; expected a number")
    return value
