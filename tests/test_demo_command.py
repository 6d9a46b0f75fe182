# SPDX-License-Identifier: Apache-2.0
"""What the search page's command starts, and that it leaves nothing."""

import functools
import re
import tempfile
import types
from unittest import mock

import numpy as np
import pytest
import small_shapes
import tiny_index
import uvicorn
from starlette import testclient
from tiny_encoder import tiny_card

from data_prep.geometry import clouds
from mrd_jax.demo import __main__ as demo
from mrd_jax.demo import app as apps
from mrd_jax.demo import pool as pools
from mrd_jax.search import index as indices
from mrd_jax.search import queries


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    """Answers words and pictures."""
    index = indices.read(tiny_index.write(tmp_path_factory.mktemp("demo") / "index"))
    return queries.Searcher(index, teacher=tiny_index.FakeTeacher())


def test_a_file_that_takes_too_long_ends_its_worker_and_not_the_next_one(tmp_path):
    vertices = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
    (tmp_path / "slow.obj").write_text(vertices + "f 1 2 3\n" * 200_000)
    (tmp_path / "quick.png").write_bytes(small_shapes.picture((1, 2, 3)))
    pool = pools.Pool(clouds.Conventions.of(tiny_card()), seconds=0.05, workers=1)
    try:
        with pytest.raises(pools.UnreadableError, match="it takes more than 0.05 s to read"):
            pool.read(tmp_path / "slow.obj")
        pool._seconds = 60
        content = pool.read(tmp_path / "quick.png")
    finally:
        pool.close()
    assert content.kind == "picture"
    np.testing.assert_array_equal(content.arrays["picture"], np.full((8, 8, 3), (1, 2, 3)))


def test_nothing_is_left_of_uploads(searcher, tmp_path, monkeypatch):
    monkeypatch.setattr(apps, "tempfile", folders_in(tmp_path))
    monkeypatch.setattr(apps.pools, "Pool", FakePool)
    limits = apps.Limits(hosts=("testserver",))
    with apps.serving(searcher, limits) as served:
        (folder,) = tmp_path.iterdir()
        answer = testclient.TestClient(served).post(
            "/api/uploads?name=x.png",
            content=b"picture",
            headers={"content-type": "application/octet-stream"},
        )
        assert answer.status_code == 200
        assert FakePool.seen.is_relative_to(folder)
        assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def folders_in(path):
    """The part of `tempfile` that the application uses."""
    made = functools.partial(tempfile.TemporaryDirectory, dir=path)
    return types.SimpleNamespace(TemporaryDirectory=made)


class FakePool:
    """Notes where the file was that it should open."""

    def __init__(self, conventions, *, seconds):
        pass

    def read(self, path):
        assert path.read_bytes() == b"picture"
        FakePool.seen = path
        return pools.Content("picture", {"picture": np.zeros((2, 2, 3), np.uint8)}, ())

    def close(self):
        pass


def test_the_command_says_where_it_serves_and_leaves_nothing(
    searcher, tmp_path, monkeypatch, capsys
):
    """The server ends as Ctrl-C ends it."""
    monkeypatch.setattr(apps, "tempfile", folders_in(tmp_path))
    monkeypatch.setattr(apps.pools, "Pool", FakePool)
    monkeypatch.setattr(queries, "load_encoder", lambda index, checkpoint: None)
    monkeypatch.setattr(demo, "warm", lambda searcher: None)
    monkeypatch.setattr(queries, "load_teacher", lambda index, place: searcher.teacher)
    monkeypatch.setattr(demo, "signal", mock.MagicMock())
    asked = []

    def serve(server, sockets):
        address = re.search(r"http://127.0.0.1:\d+", capsys.readouterr().out).group()
        assert address.endswith(f":{sockets[0].getsockname()[1]}")
        client = testclient.TestClient(server.config.app, base_url=address)
        asked.append(client.get("/api/about").json())
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", serve)
    arguments = ["--checkpoint", "c", "--index", str(searcher.index.folder), "--port", "0"]
    assert demo.main([*arguments, "--upload_megabytes", "0.5"]) == 0
    assert (asked[0]["shapes"], asked[0]["upload_bytes"]) == (12, 2**19)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_is_named(monkeypatch, capsys):
    def run(options):
        raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")

    monkeypatch.setattr(demo, "run", run)
    assert demo.main(["--checkpoint", "c", "--index", "i"]) == 2
    assert 'pip install "mrd_jax[demo]"' in capsys.readouterr().err
