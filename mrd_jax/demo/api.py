# SPDX-License-Identifier: Apache-2.0
"""Handlers of the HTTP API, which `mrd_jax.demo.openapi` describes."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from starlette import concurrency, requests, responses, routing
from starlette.exceptions import HTTPException

from data_prep import evaluation
from mrd_jax.demo import live_index, metrics, openapi, terms, upload_store
from mrd_jax.search import entries, filters, index_writer, pictures

# Largest body of a request in JSON.
_MAX_JSON = 2**16
# Longest metadata of a new shape in characters.
_MAX_METADATA = 500
_PICTURE_SIDE = 128


class Api:
    """Handlers of /api/v1, one method per route.

    Args:
      live: searcher of the current version of the index.
      uploads: receives and keeps uploaded files.
      shared: folder that the processes of the server share.
      can_add: whether shapes may be added.
    """

    def __init__(
        self,
        live: live_index.LiveIndex,
        uploads: upload_store.UploadStore,
        *,
        shared: Path,
        can_add: bool,
    ):
        self._live = live
        self._uploads = uploads
        self._shared = shared
        self._can_add = can_add

    def routes(self) -> list[routing.BaseRoute]:
        """Returns the routes."""
        return [
            routing.Route("/api/openapi.json", self.description),
            routing.Route("/api/v1/about", self.about),
            routing.Route("/api/v1/search", json_handler(self.search), methods=["POST"]),
            routing.Route("/api/v1/embed", json_handler(self.embed), methods=["POST"]),
            routing.Route("/api/v1/classify", json_handler(self.classify), methods=["POST"]),
            routing.Route("/api/v1/neighbours", self.neighbours),
            routing.Route("/api/v1/files", self.upload, methods=["POST"]),
            routing.Route("/api/v1/shapes", self.add, methods=["POST"]),
            routing.Route("/healthz", self.health),
            routing.Route("/metrics", self.metrics),
        ]

    def _engine(self) -> terms.Engine:
        return terms.Engine(self._live.searcher, self._uploads)

    def description(self, request: requests.Request) -> responses.Response:
        """Returns the description of this API."""
        return responses.JSONResponse(openapi.description(adding=self._can_add))

    def about(self, request: requests.Request) -> responses.Response:
        """Returns the size and version of the index."""
        index = self._live.searcher.index
        return responses.JSONResponse(
            {
                "shapes": len(index),
                "version": index.version,
                "checkpoint": index.checkpoint,
                "teacher": index.teacher.name,
                "dim": index.rows.shape[1],
                "upload_bytes": self._uploads.max_bytes,
                "upload_types": list(upload_store.TYPES),
            }
        )

    def search(self, body: dict[str, Any]) -> dict[str, Any]:
        """Returns the shapes nearest to a query."""
        started = time.perf_counter()
        check_fields(body, ("terms", "count", "filters", "offset"))
        engine = self._engine()
        count = terms.parse_count(str(body.get("count", 12)))
        page = engine.find(
            _terms_of(body),
            count=count,
            wanted=_filters_of(body.get("filters", {})),
            offset=terms.parse_offset(str(body.get("offset", 0))),
        )
        return {
            "shapes": page.found,
            "version": engine.index.version,
            "milliseconds": round(1_000 * (time.perf_counter() - started), 1),
        }

    def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Returns the embedding of a query."""
        check_fields(body, ("terms",))
        return {"embedding": [float(value) for value in self._engine().embed(_terms_of(body))]}

    def classify(self, body: dict[str, Any]) -> dict[str, Any]:
        """Returns class names by their similarity with a query."""
        check_fields(body, ("terms", "classes"))
        names = check_texts(body.get("classes", []), name="classes")
        return {"classes": self._engine().classify(_terms_of(body), names)}

    def neighbours(self, request: requests.Request) -> responses.Response:
        """Returns the shapes nearest to a shape of the index."""
        engine = self._engine()
        if "id" not in request.query_params:
            raise HTTPException(400, "id is missing; expected the id of a shape of the index")
        shape_id = request.query_params["id"]
        count = terms.parse_count(request.query_params.get("count", "12"))
        term = terms.Term("shape", f"{entries.key_of(shape_id):016x}")
        return responses.JSONResponse(
            {"shapes": engine.find([term], count=count).found, "version": engine.index.version}
        )

    async def upload(self, request: requests.Request) -> responses.Response:
        """Receives a file that later queries refer to."""
        upload = await self._uploads.receive(request)
        return responses.JSONResponse(upload.as_dict())

    async def add(self, request: requests.Request) -> responses.Response:
        """Adds the shape in the body to the index."""
        if not self._can_add:
            raise HTTPException(403, "shapes are added only with a token: pass --token_file")
        metadata = {name: request.query_params.get(name, "") for name in openapi.METADATA}
        for name, value in metadata.items():
            if len(value) > _MAX_METADATA:
                raise HTTPException(
                    400, f"{name} has {len(value)} characters; at most {_MAX_METADATA} are allowed"
                )
        upload = await self._uploads.receive(request)
        added = await concurrency.run_in_threadpool(self._add, upload, metadata)
        return responses.JSONResponse(added, 201)

    def _add(self, upload: upload_store.Upload, metadata: Mapping[str, str]) -> dict[str, Any]:
        """Writes an uploaded shape into the index, and opens the new version."""
        if upload.kind != "cloud":
            raise HTTPException(422, f"{upload.name} cannot be added: it is a picture, not a shape")
        shape_id = metadata["id"] or upload.name
        picture = pictures.draw_cloud(upload.xyz, upload.rgb, size=_PICTURE_SIDE)
        item = entries.Item(
            shape_id,
            **{name: metadata[name] for name in ("creator", "licence", "label")},
            name=metadata["title"],
            picture=evaluation.picture_name(shape_id),
        )
        try:
            with index_writer.open_writer(
                self._live.searcher.index.folder, user="mrd_jax.demo"
            ) as writer:
                writer.index.check_encoder(self._live.searcher.index.checkpoint)
                # A cloud that has less points than the index repeats them.
                order = np.arange(writer.index.xyz.shape[1]) % len(upload.xyz)
                entry = entries.Entry(
                    item, upload.row, upload.xyz[order], upload.rgb[order], picture, upload.mesh
                )
                writer.add([entry])
                writer.publish()
                version = writer.index.version
        except (index_writer.BusyError, ValueError) as error:
            raise HTTPException(409, str(error)) from error
        self._live.refresh()
        return {"id": shape_id, "key": item.key, "version": version, "faults": list(upload.faults)}

    def health(self, request: requests.Request) -> responses.Response:
        """Returns that the process answers, and which version it serves."""
        index = self._live.searcher.index
        return responses.JSONResponse({"status": "ok", "version": index.version})

    def metrics(self, request: requests.Request) -> responses.Response:
        """Returns the metrics of all processes in the text format of Prometheus."""
        index = self._live.searcher.index
        text = metrics.render(
            self._shared,
            {
                "mrd_jax_index_shapes": ("Shapes in the index.", len(index)),
                "mrd_jax_index_version": ("Changes of the index.", index.version),
                "mrd_jax_resident_bytes": ("Memory of this process.", metrics.resident_bytes()),
            },
        )
        return responses.PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def json_handler(function: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable:
    """Returns a handler that passes the body to a function, which runs in a thread."""

    async def handler(request: requests.Request) -> responses.Response:
        body = await _read_json(request)
        return responses.JSONResponse(await concurrency.run_in_threadpool(function, body))

    return handler


async def _read_json(request: requests.Request) -> dict[str, Any]:
    """Returns the object in the body of a request."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "send the query as JSON, with Content-Type application/json")
    body = b""
    try:
        with anyio.fail_after(upload_store.RECEIVE_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_JSON:
                    message = f"the query is too large; the limit is {_MAX_JSON} bytes"
                    raise HTTPException(413, message)
    except TimeoutError as error:
        raise HTTPException(408, "the query took too long to arrive") from error
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return value


def check_fields(body: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raises HTTPException if an object has fields that are not known."""
    if unknown := sorted(body.keys() - set(known)):
        raise HTTPException(400, f"unknown field {unknown[0][:40]!r}; expected {', '.join(known)}")


def _terms_of(body: Mapping[str, Any]) -> list[terms.Term]:
    """Returns the terms of a query: objects with one of `terms.KINDS` or `id`, and a weight."""
    given = body.get("terms", [])
    if not isinstance(given, list) or not all(isinstance(term, dict) for term in given):
        raise HTTPException(400, "terms: expected a list of objects")
    found = []
    for term in given:
        check_fields(term, (*terms.KINDS, "id", "weight"))
        kinds = [kind for kind in (*terms.KINDS, "id") if kind in term]
        if len(kinds) != 1 or not isinstance(term[kinds[0]], str):
            raise HTTPException(400, "a term needs one of text, upload, shape and id, as text")
        weight = term.get("weight", 1)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise HTTPException(400, f"weight is {weight!r}; expected a number")
        kind, value = kinds[0], term[kinds[0]]
        if kind == "id":
            kind, value = "shape", f"{entries.key_of(value):016x}"
        found.append(terms.Term(kind, value, float(weight)))
    return found


def _filters_of(given: Any) -> filters.Filters:
    if not isinstance(given, dict):
        raise HTTPException(400, "filters: expected an object")
    check_fields(given, (*filters.FIELDS, "folder"))
    lists = {name: check_texts(given.get(name, []), name=name) for name in filters.FIELDS}
    (folder,) = check_texts([given.get("folder", "")], name="folder")
    return filters.Filters(**lists, folder=folder)


def check_texts(given: Any, *, name: str) -> list[str]:
    """Returns a list of texts; raises HTTPException with the name of the field if it is none."""
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise HTTPException(400, f"{name}: expected a list of texts")
    return given
