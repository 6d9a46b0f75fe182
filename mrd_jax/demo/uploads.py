# SPDX-License-Identifier: Apache-2.0
"""Files that are dropped on the page: received, opened by a worker, embedded, forgotten."""

import collections
import dataclasses
import secrets
import tempfile
import threading
from pathlib import Path, PurePosixPath

import anyio
import numpy as np
import PIL.Image
from starlette import concurrency, exceptions, requests

from data_prep.geometry import clouds
from mrd_jax.demo import pool as pools
from mrd_jax.search import queries

PICTURE_TYPES = ("bmp", "gif", "jpeg", "jpg", "png", "tga", "tif", "tiff", "webp")
# Seconds that a file may take to arrive.
ARRIVAL = 120
# Uploads whose embedding and cloud are kept; the oldest go first.
KEPT = 256
# One spelling of this header, so that other sites' pages cannot send files without being asked.
CONTENT_TYPE = "application/octet-stream"


@dataclasses.dataclass(frozen=True)
class Upload:
    """What is kept of a file.

    Attributes:
      id: to ask for it with; cannot be guessed.
      name: of the file.
      kind: "cloud" or "picture".
      row: float32 [dim], unit norm.
      xyz: float32 [points, 3]; of a picture, no points.
      rgb: uint8 [points, 3].
      faults: what was left out of it.
    """

    id: str
    name: str
    kind: str
    row: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray
    faults: tuple[str, ...]


class Uploads:
    """Receives files and remembers what they became.

    Args:
      searcher: that embeds them.
      pool: that opens them.
      folder: for the files while they are opened.
      most_bytes: of one file.
    """

    def __init__(
        self, searcher: queries.Searcher, pool: pools.Pool, *, folder: Path, most_bytes: int
    ):
        self._searcher = searcher
        self._pool = pool
        self._folder = folder
        self._kept: collections.OrderedDict[str, Upload] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.most_bytes = most_bytes

    async def receive(self, request: requests.Request) -> Upload:
        """Takes the file in the body of a request, whose `name` says its type.

        Raises:
          starlette.exceptions.HTTPException: it cannot be used; the detail says why in words.
        """
        name = request.query_params.get("name", "")
        kind = PurePosixPath(name).suffix[1:].lower()
        if request.headers.get("content-type") != CONTENT_TYPE:
            raise exceptions.HTTPException(415, f"send the file itself, as {CONTENT_TYPE}")
        if kind not in (*clouds.TYPES, *PICTURE_TYPES):
            known = ", ".join((*clouds.TYPES, *PICTURE_TYPES))
            raise exceptions.HTTPException(415, f"the type of {name!r} is not one of {known}")
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            # Nothing of the name that a stranger chose becomes a path, but for its known ending.
            path = Path(folder, f"upload.{kind}")
            try:
                with anyio.fail_after(ARRIVAL):
                    await self._save(request, path)
            except TimeoutError as error:
                reason = f"the file took more than {ARRIVAL} s to arrive"
                raise exceptions.HTTPException(408, reason) from error
            return await concurrency.run_in_threadpool(self._embed, name, path)

    async def _save(self, request: requests.Request, path: Path) -> None:
        """Writes the body to a file, and stops at the limit."""
        declared = request.headers.get("content-length", "0")
        self._check_size(int(declared) if declared.isdigit() else 0)
        size = 0
        with path.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                self._check_size(size)
                file.write(chunk)
        if not size:
            raise exceptions.HTTPException(422, "the file is empty")

    def _check_size(self, size: int) -> None:
        if size > self.most_bytes:
            limit = f"{self.most_bytes / 2**20:g} MB"
            raise exceptions.HTTPException(413, f"the file is too large: at most {limit} are taken")

    def _embed(self, name: str, path: Path) -> Upload:
        """Opens a file in a worker and embeds what it holds."""
        try:
            content = self._pool.read(path)
            arrays = content.arrays
            if content.kind == "cloud":
                row = self._searcher.cloud(arrays["xyz"], arrays["rgb"])
                xyz, rgb = arrays["xyz"], np.rint(arrays["rgb"] * 255).astype(np.uint8)
            else:
                row = self._searcher.picture(PIL.Image.fromarray(arrays["picture"]))
                xyz, rgb = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
        except ValueError as error:
            raise exceptions.HTTPException(422, f"{name} cannot be used: {error}") from error
        token = secrets.token_urlsafe(16)
        upload = Upload(token, name, content.kind, row, xyz, rgb, content.faults)
        with self._lock:
            self._kept[token] = upload
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return upload

    def get(self, token: str) -> Upload:
        """An upload that is still kept.

        Raises:
          starlette.exceptions.HTTPException: it is not.
        """
        with self._lock:
            if token not in self._kept:
                raise exceptions.HTTPException(404, "this file is no longer kept: drop it again")
            return self._kept[token]
