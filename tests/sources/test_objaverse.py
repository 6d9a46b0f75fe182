# SPDX-License-Identifier: Apache-2.0
"""The source `objaverse`, on a cache in the layout of the package `objaverse` 0.1.7."""

import gzip
import json

import numpy as np
import pytest
from small_shapes import box, rgb, run_build, write

from data_prep import sources
from data_prep.sources import objaverse
from mrd_jax import evaluation
from mrd_jax.data import source

ONE, TWO, THREE = "8476c4170df24cf5bbe6967222d1a42d", "0" * 32, "f" * 32


def annotation(uid, **changes):
    """Returns an annotation with the fields of the published metadata."""
    site = "https://api.sketchfab.com/v3"
    return {
        "uri": f"{site}/models/{uid}",
        "uid": uid,
        "name": "Spiral_Staircase",
        "staffpickedAt": None,
        "viewCount": 4,
        "tags": [
            {"name": "Stair", "slug": "stair", "uri": f"{site}/tags/stair"},
            {"name": "oak wood", "slug": "oakwood", "uri": f"{site}/tags/oakwood"},
        ],
        "categories": [
            {"name": name, "uri": f"{site}/categories/a", "slug": "a"}
            for name in ("Architecture", "Furniture &amp; Home")
        ],
        "thumbnails": {"images": [{"uid": "6", "size": 3, "width": 64, "url": "https://x/6.jpeg"}]},
        "user": {"uid": "b5", "username": "agrice", "displayName": "Alan Grice Co Ltd"},
        "description": "See http://staircon.com/ <br>Made by <b>Alan &amp; Co</b>\n(lic 6391)",
        "faceCount": 14608,
        "isAgeRestricted": False,
        "archives": {"glb": {"textureCount": 6, "size": 1546940, "type": "glb"}},
        "license": "by-sa",
    } | changes


def write_gz(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    return path


def cache(root, *, lvis=None):
    """Writes three objects in two folders; the second one has no annotation."""
    base = root / "hf-objaverse-v1"
    paths = {uid: f"glbs/{place}/{uid}.glb" for uid, place in ((ONE, "000-023"), (TWO, "000-023"))}
    paths[THREE] = f"glbs/000-101/{THREE}.glb"
    write_gz(base / "object-paths.json.gz", paths | {"a" * 32: f"glbs/000-000/{'a' * 32}.glb"})
    write(base / paths[ONE], box((1, 4, 2), rgb("blue")))
    write(base / paths[TWO], box((1, 1, 1), rgb("red")))
    write(base / paths[THREE], box())
    (base / f"{paths[TWO]}.tmp").write_bytes(b"glTF")
    write_gz(base / "metadata" / "000-023.json.gz", {ONE: annotation(ONE), "b" * 32: {}})
    third = {
        "user": {"username": "someone"},
        "license": "cc0",
        "tags": [],
        "description": None,
        "categories": [],
    }
    write_gz(base / "metadata" / "000-101.json.gz", {THREE: annotation(THREE, **third)})
    write_gz(base / "lvis-annotations.json.gz", lvis or {"step_stool": [ONE], "apple": ["c" * 32]})
    return base


def test_every_object_in_the_cache_becomes_a_record(tmp_path, monkeypatch, capsys):
    base = cache(tmp_path / "home")
    truncated = write(base / "glbs/000-101/cut.glb", box())
    size = truncated.stat().st_size
    truncated.write_bytes(truncated.read_bytes()[:100])

    folder = run_build("objaverse", tmp_path / "home", tmp_path / "out", monkeypatch)

    two, one, three = source.open_split(folder, "train")
    assert [record["id"] for record in (two, one, three)] == [TWO, ONE, THREE]
    assert one["name"] == "Spiral_Staircase"
    assert list(zip(one["caption_kinds"], one["captions"], strict=True)) == [
        ("name", "Spiral_Staircase"),
        ("tags", "Spiral_Staircase, Stair, oak wood"),
        ("category", "Architecture, Furniture & Home"),
        ("description", "See Made by Alan & Co (lic 6391)"),
    ]
    assert (one["creator"], one["licence"]) == ("Alan Grice Co Ltd", "CC BY-SA 4.0")
    assert (three["creator"], three["licence"]) == ("someone", "CC0 1.0")
    assert three["caption_kinds"] == ["name"]
    assert (two["name"], two["captions"], two["creator"], two["licence"]) == ("", [], "", "")
    assert json.loads((folder / "evaluation" / "classes.json").read_text()) == ["step stool"]
    assert [record["label"] for record in (two, one, three)] == [-1, 0, -1]
    assert (one["rgb"] == rgb("blue")).all() and one["image_kinds"] == ["render", "render"]
    assert np.ptp(one["xyz"].astype(float), axis=0).argmax() == 2  # y of the file is up
    assert evaluation.load_held_out(folder, "train").names == ("", *["Spiral_Staircase"] * 2)
    printed = capsys.readouterr().out
    assert "4 items read, 3 shapes" in printed
    reason = f"truncated binary glTF file: has 100 of {size} bytes"
    assert f"skipped, {reason}: 1\n    cut\n" in printed
    assert "kept, no annotation: 1" in printed


def test_the_inner_folder_and_a_cache_without_annotations_are_accepted(tmp_path):
    base = cache(tmp_path)
    outer = sources.SOURCES["objaverse"].items(tmp_path)
    assert sources.SOURCES["objaverse"].items(base) == outer
    for path in [*base.glob("*.gz"), *base.glob("metadata/*")]:
        path.unlink()
    without_lists = sources.SOURCES["objaverse"].items(tmp_path)
    assert [item.id for item in without_lists] == [item.id for item in outer]
    assert not any(item.name or item.label or item.captions for item in without_lists)


def test_an_object_in_several_categories_gets_the_first_one_and_is_counted(tmp_path):
    cache(tmp_path, lvis={"ladder": [ONE], "CD_player": [TWO], "bow_(weapon)": [ONE]})
    two, one, _ = sources.SOURCES["objaverse"].items(tmp_path)
    assert (one.label, one.faults) == ("ladder", ("in several LVIS categories",))
    assert (two.label, two.faults) == ("CD player", ("no annotation",))


def test_a_changed_annotation_changes_the_fingerprint_of_its_object_only(tmp_path):
    base = cache(tmp_path)
    before = [item.fingerprint for item in sources.SOURCES["objaverse"].items(tmp_path)]
    changed = {ONE: annotation(ONE, name="Ladder")}
    write_gz(base / "metadata" / "000-023.json.gz", changed)
    after = [item.fingerprint for item in sources.SOURCES["objaverse"].items(tmp_path)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


@pytest.mark.parametrize("name", ["lvis-annotations.json.gz", "metadata/000-101.json.gz"])
@pytest.mark.parametrize(
    "damage", [lambda d: d[:-20], lambda d: b"<html>", lambda d: gzip.compress(b"[1]")]
)
def test_the_error_for_a_corrupt_list_names_it(tmp_path, name, damage):
    path = cache(tmp_path) / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path}: not a valid JSON object .* delete it"):
        sources.SOURCES["objaverse"].items(tmp_path)


def test_a_decompression_bomb_is_an_error(tmp_path, monkeypatch):
    cache(tmp_path)
    monkeypatch.setenv("MRD_MAX_MEMBER_BYTES", "50")
    with pytest.raises(ValueError, match="unpacked bytes, at most 50 are read"):
        sources.SOURCES["objaverse"].items(tmp_path)


def test_a_folder_without_a_cache_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no hf-objaverse-v1/glbs in it; expected the cache"):
        sources.SOURCES["objaverse"].items(tmp_path)
    (tmp_path / "glbs").mkdir()
    with pytest.raises(ValueError, match="no glbs/.* download objects with the package"):
        sources.SOURCES["objaverse"].items(tmp_path)


def test_long_descriptions_are_truncated_between_words():
    text = " ".join(["word"] * 100)
    kind, short = objaverse.parse_annotation({"description": text})["captions"][0]
    assert (kind, short) == ("description", " ".join(["word"] * 60))
    assert objaverse.parse_annotation({"description": "x" * 400})["captions"][0][1] == "x" * 300


@pytest.mark.parametrize("value", [None, 3, ["a"], {"name": 1, "tags": ["a", {}], "user": "b"}])
def test_annotation_fields_of_other_types_are_ignored(value):
    fields = objaverse.parse_annotation(value)
    assert not any(fields.get(field) for field in ("name", "captions", "creator", "licence"))
