# SPDX-License-Identifier: Apache-2.0
"""Description of the HTTP API in OpenAPI 3.1, served at /api/openapi.json."""

from typing import Any

import mrd_jax
from mrd_jax.demo import terms, upload_store

# Query parameters of a new shape, besides the name of its file.
METADATA = {
    "id": "Id of the shape; by default the name of the file.",
    "title": "Name of the shape.",
    "creator": "Author of the shape.",
    "licence": "Licence of the shape.",
    "label": "Class of the shape.",
}
_TEXT: dict[str, Any] = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 1, "maximum": terms.MAX_RESULTS, "default": 12}
_OFFSET = {"type": "integer", "minimum": 0, "default": 0}
_LIST = {"type": "array", "items": _TEXT}


def description(*, adding: bool) -> dict[str, Any]:
    """Returns the description.

    Args:
      adding: whether shapes can be added.
    """
    paths = {
        "/api/v1/about": _get("Size and version of the index.", "About"),
        "/api/v1/search": _post("Shapes nearest to a query.", "Search", "Shapes"),
        "/api/v1/embed": _post("Embedding of a query, of unit norm.", "Embed", "Embedding"),
        "/api/v1/classify": _post("Class names, most similar first.", "Classify", "Classes"),
        "/api/v1/neighbours": _get(
            "Shapes nearest to a shape of the index.",
            "Shapes",
            [
                _parameter("id", "Id of a shape.", required=True),
                _parameter("count", "Number of shapes.", schema=_COUNT),
            ],
        ),
        "/api/v1/files": _file("Uploads a file that queries refer to.", "Upload"),
        "/healthz": _get("Whether the process answers.", "Health"),
    }
    if adding:
        metadata = [_parameter(name, text) for name, text in METADATA.items()]
        paths["/api/v1/shapes"] = _file(
            "Adds a shape to the index; always needs a token.", "Added", metadata, status="201"
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mrd_jax shape search",
            "version": mrd_jax.__version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "security": [{}, {"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Error": {
                    "description": "What is wrong with the request.",
                    "content": _json("Error"),
                }
            },
            "schemas": _schemas(),
        },
    }


def _schemas() -> dict[str, Any]:
    term = _object(
        text={**_TEXT, "maxLength": terms.MAX_CHARACTERS},
        upload={**_TEXT, "description": "Id of an uploaded file."},
        shape={**_TEXT, "description": "Key of a shape."},
        id={**_TEXT, "description": "Id of a shape."},
        weight={"type": "number", "default": 1, "description": "Negative to search away from it."},
    )
    term["oneOf"] = [{"required": [name]} for name in ("text", "upload", "shape", "id")]
    parts = {"type": "array", "items": _ref("Term"), "minItems": 1, "maxItems": terms.MAX_PARTS}
    classes = {**_LIST, "minItems": 1, "maxItems": terms.MAX_CLASSES}
    integer, number = {"type": "integer"}, {"type": "number"}
    fields = ("key", "id", "title", "name", "creator", "licence", "label")
    return {
        "Term": term,
        "Filters": _object(creator=_LIST, licence=_LIST, label=_LIST, folder=_TEXT),
        "Search": _object(
            "terms", terms=parts, count=_COUNT, filters=_ref("Filters"), offset=_OFFSET
        ),
        "Embed": _object("terms", terms=parts),
        "Classify": _object("terms", "classes", terms=parts, classes=classes),
        "Shape": _complete(score=number, mesh=integer, **dict.fromkeys(fields, _TEXT)),
        "Shapes": _object(
            "shapes",
            "version",
            shapes={"type": "array", "items": _ref("Shape")},
            version=integer,
            milliseconds=number,
        ),
        "Embedding": _complete(embedding={"type": "array", "items": number}),
        "Classes": _complete(
            classes={"type": "array", "items": _complete(name=_TEXT, score=number)}
        ),
        "Upload": _complete(id=_TEXT, kind=_TEXT, name=_TEXT, faults=_LIST),
        "Added": _complete(id=_TEXT, key=_TEXT, version=integer, faults=_LIST),
        "About": _complete(
            shapes=integer,
            version=integer,
            checkpoint=_TEXT,
            teacher=_TEXT,
            dim=integer,
            upload_bytes=integer,
            upload_types=_LIST,
        ),
        "Health": _complete(status=_TEXT, version=integer),
        "Error": _complete(error=_TEXT),
    }


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": list(required)} if required else {})


def _complete(**properties: Any) -> dict[str, Any]:
    """Returns the schema of an object that always has all of its properties."""
    return _object(*properties, **properties)


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(name)}}


def _responses(name: str, *, status: str = "200") -> dict[str, Any]:
    success = {"description": "The answer.", "content": _json(name)}
    return {status: success, "default": {"$ref": "#/components/responses/Error"}}


def _parameter(
    name: str, text: str, *, required: bool = False, schema: dict[str, Any] = _TEXT
) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": text,
        "required": required,
        "schema": schema,
    }


def _get(text: str, answer: str, parameters: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    operation = {"summary": text, "parameters": parameters or [], "responses": _responses(answer)}
    return {"get": operation}


def _post(text: str, body: str, answer: str) -> dict[str, Any]:
    request = {"required": True, "content": _json(body)}
    return {"post": {"summary": text, "requestBody": request, "responses": _responses(answer)}}


def _file(
    text: str,
    answer: str,
    parameters: list[dict[str, Any]] | None = None,
    *,
    status: str = "200",
) -> dict[str, Any]:
    types = ", ".join(upload_store.TYPES)
    name = _parameter("name", f"Name of the file; its suffix is one of {types}.", required=True)
    return {
        "post": {
            "summary": text,
            "parameters": [name, *(parameters or [])],
            "requestBody": {"required": True, "content": {upload_store.CONTENT_TYPE: {}}},
            "responses": _responses(answer, status=status),
        }
    }
