# SPDX-License-Identifier: Apache-2.0
"""Files that a mesh refers to: where they are looked for, and where never."""

import numpy as np
import pytest
import tiny_catalogue

from data_prep.foreign import limits
from data_prep.geometry import assets

# Folders of a user: a mesh, its neighbours, and what it must not read.
MESH = "data/chair/models/chair.obj"
PICTURES = {
    "beside the mesh": ("wood.png", "data/chair/models/wood.png"),
    "below": ("maps/oak/wood.png", "data/chair/models/maps/oak/wood.png"),
    "./": ("./wood.png", "data/chair/models/wood.png"),
    "backslashes": ("maps\\wood.png", "data/chair/models/maps/wood.png"),
    "percent signs": ("my%20wood.png", "data/chair/models/my wood.png"),
    "percent signs in the name": ("my%20wood.png", "data/chair/models/my%20wood.png"),
    "other letter case": ("WOOD.PNG", "data/chair/models/wood.png"),
    "other letter case of a folder": ("maps/wood.png", "data/chair/models/Maps/Wood.PNG"),
    "accents in another form": ("Mo\u0308bel.png", "data/chair/models/M\xf6bel.png"),
    "absolute path": ("/home/ann/wood.png", "data/chair/models/wood.png"),
    "path of Windows": (r"C:\Users\Ann\wood.png", "data/chair/models/wood.png"),
    "network path of Windows": (r"\\server\share\wood.png", "data/chair/models/wood.png"),
    "last folder of an absolute path": ("/home/ann/oak/wood.png", "data/chair/models/oak/wood.png"),
    "textures": ("wood.png", "data/chair/models/textures/wood.png"),
    "Textures": ("wood.png", "data/chair/models/Textures/wood.png"),
    "texture": ("wood.png", "data/chair/models/texture/wood.png"),
    "images": ("wood.png", "data/chair/models/images/wood.png"),
    "maps": ("wood.png", "data/chair/models/maps/wood.png"),
    "tex": ("wood.png", "data/chair/models/tex/wood.png"),
    "materials": ("wood.png", "data/chair/models/materials/wood.png"),
    "materials/textures": ("wood.png", "data/chair/models/materials/textures/wood.png"),
    "a folder that was removed": ("textures/wood.png", "data/chair/models/wood.png"),
    "ShapeNet, by its reference": ("../images/wood.png", "data/chair/images/wood.png"),
    "ShapeNet, by the bare name": ("wood.png", "data/chair/images/wood.png"),
    "Google Scanned Objects": ("wood.png", "data/chair/materials/textures/wood.png"),
    "sibling folder": ("../oak/wood.png", "data/chair/oak/wood.png"),
    "../textures": ("C:/x/wood.png", "data/chair/textures/wood.png"),
}


def write(root, *paths):
    """Writes files whose content is their path; returns the root."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def found(references, name, **options):
    """Returns the content of a file; None if it is missing."""
    file = references.find(name, **options)
    return None if file is None else file.data.decode()


@pytest.mark.parametrize("is_named", [True, False], ids=["named file", "folder"])
@pytest.mark.parametrize("case", PICTURES)
def test_places_of_a_referenced_file(case, is_named, tmp_path):
    reference, path = PICTURES[case]
    write(tmp_path, MESH, path)
    root = None if is_named else tmp_path / "data"
    references = assets.beside(tmp_path / MESH, root=root)
    assert found(references, reference) == path
    assert references.notes == []


@pytest.mark.parametrize(
    ("paths", "reference", "want"),
    [
        (("wood.png", "textures/wood.png"), "wood.png", "wood.png"),
        (("wood.png", "textures/wood.png"), "textures/wood.png", "textures/wood.png"),
        (("wood.png", "oak/wood.png"), "/x/oak/wood.png", "oak/wood.png"),
        (("a b.png", "a%20b.png"), "a%20b.png", "a%20b.png"),
        (("wood.png", "WOOD.png"), "WOOD.png", "WOOD.png"),
        (("textures/wood.png", "../textures/wood.png"), "wood.png", "textures/wood.png"),
    ],
)
def test_the_likeliest_of_several_places_counts(paths, reference, want, tmp_path):
    folder = "data/chair/models/"
    write(tmp_path, MESH, *(folder + path for path in paths))
    assert found(assets.beside(tmp_path / MESH, root=None), reference) == folder + want


def test_a_name_that_two_files_match_in_other_letter_case_is_missing(tmp_path):
    write(tmp_path, MESH, "data/chair/models/Wood.png", "data/chair/models/WOOD.png")
    assert found(assets.beside(tmp_path / MESH, root=None), "wood.png") is None


def test_the_folder_of_the_file_that_states_a_reference_comes_first(tmp_path):
    write(tmp_path, MESH, *(f"data/chair/models/{p}" for p in ("wood.png", "mtl/wood.png")))
    references = assets.beside(tmp_path / MESH, root=None)
    materials = write(tmp_path, "data/chair/models/mtl/a.mtl") and references.find("mtl/a.mtl")
    near = found(references, "wood.png", beside=materials.path)
    assert near == "data/chair/models/mtl/wood.png"
    assert found(references, "wood.png") == "data/chair/models/wood.png"


SECRETS = ("../../secret.png", "../../../secret.png", "../../../../../../etc/passwd", "/etc/passwd")


@pytest.mark.parametrize("reference", [*SECRETS, "..\\..\\secret.png", "a/../../../secret.png"])
def test_nothing_above_the_folder_above_is_read(reference, tmp_path):
    write(tmp_path, MESH, "data/secret.png", "secret.png")
    assert found(assets.beside(tmp_path / MESH, root=None), reference) is None


@pytest.mark.parametrize("reference", ["../secret.png", "../../secret.png", "/secret.png", ".."])
def test_nothing_outside_of_the_root_is_read(reference, tmp_path):
    write(tmp_path, MESH, "data/chair/secret.png", "data/secret.png", "secret.png")
    references = assets.beside(tmp_path / MESH, root=tmp_path / "data/chair/models")
    assert found(references, reference) is None


@pytest.mark.parametrize("name", ["passwords.txt", "mesh.obj", "id_rsa", ".ssh/id_rsa", "a.json"])
def test_only_files_of_known_types_are_read_in_the_folder_above(name, tmp_path):
    write(tmp_path, MESH, f"data/chair/{name}")
    assert found(assets.beside(tmp_path / MESH, root=None), f"../{name}") is None


def test_files_of_any_type_are_read_in_the_folder_of_the_mesh(tmp_path):
    write(tmp_path, MESH, "data/chair/models/a.json")
    references = assets.beside(tmp_path / MESH, root=None)
    assert found(references, "a.json") == "data/chair/models/a.json"


@pytest.mark.parametrize("suffix", assets.TYPES)
def test_files_of_known_types_are_read_in_the_folder_above(suffix, tmp_path):
    write(tmp_path, MESH, f"data/chair/other/a.{suffix}")
    references = assets.beside(tmp_path / MESH, root=None)
    assert found(references, f"../other/a.{suffix}") == f"data/chair/other/a.{suffix}"


@pytest.mark.parametrize("is_named", [True, False], ids=["named file", "folder"])
def test_links_out_of_the_folders_are_not_followed(is_named, tmp_path):
    write(tmp_path, MESH, "secret.png", "data/chair/models/real.png", "private/wood.png")
    models = tmp_path / "data/chair/models"
    (models / "file.png").symlink_to(tmp_path / "secret.png")
    (models / "textures").symlink_to(tmp_path / "private")
    (models / "inside.png").symlink_to("real.png")
    (models / "cycle.png").symlink_to("cycle.png")
    references = assets.beside(tmp_path / MESH, root=None if is_named else models)
    for name in ("file.png", "textures/wood.png", "wood.png", "cycle.png"):
        assert found(references, name) is None
    assert found(references, "inside.png") == "data/chair/models/real.png"


def test_references_of_a_linked_mesh_are_relative_to_the_link(tmp_path):
    write(tmp_path, "store/real.obj", "store/wood.png", "data/chair/models/wood.png")
    (tmp_path / MESH).symlink_to(tmp_path / "store/real.obj")
    references = assets.beside(tmp_path / MESH, root=None)
    assert found(references, "wood.png") == "data/chair/models/wood.png"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "a\0b.png", "x" * 5000, "models", "con:", "%00.png"]
)
def test_references_that_are_no_file_are_missing(name, tmp_path):
    write(tmp_path, MESH)
    assert found(assets.beside(tmp_path / MESH, root=None), name) is None


def test_missing_files_are_noted_by_their_kind():
    references = assets.Assets(_nothing, folder="a")
    assert references.read("b.mtl", kind="materials file") is None
    assert references.texture("w.png") is None
    assert references.notes == ["missing materials file", "missing texture"]


def test_a_picture_is_decoded_and_a_damaged_one_is_noted():
    files = {"a/w.png": tiny_catalogue.png([[(1, 2, 3)]]), "a/bad.png": b"\x89PNG"}
    references = assets.Assets(files.__getitem__, folder="a")
    np.testing.assert_array_equal(references.texture("w.png"), [[[1, 2, 3, 255]]])
    assert references.texture("bad.png") is None
    assert references.notes == ["unreadable texture"]


def test_the_size_of_all_referenced_files_together_is_limited(tmp_path, monkeypatch):
    write(tmp_path, MESH)
    for name in "ab":
        (tmp_path / f"data/chair/models/{name}.bin").write_bytes(bytes(60))
    monkeypatch.setenv(limits.ASSET_BYTES.variable, "100")
    references = assets.beside(tmp_path / MESH, root=None)
    assert len(references.read("a.bin", kind="buffer")) == 60
    with pytest.raises(limits.LimitError, match="120 bytes of referenced files, at most 100"):
        references.read("b.bin", kind="buffer")


def _nothing(path):
    raise FileNotFoundError(path)
