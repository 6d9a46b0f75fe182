# SPDX-License-Identifier: Apache-2.0
"""The API of the search page."""

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

from mrd_jax.demo import server, web_app
from mrd_jax.search import entries, queries

pytestmark = pytest.mark.usefixtures("fast_compile")
LIMIT = 2**20
RAW = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def searcher(tmp_path_factory, fast_compile):
    return tiny_index.searcher(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def app(searcher):
    limits = web_app.Limits(upload_bytes=LIMIT, read_seconds=60, hosts=("testserver",))
    with web_app.serving(searcher, limits) as app:
        yield app


@pytest.fixture
def client(app):
    return testclient.TestClient(app)


def key(number):
    """Returns the name of a shape of `tiny_index` in addresses."""
    return f"{entries.key_of(f'box/{number}'):016x}"


NUMBERS = {key(number): number for number in range(tiny_index.COUNT)}


def numbers(answer):
    assert answer.status_code == 200, answer.text
    return [NUMBERS[shape["key"]] for shape in answer.json()["found"]]


def send(client, name, data):
    return client.post("/api/uploads", params={"name": name}, content=data, headers=RAW)


def cloud_bytes():
    """Returns the point cloud of shape 5 as an npz file."""
    xyz, rgb = random_clouds(1)[0]
    buffer = io.BytesIO()
    np.savez(buffer, xyz=xyz, rgb=rgb)
    return buffer.getvalue()


def test_text_finds_shapes_with_their_metadata(client, searcher):
    answer = client.get("/api/find", params={"text": "green", "count": 2})
    first = answer.json()["found"][0]
    score = float(searcher.embed_text("green") @ searcher.shape_row(1))
    assert first == {
        "key": key(1),
        "id": "box/1",
        "score": pytest.approx(score, abs=1e-3),
        "title": "box 1",
        "name": "box 1",
        "creator": "maker 1",
        "licence": "CC0",
        "label": "",
        "mesh": 0,
    }
    assert len(answer.json()["found"]) == 2 and answer.json()["milliseconds"] > 0


def test_an_uploaded_picture_finds_its_colour(client):
    uploaded = send(client, "Sky.PNG", small_shapes.picture((0, 0, 255))).json()
    assert (uploaded["kind"], uploaded["name"], uploaded["faults"]) == ("picture", "Sky.PNG", [])
    assert numbers(client.get("/api/find", params={"upload": uploaded["id"], "count": 1})) == [2]


def test_an_uploaded_cloud_finds_itself_and_its_points_are_served(client):
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


def test_an_uploaded_mesh_is_embedded_and_its_faults_are_reported(client):
    obj = b"mtllib gone.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    uploaded = send(client, "flat.obj", obj).json()
    assert uploaded["kind"] == "cloud" and uploaded["faults"] == ["missing materials file"]
    glb = small_shapes.box().export(file_type="glb")
    uploaded = send(client, "box.glb", glb).json()
    assert uploaded["faults"] == []
    assert len(numbers(client.get("/api/find", params={"upload": uploaded["id"]}))) == 12


def test_parts_are_mixed_by_their_weights_in_order(client, searcher):
    row = queries.mix([searcher.embed_text("red"), searcher.shape_row(7)], [1, 3])
    want = searcher.find(row, count=4, exclude=7).numbers.tolist()
    query = [("text", "red"), ("weight", 1), ("shape", key(7)), ("weight", 3), ("count", 4)]
    assert numbers(client.get("/api/find", params=query)) == want
    query = [("text", "red"), ("weight", 3), ("shape", key(7)), ("weight", 1), ("count", 4)]
    assert numbers(client.get("/api/find", params=query)) != want


def test_a_search_by_shape_excludes_the_shape(client, searcher):
    want = searcher.find(searcher.shape_row(4), count=13).numbers.tolist()[1:6]
    assert numbers(client.get("/api/find", params={"shape": key(4), "count": 5})) == want


def test_an_uploaded_shape_is_classified(client, searcher):
    uploaded = send(client, "b.npz", cloud_bytes()).json()
    query = {"upload": uploaded["id"], "class": ["red", "green", "blue", " "]}
    classes = client.get("/api/classify", params=query).json()["classes"]
    want = {
        word: float(searcher.embed_text(word) @ searcher.shape_row(5)) for word in tiny_index.WORDS
    }
    assert [entry["name"] for entry in classes] == sorted(want, key=lambda word: -want[word])
    for entry in classes:
        assert entry["score"] == pytest.approx(want[entry["name"]], abs=1e-3)


def test_point_clouds_and_pictures_of_shapes_are_served(client, searcher):
    data = client.get(f"/api/shapes/{key(3)}/cloud").content
    assert data == searcher.index.xyz[3].tobytes() + searcher.index.rgb[3].tobytes()
    picture = client.get(f"/api/shapes/{key(3)}/picture")
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content == searcher.index.picture(3)


def test_fifty_concurrent_queries_get_their_own_answers(client):
    words = [f"{tiny_index.WORDS[place % 3]} {place}" for place in range(50)]
    with futures.ThreadPoolExecutor(50) as threads:
        answers = list(
            threads.map(lambda text: client.get("/api/find", params={"text": text}), words)
        )
    assert [numbers(answer)[0] for answer in answers] == [place % 3 for place in range(50)]


def post(app, chunks, *, headers=()):
    """Sends an upload in chunks; returns (status, error message, number of chunks received)."""
    received, sent = 0, []

    async def receive():
        nonlocal received
        received += 1
        return {"type": "http.request", "body": next(chunks), "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/uploads",
        "query_string": b"name=big.glb",
        "headers": [(b"host", b"testserver"), *((k.encode(), v.encode()) for k, v in RAW.items())]
        + [(name.encode(), value.encode()) for name, value in headers],
    }
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])["error"], received


def test_a_large_upload_is_rejected_at_the_first_chunk_over_the_limit(app):
    megabyte = bytes(2**20)
    status, message, received = post(app, (megabyte for _ in range(200)))
    assert (status, message) == (413, "the file is too large; the limit is 1 MB")
    assert received == 2
    declared = [("content-length", str(200 * 2**20))]
    assert post(app, iter([]), headers=declared) == (status, message, 0)


@pytest.mark.parametrize(
    "name, data, status, message",
    [
        ("bad.glb", b"glTF garbage", 422, "bad.glb cannot be used: truncated binary glTF file"),
        ("bad.png", b"\x89PNG garbage", 422, "bad.png cannot be used: unreadable picture"),
        ("empty.obj", b"", 422, "empty.obj cannot be used: empty file"),
        ("empty.png", b"", 422, "empty.png cannot be used: unreadable picture"),
        ("a.fbx", b"x", 415, "a.fbx cannot be used: fbx files are not read; open it in Blender"),
        ("flat.npy", b"no array", 422, "pickled objects"),
        ("run.exe", b"MZ", 415, "run.exe cannot be used: unknown type 'exe'; expected one of glb"),
    ],
)
def test_an_unreadable_upload_is_rejected_with_the_reason(client, name, data, status, message):
    answer = send(client, name, data)
    assert answer.status_code == status and message in answer.json()["error"]


@pytest.mark.parametrize(
    "path, query, status, message",
    [
        ("find", {}, 400, "nothing to search for"),
        ("find", {"text": " "}, 400, "the text is empty"),
        ("find", {"text": "x" * 301}, 400, "the text has 301 characters; at most 300"),
        ("find", {"text": "x", "count": 61}, 400, "count is 61; expected 1 to 60"),
        ("find", {"text": "x", "weight": "nan"}, 400, "weight is 'nan'; expected a number"),
        ("find", {"text": "x", "weight": ["1", "2"]}, 400, "the query has 1 parts and 2 weights"),
        ("find", {"text": "x", "weight": "0"}, 400, "cancel out"),
        ("find", {"text": ["x"] * 9}, 400, "the query has 9 parts; at most 8"),
        ("find", {"shape": "12"}, 404, "shape 12 does not exist"),
        ("find", {"shape": "0" * 16}, 404, "shape 0000000000000000 does not exist"),
        ("find", {"upload": "guessed"}, 404, "the uploaded file has expired; upload it again"),
        ("classify", {"shape": key(1)}, 400, "0 classes; expected 1 to 50"),
        ("classify", {"class": "x"}, 400, "nothing to classify"),
        ("shapes/12/cloud", {}, 404, "shape 12 does not exist"),
        ("shapes/x/picture", {}, 404, "shape x does not exist"),
    ],
)
def test_an_invalid_request_is_rejected_with_the_reason(client, path, query, status, message):
    answer = client.get(f"/api/{path}", params=query)
    assert answer.status_code == status and message in answer.json()["error"]


def test_pages_of_other_sites_cannot_use_the_api(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    form = {"content-type": "text/plain"}  # needs no CORS preflight request
    assert client.post("/api/uploads?name=a.glb", content=b"x", headers=form).status_code == 415
    assert server.allowed_hosts("127.0.0.1")[:2] == ("localhost", "127.0.0.1")
    assert server.allowed_hosts("0.0.0.0") == ("*",)


def test_every_response_has_the_security_headers(client):
    for path in ("/", "/api/about", "/static/page.css", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_old_uploads_are_deleted(app, client, monkeypatch):
    monkeypatch.setattr("mrd_jax.demo.upload_store.MAX_UPLOADS", 1)
    first, second = (
        send(client, "x.png", small_shapes.picture(colour)).json()["id"]
        for colour in ((255, 0, 0), (0, 255, 0))
    )
    assert client.get("/api/find", params={"upload": first}).status_code == 404
    assert numbers(client.get("/api/find", params={"upload": second, "count": 1})) == [1]
