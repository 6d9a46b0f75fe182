# SPDX-License-Identifier: Apache-2.0
"""What the search page's command starts, and that it leaves nothing."""

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
    conventions = clouds.Conventions.of(tiny_card())
    pool = pools.Pool(conventions, seconds=0.05, memory=2**32, workers=1)
    try:
        with pytest.raises(pools.UnreadableError, match="it takes more than 0.05 s to read"):
            pool.read(tmp_path / "slow.obj")
        pool._seconds = 60
        content = pool.read(tmp_path / "quick.png")
    finally:
        pool.close()
    assert content.kind == "picture"
    np.testing.assert_array_equal(content.arrays["picture"], np.full((8, 8, 3), (1, 2, 3)))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit address space")
def test_a_mesh_that_wants_too_much_memory_is_refused_and_the_next_file_is_read(
    searcher, monkeypatch
):
    """Nothing is wrong with it, though trimesh calls unreadable what it has no memory for."""
    mesh = b"v 0 0 0\nv 1 0 0\nv 0 1 0\n" + b"f 1 2 3\n" * 1_500_000
    limits = apps.Limits(read_seconds=60, read_bytes=2**29, hosts=("testserver",))
    start = mock.Mock(wraps=subprocess.Popen)
    monkeypatch.setattr(pools.subprocess, "Popen", start)
    with apps.serving(searcher, limits) as served:
        client = testclient.TestClient(served)

        def send(name, data):
            raw = {"content-type": "application/octet-stream"}
            return client.post("/api/uploads", params={"name": name}, content=data, headers=raw)

        refused = [send("big.obj", mesh) for _ in range(3)]  # there are two workers
        taken = send("red.png", small_shapes.picture((255, 0, 0)))
        query = {"upload": taken.json()["id"], "count": 1}
        found = client.get("/api/find", params=query).json()["found"]
    assert [answer.status_code for answer in refused] == [422] * 3
    assert {answer.json()["error"] for answer in refused} == {
        "big.obj cannot be used: it needs more than 0.5 GB of memory to read; the file is damaged, "
        "hostile or too large"
    }
    assert [one["number"] for one in found] == [0]
    # The two, and another for each file that follows one which took all that there was.
    assert start.call_count == 2 + 2


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

    memory = None

    def __init__(self, conventions, *, seconds, memory):
        FakePool.memory = memory

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
    monkeypatch.setattr(FakePool, "memory", None)
    arguments += ["--upload_megabytes", "0.5", "--read_gigabytes", "0.75"]
    assert demo.main(arguments) == 0
    assert FakePool.memory == 3 * 2**28
    assert (asked[0]["shapes"], asked[0]["upload_bytes"]) == (12, 2**19)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option, value, least",
    [("upload_megabytes", "0", 0), ("read_seconds", "nan", 0), ("read_gigabytes", "0.5", 0.5)],
)
def test_limits_that_nothing_could_meet_are_refused(option, value, least, capsys):
    with pytest.raises(SystemExit):
        demo.main(["--checkpoint", "c", "--index", "i", f"--{option}", value])
    assert f"--{option} is {float(value)}; expected more than {least}" in capsys.readouterr().err


class Lengths:
    """Stands for the model: notes the lengths of texts, each of which would be compiled apart."""

    batch_size = 8

    def __init__(self):
        self.seen = set()

    def __call__(self, batches):
        for batch in batches:
            self.seen.add(batch["input_ids"].shape[1])
            yield np.ones((len(batch["input_ids"]), minilm.DIM), np.float32)


def test_after_the_start_no_length_of_a_name_is_compiled(searcher, monkeypatch):
    """Compiling one takes longer than answering."""
    try:
        encode = minilm.MiniLM(packages.locate(packages.MINILM), batch_size=8, dtype=np.float32)
    except FileNotFoundError as error:
        pytest.skip(f"the weight packages of the LiT teacher are absent: {error}")
    lengths = Lengths()
    monkeypatch.setattr(encode, "_function", lengths)
    teacher = types.SimpleNamespace(encode_texts=encode)
    lit = queries.Searcher(searcher.index, teacher=teacher)
    demo.warm_texts(lit)
    compiled = frozenset(lengths.seen)
    assert compiled == {4, 8, 12, 16, 20, 24}
    lit.texts("chair table lamp plant bed shelf door sofa vase car".split())
    lit.texts([" ".join(["door"] * words) for words in range(1, 13)])
    for words in range(1, 13):
        lit.text(" ".join(["lamp"] * words))
    assert lengths.seen == compiled


def test_without_the_extra_it_is_named(monkeypatch, capsys):
    def run(options):
        raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")

    monkeypatch.setattr(demo, "run", run)
    assert demo.main(["--checkpoint", "c", "--index", "i"]) == 2
    assert 'pip install "mrd_jax[demo]"' in capsys.readouterr().err
