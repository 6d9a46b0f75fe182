# SPDX-License-Identifier: Apache-2.0
"""Handlers of the page for single shapes, the values of the filters, and the map of the index."""

import json
import struct
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from starlette import requests, responses, routing, types
from starlette.exceptions import HTTPException
from starlette.middleware import gzip

from mrd_jax.demo import api, downloads, index_map, live_index, terms, upload_store
from mrd_jax.search import filters

# Values of a filter that the page offers, those of most shapes first.
_MAX_VALUES = 200
# Shapes per request of a list.
_MAX_LISTED = 1_000
# Classes with numbers of their own on the map.
_MAX_CLASSES = 65_535
# Short, since a shape may change, and another index may be served at the same address later.
CACHE_HEADERS = {"Cache-Control": "private, max-age=60"}
_GLB = "model/gltf-binary"


class ShapePages:
    """Request handlers, one method per route.

    Args:
      live: searcher of the current version of the index.
      uploads: receives and keeps uploaded files.
      shared: folder that the processes of the server share.
    """

    def __init__(
        self, live: live_index.LiveIndex, uploads: upload_store.UploadStore, *, shared: Path
    ):
        self._live = live
        self._uploads = uploads
        self._maps = index_map.MapStore(shared)

    def routes(self) -> list[routing.BaseRoute]:
        """Returns the routes."""
        return [
            routing.Route("/api/facets", self.facets),
            routing.Route("/api/list", api.json_handler(self.listing), methods=["POST"]),
            routing.Route("/api/map", _packed(self.map)),
            routing.Route("/api/shapes/{key}", self.details),
            routing.Route("/api/shapes/{key}/mesh", _packed(self.mesh)),
            routing.Route("/api/shapes/{key}/file", self.file),
            routing.Route("/api/uploads/{id}/mesh", _packed(self.upload_mesh)),
        ]

    def _engine(self) -> terms.Engine:
        return terms.Engine(self._live.searcher, self._uploads)

    def facets(self, request: requests.Request) -> responses.Response:
        """Returns the values of each filter with their numbers of shapes."""
        facets = self._live.searcher.facets()
        found = {}
        for field in (*filters.FIELDS, "folder"):
            counts = sorted(facets.counts(field).items(), key=lambda pair: (-pair[1], pair[0]))
            found[field] = [pair for pair in counts if pair[0] and pair[1]][:_MAX_VALUES]
        return responses.JSONResponse(found)

    def listing(self, body: dict[str, Any]) -> dict[str, Any]:
        """Returns the metadata of shapes by their keys; shapes that are gone are left out."""
        api.check_fields(body, ("shapes",))
        keys = api.check_texts(body.get("shapes", []), name="shapes")
        if len(keys) > _MAX_LISTED:
            raise HTTPException(400, f"{len(keys)} shapes; at most {_MAX_LISTED} are allowed")
        engine, found = self._engine(), []
        for key in keys:
            try:
                found.append(engine.describe(engine.index.number(key)))
            except KeyError:
                continue
        return {"shapes": found}

    def map(self, request: requests.Request) -> responses.Response:
        """Returns the map: a header of JSON, keys, coordinates and classes of all shapes.

        The first four bytes are the size of the header, which is padded to a multiple of 8 bytes.
        The arrays follow: uint64 keys [shapes], int16 [shapes, 2] and uint16 [shapes].
        """
        searcher = self._live.searcher
        try:
            found = self._maps.get(searcher.index)
        except ImportError as error:
            raise HTTPException(501, str(error)) from error
        counts = searcher.facets().counts("label")
        names = sorted((name for name in counts if name), key=lambda name: (-counts[name], name))
        codes = {name: code for code, name in enumerate(names[:_MAX_CLASSES])}
        items = (searcher.index.items[number] for number in found.numbers.tolist())
        classes = [codes.get(item.label, _MAX_CLASSES) for item in items]
        header = json.dumps(
            {
                "shapes": len(found.numbers),
                "all": len(searcher.index),
                "method": found.method,
                "classes": names[:_MAX_CLASSES],
            }
        ).encode()
        header += b" " * (-(len(header) + 4) % 8)
        data = b"".join(
            (
                struct.pack("<I", len(header)),
                header,
                searcher.index.layout.keys()[found.numbers].astype("<u8").tobytes(),
                found.xy.astype("<i2").tobytes(),
                np.array(classes, "<u2").tobytes(),
            )
        )
        return responses.Response(data, media_type="application/octet-stream")

    def details(self, request: requests.Request) -> responses.Response:
        """Returns the metadata of a shape, its folder, and what may be downloaded."""
        engine = self._engine()
        number = engine.number(request.path_params["key"])
        item = engine.index.items[number]
        file, reason = None, ""
        if not downloads.is_free(item.licence):
            reason = "The licence is not known to allow a download."
        elif (found := downloads.find(engine.index, number)) is None:
            reason = "The index has no file of this shape."
        else:
            file = {"name": found.name, "bytes": found.size, "source": found.path is not None}
        details = {"folder": item.folder, "download": file, "reason": reason}
        return responses.JSONResponse(engine.describe(number) | details)

    def file(self, request: requests.Request) -> responses.Response:
        """Returns the file of a shape whose licence allows it."""
        engine = self._engine()
        number = engine.number(request.path_params["key"])
        if not downloads.is_free(engine.index.items[number].licence):
            raise HTTPException(403, "the licence of this shape is not known to allow a download")
        found = downloads.find(engine.index, number)
        if found is None:
            raise HTTPException(404, "the index has no file of this shape")
        try:
            data = found.read() if found.path else engine.index.mesh(number)
        except OSError as error:
            raise HTTPException(404, "the file of this shape has disappeared") from error
        # RFC 5987: a name may have any characters.
        disposition = f"attachment; filename*=UTF-8''{urllib.parse.quote(found.name, safe='')}"
        return responses.Response(
            data,
            media_type="application/octet-stream",
            headers={"Content-Disposition": disposition},
        )

    def mesh(self, request: requests.Request) -> responses.Response:
        """Returns the reduced mesh or the dense point cloud of a shape, a glb file."""
        engine = self._engine()
        data = engine.index.mesh(engine.number(request.path_params["key"]))
        return _mesh_response(data)

    def upload_mesh(self, request: requests.Request) -> responses.Response:
        """Returns the reduced mesh of an upload, a glb file."""
        return _mesh_response(self._uploads.get(request.path_params["id"]).mesh)


def _packed(handler: Callable[[requests.Request], responses.Response]) -> types.ASGIApp:
    """Returns a handler of large responses that packs them; level 4 takes a few milliseconds."""
    return gzip.GZipMiddleware(routing.request_response(handler), compresslevel=4)


def _mesh_response(data: bytes) -> responses.Response:
    if not data:
        raise HTTPException(404, "this shape has no mesh; its point cloud is at cloud")
    return responses.Response(data, media_type=_GLB, headers=CACHE_HEADERS)
