# SPDX-License-Identifier: Apache-2.0
"""The source `furniture`: catalogues, preparation of models, splits and classes."""

import csv
import io

import numpy as np
import pytest
import tiny_catalogue
from PIL import Image

from data_prep import shapes, sources
from data_prep.sources import furniture

TALL = tiny_catalogue.boxes(((1, 4, 2), (0, 0, 0), "red"))  # y is up in the file
RED = "newmtl red\nKd 1 0 0\n"
SETTINGS = {"points": 500, "views": 2, "image_size": 32, "seed": 0}


def catalogue(folder, *entries, stem="BlendSwap-CC-0", **files):
    return tiny_catalogue.write_catalogue(folder / f"{stem}.sh3f", entries, files)


def prepare(folder, entry, settings=SETTINGS, **files):
    """Writes a catalogue with one model and prepares it."""
    defaults = {
        "m/box.obj": TALL,
        "m/box.mtl": RED,
        "icon.png": tiny_catalogue.png([[(0, 0, 0, 0)]]),
    }
    catalogue(folder, entry, **defaults | files)
    source = sources.SOURCES["furniture"]
    (item,) = source.items(folder)
    return source.prepare(item, **settings)


def chair(**more):
    return tiny_catalogue.entry("Chair", "/m/box.obj", **more)


def shape(number, catalogue_name, *, creator="", label=""):
    texts = {"source": "furniture", "name": "", "category": "", "licence": ""}
    empty = np.zeros((0, 3))
    return shapes.Shape(
        id=f"{catalogue_name}{number}",
        catalogue=catalogue_name,
        creator=creator,
        label=label,
        xyz=empty,
        rgb=empty,
        images=(),
        image_kinds=(),
        captions=(),
        **texts,
    )


def test_items_hold_the_properties_of_the_catalogue(tmp_path):
    catalogue(
        tmp_path,
        chair(name="Caf\\u00e9 chair", tags="Blend Swap, Seat, \\\n   Bar", creator="Zo\u00eb"),
        chair(id="Tiny#2", tags=""),
    )
    first, second = sources.SOURCES["furniture"].items(tmp_path)
    assert first.name == "Café chair"
    assert first.tags == ("Seat", "Bar")  # without the tag of the provider
    assert (first.creator, first.licence) == ("Zoë", "Public domain")
    assert (first.catalogue, first.category) == ("BlendSwap-CC-0", "Office")
    assert (second.id, second.tags) == ("Tiny#2", ())


def test_a_shape_holds_the_metadata_captions_and_images_of_its_model(tmp_path):
    got = prepare(tmp_path, chair())
    assert (got.id, got.source, got.name) == ("Tiny#Chair", "furniture", "Chair")
    assert (got.creator, got.licence, got.category) == ("Ann", "Public domain", "Office")
    assert got.captions == (
        ("name", "Chair"),
        ("tags", "Chair, seat"),
        ("category", "Chair (office)"),
    )
    assert got.image_kinds == ("render", "render", "picture")
    assert got.faults == ()


def test_points_are_upright_centred_and_in_the_unit_sphere(tmp_path):
    xyz = prepare(tmp_path, chair()).xyz
    assert (xyz.shape, xyz.dtype) == ((500, 3), np.float32)
    np.testing.assert_allclose(xyz.mean(axis=0), 0, atol=1e-6)
    assert np.linalg.norm(xyz, axis=1).max() == pytest.approx(1, abs=1e-6)
    width, depth, height = np.ptp(xyz, axis=0)
    assert height > 1.8 * depth > 1.8 * 1.8 * width


def test_the_model_rotation_is_row_major_and_applied_before_the_rotation_to_z_up(tmp_path):
    # x -> y -> z -> x in the file's y-up axes: the tall y axis becomes depth z.
    xyz = prepare(tmp_path, chair(modelRotation="0 0 1 1 0 0 0 1 0")).xyz
    width, depth, height = np.ptp(xyz, axis=0)
    assert depth > 1.8 * width > 1.8 * 1.8 * height


@pytest.mark.parametrize(
    "text", ["1 0 0", "1 0 0 0 1 0 0 0 x", "2 0 0 0 1 0 0 0 1", "-1 0 0 0 1 0 0 0 1"]
)
def test_a_model_with_an_invalid_rotation_is_skipped(tmp_path, text):
    with pytest.raises(shapes.SkipShape, match="^bad modelRotation$"):
        prepare(tmp_path, chair(modelRotation=text))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("/m/gone.obj", "missing mesh"),
        ("/../../etc/passwd.obj", "unsafe or damaged archive member"),
        ("/m/garbled.obj", "a face names a vertex that does not exist: 9 of 3"),
        ("/m/empty.obj", "empty file"),
        ("/m/cloud.obj", "no faces"),
        ("/m/nan.obj", "non-finite coordinates"),
        ("/m/line.obj", "no visible area"),
    ],
)
def test_an_unusable_model_is_skipped_with_its_reason(tmp_path, model, reason):
    files = {
        "m/garbled.obj": "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n",
        "m/empty.obj": "",
        "m/cloud.obj": "v 0 0 0\nv 1 0 0\nv 0 1 0\n",
        "m/nan.obj": "v 0 0 0\nv 1 0 0\nv 0 nan 0\nf 1 2 3\n",
        "m/line.obj": "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n",
    }
    with pytest.raises(shapes.SkipShape, match=f"^{reason}$"):
        prepare(tmp_path, chair(model=model), **files)


def test_missing_textures_and_pictures_are_faults_of_the_shape(tmp_path):
    mtl = RED + "map_Kd /home/me/wood.jpg\n"
    got = prepare(tmp_path, chair(icon="/gone.png"), **{"m/box.mtl": mtl})
    assert got.faults == ("missing texture", "missing picture")
    assert got.image_kinds == ("render", "render")
    assert (got.rgb == (255, 0, 0)).all()


def test_an_unreadable_picture_is_dropped(tmp_path):
    got = prepare(tmp_path, chair(), **{"icon.png": b"no image"})
    assert (got.faults, got.image_kinds) == (("unreadable picture",), ("render", "render"))


def test_blank_views_are_counted_and_dropped(tmp_path):
    square = tiny_catalogue.SQUARE.replace("square.mtl", "box.mtl")
    files = {"m/box.obj": square, "m/box.mtl": "newmtl paint\nKd 1 0 0\n"}
    got = prepare(tmp_path, chair(), SETTINGS | {"views": 12}, **files)
    assert got.faults == ("blank view",) * 4
    assert got.image_kinds == ("render",) * 8 + ("picture",)


def test_the_picture_of_the_catalogue_is_on_white_and_comes_last(tmp_path):
    icon = np.zeros((16, 16, 4), np.uint8)
    icon[:, 8:] = (0, 0, 255, 255)
    got = prepare(tmp_path, chair(), **{"icon.png": tiny_catalogue.png(icon)})
    with Image.open(io.BytesIO(got.images[-1])) as image:
        picture = np.asarray(image).astype(int)
    assert picture.shape == (16, 16, 3)
    assert picture[:, :8].min() > 240
    np.testing.assert_allclose(picture[:, 8:].mean(axis=(0, 1)), (0, 0, 255), atol=8)


def test_preparation_is_deterministic_and_the_seed_changes_the_points(tmp_path):
    one, again = prepare(tmp_path, chair()), prepare(tmp_path, chair())
    other = prepare(tmp_path, chair(), SETTINGS | {"seed": 1})
    np.testing.assert_array_equal(one.xyz, again.xyz)
    assert one.images == again.images == other.images
    assert not np.array_equal(one.xyz, other.xyz)


def test_the_error_for_an_empty_folder_names_the_download_command(tmp_path):
    with pytest.raises(ValueError, match=r"no \.sh3f catalogue found.*data_prep\.fetch --output"):
        sources.SOURCES["furniture"].items(tmp_path)


def test_the_error_for_another_zip_file_names_it(tmp_path):
    path = catalogue(tmp_path, chair())
    path.write_bytes(path.read_bytes().replace(b"PluginFurniture", b"PluginSomething"[:15]))
    with pytest.raises(ValueError, match=r"BlendSwap-CC-0\.sh3f: no PluginFurnitureCatalog"):
        sources.SOURCES["furniture"].items(tmp_path)


def test_an_id_in_two_catalogues_is_an_error(tmp_path):
    catalogue(tmp_path, chair(), stem="A")
    catalogue(tmp_path, chair(), stem="B")
    with pytest.raises(ValueError, match=r"'Tiny#Chair' is in .*A\.sh3f and .*B\.sh3f"):
        sources.SOURCES["furniture"].items(tmp_path)


def test_training_models_of_an_identified_test_author_are_excluded():
    source = furniture.Furniture(test="T")
    prepared = [
        shape(0, "T", creator="Ann"),
        shape(1, "T", creator="Unknown"),
        shape(0, "A", creator="ann"),
        shape(1, "A", creator="Ben"),
        shape(0, "B", creator="unknown"),
        shape(1, "B"),
    ]
    assert source.splits(prepared) == {"train": ["A1", "B0", "B1"], "test": ["T0", "T1"]}
    groups = source.groups(None, prepared)
    assert groups == {"T0": "ann", "A0": "ann", "A1": "ben"}  # an unknown author is no group


def test_training_catalogues_can_be_selected():
    prepared = [shape(0, name) for name in ("T", "A", "B")]
    source = furniture.Furniture(test="T", train=("B",))
    assert source.splits(prepared) == {"train": ["B0"], "test": ["T0"]}


def test_a_missing_test_catalogue_is_an_error():
    with pytest.raises(
        ValueError, match=r"no shape of the test catalogue 'T', found \['A'\].*T\.sh3f"
    ):
        furniture.Furniture(test="T").splits([shape(0, "A")])


def test_classes_are_the_labels_that_occur_in_both_splits():
    source = furniture.Furniture(test="T")
    labels = [("T", "chair"), ("T", "sofa"), ("T", ""), ("A", "chair"), ("A", "bed"), ("A", "")]
    prepared = [shape(i, name, label=label) for i, (name, label) in enumerate(labels)]
    assert source.classes(prepared) == ["chair"]


@pytest.mark.parametrize(
    ("name", "train", "test", "classes", "test_models"),
    [
        ("furniture", 639, 175, 60, 134),
        ("furniture_ccby", 677, 135, 51, 105),
        ("furniture_kator", 420, 90, 30, 60),
    ],
)
def test_sizes_of_the_splits_of_version_1_8(name, train, test, classes, test_models):
    files = {
        "cc0": "BlendSwap-CC-0",
        "ccby": "BlendSwap-CC-BY",
        "kator": "KatorLegaz",
        "reallusion": "Reallusion",
        "scopia": "Scopia",
    }
    with furniture.LABELS_FILE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    prepared = [
        shape(i, files[row["catalogue"]], creator=row["creator"], label=row["class"])
        for i, row in enumerate(rows)
    ]
    source = sources.SOURCES[name]
    splits, names = source.splits(prepared), source.classes(prepared)
    assert (len(prepared), len(splits["train"]), len(splits["test"])) == (820, train, test)
    assert len(names) == classes
    held_out = set(splits["test"])
    assert sum(s.id in held_out and s.label in names for s in prepared) == test_models


def test_labels_cover_650_models_in_97_classes():
    labels = furniture.load_labels()
    assert (len(labels), len(set(labels.values()))) == (650, 97)
