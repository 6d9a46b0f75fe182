# SPDX-License-Identifier: Apache-2.0
"""The search page's server, by its answers."""

import asyncio
import io
import json
from concurrent import futures

import numpy as np
import pytest
import small_shapes
import tiny_index
from starlette import testclient
from tiny_encoder import POINTS, random_clouds

from mrd_jax.demo import __main__ as demo
from mrd_jax.demo import app as apps
from mrd_jax.search import queries

pytestmark = pytest.mark.usefixtures("fast_compile")
LIMIT = 2**20
RAW = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def searcher(tmp_path_factory, fast_compile):
    return tiny_index.searcher(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def app(searcher):
    limits = apps.Limits(upload_bytes=LIMIT, read_seconds=60, hosts=("testserver",))
    with apps.serving(searcher, limits) as served:
        yield served


@pytest.fixture
def client(app):
    return testclient.TestClient(app)


def numbers(answer):
    assert answer.status_code == 200, answer.text
    return [one["number"] for one in answer.json()["found"]]


def send(client, name, data):
    return client.post("/api/uploads", params={"name": name}, content=data, headers=RAW)


def cloud_bytes():
    """The cloud behind shape 5."""
    xyz, rgb = random_clouds(1)[0]
    buffer = io.BytesIO()
    np.savez(buffer, xyz=xyz, rgb=rgb)
    return buffer.getvalue()


def test_words_find_shapes_with_all_that_is_shown_of_them(client, searcher):
    answer = client.get("/api/find", params={"text": "green", "count": 2})
    first = answer.json()["found"][0]
    score = float(searcher.text("green") @ searcher.shape(1))
    assert first == {
        "number": 1,
        "score": pytest.approx(score, abs=1e-3),
        "title": "box 1",
        "creator": "maker 1",
        "licence": "CC0",
    }
    assert len(answer.json()["found"]) == 2 and answer.json()["milliseconds"] > 0


def test_a_dropped_picture_finds_its_colour(client):
    uploaded = send(client, "Sky.PNG", small_shapes.picture((0, 0, 255))).json()
    assert (uploaded["kind"], uploaded["name"], uploaded["faults"]) == ("picture", "Sky.PNG", [])
    assert numbers(client.get("/api/find", params={"upload": uploaded["id"], "count": 1})) == [2]


def test_a_dropped_cloud_finds_itself_and_can_be_drawn(client):
    uploaded = send(client, "a/../b.npz", cloud_bytes()).json()
    assert uploaded["kind"] == "cloud"
    found = client.get("/api/find", params={"upload": uploaded["id"], "count": 1})
    assert numbers(found) == [5]
    assert found.json()["found"][0]["score"] == pytest.approx(1, abs=1e-3)
    data = client.get(f"/api/uploads/{uploaded['id']}/cloud").content
    xyz, rgb = random_clouds(1)[0]
    assert len(data) == POINTS * (6 + 3)
    got = np.frombuffer(data, "<i2", POINTS * 3).reshape(POINTS, 3) / 32_767
    np.testing.assert_allclose(got, xyz, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(
        np.frombuffer(data[POINTS * 6 :], np.uint8), np.rint(rgb * 255).ravel()
    )


def test_a_dropped_mesh_is_embedded_and_says_what_it_lacks(client):
    obj = b"mtllib gone.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    uploaded = send(client, "flat.obj", obj).json()
    assert uploaded["kind"] == "cloud" and uploaded["faults"] == ["missing materials file"]
    glb = small_shapes.box().export(file_type="glb")
    uploaded = send(client, "box.glb", glb).json()
    assert uploaded["faults"] == []
    assert len(numbers(client.get("/api/find", params={"upload": uploaded["id"]}))) == 12


def test_parts_are_mixed_by_weights_in_their_order(client, searcher):
    row = queries.mix([searcher.text("red"), searcher.shape(7)], [1, 3])
    want = searcher.find(row, count=4, leave_out=7).numbers.tolist()
    query = [("text", "red"), ("weight", 1), ("shape", 7), ("weight", 3), ("count", 4)]
    assert numbers(client.get("/api/find", params=query)) == want
    query = [("text", "red"), ("weight", 3), ("shape", 7), ("weight", 1), ("count", 4)]
    assert numbers(client.get("/api/find", params=query)) != want


def test_more_like_this_leaves_this_out(client, searcher):
    want = searcher.find(searcher.shape(4), count=13).numbers.tolist()[1:6]
    assert numbers(client.get("/api/find", params={"shape": 4, "count": 5})) == want


def test_a_dropped_shape_is_named_among_the_classes(client, searcher):
    uploaded = send(client, "b.npz", cloud_bytes()).json()
    query = {"upload": uploaded["id"], "class": ["red", "green", "blue", " "]}
    classes = client.get("/api/classify", params=query).json()["classes"]
    want = {word: float(searcher.text(word) @ searcher.shape(5)) for word in tiny_index.WORDS}
    assert [one["name"] for one in classes] == sorted(want, key=lambda word: -want[word])
    for one in classes:
        assert one["score"] == pytest.approx(want[one["name"]], abs=1e-3)


def test_clouds_and_pictures_of_shapes_are_served(client, searcher):
    data = client.get("/api/shapes/3/cloud").content
    assert data == searcher.index.xyz[3].tobytes() + searcher.index.rgb[3].tobytes()
    picture = client.get("/api/shapes/3/picture")
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content == searcher.index.picture(3).read_bytes()


def test_fifty_questions_at_once_get_their_own_answers(client):
    words = [f"{tiny_index.WORDS[place % 3]} {place}" for place in range(50)]
    with futures.ThreadPoolExecutor(50) as threads:
        answers = list(
            threads.map(lambda text: client.get("/api/find", params={"text": text}), words)
        )
    assert [numbers(answer)[0] for answer in answers] == [place % 3 for place in range(50)]


def post(app, chunks, *, headers=()):
    """Sends chunks as a browser would; returns (status, message, chunks taken)."""
    taken, sent = 0, []

    async def receive():
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": next(chunks), "more_body": True}

    async def take(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/uploads",
        "query_string": b"name=big.glb",
        "headers": [(b"host", b"testserver"), *((k.encode(), v.encode()) for k, v in RAW.items())]
        + [(name.encode(), value.encode()) for name, value in headers],
    }
    asyncio.run(app(scope, receive, take))
    return sent[0]["status"], json.loads(sent[1]["body"])["error"], taken


def test_two_hundred_megabytes_are_refused_after_the_first_over_the_limit(app):
    megabyte = bytes(2**20)
    status, message, taken = post(app, (megabyte for _ in range(200)))
    assert (status, message) == (413, "the file is too large: at most 1 MB are taken")
    assert taken == 2
    declared = [("content-length", str(200 * 2**20))]
    assert post(app, iter([]), headers=declared) == (status, message, 0)


@pytest.mark.parametrize(
    "name, data, status, message",
    [
        ("bad.glb", b"glTF garbage", 422, "bad.glb cannot be used: unreadable mesh"),
        ("bad.png", b"\x89PNG garbage", 422, "bad.png cannot be used: unreadable picture"),
        ("empty.obj", b"", 422, "the file is empty"),
        ("flat.npy", b"no array", 422, "pickled objects"),
        ("run.exe", b"MZ", 415, "the type of 'run.exe' is not one of glb, gltf"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(client, name, data, status, message):
    answer = send(client, name, data)
    assert answer.status_code == status and message in answer.json()["error"]


@pytest.mark.parametrize(
    "path, query, status, message",
    [
        ("find", {}, 400, "nothing to search for"),
        ("find", {"text": " "}, 400, "no words"),
        ("find", {"text": "x" * 301}, 400, "301 letters are too many"),
        ("find", {"text": "x", "count": 61}, 400, "count is 61; expected 1 to 60"),
        ("find", {"text": "x", "weight": "nan"}, 400, "weight is 'nan'; expected a number"),
        ("find", {"text": "x", "weight": ["1", "2"]}, 400, "1 parts of a query, but 2 weights"),
        ("find", {"text": "x", "weight": "0"}, 400, "cancel out"),
        ("find", {"text": ["x"] * 9}, 400, "at most 8 parts"),
        ("find", {"shape": "12"}, 404, "there is no shape 12"),
        ("find", {"shape": "-1"}, 400, "'-1' is no number of a shape"),
        ("find", {"upload": "guessed"}, 404, "no longer kept: drop it again"),
        ("classify", {"shape": 1}, 400, "0 classes to choose among; expected 1 to 50"),
        ("classify", {"class": "x"}, 400, "there is no shape to name"),
        ("shapes/12/cloud", {}, 404, "there is no shape 12"),
        ("shapes/x/picture", {}, 400, "'x' is no number"),
    ],
)
def test_questions_without_an_answer_are_refused_in_words(client, path, query, status, message):
    answer = client.get(f"/api/{path}", params=query)
    assert answer.status_code == status and message in answer.json()["error"]


def test_foreign_pages_cannot_reach_the_server(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    form = {"content-type": "text/plain"}  # what a foreign page may send without being asked
    assert client.post("/api/uploads?name=a.glb", content=b"x", headers=form).status_code == 415
    assert demo.allowed_hosts("127.0.0.1")[:2] == ("localhost", "127.0.0.1")
    assert demo.allowed_hosts("0.0.0.0") == ("*",)


def test_every_answer_forbids_foreign_code(client):
    for path in ("/", "/api/about", "/static/page.css", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_old_uploads_are_forgotten(app, client, monkeypatch):
    monkeypatch.setattr("mrd_jax.demo.uploads.KEPT", 1)
    first, second = (
        send(client, "x.png", small_shapes.picture(colour)).json()["id"]
        for colour in ((255, 0, 0), (0, 255, 0))
    )
    assert client.get("/api/find", params={"upload": first}).status_code == 404
    assert numbers(client.get("/api/find", params={"upload": second, "count": 1})) == [1]
