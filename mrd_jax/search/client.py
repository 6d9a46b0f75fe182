# SPDX-License-Identifier: Apache-2.0
"""Client of the HTTP API of `mrd_jax.demo`; needs nothing besides the standard library.

client = Client("http://127.0.0.1:8000")
for shape in client.search([{"text": "red chair"}, {"text": "plastic", "weight": -0.5}]):
    print(shape["score"], shape["title"])
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict


class Term(TypedDict):
    """A part of a query: one of `text`, `file` (a path), `upload`, `shape` (a key) and `id`."""

    text: NotRequired[str]
    file: NotRequired[str]
    upload: NotRequired[str]
    shape: NotRequired[str]
    id: NotRequired[str]
    weight: NotRequired[float]


class Shape(TypedDict):
    """A result; unknown metadata is ""."""

    key: str
    id: str
    score: float
    title: str
    name: str
    creator: str
    licence: str
    label: str


class ApiError(RuntimeError):
    """The server refuses a request; the message is its reason."""


class Client:
    """A server.

    Args:
      address: address of the server.
      token: token that the server asks for, or "".
      seconds: time limit of a request.
    """

    def __init__(self, address: str, *, token: str = "", seconds: float = 60):
        self._address = address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._seconds = seconds

    def search(self, terms: Sequence[Term], *, count: int = 12, **filters: Any) -> list[Shape]:
        """Returns the shapes nearest to a query; filters are creator, licence, label and folder."""
        query = {"terms": self._uploaded(terms), "count": count, "filters": filters}
        return self._post("search", query)["shapes"]

    def embed(self, terms: Sequence[Term]) -> list[float]:
        """Returns the embedding of a query, of unit norm."""
        return self._post("embed", {"terms": self._uploaded(terms)})["embedding"]

    def classify(self, terms: Sequence[Term], classes: Sequence[str]) -> dict[str, float]:
        """Returns the similarity of each class with a query, highest first."""
        query = {"terms": self._uploaded(terms), "classes": list(classes)}
        return {each["name"]: each["score"] for each in self._post("classify", query)["classes"]}

    def neighbours(self, shape_id: str, *, count: int = 12) -> list[Shape]:
        """Returns the shapes nearest to a shape of the index."""
        return self._send("neighbours", {"id": shape_id, "count": count})["shapes"]

    def add(self, file: str | Path, **metadata: str) -> dict[str, Any]:
        """Adds a shape; metadata are id, title, creator, licence and label. Needs a token."""
        query = {"name": Path(file).name, **metadata}
        return self._send("shapes", query, Path(file).read_bytes(), "application/octet-stream")

    def about(self) -> dict[str, Any]:
        """Returns the size and version of the index."""
        return self._send("about", {})

    def _uploaded(self, terms: Sequence[Term]) -> list[dict[str, Any]]:
        """Returns terms with ids of uploads in the place of files."""
        found = []
        for term in map(dict, terms):
            if file := term.pop("file", None):
                query, data = {"name": Path(str(file)).name}, Path(str(file)).read_bytes()
                term["upload"] = self._send("files", query, data, "application/octet-stream")["id"]
            found.append(term)
        return found

    def _post(self, name: str, query: dict[str, Any]) -> dict[str, Any]:
        return self._send(name, {}, json.dumps(query).encode(), "application/json")

    def _send(
        self, name: str, query: dict[str, Any], data: bytes | None = None, kind: str = ""
    ) -> dict[str, Any]:
        headers = self._headers | ({"Content-Type": kind} if kind else {})
        address = f"{self._address}/api/v1/{name}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(address, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self._seconds) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                reason = json.loads(error.read() or b"{}").get("error", error.reason)
            raise ApiError(reason) from error
