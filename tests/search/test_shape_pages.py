# SPDX-License-Identifier: Apache-2.0
"""What the server tells the page of single shapes, filters, the map and downloads."""

import dataclasses
import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest
import tiny_index
from starlette import testclient
from tiny_encoder import tiny_card

from mrd_jax.demo import downloads, index_map, web_app
from mrd_jax.search import entries, file_states, index_writer, manifest, queries, shape_index

LICENCES = ("CC0", "CC BY-NC 4.0", "", "CC BY 4.0")
LABELS = ("chair", "table", "")


def key(number):
    return f"{entries.key_of(f'box/{number}'):016x}"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index of shapes with labels and licences; it follows a folder with box/0 and box/3."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "box").mkdir()
    (folder / "box" / "0").write_text("source of 0")
    (folder / "box" / "3").write_text("source of 3")
    (folder / "box" / "3.png").write_text("texture of 3")
    source = manifest.Source("box", "../box")
    content = manifest.Manifest(
        tiny_card(),
        "of an encoder",
        shape_index.Teacher("fake/teacher", "r1", "somewhere"),
        1,
        tiny_index.POINTS,
        sources=(source,),
    )
    index_writer.create(folder / "index", content)
    with index_writer.open_writer(folder / "index", user="test") as writer:
        writer.add(changed(tiny_index.entries(tiny_index.coloured_rows()), folder))
        writer.publish()
    return shape_index.read(folder / "index")


def changed(shapes, folder):
    """Yields entries with labels and licences, two of them with the state of their files."""
    references = {0: (), 3: ("3.png",)}
    for number, entry in enumerate(shapes):
        path, origin = folder / "box" / str(number), None
        if number in references:
            origin = entries.Origin("", file_states.stamp_of(path, references[number]))
            origin = dataclasses.replace(origin, references=references[number])
        item = dataclasses.replace(
            entry.item, licence=LICENCES[number % 4], label=LABELS[number % 3], origin=origin
        )
        yield dataclasses.replace(entry, item=item)


@pytest.fixture(scope="module")
def client(index):
    limits = web_app.Limits(hosts=("testserver",))
    searcher = queries.Searcher(index, teacher=tiny_index.FakeTeacher())
    with web_app.serving(searcher, limits) as app:
        yield testclient.TestClient(app)


def found(client, **params):
    answer = client.get("/api/find", params=params)
    assert answer.status_code == 200, answer.text
    shapes = [int(shape["id"].removeprefix("box/")) for shape in answer.json()["found"]]
    return shapes, answer.json()["total"]


def test_a_shape_with_a_mesh_has_it_served_and_others_say_so(client):
    mesh = client.get(f"/api/shapes/{key(4)}/mesh")
    assert mesh.content == tiny_index.tetrahedron("green")
    assert mesh.headers["content-type"] == "model/gltf-binary"
    assert client.get(f"/api/shapes/{key(4)}").json()["mesh"] == len(mesh.content)
    assert client.get(f"/api/shapes/{key(1)}/mesh").status_code == 404
    assert client.get(f"/api/shapes/{key(1)}").json()["mesh"] == 0


def test_pages_of_results_follow_each_other_to_the_end(client):
    whole, total = found(client, text="red", count=60)
    assert sorted(whole) == list(range(12)) and total == 12
    pages = [found(client, text="red", count=5, offset=offset) for offset in (0, 5, 10, 15)]
    assert [shape for page, _ in pages for shape in page] == whole
    assert [count for _, count in pages] == [12] * 4
    assert found(client, shape=key(3), count=60)[1] == 11


def test_filters_restrict_queries_and_shapes_without_a_query(client):
    whole, _ = found(client, text="red", count=60)
    chairs = [number for number in whole if number % 3 == 0]
    assert found(client, text="red", label="chair") == (chairs, 4)
    assert found(client, label=["chair", "table"], creator="maker 4") == ([4], 1)
    assert found(client, shape=key(0), label="table")[1] == 4  # the shape itself is no table
    assert found(client, shape=key(0), label="chair")[1] == 3
    assert found(client, folder="box", licence="CC0") == ([0, 4, 8], 3)
    assert found(client, folder="bo") == ([], 0)


def test_neither_query_nor_filter_is_an_error(client):
    answer = client.get("/api/find")
    assert answer.status_code == 400 and "nothing to search for" in answer.json()["error"]


def test_results_are_sorted_by_other_fields_with_empty_values_last(client):
    numbers, _ = found(client, text="red", sort="creator", count=60)
    assert numbers == sorted(range(12), key=lambda number: f"maker {number}")
    labels = [LABELS[number % 3] for number in found(client, sort="label", count=60)[0]]
    assert labels == ["chair"] * 4 + ["table"] * 4 + [""] * 4
    assert found(client, sort="title", count=2, offset=1)[0] == [10, 11]  # "box 1", "box 10", …
    wrong = client.get("/api/find", params={"text": "red", "sort": "size"})
    assert wrong.status_code == 400 and "similarity, title" in wrong.json()["error"]
    assert client.get("/api/find", params={"text": "red", "offset": -1}).status_code == 400


def test_negative_weights_turn_the_order_around(client):
    wanted, unwanted = (
        client.get("/api/find", params={"text": "red", "weight": weight, "count": 60}).json()
        for weight in (1, -1)
    )
    scores = {shape["id"]: shape["score"] for shape in wanted["found"]}
    assert [-shape["score"] for shape in unwanted["found"]] == sorted(scores.values())
    assert {shape["id"]: -shape["score"] for shape in unwanted["found"]} == scores


def test_facets_count_values_without_empty_ones(client):
    facets = client.get("/api/facets").json()
    assert facets["label"] == [["chair", 4], ["table", 4]]
    assert facets["licence"] == [["CC BY 4.0", 3], ["CC BY-NC 4.0", 3], ["CC0", 3]]
    assert facets["folder"] == [["box", 12]] and len(facets["creator"]) == 12


def test_a_list_leaves_out_shapes_that_are_gone(client):
    answer = client.post("/api/list", json={"shapes": [key(2), "0" * 16, key(1)]})
    assert [shape["id"] for shape in answer.json()["shapes"]] == ["box/2", "box/1"]
    assert client.post("/api/list", json={"shapes": [key(0)] * 1_001}).status_code == 400
    assert client.post("/api/list", json={"shapes": [1]}).status_code == 400


def test_a_free_source_is_downloaded_alone_or_with_its_textures(client, index):
    details = client.get(f"/api/shapes/{key(0)}").json()
    assert details["download"] == {"name": "0", "bytes": len("source of 0"), "source": True}
    file = client.get(f"/api/shapes/{key(0)}/file")
    assert file.text == "source of 0"
    assert file.headers["content-disposition"] == "attachment; filename*=UTF-8''0"
    packed = client.get(f"/api/shapes/{key(3)}/file")
    assert packed.headers["content-disposition"].endswith("3.zip")
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "3": b"source of 3",
            "3.png": b"texture of 3",
        }


def test_a_shape_without_a_source_is_downloaded_as_its_mesh(client):
    assert client.get(f"/api/shapes/{key(4)}").json()["download"]["name"] == "box_4.glb"
    assert client.get(f"/api/shapes/{key(4)}/file").content == tiny_index.tetrahedron("green")
    assert client.get(f"/api/shapes/{key(7)}/file").status_code == 404  # free, but no file


def test_a_licence_that_is_not_free_forbids_the_download(client):
    for number in (1, 2):
        details = client.get(f"/api/shapes/{key(number)}").json()
        assert details["download"] is None and "licence" in details["reason"]
        assert client.get(f"/api/shapes/{key(number)}/file").status_code == 403


def test_a_source_that_has_changed_or_lies_outside_is_not_served(client, index):
    path = index.folder.parent / "box" / "0"
    status = path.stat()
    path.write_text("another and longer source")
    try:
        name = client.get(f"/api/shapes/{key(0)}").json()["download"]["name"]
        assert name == "box_0.glb"
        path.unlink()
        path.symlink_to("/etc/hostname")
        assert client.get(f"/api/shapes/{key(0)}/file").content == tiny_index.tetrahedron("red")
    finally:
        path.unlink()
        path.write_text("source of 0")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "licence",
    [
        *("CC0", "CC-0", "CC0 1.0 Universal", "CC BY 3.0", "CC-BY-SA 4.0", "cc-by", "BY-SA 4.0"),
        *("Creative Commons Attribution 3.0 Unported license (c) someone", "public domain"),
        *("MIT", "Apache-2.0", "LGPL 2.1", "GNU GPL", "Free Art License 1.3", "BSD-3-Clause"),
    ],
)
def test_free_licences_are_recognised(licence):
    assert downloads.is_free(licence)


@pytest.mark.parametrize(
    "licence",
    [
        *("", "unknown", "CC BY-NC 4.0", "CC BY-ND 3.0", "cc-by-nc-sa", "All rights reserved"),
        *("Creative Commons Attribution-NonCommercial", "Creative Commons Attribution-NoDerivs"),
        *("not CC0", "by the author", "Royalty free", "Editorial", "CC", "permitted use only"),
    ],
)
def test_other_licences_are_not_taken_for_free(licence):
    assert not downloads.is_free(licence)


def test_the_map_has_the_keys_coordinates_and_classes_of_all_shapes(client, index):
    data = client.get("/api/map").content
    (size,) = struct.unpack_from("<I", data)
    header, data = json.loads(data[4 : 4 + size]), data[4 + size :]
    assert (4 + size) % 8 == 0
    assert header["shapes"] == header["all"] == 12
    assert header["method"] == "principal components" and header["classes"] == ["chair", "table"]
    keys = np.frombuffer(data, "<u8", 12)
    assert [f"{value:016x}" for value in keys.tolist()] == [key(number) for number in range(12)]
    xy = np.frombuffer(data, "<i2", 24, offset=96).reshape(12, 2) / 32_767
    codes = np.frombuffer(data, "<u2", 12, offset=144)
    assert codes.tolist() == [0, 1, 65_535] * 4
    # Independent: the projection onto the two largest singular vectors has these distances.
    rows = np.asarray(index.rows, np.float64)
    u, s, _ = np.linalg.svd(rows - rows.mean(axis=0))
    want = u[:, :2] * s[:2]
    distances = [np.linalg.norm(each[:, None] - each, axis=-1) for each in (xy, want)]
    scale = distances[1].max() / distances[0].max()
    np.testing.assert_allclose(distances[0] * scale, distances[1], rtol=0, atol=2e-3)


@pytest.mark.slow
def test_a_map_of_more_shapes_keeps_neighbours_together_and_is_repeatable(tmp_path):
    random = np.random.default_rng(0)
    centres = np.repeat(random.normal(size=(4, tiny_index.DIM)), 20, axis=0)
    rows = centres + 0.05 * random.normal(size=centres.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = shape_index.read(tiny_index.write(tmp_path / "index", rows))
    found = index_map.make(index)
    assert found.method == "t-SNE"
    np.testing.assert_array_equal(found.xy, index_map.make(index).xy)
    groups = found.xy.reshape(4, 20, 2).astype(np.float64)
    spread = np.linalg.norm(groups - groups.mean(axis=1, keepdims=True), axis=-1).max()
    middles = groups.mean(axis=1)
    gaps = np.linalg.norm(middles[:, None] - middles, axis=-1)[~np.eye(4, dtype=bool)]
    assert gaps.min() > 2 * spread


def test_meshes_survive_removals_and_joined_segments(tmp_path):
    tiny_index.write(tmp_path / "index")
    with index_writer.open_writer(tmp_path / "index", user="test") as writer:
        writer.remove([f"box/{number}" for number in range(8)])
        writer.publish()
    index = shape_index.read(tmp_path / "index")
    meshes = {item.id: index.mesh(number) for number, item in enumerate(index.items)}
    assert meshes == {
        "box/8": tiny_index.tetrahedron("blue"),
        "box/9": b"",
        "box/10": tiny_index.tetrahedron("green"),
        "box/11": b"",
    }


def test_an_index_without_meshes_is_read(tmp_path):
    place = tiny_index.write(tmp_path / "index") / manifest.SEGMENTS / "000001"
    for name in ("meshes.npy", "meshes.bin"):
        (place / name).unlink()
    index = shape_index.read(tmp_path / "index")
    assert index.mesh(0) == b"" and index.mesh_size(0) == 0


def test_a_truncated_file_of_meshes_is_refused(tmp_path):
    file = tiny_index.write(tmp_path / "index") / manifest.SEGMENTS / "000001" / "meshes.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(shape_index.CorruptIndexError, match=r"meshes.bin has \d+ bytes"):
        shape_index.read(tmp_path / "index")
