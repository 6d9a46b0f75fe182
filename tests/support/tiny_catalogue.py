# SPDX-License-Identifier: Apache-2.0
"""Handmade meshes and furniture catalogues, small enough to check every texel."""

import io
import zipfile

import numpy as np
from PIL import Image

from data_prep.geometry import formats, meshes
from data_prep.geometry.assets import Assets
from data_prep.geometry.surface import Y_UP_TO_Z_UP

# The unit square in the plane y = 0 of the file (a floor, y up), texture upright seen from +y
# with x to the right and -z up.
SQUARE = """mtllib square.mtl
v 0 0 0
v 1 0 0
v 1 0 -1
v 0 0 -1
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl paint
f 1/1 2/2 3/3
f 1/1 3/3 4/4
"""


def png(pixels):
    """Encodes an array [height, width, 3 or 4] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def content(files, model="square.obj", **options):
    """Loads a mesh from a dict of file contents by path."""

    def read(path):
        if path not in files:
            raise FileNotFoundError(path)
        return files[path] if isinstance(files[path], bytes) else files[path].encode()

    references = Assets(read, folder="")
    file_type = formats.suffix(model)
    return meshes.load(read(model), file_type=file_type, references=references, fill=0.4, **options)


def surface(files, model="square.obj", *, rotation=Y_UP_TO_Z_UP):
    """Loads a mesh as `content` does; returns its surface, z up, and its notes."""
    loaded = content(files, model, rotation=rotation)
    return loaded.surface, list(loaded.notes)


def boxes(*parts):
    """Returns OBJ text of axis-aligned boxes, each (size, centre, material)."""
    lines = ["mtllib box.mtl"]
    for number, (size, centre, material) in enumerate(parts):
        for bits in np.ndindex(2, 2, 2):
            corner = [c + s * (bit - 0.5) for c, s, bit in zip(centre, size, bits, strict=True)]
            lines.append("v {} {} {}".format(*corner))
        lines.append(f"usemtl {material}")
        for side in ("1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4"):
            lines.append("f " + " ".join(str(int(i) + 8 * number) for i in side.split()))
    return "\n".join(lines) + "\n"


def write_catalogue(path, entries, files, licence="Public domain"):
    """Writes a .sh3f file; an entry is a dict of property by key, without its number."""
    lines = ["# a comment", "id=Tiny", f"license={licence}"]
    for number, entry in enumerate(entries, start=1):
        lines += [f"{key}#{number}={value}" for key, value in entry.items()]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines).encode("iso-8859-1"))
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def entry(title, path, **more):
    """Returns the properties of one model."""
    keys = {"id": f"Tiny#{title}", "name": title, "model": path, "category": "Office"}
    return keys | {"tags": "Blend Swap, Seat", "creator": "Ann", "icon": "/icon.png"} | more


def chairs(folder, *, count=3, stem="Train"):
    """Writes a catalogue of `count` coloured boxes that prepare without faults."""
    files = {"icon.png": png(np.full((8, 8, 4), 200))}
    entries = []
    for number in range(count):
        model = f"m/box{number}.obj"
        files[model] = boxes(((1, 2 + number, 1), (0, 0, 0), "red"))
        entries.append(entry(f"{stem} {number}", f"/{model}", id=f"{stem}#{number}"))
    files["m/box.mtl"] = "newmtl red\nKd 1 0 0\n"
    return write_catalogue(folder / f"{stem}.sh3f", entries, files)
