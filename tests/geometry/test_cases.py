# SPDX-License-Identifier: Apache-2.0
"""Small files of `shared/cases` that other programs wrote or may write, through every command.

Each case is read by `inspect --json`, by `embed` (with an encoder that records its point clouds)
and by `data_prep.build`. The right values are those of the docstrings of the cases.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_encoder
from small_shapes import ColourTeacher

from data_prep import build, build_flags, prepare, shapes, teachers
from mrd_jax import encoder
from mrd_jax.checkpoints import model_card
from mrd_jax.tools import embed, inspect

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the folder shared/cases is not here")
POINTS = 10_000
# Five standard errors of the mean of 10,000 points that are half 0 and half 255.
COLOUR_ERROR = 5 * 127.5 / 100
# Half red, half blue.
HALVES = {"colour": (127.5, 0, 127.5), "colour_std": (127.5, 0, 127.5)}


def right(*, error=None, note=None, extent=None, colour=None, colour_std=None, area=None):
    """Returns the right values of one file."""
    return {
        "error": error,
        "note": note,
        "extent": extent,
        "colour": colour,
        "colour_std": colour_std,
        "area": area,
    }


EXPECTED = {
    "damaged_files_look_alike/pointer.glb": right(error="Git LFS pointer"),
    "damaged_files_look_alike/page.glb": right(error="HTML"),
    "damaged_files_look_alike/empty.glb": right(error="empty"),
    "damaged_files_look_alike/one.gltf": right(error="glTF 1.0"),
    "damaged_files_look_alike/bom.gltf": right(extent=(1, 1, 1)),
    "face_colours_lost/faces.ply": right(
        extent=(1, 2, 3), colour=(204, 0, 0), note="texture coordinates without a texture"
    ),
    "face_colours_lost/faces.off": right(extent=(1, 2, 3), colour=(204, 0, 0)),
    "face_colours_lost/corners.off": right(extent=(1, 2, 3), colour=(204, 0, 0)),
    "folder_of_other_types/chair.glb": right(extent=(1, 1, 1)),
    "gltf_embedded_texture_lost/lost_ktx2.glb": right(note="unreadable texture"),
    "gltf_embedded_texture_lost/lost_png.glb": right(note="unreadable texture"),
    "gltf_emissive/emissive_texture.glb": right(
        colour=(200, 150, 50), note="emissive colour taken for a black base colour"
    ),
    "gltf_emissive/emissive_factor.glb": right(
        colour=(255, 188, 0), note="emissive colour taken for a black base colour"
    ),
    "gltf_factor_is_linear/linear.glb": right(colour=(127, 127, 127)),
    "gltf_factor_is_linear/white.glb": right(colour=(255, 255, 255)),
    "gltf_factor_times_texture/factor_times_texture.glb": right(colour=(255, 0, 0)),
    "gltf_gpu_instancing/instancing.glb": right(extent=(9, 1, 1), area=18),
    "gltf_normalised_positions/normalised_positions.glb": right(extent=(6, 2, 3), area=44),
    "gltf_opaque_alpha/texture.glb": right(colour=(0, 200, 0)),
    "gltf_opaque_alpha/factor.glb": right(colour=(255, 0, 0)),
    "gltf_opaque_alpha/half.glb": right(colour=(100, 100, 0), colour_std=(100, 100, 0)),
    "gltf_opaque_alpha/mask.glb": right(colour=(255, 255, 255)),
    "gltf_required_extensions/draco.glb": right(error="KHR_draco_mesh_compression"),
    "gltf_required_extensions/mixed.glb": right(error="KHR_draco_mesh_compression"),
    "gltf_required_extensions/meshopt.glb": right(error="EXT_meshopt_compression"),
    "gltf_skin/skin.glb": right(extent=(5, 1, 1)),
    "gltf_skin/rotated.glb": right(extent=(1, 2, 3)),
    "gltf_sparse_accessor/sparse_base.glb": right(extent=(1, 10, 3)),
    "gltf_sparse_accessor/sparse_all.glb": right(extent=(1, 2, 3)),
    "gltf_specular_glossiness/specular_glossiness_texture.glb": right(**HALVES),
    "gltf_specular_glossiness/specular_glossiness_factor.glb": right(colour=(255, 0, 0)),
    "gltf_texture_transform/texture_transform.glb": right(colour=(0, 0, 255)),
    "gltf_vertex_colours_with_material/vertex_colours_with_material.glb": right(colour=(255, 0, 0)),
    "mesh_far_from_origin/utm.obj": right(extent=(1, 2, 3), area=22),
    "mesh_far_from_origin/ecef.obj": right(extent=(1, 2, 3), area=22),
    "obj_concave_polygon/concave.obj": right(extent=(4, 4, 0), area=7),
    "obj_inline_comment/comment.obj": right(extent=(1, 2, 3)),
    "obj_material_lookups/case.obj": right(**HALVES),
    "obj_material_lookups/mark.obj": right(**HALVES),
    "obj_material_lookups/no_usemtl.obj": right(**HALVES),
    "obj_material_lookups/options.obj": right(**HALVES),
    "obj_material_lookups/quoted.obj": right(**HALVES),
    "obj_material_lookups/two_mtllib.obj": right(**HALVES, note="missing materials file"),
    "obj_meshlab_tr/tr.obj": right(**HALVES, note="Tr 1 taken as opaque"),
    "obj_meshlab_tr/d0.obj": right(colour=(255, 0, 0), note="everything is invisible"),
    "obj_shapenet_layout/03001627/abc/models/model_normalized.obj": right(**HALVES),
    "obj_shapenet_layout/Shoe/meshes/model.obj": right(**HALVES),
    "obj_vertex_colours/mtl.obj": right(extent=(1, 2, 3), colour=(255, 0, 0)),
    "obj_vertex_colours/uv.obj": right(extent=(1, 2, 3), colour=(255, 0, 0)),
    "ply_colour_forms/diffuse.ply": right(colour=(200, 0, 0)),
    "ply_colour_forms/float255.ply": right(colour=(200, 0, 0)),
    "ply_colour_forms/rgb.ply": right(colour=(200, 0, 0)),
    "ply_colour_forms/splat.ply": right(colour=(200, 0, 0)),
    # Uniform barycentric coordinates have mean 1/3 and variance 1/18.
    "vertex_colours_interpolated/triangle.ply": right(colour=(85,) * 3, colour_std=(60.1,) * 3),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes all cases."""
    folder = tmp_path_factory.mktemp("cases")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    for script in sorted(CASES.glob("[!_]*.py")):
        command = [sys.executable, script, folder / script.stem]
        subprocess.run(command, check=True, cwd=CASES, env=environment)
    return folder


@dataclasses.dataclass
class Recorder:
    """Encoder that records the point clouds that it gets."""

    card: model_card.ModelCard
    clouds: list = dataclasses.field(default_factory=list)

    def embed(self, given, *, batch_size):
        del batch_size
        self.clouds += given
        return np.full((len(self.clouds), tiny_encoder.DIM), tiny_encoder.DIM**-0.5, np.float32)


@pytest.fixture(scope="module")
def embedded(folder, tmp_path_factory):
    """Runs embed on the folder; returns {file: (xyz, rgb 0..255)} and {skipped file: reason}."""
    output = tmp_path_factory.mktemp("embedded")
    encoder.save(
        output / "encoder",
        variables=tiny_encoder.tiny_variables(),
        card=tiny_encoder.tiny_card(),
    )
    recorder = Recorder(dataclasses.replace(tiny_encoder.tiny_card(), points=POINTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "load", lambda *args, **kwargs: recorder)
        status = embed.main(
            [
                "--checkpoint",
                str(output / "encoder"),
                "--output",
                str(output / "E.npz"),
                str(folder),
            ]
        )
    assert status == 1  # some cases are errors
    with np.load(output / "E.npz") as arrays:
        files = [str(Path(file).relative_to(folder)) for file in arrays["files"]]
    return {file: (xyz, 255 * rgb) for file, (xyz, rgb) in zip(files, recorder.clouds, strict=True)}


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    """Runs data_prep.build on the folder; returns the shapes by id, and {skipped id: reason}."""
    output = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "load_teacher", lambda *args, **kwargs: ColourTeacher())
        patch.setattr("data_prep.teachers.names.check", lambda *args, **kwargs: None)
        options = build.Options(
            source="folder",
            input=folder,
            output=output,
            teacher="colours",
            points=POINTS,
            views=2,
            image_size=24,
            execution=build_flags.Execution(workers=0),
        )
        build.build(options)
    found, skipped = {}, {}
    for path in prepare.shard_paths(output / "shapes" / "folder"):
        found |= {shape.id: shape for shape in shapes.load_shard(path)}
        skipped |= shapes.load_header(path)["skipped"]
    return found, skipped


@pytest.mark.parametrize("file", EXPECTED)
def test_inspect(folder, file, capsys):
    expected = EXPECTED[file]
    status = inspect.main([str(folder / file), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert status == (1 if expected["error"] else 0)
    if expected["error"]:
        assert expected["error"] in facts["error"]
        return
    assert facts["error"] is None
    assert (expected["note"] or "") in ", ".join(facts["notes"])
    if not expected["note"]:
        assert facts["notes"] == []
    for key, name, tolerance in (
        ("extent", "extent", 5e-5),  # half a step of positions in 16 bits
        ("area", "area", 1e-3),
        ("colour", "colour_mean", COLOUR_ERROR),
        ("colour_std", "colour_std", COLOUR_ERROR),
    ):
        if expected[key] is not None:
            assert facts[name] == pytest.approx(expected[key], abs=tolerance)


@pytest.mark.parametrize("file", EXPECTED)
def test_embed(embedded, file):
    if EXPECTED[file]["error"]:
        assert file not in embedded
    else:
        check_cloud(*embedded[file], **EXPECTED[file])


@pytest.mark.parametrize("file", EXPECTED)
def test_build(prepared, file):
    found, skipped = prepared
    expected = EXPECTED[file]
    if expected["error"]:
        assert expected["error"] in skipped[file]
        return
    shape = found[file]
    assert (expected["note"] or "") in ", ".join(shape.faults)
    check_cloud(shape.xyz, shape.rgb, **expected)


def check_cloud(xyz, rgb, *, extent, colour, colour_std, **_):
    """Compares a normalised point cloud with the right values.

    The points of an encoder are scaled to the unit sphere and have z up.
    """
    if extent is not None:
        sides = np.sort(np.ptp(xyz, axis=0))
        want = np.sort(extent)
        assert sides / sides[-1] == pytest.approx(want / want[-1], abs=0.02)
    if colour is not None:
        assert rgb.mean(axis=0) == pytest.approx(colour, abs=COLOUR_ERROR)
    if colour_std is not None:
        assert rgb.std(axis=0) == pytest.approx(colour_std, abs=COLOUR_ERROR)


@pytest.mark.parametrize("name", ["utm", "ecef"])
def test_points_far_from_the_origin_lie_on_the_box(embedded, name):
    xyz, _ = embedded[f"mesh_far_from_origin/{name}.obj"]
    # After the scaling, every point has one coordinate on one of the six planes of its box.
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    distance = np.minimum(np.abs(xyz - low), np.abs(xyz - high)).min(axis=1)
    assert distance.max() < 1e-6
    assert len(np.unique(xyz[:, 2])) > 1000


def test_points_of_a_concave_polygon_lie_inside_of_it(embedded):
    xyz, _ = embedded["obj_concave_polygon/concave.obj"]
    low = xyz.min(axis=0)
    plane = np.ptp(xyz, axis=0).argsort()[1:]
    unit = np.ptp(xyz, axis=0).max() / 4
    inside = (xyz - low)[:, plane] / unit < 1.01
    assert inside.any(axis=1).all()


def test_corners_of_a_triangle_keep_their_colours(embedded):
    _, rgb = embedded["vertex_colours_interpolated/triangle.ply"]
    assert (rgb.max(axis=0) > 250).all()
    assert rgb.sum(axis=1) == pytest.approx(np.full(POINTS, 255), abs=2)
