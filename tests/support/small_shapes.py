# SPDX-License-Identifier: Apache-2.0
"""Coloured boxes and point clouds in files, and a fake teacher that embeds colours."""

import colorsys
import io

import gltf_files
import numpy as np
import PIL.Image
import trimesh

from data_prep import build, build_flags, teachers

COLOURS = ("red", "orange", "yellow", "lime", "green", "teal", "cyan", "blue", "violet", "pink")
IN_PROCESS = build_flags.Execution(workers=0)
SETTINGS = {"points": 64, "views": 2, "image_size": 24, "execution": IN_PROCESS}


def rgb(name):
    """Returns one of ten evenly spaced hues, as uint8."""
    hue = COLOURS.index(name) / len(COLOURS)
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 1, 1))


def box(extents=(1, 2, 4), colour=(255, 0, 0)):
    """Returns a box centred at the origin, with extents along the axes of the file."""
    mesh = trimesh.creation.box(extents=extents)
    colours = np.tile([*colour, 255], (8, 1)).astype(np.uint8)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colours)
    return mesh


def gltf(mesh):
    """Returns a mesh as a `gltf_files.File`, with its colours: trimesh writes sRGB for linear."""
    file, attributes = gltf_files.File(), {}
    if mesh.visual.kind:
        srgb = mesh.visual.vertex_colors[:, :3] / 255
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        attributes["COLOR_0"] = linear.astype(np.float32)
    positions, faces = mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32).reshape(-1)
    file.mesh(file.primitive(positions, faces, attributes))
    return file


def write(path, mesh):
    """Writes a mesh in the format of the suffix; an OBJ file gets its colour from a material."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".obj":
        lines = [f"mtllib {path.stem}.mtl", "usemtl paint"]
        lines += ["v {} {} {}".format(*vertex) for vertex in mesh.vertices]
        lines += ["f {} {} {}".format(*face) for face in mesh.faces + 1]
        path.write_text("\n".join(lines) + "\n")
        shade = mesh.visual.vertex_colors[0, :3] / 255
        path.with_suffix(".mtl").write_text("newmtl paint\nKd {} {} {}\n".format(*shade))
    elif path.suffix == ".glb":
        path.write_bytes(gltf(mesh).glb())
    else:
        path.write_bytes(mesh.export(file_type=path.suffix[1:]))
    return path


def picture(colour, *, size=(8, 8), **options):
    """Returns a PNG file of one colour."""
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, colour).save(buffer, "PNG", **options)
    return buffer.getvalue()


class ColourTeacher:
    """Embeds a picture as the mean of its non-white pixels, a text as the colour that it names."""

    info = teachers.TeacherInfo("colours", "1", 3, "clip", "none")

    def encode_images(self, images, *, progress=False):
        rows = []
        for data in images:
            pixels = np.asarray(PIL.Image.open(io.BytesIO(data)), np.float32).reshape(-1, 3)
            rows.append(pixels[pixels.min(axis=1) < 250].mean(axis=0))
        return np.array(rows, np.float32)

    def encode_texts(self, texts):
        names = [[name for name in COLOURS if name in text.split()] for text in texts]
        return np.array([rgb(named[0]) if named else (1, 1, 1) for named in names], np.float32)


def run_build(source, input_dir, output, monkeypatch, *, teacher="colours", **changes):
    """Runs `build` with the fake teacher; returns the folder of the data set."""
    monkeypatch.setattr(teachers, "load_teacher", lambda *args, **kwargs: ColourTeacher())
    monkeypatch.setattr("data_prep.teachers.names.check", lambda *args, **kwargs: None)
    options = SETTINGS | changes
    return build.build(
        build.Options(source=source, input=input_dir, output=output, teacher=teacher, **options)
    )
