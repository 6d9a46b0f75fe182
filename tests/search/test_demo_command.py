# SPDX-License-Identifier: Apache-2.0
"""The command of the search page: its worker processes, limits and cleanup."""

import functools
import re
import subprocess
import sys
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
from data_prep.teachers.lit.frozen import minilm, packages
from mrd_jax.demo import __main__ as demo
from mrd_jax.demo import server, web_app, worker_pool
from mrd_jax.search import queries, shape_index


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    """Returns a searcher for text and pictures."""
    index = shape_index.read(tiny_index.write(tmp_path_factory.mktemp("demo") / "index"))
    return queries.Searcher(index, teacher=tiny_index.FakeTeacher())


def test_a_timeout_kills_the_worker_and_the_next_file_is_read(tmp_path):
    vertices = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
    (tmp_path / "slow.obj").write_text(vertices + "f 1 2 3\n" * 200_000)
    (tmp_path / "quick.png").write_bytes(small_shapes.picture((1, 2, 3)))
    conventions = clouds.Conventions.of(tiny_card())
    pool = worker_pool.WorkerPool(conventions, seconds=0.05, memory=2**32, workers=1)
    try:
        with pytest.raises(worker_pool.UnreadableError, match="reading it takes more than 0.05 s"):
            pool.read(tmp_path / "slow.obj")
        pool._seconds = 60
        content = pool.read(tmp_path / "quick.png")
    finally:
        pool.close()
    assert content.kind == "picture"
    np.testing.assert_array_equal(content.arrays["picture"], np.full((8, 8, 3), (1, 2, 3)))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit address space")
def test_a_mesh_over_the_memory_limit_is_rejected_and_the_next_file_is_read(searcher, monkeypatch):
    """The mesh is valid, but trimesh reports it as unreadable when memory runs out."""
    mesh = b"v 0 0 0\nv 1 0 0\nv 0 1 0\n" + b"f 1 2 3\n" * 1_500_000
    limits = web_app.Limits(read_seconds=60, read_bytes=2**29, hosts=("testserver",))
    start = mock.Mock(wraps=subprocess.Popen)
    monkeypatch.setattr(worker_pool.subprocess, "Popen", start)
    with web_app.serving(searcher, limits) as app:
        client = testclient.TestClient(app)

        def send(name, data):
            raw = {"content-type": "application/octet-stream"}
            return client.post("/api/uploads", params={"name": name}, content=data, headers=raw)

        rejected = [send("big.obj", mesh) for _ in range(3)]  # there are two workers
        accepted = send("red.png", small_shapes.picture((255, 0, 0)))
        query = {"upload": accepted.json()["id"], "count": 1}
        found = client.get("/api/find", params=query).json()["found"]
    assert [answer.status_code for answer in rejected] == [422] * 3
    assert {answer.json()["error"] for answer in rejected} == {
        "big.obj cannot be used: reading it takes more than 0.5 GB of memory; the file is corrupt, "
        "malicious or too large"
    }
    assert [shape["id"] for shape in found] == ["box/0"]
    # The two workers, and a replacement when the next file comes after a worker ran out of memory.
    assert start.call_count == 2 + 2


def test_uploads_leave_no_files(searcher, tmp_path, monkeypatch):
    monkeypatch.setattr(web_app, "tempfile", folders_in(tmp_path))
    monkeypatch.setattr(web_app.worker_pool, "WorkerPool", FakePool)
    limits = web_app.Limits(hosts=("testserver",))
    with web_app.serving(searcher, limits) as app:
        (folder,) = tmp_path.iterdir()
        answer = testclient.TestClient(app).post(
            "/api/uploads?name=x.png",
            content=b"picture",
            headers={"content-type": "application/octet-stream"},
        )
        assert answer.status_code == 200
        assert FakePool.path.is_relative_to(folder / "received")
        assert list((folder / "received").iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def folders_in(path):
    """Returns a stand-in for `tempfile` that creates folders in `path`."""
    create = functools.partial(tempfile.TemporaryDirectory, dir=path)
    return types.SimpleNamespace(TemporaryDirectory=create)


class FakePool:
    """Records the path of the file that it should read."""

    memory = None

    def __init__(self, conventions, *, seconds, memory):
        FakePool.memory = memory

    def read(self, path):
        assert path.read_bytes() == b"picture"
        FakePool.path = path
        return worker_pool.Content("picture", {"picture": np.zeros((2, 2, 3), np.uint8)}, ())

    def close(self):
        pass


def test_the_command_prints_its_address_and_leaves_no_files(
    searcher, tmp_path, monkeypatch, capsys
):
    """The fake server stops with KeyboardInterrupt, as after Ctrl-C."""
    monkeypatch.setattr(web_app, "tempfile", folders_in(tmp_path))
    monkeypatch.setattr(web_app.worker_pool, "WorkerPool", FakePool)
    monkeypatch.setattr(queries, "load_encoder", lambda index, checkpoint: None)
    monkeypatch.setattr(server, "warm_up", lambda searcher: None)
    monkeypatch.setattr(queries, "load_teacher", lambda index, place: searcher.teacher)
    monkeypatch.setattr(server, "signal", mock.MagicMock())
    answers = []

    def serve(self, sockets):
        address = re.search(r"http://127.0.0.1:\d+", capsys.readouterr().out).group()
        assert address.endswith(f":{sockets[0].getsockname()[1]}")
        client = testclient.TestClient(self.config.app, base_url=address)
        answers.append(client.get("/api/about").json())
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", serve)
    arguments = ["--checkpoint", "c", "--index", str(searcher.index.folder), "--port", "0"]
    monkeypatch.setattr(FakePool, "memory", None)
    arguments += ["--upload_megabytes", "0.5", "--read_gigabytes", "0.75"]
    assert demo.main(arguments) == 0
    assert FakePool.memory == 3 * 2**28
    assert (answers[0]["shapes"], answers[0]["upload_bytes"]) == (12, 2**19)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option, value, lower",
    [("upload_megabytes", "0", 0), ("read_seconds", "nan", 0), ("read_gigabytes", "0.5", 0.5)],
)
def test_a_limit_that_rejects_every_file_is_an_error(option, value, lower, capsys):
    with pytest.raises(SystemExit):
        demo.main(["--checkpoint", "c", "--index", "i", f"--{option}", value])
    assert f"--{option} is {float(value)}; expected more than {lower}" in capsys.readouterr().err


class RecordingModel:
    """Replaces the model and records the padded lengths of texts; each is compiled separately."""

    batch_size = 8

    def __init__(self):
        self.lengths = set()

    def __call__(self, batches):
        for batch in batches:
            self.lengths.add(batch["input_ids"].shape[1])
            yield np.ones((len(batch["input_ids"]), minilm.DIM), np.float32)


def test_the_warm_up_compiles_all_lengths_of_names(searcher, monkeypatch):
    """Compilation takes longer than a query."""
    try:
        encode = minilm.MiniLM(packages.locate(packages.MINILM), batch_size=8, dtype=np.float32)
    except FileNotFoundError as error:
        pytest.skip(f"the weight packages of the LiT teacher are absent: {error}")
    model = RecordingModel()
    monkeypatch.setattr(encode, "_function", model)
    teacher = types.SimpleNamespace(encode_texts=encode)
    lit = queries.Searcher(searcher.index, teacher=teacher)
    server.warm_up_text(lit)
    compiled = frozenset(model.lengths)
    assert compiled == {4, 8, 12, 16, 20, 24}
    lit.embed_texts("chair table lamp plant bed shelf door sofa vase car".split())
    lit.embed_texts([" ".join(["door"] * words) for words in range(1, 13)])
    for words in range(1, 13):
        lit.embed_text(" ".join(["lamp"] * words))
    assert model.lengths == compiled


def test_without_the_extra_the_command_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert demo.main(["--checkpoint", "c", "--index", "i"]) == 2
    assert 'uvicorn is missing; the page needs it. Run pip install "mrd_jax[demo]"' in (
        capsys.readouterr().err
    )
