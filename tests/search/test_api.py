# SPDX-License-Identifier: Apache-2.0
"""The HTTP API, its description, its client, and who may use it."""

import contextlib
import io
import json
import os
import threading
import time

import numpy as np
import pytest
import small_shapes
import tiny_index
import uvicorn
from starlette import testclient

from benchmarks import demo_load
from mrd_jax.demo import access, api, openapi, web_app, worker_pool
from mrd_jax.search import client as clients
from mrd_jax.search import entries, filters, index_writer, queries, shape_index

TOKEN = "a-token-of-the-test-suite"


class Pool:
    """Reads uploads in this process."""

    def __init__(self, conventions, **_):
        pass

    def read(self, path):
        if path.suffix == ".png":
            pixels = np.full((2, 2, 3), (255, 0, 0), np.uint8)
            return worker_pool.Content("picture", {"picture": pixels}, ())
        with np.load(path) as arrays:
            return worker_pool.Content(
                "cloud", dict(arrays) | {"mesh": np.zeros(0, np.uint8)}, ("missing texture",)
            )

    def close(self):
        pass


class Encoder:
    """Embeds a cloud as its mean colour."""

    def embed(self, clouds, *, batch_size=1):
        rows = [tiny_index.row(255 * rgb.mean(axis=0)) for _, rgb in clouds]
        return np.array([row / np.linalg.norm(row) for row in rows])


@pytest.fixture(scope="module", autouse=True)
def in_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web_app.worker_pool, "WorkerPool", Pool)
        yield


def make_searcher(folder):
    return queries.Searcher(
        shape_index.read(tiny_index.write(folder)),
        encoder=Encoder(),
        teacher=tiny_index.FakeTeacher(),
    )


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return make_searcher(tmp_path_factory.mktemp("api") / "index")


@contextlib.contextmanager
def opened(searcher, *, log=None, poll_seconds=60, **rules):
    """Yields a client of an application."""
    limits = web_app.Limits(hosts=("testserver", "127.0.0.1"), upload_bytes=2**20)
    service = web_app.Service(access.Rules(**rules), request_log=log, poll_seconds=poll_seconds)
    with web_app.serving(searcher, limits, service) as app:
        yield testclient.TestClient(app)


@pytest.fixture(scope="module")
def client(searcher):
    with opened(searcher) as client:
        yield client


def tokens(*texts):
    return tuple(access.hashlib.sha256(text.encode()).digest() for text in texts or (TOKEN,))


def bearer(token=TOKEN):
    return {"Authorization": f"Bearer {token}"}


def search(client, *terms, **fields):
    answer = client.post("/api/v1/search", json={"terms": terms, **fields})
    assert answer.status_code == 200, answer.text
    return [shape["id"] for shape in answer.json()["shapes"]]


def cloud_file(colour):
    buffer = io.BytesIO()
    xyz = np.random.default_rng(0).uniform(-0.5, 0.5, (40, 3)).astype(np.float32)
    np.savez(buffer, xyz=xyz, rgb=np.tile(np.float32(colour), (40, 1)))
    return buffer.getvalue()


def test_weighted_and_negative_terms_are_mixed_as_by_the_searcher(client, searcher):
    rows = [searcher.embed_text("red"), searcher.shape_row(7), searcher.embed_text("blue")]
    want = searcher.find(queries.mix(rows, [1, 0.5, -2]), count=4, exclude=7).numbers
    found = search(
        client,
        {"text": "red"},
        {"id": "box/7", "weight": 0.5},
        {"text": "blue", "weight": -2},
        count=4,
    )
    assert found == [f"box/{number}" for number in want]
    key = f"{entries.key_of('box/7'):016x}"
    assert search(client, {"shape": key}) == search(client, {"id": "box/7"})


def test_filters_restrict_the_results_and_keep_their_order(client, searcher):
    everything = search(client, {"text": "green"}, count=12)
    makers = ["maker 3", "maker 8", "maker 1", "nobody"]
    found = search(client, {"text": "green"}, filters={"creator": makers})
    assert found == [name for name in everything if name in ("box/3", "box/8", "box/1")]
    assert (
        len(search(client, {"text": "green"}, filters={"folder": "box", "licence": ["CC0"]})) == 12
    )
    assert search(client, {"text": "green"}, filters={"folder": "bo"}) == []
    assert search(client, {"text": "green"}, filters={"label": ["chair"]}) == []
    assert searcher.facets().counts("licence") == {"CC0": 12}
    assert not filters.Filters()


def test_embeddings_classes_and_neighbours_are_those_of_the_searcher(client, searcher):
    answer = client.post("/api/v1/embed", json={"terms": [{"text": "red"}]}).json()
    np.testing.assert_allclose(answer["embedding"], searcher.embed_text("red"), atol=1e-6)
    body = {"terms": [{"text": "red"}], "classes": ["green", "red", "blue"]}
    classes = client.post("/api/v1/classify", json=body).json()["classes"]
    want = searcher.classify(searcher.embed_text("red"), body["classes"])
    assert [(each["name"], pytest.approx(each["score"], abs=1e-5)) for each in classes] == want
    found = client.get("/api/v1/neighbours", params={"id": "box/4", "count": 3}).json()["shapes"]
    numbers = searcher.find(searcher.shape_row(4), count=3, exclude=4).numbers
    assert [shape["id"] for shape in found] == [f"box/{number}" for number in numbers]


@pytest.mark.parametrize(
    "path, body, status, message",
    [
        ("search", {"terms": []}, 400, "nothing to search for"),
        ("search", {"terms": [{"text": "x", "upload": "y"}]}, 400, "a term needs one of text"),
        ("search", {"terms": [{"text": "x", "weight": "1"}]}, 400, "weight is '1'; expected"),
        ("search", {"terms": [{"text": "x", "wait": 1}]}, 400, "unknown field 'wait'"),
        ("search", {"terms": [{"text": "x"}], "counts": 1}, 400, "unknown field 'counts'"),
        ("search", {"terms": [{"text": "x"}], "count": 1e9}, 400, "expected 1 to 60"),
        ("search", {"terms": [{"text": "x"}], "filters": {"creator": "x"}}, 400, "list of texts"),
        ("search", {"terms": "red"}, 400, "terms: expected a list"),
        ("search", {"terms": [{"text": "x" * 2**17}]}, 413, "the query is too large"),
        ("search", {"terms": [{"text": "x"}] * 9}, 400, "the query has 9 parts; at most 8"),
        ("search", {"terms": [{"id": "gone"}]}, 404, "does not exist"),
        ("search", [], 400, "not a JSON object"),
        ("classify", {"terms": [{"text": "x"}]}, 400, "0 classes"),
        ("shapes?name=a.npz", {}, 403, "only with a token"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(client, path, body, status, message):
    answer = client.post(f"/api/v1/{path}", json=body)
    assert answer.status_code == status and message in answer.json()["error"]


def test_a_body_that_is_not_json_is_refused(client):
    raw = {"content-type": "application/json"}
    deep = b"[" * 60_000
    for data in (b"{", deep, b"\xff"):
        assert client.post("/api/v1/search", content=data, headers=raw).status_code == 400
    answer = client.post("/api/v1/search", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415  # needs no CORS preflight request


def test_the_description_is_valid_and_lists_every_route_and_answer(client):
    jsonschema = pytest.importorskip("jsonschema")
    with opened_api_routes() as routes:
        described = openapi.description(adding=True)
        assert described["paths"].keys() | {"/api/openapi.json", "/metrics"} == routes
    assert client.get("/api/openapi.json").json() == openapi.description(adding=False)
    assert described["openapi"] == "3.1.0" and described["info"].keys() >= {"title", "version"}
    assert "/api/v1/shapes" not in client.get("/api/openapi.json").json()["paths"]
    schemas = described["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)

    def validate(name, value):
        reference = {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
        jsonschema.Draft202012Validator(reference).validate(value)

    def references(node):
        if isinstance(node, dict):
            yield from [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    for reference in references(described):
        target = described
        for word in reference.removeprefix("#/").split("/"):
            target = target[word]
    query = {"terms": [{"text": "red", "weight": -1}], "count": 2, "filters": {"folder": "box"}}
    validate("Search", query)
    with pytest.raises(jsonschema.ValidationError):
        validate("Search", {"terms": [{"text": "x", "id": "y"}]})
    validate("Shapes", client.post("/api/v1/search", json=query).json())
    validate("About", client.get("/api/v1/about").json())
    validate("Health", client.get("/healthz").json())
    validate("Error", client.post("/api/v1/search", json={}).json())


@contextlib.contextmanager
def opened_api_routes():
    """Yields the paths of the API."""
    handlers = api.Api(None, None, shared=None, can_add=True)
    yield {route.path for route in handlers.routes()}


def test_the_client_finds_embeds_classifies_and_adds(tmp_path):
    searcher = make_searcher(tmp_path / "index")
    (tmp_path / "blue.npz").write_bytes(cloud_file((0, 0, 1)))
    with serving(searcher, tokens=tokens()) as address:
        client = clients.Client(address, token=TOKEN)
        assert client.about()["shapes"] == 12
        assert client.search([{"text": "green"}], count=1, creator=["maker 1"])[0]["id"] == "box/1"
        found = client.search([{"file": str(tmp_path / "blue.npz")}], count=1)
        assert found[0]["id"] == "box/2"
        assert np.linalg.norm(client.embed([{"text": "red"}])) == pytest.approx(1, abs=1e-5)
        assert [*client.classify([{"text": "red"}], ["blue", "red"])] == ["red", "blue"]
        assert len(client.neighbours("box/3", count=5)) == 5
        added = client.add(tmp_path / "blue.npz", id="new/blue", title="a blue box", label="box")
        assert (added["id"], added["version"]) == ("new/blue", 1)
        assert added["faults"] == ["missing texture"]
        best = client.search([{"text": "blue"}], count=1, label=["box"])[0]
        assert (best["id"], best["title"]) == ("new/blue", "a blue box")
        with pytest.raises(clients.ApiError, match="already has a shape 'new/blue'"):
            client.add(tmp_path / "blue.npz", id="new/blue")
        with pytest.raises(clients.ApiError, match="a valid token is needed"):
            clients.Client(address).search([{"text": "red"}])
    index = shape_index.read(tmp_path / "index")
    assert index.items[12].id == "new/blue" and index.xyz.shape == (13, tiny_index.POINTS, 3)


@contextlib.contextmanager
def serving(searcher, **rules):
    """Yields the address of a server in a thread."""
    with opened(searcher, **rules) as client:
        config = uvicorn.Config(client.app, port=0, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_requests_finish_on_their_version_and_the_next_ones_see_the_new(tmp_path):
    searcher = make_searcher(tmp_path / "index")
    with opened(searcher, poll_seconds=0.05) as client:
        assert search(client, {"text": "red"}, count=1) == ["box/0"]
        with index_writer.open_writer(tmp_path / "index", user="test") as writer:
            writer.remove(["box/0"])
            writer.publish()
        for _ in range(100):
            if client.get("/healthz").json()["version"] == 1:
                break
            time.sleep(0.05)
        assert search(client, {"text": "red"}, count=1) != ["box/0"]
        gone = client.get(f"/api/shapes/{entries.key_of('box/0'):016x}/picture")
        assert gone.status_code == 404
        assert searcher.index.version == 0 and len(searcher.index) == 12
        (tmp_path / "index" / "index.json").write_text("{")
        time.sleep(0.2)
        assert client.get("/healthz").json()["version"] == 1


def test_a_token_is_needed_unless_the_server_is_public(searcher):
    body = {"terms": [{"text": "red"}]}
    with opened(searcher, tokens=tokens(TOKEN, "another-token-of-the-suite")) as client:
        for path in ("/", "/api/find?text=red", "/api/v1/about", "/metrics", "/api/openapi.json"):
            answer = client.get(path)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/healthz").status_code == 200
        assert client.post("/api/v1/search", json=body, headers=bearer()).status_code == 200
        wrong = bearer(TOKEN + "x")
        assert client.post("/api/v1/search", json=body, headers=wrong).status_code == 401
    with opened(searcher, tokens=tokens(), public=True) as client:
        assert client.get("/").status_code == 200
        assert client.post("/api/v1/search", json=body).status_code == 200
        assert client.post("/api/v1/shapes?name=a.npz", content=b"x").status_code == 401


def test_a_token_in_an_address_is_refused_and_never_logged(searcher, tmp_path):
    log = tmp_path / "requests.jsonl"
    with opened(searcher, log=log, tokens=tokens()) as client:
        for query in (f"token={TOKEN}", f"text={TOKEN}", "Access_Token=x"):
            answer = client.get(f"/api/v1/about?{query}", headers=bearer())
            assert answer.status_code == 400 and "ends up in logs" in answer.json()["error"]
        client.post("/api/v1/search", json={"terms": [{"text": "secret"}]}, headers=bearer())
        client.get("/secret/path", headers=bearer())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    fields = {"time", "client", "method", "route", "status", "milliseconds"}
    assert all(line.keys() == fields for line in lines)
    assert [line["route"] for line in lines] == ["v1/about"] * 3 + ["v1/search", "other"]
    assert TOKEN not in log.read_text() and "secret" not in log.read_text()


def test_clients_that_ask_too_often_have_to_wait(searcher):
    with opened(searcher, per_minute=3) as client:
        statuses = [client.get("/api/v1/about").status_code for _ in range(5)]
        answer = client.get("/api/v1/about")
        assert statuses == [200, 200, 200, 429, 429]
        assert 1 <= int(answer.headers["retry-after"]) <= 20
        assert client.get("/").status_code == 200  # the page itself is not limited


def test_scripts_of_other_sites_are_allowed_by_origin_only(searcher):
    shop = {"Origin": "https://shop.example"}
    with opened(searcher, origins=("https://shop.example",), tokens=tokens()) as client:
        preflight = client.options("/api/v1/search", headers=shop)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == shop["Origin"]
        answer = client.get("/api/v1/about", headers=shop | bearer())
        assert answer.headers["access-control-allow-origin"] == shop["Origin"]
        other = {"Origin": "https://evil.example"}
        assert "access-control-allow-origin" not in client.get("/healthz", headers=other).headers
    with opened(searcher) as client:
        assert "access-control-allow-origin" not in client.get("/healthz", headers=shop).headers


def test_metrics_count_requests_by_route_and_status(searcher):
    with opened(searcher) as client:
        for _ in range(3):
            search(client, {"text": "red"})
        client.post("/api/v1/search", json={})
        text = client.get("/metrics").text
    parser = pytest.importorskip("prometheus_client.parser")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["mrd_jax_requests_total", "200", "v1/search"] == 3
    assert samples["mrd_jax_requests_total", "400", "v1/search"] == 1
    assert samples["mrd_jax_request_seconds_count", "v1/search"] == 4
    assert samples["mrd_jax_request_seconds_bucket", "+Inf", "v1/search"] == 4
    assert samples["mrd_jax_index_shapes",] == 12


def test_a_file_of_tokens_is_read_and_checked(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"# comment\n\n{TOKEN}\n")
    file.chmod(0o600)
    assert access.Rules(access.read_tokens(file)).accepts(TOKEN)
    for text, message in (("short\n", "token 1 has less than 20"), ("# none\n", "has no token")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            access.read_tokens(file)
    file.chmod(0o644)
    with pytest.raises(ValueError, match="every user may read it"):
        access.read_tokens(file)


def test_processes_share_uploads(searcher, tmp_path):
    limits = web_app.Limits(hosts=("testserver",))
    service = web_app.Service(shared=tmp_path)
    raw = {"content-type": "application/octet-stream"}
    with (
        web_app.serving(searcher, limits, service) as first,
        web_app.serving(searcher, limits, service) as second,
    ):
        received = testclient.TestClient(first).post(
            "/api/v1/files?name=x.png", content=small_shapes.picture((255, 0, 0)), headers=raw
        )
        other = testclient.TestClient(second)
        assert search(other, {"upload": received.json()["id"]}, count=1) == ["box/0"]
        answer = other.get("/api/find", params={"upload": "../../etc/passwd"})
        assert answer.status_code == 404


def test_parallel_clients_get_answers_without_errors(searcher):
    with serving(searcher) as address:
        ids = [item.id for item in searcher.index.items]
        load = dict(clients=20, seconds=0.5, ids=ids, process=os.getpid())
        measured = demo_load.measure_load(address, **load)
    assert measured["errors"] == 0, measured["first_error"]
    assert measured["requests"] >= 20 and measured["p99_ms"] >= measured["p50_ms"] > 0
    assert measured["server_mb"] > 10
