# SPDX-License-Identifier: Apache-2.0
"""The inspect command: facts about files in their own units and axes, and the sheet."""

import dataclasses
import json
import os
import sys

import numpy as np
import pytest
import small_shapes
import step_files
from PIL import Image

from data_prep.geometry import clouds
from mrd_jax.search import inspection, inspection_sheet
from mrd_jax.tools import inspect

KEYS = (
    "file kind triangles points area extent centre colour_mean colour_std up_axis parts notes error"
).split()
PLY_HEADER = """ply
format ascii 1.0
element vertex 8
property float x
property float y
property float z
element face 12
property list uchar int vertex_indices
{}end_header
"""
COLOURS = "property uchar red\nproperty uchar green\nproperty uchar blue\n"


def write_box(path, *, extents=(1, 2, 4), offset=(10, 20, 30), colours=None):
    """Writes a box as PLY text; colours: uint8 [12, 3] of the faces."""
    box = small_shapes.box(extents)
    lines = ["{} {} {}".format(*vertex) for vertex in box.vertices + offset]
    for number, face in enumerate(box.faces):
        shade = () if colours is None else colours[number]
        lines.append(" ".join(map(str, (3, *face, *shade))))
    header = PLY_HEADER.format("" if colours is None else COLOURS)
    path.write_text(header + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def run(capsys):
    """Runs the command with --json; returns the exit status and the objects."""

    def call(*arguments):
        status = inspect.main([*map(str, arguments), "--json"])
        return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


def test_facts_of_a_box_are_in_its_own_units_and_axes(run, tmp_path):
    # The two triangles of a side have one colour: the sides of z are blue, the others red.
    box = small_shapes.box((1, 2, 4))
    is_blue = np.abs(box.face_normals[:, 2]) > 0.5
    colours = np.where(is_blue[:, None], (0, 0, 250), (200, 0, 0))
    status, (facts,) = run(write_box(tmp_path / "box.ply", colours=colours))
    assert status == 0 and list(facts) == KEYS
    assert facts["file"] == str(tmp_path / "box.ply")
    counts = [facts[key] for key in ("kind", "triangles", "parts", "points")]
    assert counts == ["mesh", 12, 1, 0]
    assert facts["area"] == pytest.approx(2 * (1 * 2 + 2 * 4 + 1 * 4))
    assert facts["extent"] == pytest.approx([1, 2, 4])
    assert facts["centre"] == pytest.approx([10, 20, 30])
    blue = 2 * (1 * 2) / facts["area"]  # fraction of the area
    # 10,000 samples: five standard errors of a fraction are at most 0.025.
    assert facts["colour_mean"] == pytest.approx([200 * (1 - blue), 0, 250 * blue], abs=0.025 * 250)
    spread = np.sqrt(blue * (1 - blue))
    assert facts["colour_std"] == pytest.approx([200 * spread, 0, 250 * spread], abs=0.025 * 250)
    assert (facts["up_axis"], facts["notes"], facts["error"]) == ("z", [], None)


def test_axes_of_a_file_with_y_up_are_not_turned(run, tmp_path):
    small_shapes.write(tmp_path / "box.obj", small_shapes.box((1, 2, 4), (255, 0, 51)))
    small_shapes.write(tmp_path / "box.glb", small_shapes.box((1, 2, 4), (255, 0, 51)))
    # Vertex colours of glTF are linear: 51 / 255 = 0.2 is the sRGB level 124.
    for facts in run(tmp_path / "box.obj", tmp_path / "box.glb")[1]:
        assert facts["extent"] == pytest.approx([1, 2, 4])
        assert (facts["colour_mean"], facts["colour_std"]) == ([255, 0, 51], [0, 0, 0])
        assert facts["up_axis"] == "y"


@pytest.mark.parametrize("grey", [None, 102])
def test_mesh_without_colours_differs_from_a_grey_one(run, tmp_path, grey):
    colours = None if grey is None else np.full((12, 3), grey)
    _, (facts,) = run(write_box(tmp_path / "box.ply", colours=colours))
    assert facts["colour_mean"] == (None if grey is None else [102, 102, 102])
    assert facts["colour_std"] == (None if grey is None else [0, 0, 0])


def test_facts_of_arrays_are_those_of_all_points(run, tmp_path):
    xyz = np.random.default_rng(0).normal(size=(30_000, 3)) * [1, 5, 9] + [100, 0, -7]
    rgb = np.linspace(0, 1, 90_000).reshape(30_000, 3)
    np.save(tmp_path / "plain.npy", xyz)
    np.save(tmp_path / "coloured.npy", np.concatenate([xyz, rgb], axis=1))
    status, (coloured, plain) = run(tmp_path / "coloured.npy", tmp_path / "plain.npy")
    assert status == 0
    for facts in (coloured, plain):
        assert (facts["kind"], facts["points"]) == ("cloud", 30_000)
        assert (facts["triangles"], facts["parts"], facts["area"]) == (0, 0, 0)
        assert facts["extent"] == pytest.approx(np.ptp(xyz, axis=0))
        assert facts["centre"] == pytest.approx((xyz.min(axis=0) + xyz.max(axis=0)) / 2)
    assert coloured["colour_mean"] == pytest.approx(255 * rgb.mean(axis=0), abs=1e-3)
    assert coloured["colour_std"] == pytest.approx(255 * rgb.std(axis=0), abs=1e-3)
    assert plain["colour_mean"] is plain["colour_std"] is None


def test_ply_without_faces_is_a_cloud(run, tmp_path):
    header = PLY_HEADER.format("").replace("vertex 8", "vertex 3").replace("face 12", "face 0")
    header = header.replace("property float z\n", f"property float z\n{COLOURS}")
    path = tmp_path / "scan.ply"
    path.write_text(header + "0 0 0 200 0 0\n2 0 0 100 0 0\n0 6 0 0 0 9\n")
    _, (facts,) = run(path, "--up", "y")
    assert (facts["kind"], facts["points"], facts["triangles"]) == ("cloud", 3, 0)
    assert (facts["extent"], facts["centre"]) == ([2, 6, 0], [1, 3, 0])
    assert facts["colour_mean"] == pytest.approx([100, 0, 3], abs=1e-3)
    assert facts["up_axis"] == "y"


def test_error_is_that_of_the_reader_and_other_files_follow(run, tmp_path):
    (tmp_path / "corrupt.glb").write_bytes(b"glTF, but not really")
    np.save(tmp_path / "point.npy", np.full((9, 3), 5.0))
    np.save(tmp_path / "nan.npy", np.full((9, 3), np.nan))
    names = ["corrupt.glb", "missing.stl", "nan.npy", "point.npy"]
    write_box(tmp_path / "whole.ply")
    status, facts = run(*(tmp_path / name for name in names), tmp_path / "whole.ply")
    assert status == 1 and [list(each) for each in facts] == [KEYS] * 5
    for each, name in zip(facts, names, strict=False):
        with pytest.raises(clouds.CloudError) as error:
            clouds.read_cloud(tmp_path / name, conventions=inspection.CONVENTIONS)
        assert each["error"] == str(error.value)
    assert [each["kind"] for each in facts] == [None, None, None, "cloud", "mesh"]
    assert facts[2]["error"] == "non-finite coordinates" and facts[3]["extent"] == [0, 0, 0]
    assert facts[4]["error"] is None


def test_points_that_are_not_finite_are_dropped_and_counted(run, tmp_path):
    xyz = np.random.default_rng(0).normal(size=(30_000, 3))
    xyz[7], xyz[29_000] = np.inf, np.nan
    np.save(tmp_path / "cloud.npy", xyz)
    status, (facts,) = run(tmp_path / "cloud.npy")
    assert (status, facts["points"]) == (0, 29_998)
    (note,) = facts["notes"]
    assert "not finite" in note and "2" in note


def test_notes_are_those_of_the_reader(run, tmp_path):
    small_shapes.write(tmp_path / "box.obj", small_shapes.box())
    (tmp_path / "box.mtl").unlink()
    status, (facts,) = run(tmp_path / "box.obj")
    assert (status, facts["notes"], facts["error"]) == (0, ["missing materials file"], None)


def test_limits_of_foreign_files_hold(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MRD_MAX_FACES", "11")
    status, (facts,) = run(write_box(tmp_path / "box.ply"))
    assert status == 1 and "12 faces" in facts["error"] and "MRD_MAX_FACES" in facts["error"]


def test_folder_and_its_table(run, tmp_path):
    (tmp_path / "shapes" / "deep").mkdir(parents=True)
    write_box(tmp_path / "shapes" / "deep" / "a.ply")
    np.save(tmp_path / "shapes" / "b.npy", np.eye(3))
    (tmp_path / "shapes" / "notes.txt").write_text("not a shape")
    _, facts = run(tmp_path / "shapes")
    assert [each["file"].rpartition("/")[2] for each in facts] == ["b.npy", "a.ply"]
    (tmp_path / "shapes" / "table.csv").write_text("path,up_axis\ndeep/a.ply,y\n")
    _, facts = run(tmp_path / "shapes", "--up", "z")
    assert [each["up_axis"] for each in facts] == ["y"]


def test_text_has_the_same_facts(tmp_path, capsys):
    path = write_box(tmp_path / "box.ply")
    np.save(tmp_path / "empty.npy", np.zeros((0, 3)))
    assert inspect.main([str(path), str(tmp_path / "empty.npy")]) == 1
    mesh, cloud = capsys.readouterr().out.strip().split("\n\n")
    assert mesh.splitlines() == [
        str(path),
        "  kind       mesh",
        "  triangles  12",
        "  parts      1",
        "  area       28",
        "  extent     1 x 2 x 4",
        "  centre     10, 20, 30",
        "  colour     none (grey 102 is used)",
        "  up axis    z (assumed; see --up)",
    ]
    assert cloud.splitlines()[-1] == "  error      no points"
    inspect.main([str(path), "--up", "y"])
    assert capsys.readouterr().out.splitlines()[-2] == "  up axis    y"


def test_sheet_shows_the_mesh_and_its_points(run, tmp_path):
    red, blue = tmp_path / "red.ply", tmp_path / "blue.npy"
    write_box(red, colours=np.tile((255, 0, 0), (12, 1)))
    xyz = np.random.default_rng(0).random((500, 3))
    np.save(blue, np.concatenate([xyz, np.tile((0, 0, 1), (500, 1))], axis=1))
    (tmp_path / "corrupt.glb").write_bytes(b"")
    output = tmp_path / "new" / "sheet.png"
    assert run(red, tmp_path / "corrupt.glb", blue, "--sheet", output)[0] == 1
    layout = inspection_sheet
    top = layout.TITLE_HEIGHT + layout.TEXT_HEIGHT  # of the pictures of the first file
    height = layout.TITLE_HEIGHT + 2 * layout.ROW_HEIGHT + layout.TEXT_HEIGHT
    with Image.open(output) as opened:
        assert (opened.format, opened.size) == ("PNG", (layout.WIDTH, height))
        sheet = np.asarray(opened.convert("RGB")).astype(int)
    step = layout.SIDE + layout.MARGIN
    for number in range(8):
        left = layout.MARGIN + number * step + (layout.MARGIN if number >= 4 else 0)
        centre = slice(left + 70, left + 90)
        first = sheet[top + 70 : top + 90, centre].mean(axis=(0, 1))
        assert first[0] > 80 and max(first[1:]) < 30, number  # the red mesh and its points
        second = top + layout.ROW_HEIGHT + layout.TEXT_HEIGHT
        block = sheet[second : second + layout.SIDE, left : left + layout.SIDE]
        is_blue = (block[..., 2] > block[..., 0] + 60).mean()
        assert is_blue > 0.2 if number >= 4 else (block == 255).all(), number


def test_sheet_turns_y_up_into_z_up(tmp_path):
    # A tall box: its picture is higher than wide only if the axis is known.
    path = small_shapes.write(tmp_path / "pole.obj", small_shapes.box((1, 8, 1)))
    for up, is_tall in (("y", True), ("z", False)):
        row = np.asarray(inspection_sheet.draw_row(inspection.inspect_file(path, up=up)))
        for number in (0, 4):  # the mesh, its points
            left = 8 + number * 168 + (8 if number else 0)
            block = row[inspection_sheet.TEXT_HEIGHT :, left : left + 160]
            rows, columns = np.nonzero((block < 200).any(axis=-1))
            assert (np.ptp(rows) > 1.5 * np.ptp(columns)) == is_tall


def test_many_files_are_drawn_on_several_sheets(run, tmp_path, monkeypatch):
    monkeypatch.setattr(inspection_sheet, "ROWS_PER_SHEET", 2)
    (tmp_path / "in").mkdir()
    for number in range(5):
        np.save(tmp_path / "in" / f"{number}.npy", np.eye(3))
    output = tmp_path / "sheets" / "s.png"
    assert run(tmp_path / "in", "--sheet", output)[0] == 0
    layout = inspection_sheet
    assert sorted(path.name for path in output.parent.iterdir()) == ["s-2.png", "s-3.png", "s.png"]
    for name, rows in (("s.png", 2), ("s-2.png", 2), ("s-3.png", 1)):
        with Image.open(output.parent / name) as sheet:
            assert sheet.height == layout.TITLE_HEIGHT + rows * layout.ROW_HEIGHT


def test_a_glb_file_whose_writer_may_leave_z_up_is_noted_unless_the_axis_is_stated(run, tmp_path):
    cascadio = pytest.importorskip("cascadio")
    path = tmp_path / "box.glb"
    path.write_bytes(cascadio.load(step_files.box((3, 2, 1)), file_type="step"))
    note = "written by Open CASCADE, which may leave z up against the standard, y taken"
    assert run(path)[1][0]["notes"] == [note]
    assert run(path, "--up", "z")[1][0]["notes"] == []


def test_entries_of_a_folder_that_cannot_be_read_are_errors_and_others_are_counted(
    tmp_path, capsys
):
    folder = tmp_path / "in"
    folder.mkdir()
    write_box(folder / "box.ply")
    write_box(tmp_path / "out.ply")
    (folder / "link.ply").symlink_to(tmp_path / "out.ply")
    (folder / "sofa.fbx").write_bytes(b"")
    assert inspect.main([str(folder), "--json"]) == 1
    out, err = capsys.readouterr()
    box, link = map(json.loads, out.splitlines())
    assert (box["file"], box["error"]) == (str(folder / "box.ply"), None)
    assert (link["file"], link["error"]) == (
        str(folder / "link.ply"),
        "a link that leaves the folder",
    )
    assert f"note: {folder}: 1 file of types that are not read: fbx; " in err
    (folder / "link.ply").unlink()
    assert inspect.main([str(folder), "--json"]) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems accept UTF-8 only")
def test_names_that_are_not_utf8_are_escaped(run, tmp_path):
    path = write_box(tmp_path / "box.ply")
    os.rename(path, os.fsencode(tmp_path) + b"/caf\xe9\n.ply")
    status, (facts,) = run(tmp_path)
    assert (status, facts["error"]) == (0, None)
    assert facts["file"] == f"{tmp_path}/caf\\xe9\\n.ply"


def test_usage_mistakes_are_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert inspect.main([str(tmp_path / "empty")]) == 2
    assert "no file of a known type" in capsys.readouterr().err


def test_facts_have_the_documented_keys():
    assert [field.name for field in dataclasses.fields(inspection.Facts)] == KEYS
