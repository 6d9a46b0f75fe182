# SPDX-License-Identifier: Apache-2.0
"""Uploaded files: received, read by a worker, embedded and deleted."""

import collections
import dataclasses
import json
import re
import secrets
import tempfile
import threading
from pathlib import Path, PurePosixPath
from typing import Any

import anyio
import numpy as np
import PIL.Image
from starlette import concurrency, requests
from starlette.exceptions import HTTPException

from data_prep.geometry import formats, scene
from mrd_jax import atomic_io
from mrd_jax.demo import worker_pool
from mrd_jax.search import queries

PICTURE_TYPES = ("bmp", "gif", "jpeg", "jpg", "png", "tga", "tif", "tiff", "webp")
TYPES = (*formats.TYPES, *PICTURE_TYPES)
# Time limit in seconds to receive a file.
RECEIVE_SECONDS = 120
# Maximum number of uploads to keep; the oldest are deleted first.
MAX_UPLOADS = 256
# Required content type. Browsers let pages of other sites send it only after a CORS preflight
# request, which this server does not answer.
CONTENT_TYPE = "application/octet-stream"


@dataclasses.dataclass(frozen=True)
class Upload:
    """An embedded upload.

    Attributes:
      id: unguessable token that later requests refer to it by.
      name: name of the file.
      kind: "cloud" or "picture".
      row: float32 [dim], unit norm.
      xyz: float32 [points, 3]; points is 0 for a picture.
      rgb: uint8 [points, 3].
      mesh: reduced mesh, a glb file; b"" if there is none.
      faults: parts of the file that were ignored, such as "missing texture".
    """

    id: str
    name: str
    kind: str
    row: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray
    mesh: bytes
    faults: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns what the client needs to know, as JSON."""
        faults = list(self.faults)
        return {"id": self.id, "kind": self.kind, "name": self.name, "faults": faults}

    def as_result(self) -> dict[str, Any]:
        """Returns what the page needs to know, as JSON: also the bytes of the mesh."""
        return self.as_dict() | {"mesh": len(self.mesh)}


class UploadStore:
    """Receives files and keeps their embeddings.

    Args:
      searcher: embeds the uploads.
      pool: workers that read the files.
      folder: folder for temporary files.
      max_bytes: maximum size of a file.
      shared: folder in which several processes keep their uploads; None for one process.
    """

    def __init__(
        self,
        searcher: queries.Searcher,
        pool: worker_pool.WorkerPool,
        *,
        folder: Path,
        max_bytes: int,
        shared: Path | None = None,
    ):
        self._searcher = searcher
        self._pool = pool
        self._folder = folder
        self._shared = shared
        self._uploads: collections.OrderedDict[str, Upload] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.max_bytes = max_bytes

    async def receive(self, request: requests.Request) -> Upload:
        """Receives, reads and embeds the file in the body of a request.

        Args:
          request: its query parameter `name` is the file name, whose suffix is the file type.

        Raises:
          HTTPException: the file is not usable; the detail is shown to the user.
        """
        name = request.query_params.get("name", "")
        suffix = PurePosixPath(name).suffix[1:].lower()
        if request.headers.get("content-type") != CONTENT_TYPE:
            raise HTTPException(415, f"send the file as the body, with Content-Type {CONTENT_TYPE}")
        if suffix not in TYPES:
            raise HTTPException(415, f"{name} cannot be used: {_describe_type(suffix)}")
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            # Only the suffix of the untrusted name, which is one of `TYPES`, is used in a path.
            path = Path(folder, f"upload.{suffix}")
            try:
                with anyio.fail_after(RECEIVE_SECONDS):
                    await self._save(request, path)
            except TimeoutError as error:
                raise HTTPException(
                    408, f"the upload took more than {RECEIVE_SECONDS} s"
                ) from error
            return await concurrency.run_in_threadpool(self._embed, name, path)

    async def _save(self, request: requests.Request, path: Path) -> None:
        """Writes the body of a request to a file; stops at the size limit."""
        declared = request.headers.get("content-length", "0")
        self._check_size(int(declared) if declared.isdigit() else 0)
        size = 0
        with path.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                self._check_size(size)
                file.write(chunk)

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            limit = f"{self.max_bytes / 2**20:g} MB"
            raise HTTPException(413, f"the file is too large; the limit is {limit}")

    def _embed(self, name: str, path: Path) -> Upload:
        """Reads a file in a worker and embeds its content."""
        try:
            content = self._pool.read(path)
            arrays = content.arrays
            if content.kind == "cloud":
                row = self._searcher.embed_cloud(arrays["xyz"], arrays["rgb"])
                xyz, rgb = arrays["xyz"], np.rint(arrays["rgb"] * 255).astype(np.uint8)
                mesh = arrays["mesh"].tobytes()
            else:
                row = self._searcher.embed_picture(PIL.Image.fromarray(arrays["picture"]))
                xyz, rgb = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
                mesh = b""
        except ValueError as error:
            raise HTTPException(422, f"{name} cannot be used: {error}") from error
        token = secrets.token_urlsafe(16)
        upload = Upload(token, name, content.kind, row, xyz, rgb, mesh, content.faults)
        with self._lock:
            self._uploads[token] = upload
            while len(self._uploads) > MAX_UPLOADS:
                old, _ = self._uploads.popitem(last=False)
                if self._shared:
                    (self._shared / f"upload-{old}.npz").unlink(missing_ok=True)
        if self._shared:
            self._share(self._shared, upload)
        return upload

    def _share(self, folder: Path, upload: Upload) -> None:
        """Writes an upload for the other processes."""
        arrays = {name: getattr(upload, name) for name in ("row", "xyz", "rgb")}
        arrays["mesh"] = np.frombuffer(upload.mesh, np.uint8)
        text = json.dumps(upload.as_dict())
        atomic_io.write_npz(folder / f"upload-{upload.id}.npz", **arrays, text=np.array(text))

    def _read_shared(self, token: str) -> Upload | None:
        """Returns an upload that another process has received; None if there is none."""
        # Only characters of `secrets.token_urlsafe`: the token is part of a path.
        if self._shared is None or not re.fullmatch(r"[A-Za-z0-9_-]{16,64}", token):
            return None
        try:
            with np.load(self._shared / f"upload-{token}.npz", allow_pickle=False) as arrays:
                fields = json.loads(str(arrays["text"]))
                fields |= {name: arrays[name] for name in ("row", "xyz", "rgb")}
                fields["mesh"] = arrays["mesh"].tobytes()
        except FileNotFoundError:
            return None
        return Upload(**fields | {"faults": tuple(fields["faults"])})

    def get(self, token: str) -> Upload:
        """Returns an upload.

        Args:
          token: the upload's `id`.

        Raises:
          HTTPException: the upload does not exist or was deleted.
        """
        with self._lock:
            upload = self._uploads.get(token)
        upload = upload or self._read_shared(token)
        if upload is None:
            raise HTTPException(404, "the uploaded file has expired; upload it again")
        return upload


def _describe_type(suffix: str) -> str:
    """Returns the sentence about a type that is not read, as the commands print it."""
    try:
        formats.check_type(suffix)
    except scene.MeshError as error:
        return f"{error}; or a picture: {', '.join(PICTURE_TYPES)}"
    raise AssertionError(f"{suffix} is a known type")
