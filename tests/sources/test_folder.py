# SPDX-License-Identifier: Apache-2.0
"""The source `folder`: searchable data sets, metadata from tables, and invalid files."""

import functools
import hashlib
import io
import json
import os
import sys

import numpy as np
import PIL.Image
import pytest
import small_shapes
import trimesh
from small_shapes import COLOURS, SETTINGS, box, picture, rgb, run_build, write

from data_prep import build, evaluation, prepare, shapes, sources, teachers
from data_prep.geometry import formats
from mrd_jax.data import dataset_metadata, source
from mrd_jax.evaluation import load_held_out

ONE_FILE = {"points": 64, "views": 2, "image_size": 24, "seed": 0}


def prepared(root, path="shape.glb", **settings):
    """Prepares one file of a folder."""
    origin = sources.SOURCES["folder"]
    (item,) = [item for item in origin.items(root) if item.path == path]
    return origin.prepare(item, **ONE_FILE | settings)


def table(root, *lines):
    root.mkdir(parents=True, exist_ok=True)
    (root / "shapes.csv").write_text("\n".join(lines) + "\n", "utf-8")


@pytest.fixture(scope="module")
def searchable(tmp_path_factory):
    """Data set of ten boxes in three file types, built by the command line."""
    root = tmp_path_factory.mktemp("ten")
    for number, name in enumerate(COLOURS):
        kind = ("glb", "obj", "ply")[number % 3]
        write(root / "raw" / f"{name}_box-{number}.{kind}", box(colour=rgb(name)))
    words = f"--source folder --input {root}/raw --output {root}/out --teacher colours"
    sizes = "--points 64 --views 2 --image_size 24 --workers 0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "load_teacher", lambda *a, **k: small_shapes.ColourTeacher())
        patch.setattr("data_prep.teachers.names.check", lambda *args, **kwargs: None)
        return build.build(build.parse_options([*words.split(), *sizes.split()]))


def test_ten_files_become_a_data_set_searchable_by_text(searchable):
    held_out = load_held_out(searchable)
    assert held_out.names == tuple(sorted(f"{name} box" for name in COLOURS))
    queries = small_shapes.ColourTeacher().encode_texts([f"a {name} thing" for name in COLOURS])
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    best = (queries @ held_out.image_features.T).argmax(axis=1)
    assert [held_out.names[row] for row in best] == [f"{name} box" for name in COLOURS]


def test_records_hold_id_source_captions_and_convention(searchable):
    first = source.open_split(searchable, "test")[0]
    assert (first["id"], first["source"], first["label"]) == ("blue_box-7.obj", "folder", -1)
    assert (first["captions"], first["caption_kinds"]) == (["blue box"], ["name"])
    assert first["image_kinds"] == ["render", "render"]
    metadata = dataset_metadata.read(searchable)
    assert metadata["from_y_up"] == "rotate"
    assert metadata["reader_version"] == formats.READER_VERSION


@pytest.mark.parametrize(
    ("kind", "up_axis", "upright"),
    [
        ("glb", "", 1),
        ("glb", "z", 2),
        ("obj", "", 1),
        ("obj", "z", 2),
        ("ply", "", 2),
        ("ply", "Y", 1),
    ],
)
def test_the_table_overrides_the_vertical_axis_of_the_file_type(tmp_path, kind, up_axis, upright):
    extents = (1.0, 2.0, 4.0)
    write(tmp_path / f"shape.{kind}", box(extents))
    table(tmp_path, "path,up_axis", f"shape.{kind},{up_axis}")
    shape = prepared(tmp_path, f"shape.{kind}", points=400)
    spans = np.ptp(shape.xyz, axis=0)
    np.testing.assert_allclose(spans[2] / spans[0], extents[upright], rtol=0.1)
    assumed = kind != "glb" and not up_axis
    axis = "yz"[upright - 1]
    assert (f"vertical axis not stated, {axis} taken" in shape.faults) == assumed


def test_y_up_is_rotated_and_not_mirrored(tmp_path):
    # In the file, +y is red and +z green. After the rotation red is up and green faces -y.
    mesh = box((2, 2, 2))
    faces = mesh.faces
    corners = mesh.vertices[faces].reshape(-1, 3)
    normals = np.repeat(mesh.face_normals, 3, axis=0)
    colours = np.full((36, 4), 255, np.uint8)
    colours[normals[:, 1] > 0.5] = (255, 0, 0, 255)
    colours[normals[:, 2] > 0.5] = (0, 255, 0, 255)
    mesh = trimesh.Trimesh(corners, np.arange(36).reshape(12, 3), process=False)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colours)
    write(tmp_path / "shape.glb", mesh)
    shape = prepared(tmp_path, points=600)
    red = (shape.rgb == (255, 0, 0)).all(axis=1)
    green = (shape.rgb == (0, 255, 0)).all(axis=1)
    assert red.any() and np.ptp(shape.xyz[red, 2]) < 1e-6 < shape.xyz[red, 2].min()
    assert green.any() and np.ptp(shape.xyz[green, 1]) < 1e-6 and shape.xyz[green, 1].max() < 0


def expected_cloud(xyz, colours, *, shape_id, points, seed=0):
    """Samples, centres and shuffles in float64, as documented."""
    whole, rest = divmod(points, len(xyz))
    if len(xyz) == points:
        kept = np.arange(points)
    else:
        extra = np.random.default_rng(seed).permutation(len(xyz))[:rest]
        kept = np.concatenate([np.tile(np.arange(len(xyz)), whole), extra]).astype(int)
    digest = hashlib.blake2b(shape_id.encode(), digest_size=8).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest, "little")])
    xyz = xyz[kept] - xyz[kept].mean(axis=0)
    order = rng.permutation(points)
    return (xyz / np.sqrt((xyz**2).sum(axis=1)).max())[order], colours[kept][order]


def test_clouds_match_an_independent_implementation_and_have_no_views(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    raw, want = tmp_path / "raw", {}
    raw.mkdir()
    for count, name in ((90, "b-many.npy"), (64, "a-right.npz"), (40, "c-few.ply")):
        xyz = rng.gamma(2.0, [1.0, 2.0, 3.0], (count, 3)).astype(np.float32)
        colours = rng.integers(0, 256, (count, 3), dtype=np.uint8)
        if name.endswith("npy"):
            np.save(raw / name, np.hstack([xyz, colours / 255]))
        elif name.endswith("npz"):
            np.savez(raw / name, points=xyz, colors=colours)
        else:
            cloud = trimesh.PointCloud(xyz, np.hstack([colours, colours[:, :1]]))
            (raw / name).write_bytes(cloud.export(file_type="ply"))
        want[name] = expected_cloud(xyz.astype(np.float64), colours, shape_id=name, points=64)
    folder = run_build("folder", raw, tmp_path / "out", monkeypatch)
    got = source.open_split(folder, "test")
    assert [record["id"] for record in got] == ["a-right.npz", "b-many.npy", "c-few.ply"]
    for record in got:
        xyz, colours = want[record["id"]]
        np.testing.assert_allclose(record["xyz"], xyz, atol=5e-4)  # half precision
        np.testing.assert_array_equal(record["rgb"], colours)
        assert record["image_features"].shape == (0, 3) and record["picture"] == ""
    assert not load_held_out(folder).image_features.any()


def test_a_cloud_without_colours_is_grey_and_rotated_to_the_axis_of_the_table(tmp_path):
    xyz = np.random.default_rng(1).gamma(2.0, [1.0, 2.0, 3.0], (64, 3))
    np.save(tmp_path / "shape.npy", xyz)
    table(tmp_path, "path,up_axis", "shape.npy,y")
    shape = prepared(tmp_path, "shape.npy")
    turned = np.stack([xyz[:, 0], -xyz[:, 2], xyz[:, 1]], axis=1)
    want, _ = expected_cloud(turned, turned, shape_id="shape.npy", points=64)
    np.testing.assert_allclose(shape.xyz, want, atol=1e-6)
    assert (shape.rgb == 102).all()


def test_the_table_determines_order_captions_classes_splits_and_images(
    tmp_path, monkeypatch, capsys
):
    raw = tmp_path / "raw"
    for name in ("one", "two", "three", "unlisted"):
        write(raw / "m" / f"{name}.glb", box())
    (raw / "photo.png").write_bytes(picture((0, 0, 255), size=(1024, 512)))
    (raw / "other.png").write_bytes(picture((0, 255, 0)))
    table(
        raw,
        "path,id,name,tags,captions,images,label,split,creator,licence",
        'm/two.glb,B2,,"oak|4, W8.89mm","tall, red|a red box","photo.png|other.png",big_box,train,'
        "Zoë,CC0",
        "./m/one.glb,,Oak chair,,,,chair,test,,",
        "m/three.glb,,,,,,,test,,",
    )
    folder = run_build("folder", raw, tmp_path / "out", monkeypatch)
    (two,) = source.open_split(folder, "train")
    one, three = source.open_split(folder, "test")
    assert (two["id"], two["name"], two["creator"], two["licence"]) == ("B2", "two", "Zoë", "CC0")
    assert two["captions"] == ["two", "two, oak, 4, W8.89mm", "tall, red", "a red box"]
    assert two["caption_kinds"] == ["name", "tags", "caption", "caption"]
    assert two["image_kinds"] == ["render", "render", "picture", "picture"]
    assert two["image_features"][2:].argmax(axis=1).tolist() == [2, 1]  # blue, then green
    assert (one["id"], one["captions"]) == ("m/one.glb", ["Oak chair"])
    classes = json.loads((folder / "evaluation" / "classes.json").read_text())
    assert classes == ["big_box", "chair"]
    assert [record["label"] for record in (two, one, three)] == [0, 1, -1]
    assert load_held_out(folder, "train").names == ("two",)
    assert "skipped, not in the table: 1\n    m/unlisted.glb\n" in capsys.readouterr().out


def test_the_portrait_is_the_first_own_image_or_else_the_view_from_above(tmp_path):
    raw = tmp_path / "raw"
    write(raw / "shape.glb", box())
    (raw / "photo.png").write_bytes(picture((0, 0, 255), size=(1024, 512)))
    table(raw, "path,images", "shape.glb,photo.png|photo.png")
    shape = prepared(raw)
    assert evaluation.portrait(shape) == shape.images[2]
    with PIL.Image.open(io.BytesIO(shape.images[2])) as image:
        assert image.size == (512, 256)
    (raw / "shapes.csv").unlink()
    shape = prepared(raw)
    assert evaluation.portrait(shape) == shape.images[0] != shape.images[1]


def test_prompts_contain_class_names_without_underscores(tmp_path, monkeypatch):
    prompts = []

    class RecordingTeacher(small_shapes.ColourTeacher):
        def encode_texts(self, texts):
            prompts.extend(texts)
            return super().encode_texts(texts)

    write(tmp_path / "raw" / "shape.glb", box())
    table(tmp_path / "raw", "path,label", "shape.glb,night_stand")
    monkeypatch.setattr(small_shapes, "ColourTeacher", RecordingTeacher)
    run_build("folder", tmp_path / "raw", tmp_path / "out", monkeypatch)
    assert "this is night stand" in prompts


def test_materials_and_textures_are_read_from_anywhere_in_the_folder_but_not_outside(tmp_path):
    (tmp_path / "secret.png").write_bytes(picture((9, 9, 9)))
    raw = tmp_path / "raw"
    (raw / "textures").mkdir(parents=True)
    (raw / "textures" / "blue.png").write_bytes(picture((0, 0, 255)))
    corners = "v 0 0 0\nv 1 0 0\nv 0 0 1\nvt 0 0\nvt 1 0\nvt 0 1\n"
    for name, texture in (("in", "../textures/blue.png"), ("out", "../../secret.png")):
        (raw / "m").mkdir(exist_ok=True)
        (raw / "m" / f"{name}.mtl").write_text(f"newmtl x\nKd 1 0 0\nmap_Kd {texture}\n")
        obj = f"mtllib {name}.mtl\n{corners}usemtl x\nf 1/1 2/2 3/3\n"
        (raw / "m" / f"{name}.obj").write_text(obj)
    assert (prepared(raw, "m/in.obj").rgb == (0, 0, 255)).all()
    outside = prepared(raw, "m/out.obj")
    assert (outside.rgb == (255, 0, 0)).all() and "missing texture" in outside.faults


def test_unusable_files_are_counted_by_reason_and_named(tmp_path, capsys, monkeypatch):
    raw = tmp_path / "raw"
    write(raw / "good.glb", box())
    whole = (raw / "good.glb").read_bytes()
    (raw / "cut.glb").write_bytes(whole[:200])
    (raw / "empty.obj").write_text("")
    np.save(raw / "object.npy", np.array([{}], object))
    (raw / "notes.txt").write_text("hello")
    write(tmp_path / "elsewhere.glb", box())
    (raw / "link.glb").symlink_to(tmp_path / "elsewhere.glb")
    (tmp_path / "more").mkdir()
    (raw / "more").symlink_to(tmp_path / "more")
    lines = ["good.glb", "cut.glb", "empty.obj", "object.npy", "link.glb", "gone.ply", "notes.txt"]
    table(raw, "path", *lines)

    folder = run_build("folder", raw, tmp_path / "out", monkeypatch)

    printed = capsys.readouterr().out
    for reason, item in (
        (f"truncated binary glTF file: has 200 of {len(whole)} bytes", "cut.glb"),
        ("empty file", "empty.obj"),
        ("no rows of numbers; expected x y z in each row", "notes.txt"),
        ("a link that leaves the folder", "link.glb"),
        ("a link to a folder, not followed", "more"),
        ("file missing", "gone.ply"),
    ):
        assert f"  skipped, {reason}: 1\n    {item}\n" in printed
    assert "skipped, holds pickled objects" in printed
    assert [record["id"] for record in source.open_split(folder, "test")] == ["good.glb"]


def test_an_unusable_image_is_counted_and_its_shape_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MRD_MAX_PIXELS", "2499")
    raw = tmp_path / "raw"
    write(raw / "shape.glb", box())
    (tmp_path / "private.png").write_bytes(picture((1, 2, 3)))
    (raw / "link.png").symlink_to(tmp_path / "private.png")
    (raw / "text.png").write_text("not an image")
    (raw / "cut.png").write_bytes(picture((1, 2, 3), size=(40, 40))[:60])
    (raw / "huge.png").write_bytes(picture((1, 2, 3), size=(50, 50)))
    table(raw, "path,images", "shape.glb,gone.png|link.png|text.png|cut.png|huge.png")
    shape = prepared(raw)
    assert shape.faults == (
        "missing picture",
        "picture that leaves the folder",
        *["unreadable picture"] * 2,
        "picture that is too large",
    )
    assert shape.image_kinds == ("render", "render")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path", "../shape.glb"], r"shapes.csv, line 2: path '\.\./shape.glb' leaves the folder"),
        (["path", "/etc/shape.glb"], "line 2: path '/etc/shape.glb' leaves the folder"),
        (["path", "C:/shape.glb"], "line 2: path 'C:/shape.glb' leaves the folder"),
        (["path,images", "shape.glb,a.png|../b.png"], "path '../b.png' leaves the folder"),
        (["path", "shape.glb", "./shape.glb"], "line 3: path 'shape.glb' is already used in .*2"),
        (["path,id", "a.glb,x", "b.glb,x"], "line 3: id 'x' is already used in .*line 2"),
    ],
)
def test_an_invalid_table_is_an_error_that_names_the_line(tmp_path, lines, message):
    write(tmp_path / "shape.glb", box())
    table(tmp_path, *lines)
    with pytest.raises(ValueError, match=message):
        sources.SOURCES["folder"].items(tmp_path)


def test_a_folder_without_shapes_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no shapes in it; expected files of the types glb, gltf"):
        sources.SOURCES["folder"].items(tmp_path)
    with pytest.raises(ValueError, match="nowhere: not a folder"):
        sources.SOURCES["folder"].items(tmp_path / "nowhere")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "cut.glb").write_bytes(b"glTF")
    with pytest.raises(ValueError, match="folder: every listed shape was skipped"):
        run_build("folder", tmp_path / "raw", tmp_path / "out", monkeypatch)


def test_shapes_of_two_folders_are_not_mixed_in_one_output(tmp_path, monkeypatch):
    for place, colour in (("a", "red"), ("b", "blue")):
        path = write(tmp_path / place / "shape.glb", box(colour=rgb(colour)))
        os.utime(path, ns=(1, 1))  # same name, size and time
    run_build("folder", tmp_path / "a", tmp_path / "out", monkeypatch)
    with pytest.raises(ValueError, match=f"holds the shapes of {tmp_path}/a, but --input is .*/b"):
        run_build("folder", tmp_path / "b", tmp_path / "out", monkeypatch)
    folder = run_build("folder", tmp_path / "b", tmp_path / "out", monkeypatch, overwrite=True)
    assert (source.open_split(folder, "test")[0]["rgb"] == rgb("blue")).all()


def test_only_changed_files_and_rows_are_prepared_again(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "ITEMS_PER_SHARD", 1)
    raw, cache = tmp_path / "raw", tmp_path / "cache"
    for name in ("a", "b", "c"):
        write(raw / f"{name}.glb", box())
    table(raw, "path,name", "a.glb,A", "b.glb,B", "c.glb,C", "d.glb,D")

    def reused():
        return prepare.prepare_shapes("folder", raw, cache, **SETTINGS).reused

    assert (reused(), reused()) == (0, 4)
    write(raw / "b.glb", box((1, 1, 1)))
    os.utime(raw / "b.glb", ns=(1, 1))
    assert reused() == 3
    table(raw, "path,name", "a.glb,A", "b.glb,B", "c.glb,Another", "d.glb,D")
    assert reused() == 3
    write(raw / "d.glb", box())  # was listed but missing
    assert reused() == 3
    names = [s.name for p in prepare.shard_paths(cache) for s in shapes.load_shard(p)]
    assert names == ["A", "B", "Another", "D"]


def test_invalid_arguments_are_detected_before_any_shape_is_prepared(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    write(raw / "shape.glb", box())
    monkeypatch.setattr(prepare, "prepare_shapes", None)  # calling it would fail
    with pytest.raises(ValueError, match=r"--teacher lit .*'train', but .* has only \['test'\]"):
        run_build("folder", raw, tmp_path / "out", monkeypatch, teacher="lit")
    with pytest.raises(
        ValueError, match="--teacher released: --source folder has no released features"
    ):
        run_build("folder", raw, tmp_path / "out", monkeypatch, teacher="released")
    with pytest.raises(ValueError, match="is inside --input .*choose an output folder outside"):
        run_build("folder", raw, raw / "out", monkeypatch)
    table(raw, "path,split", "shape.glb,train")
    with pytest.raises(TypeError):  # the training split exists, so preparation starts
        run_build("folder", raw, tmp_path / "out", monkeypatch, teacher="lit")


def contents(root, **options):
    return sources.find("folder", **options).contents(root)


def test_every_entry_of_a_folder_is_an_item_or_in_a_note(tmp_path):
    write(tmp_path / "oak.glb", box())
    for name in ("._oak.glb", "sofa.fbx", "a/bed.skp", "a/b.glb.part", "photo.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.ply").symlink_to("nowhere.ply")
    found = contents(tmp_path)
    assert [(item.path, item.skip) for item in found.items] == [
        ("oak.glb", ""),
        ("a/b.glb.part", "an incomplete download"),
        ("gone.ply", "a link whose target is missing"),
    ]
    (note,) = found.notes
    assert note.startswith("2 files of types that are not read: fbx, skp; ")
    assert found.name_notes == ()


def test_notes_are_part_of_the_summary(tmp_path, monkeypatch, capsys):
    raw = tmp_path / "raw"
    write(raw / "model.glb", box())
    write(raw / "oak.glb", box())
    (raw / "sofa.fbx").write_bytes(b"")
    table(raw, "path,captoin", "model.glb,a chair", "oak.glb,")
    run_build("folder", raw, tmp_path / "out", monkeypatch)
    printed = capsys.readouterr().out
    assert "columns that are not read: captoin (did you mean captions?)" in printed
    assert "note: 1 file of types that are not read: fbx; fbx: " in printed
    assert (
        "note: 1 shape without a caption, since file names such as model.glb say nothing; use "
        "--label_from folder for names of folders, or a table with a column 'name'\n"
    ) in printed
    assert "note: vertical axis, y by the standard for glb: 2\n" in printed


def test_vertical_axes_are_counted_by_what_states_them(tmp_path):
    for name in ("a.glb", "b.obj", "c.obj", "d.stl"):
        write(tmp_path / name, box())
    table(tmp_path, "path,up", "a.glb,", "b.obj,z", "c.obj,", "d.stl,")
    note = prepare.list_items(sources.SOURCES["folder"], tmp_path)[1][-1]
    counts = "y assumed for obj: 1, y by the standard for glb: 1, z as stated: 1, z assumed for stl"
    assert note == f"vertical axis, {counts}: 1"


def shapenet(root):
    for path in ("chair/1a2b/models/model_normalized", "bath_tub/3c4d/model", "chair/oak_chair-2"):
        write(root / f"{path}.glb", box())
    write(root / "model.glb", box())


@pytest.mark.parametrize(
    ("label_from", "want"),
    [
        (None, [("", ""), ("", ""), ("", "oak chair"), ("", "")]),
        (
            "folder",
            [("bath_tub", "bath tub"), ("chair", "chair"), ("chair", "oak chair"), ("", "")],
        ),
        ("1", [("bath_tub", "bath tub"), ("chair", "chair"), ("chair", "oak chair"), ("", "")]),
        ("2", [("3c4d", ""), ("1a2b", ""), ("", "oak chair"), ("", "")]),
    ],
)
def test_classes_and_captions_come_from_folders_if_the_user_says_so(tmp_path, label_from, want):
    shapenet(tmp_path)
    found = contents(tmp_path, label_from=label_from)
    assert [(item.label, item.name) for item in found.items] == want
    for item, (_, name) in zip(found.items, want, strict=True):
        assert item.captions == ((("name", name),) if name else ())
    without = sum(not name for _, name in want)
    assert found.name_notes[0].startswith(f"{without} shape")
    if label_from:
        unlabelled = sum(not label for label, _ in want)
        assert found.name_notes[1].startswith(f"{unlabelled} shape")
        assert "--label_from folder" not in found.name_notes[0]


def test_labels_from_folders_are_the_classes_of_the_data_set(tmp_path, monkeypatch):
    shapenet(tmp_path / "raw")
    run = functools.partial(run_build, "folder", tmp_path / "raw", tmp_path / "out", monkeypatch)
    folder = run(label_from="folder")
    classes = json.loads((folder / "evaluation" / "classes.json").read_text())
    assert classes == ["bath_tub", "chair"]
    records = source.open_split(folder, "test")
    assert [(record["label"], record["name"]) for record in records] == [
        (0, "bath tub"),
        (1, "chair"),
        (1, "oak chair"),
        (-1, ""),
    ]
    with pytest.raises(ValueError, match="built with --label_from folder, but --label_from None"):
        run()


def test_the_table_goes_before_the_folders(tmp_path):
    shapenet(tmp_path)
    table(tmp_path, "path,name,label", "bath_tub/3c4d/model.glb,Tub,basin", "model.glb,,")
    first, second, *_ = contents(tmp_path, label_from="folder").items
    assert (first.name, first.label) == ("Tub", "basin")
    assert (second.name, second.label) == ("", "")


def test_other_sources_take_no_labels_from_folders():
    with pytest.raises(ValueError, match="--label_from is for --source folder"):
        sources.find("furniture", label_from="folder")
    with pytest.raises(ValueError, match="--label_from is 'parent'; expected 'folder'"):
        sources.find("folder", label_from="parent")


def test_paths_of_a_table_may_differ_in_case_if_one_file_matches(tmp_path):
    for name in ("Sub/Oak.glb", "a.glb", "A.glb", "caf\u00e9.glb"):
        write(tmp_path / name, box())
    (tmp_path / "Sub" / "Photo.PNG").write_bytes(picture((0, 0, 255)))
    lines = ["SUB\\oak.GLB,sub/photo.png", "A.glb,", "b/A.GLB,", "cafe\u0301.glb,", "a.GLB,"]
    table(tmp_path, "path,images", *lines)
    found = contents(tmp_path)
    listed = [(item.path, item.images) for item in found.items if not item.skip]
    assert listed == [
        ("Sub/Oak.glb", ("Sub/Photo.PNG",)),
        ("A.glb", ()),
        ("b/A.GLB", ()),  # missing
        ("caf\u00e9.glb", ()),
        ("a.GLB", ()),  # a.glb and A.glb match
    ]
    assert found.notes[0].startswith("2 paths of the table are written otherwise on disk: ")
    assert "SUB/oak.GLB (Sub/Oak.glb)" in found.notes[0]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems accept UTF-8 only")
def test_names_that_are_not_utf8_and_names_with_line_breaks_are_built(
    tmp_path, monkeypatch, capsys
):
    names = (b"caf\xe9.glb", b"red\nchair.glb", b"x" * 240 + b".glb")
    for name in names:
        (tmp_path / "raw").mkdir(exist_ok=True)
        with open(os.path.join(os.fsencode(tmp_path / "raw"), name), "wb") as file:
            file.write(box().export(file_type="glb"))
    with open(os.path.join(os.fsencode(tmp_path / "raw"), b"b\xff.ply"), "wb") as file:
        file.write(b"ply")
    folder = run_build("folder", tmp_path / "raw", tmp_path / "out", monkeypatch)
    records = source.open_split(folder, "test")
    assert [(record["id"], record["name"]) for record in records] == [
        ("caf\\xe9.glb", ""),
        ("red\\nchair.glb", "red chair"),
        (f"{'x' * 240}.glb", "x" * 240),
    ]
    printed = capsys.readouterr().out
    assert "\n    b\\xff.ply\n" in printed and printed.encode()


def test_a_listed_link_that_leaves_the_folder_is_skipped(tmp_path):
    write(tmp_path / "out" / "c.glb", box())
    write(tmp_path / "raw" / "a.glb", box())
    (tmp_path / "raw" / "sub").symlink_to(tmp_path / "out")
    table(tmp_path / "raw", "path", "sub/c.glb", "a.glb")
    first, second, third = contents(tmp_path / "raw").items
    assert (first.path, first.skip) == ("sub/c.glb", "a link that leaves the folder")
    assert (second.path, second.skip) == ("a.glb", "")
    assert (third.path, third.skip) == ("sub", "a link to a folder, not followed")


def test_a_package_that_is_missing_is_detected_before_any_shape_is_prepared(tmp_path, monkeypatch):
    write(tmp_path / "raw" / "a.glb", box())
    (tmp_path / "raw" / "b.step").write_bytes(b"")
    monkeypatch.setattr(prepare, "prepare_shapes", None)  # calling it would fail
    monkeypatch.setitem(sys.modules, "cascadio", None)
    with pytest.raises(ImportError, match="step files need it"):
        run_build("folder", tmp_path / "raw", tmp_path / "out", monkeypatch)


@pytest.mark.parametrize("earlier", [False, True], ids=["current", "of_earlier_readers"])
def test_groups_are_added_to_a_data_set_without_preparing_shapes_again(
    tmp_path, monkeypatch, capsys, earlier
):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("a", "b", "c"):
        write(raw / f"{name}.glb", box())
    table(raw, "path", "a.glb", "b.glb", "c.glb")
    run = functools.partial(run_build, "folder", raw, out, monkeypatch)
    folder = run()
    assert load_held_out(folder).groups is None
    if earlier:
        metadata = json.loads((folder / "metadata.json").read_text())
        del metadata["reader_version"]
        (folder / "metadata.json").write_text(json.dumps(metadata))
    files = {path: path.read_bytes() for path in (out / "shapes").rglob("*.npz")}
    table(raw, "path,group", "a.glb,oak", "b.glb,", "c.glb,oak")
    capsys.readouterr()
    run()
    assert "groups written: 1 of 2 shapes" in capsys.readouterr().out
    assert files == {path: path.read_bytes() for path in (out / "shapes").rglob("*.npz")}
    held_out = load_held_out(folder)
    assert held_out.groups == ("oak", "", "oak") and held_out.clusters.tolist() == [0, 1, 0]
    table(raw, "path", "a.glb", "b.glb", "c.glb")
    run()
    assert load_held_out(folder).groups is None


def test_a_data_set_of_earlier_readers_is_kept_with_a_note_until_it_is_overwritten(
    tmp_path, monkeypatch, capsys
):
    write(tmp_path / "raw" / "oak.glb", box())
    run = functools.partial(run_build, "folder", tmp_path / "raw", tmp_path / "out", monkeypatch)
    folder = run()
    metadata = json.loads((folder / "metadata.json").read_text())
    del metadata["reader_version"]
    metadata["build"]["fingerprint"] = "of the shapes of version 1"
    (folder / "metadata.json").write_text(json.dumps(metadata))
    capsys.readouterr()
    assert run() == folder
    printed = capsys.readouterr().out
    assert (
        f"note: {folder} was built with version 1 of the readers of files, and is kept" in printed
    )
    assert "reader_version" not in dataset_metadata.read(folder)
    run(overwrite=True)
    assert dataset_metadata.read(folder)["reader_version"] == formats.READER_VERSION
