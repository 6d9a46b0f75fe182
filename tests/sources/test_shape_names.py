# SPDX-License-Identifier: Apache-2.0
"""Names and classes from the names of files and folders."""

import pytest

from data_prep import shape_names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("oak_chair-2.glb", "oak chair"),
        ("sub/folder/Oak chair (1).obj", "Oak chair"),
        ("DamagedHelmet.glb", "Damaged Helmet"),
        ("smallOakChair2.obj", "small oak chair"),
        ("wallMountedTV.obj", "wall mounted TV"),
        ("van Gogh 2.obj", "van Gogh"),
        ("old mp3.obj", "old mp3"),
        ("iPhone.v2.stl", "iPhone v2"),
        ("chair_v1.2.glb", "chair v1.2"),
        ("chair.001.glb", "chair"),
        ("oak_chair_2.5.glb", "oak chair"),
        ("SOFA-001.obj", "SOFA"),
        ("IKEA-2023-01-15.obj", "IKEA"),
        ("USB-C_Receptacle.step", "USB C Receptacle"),
        ("3_seater-sofa_0004_02.ply", "3 seater sofa"),
        ("cafe\u0301.glb", "caf\u00e9"),
        ("low_poly_tree.glb", "low poly tree"),
        ("chair_model.obj", "chair model"),
        ("facade.obj", "facade"),
        ("face.obj", "face"),
        ("椅.glb", "椅"),
        ("red\nchair.glb", "red chair"),
    ],
)
def test_names_are_derived_from_file_names(path, name):
    assert shape_names.name_of(path) == name


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("DIP-8_W8.89mm", "DIP-8 W8.89mm"),
        ("D_SOD-123", "D SOD-123"),
        ("SOT-23-5_1.6x2.9mm", "SOT-23-5 1.6x2.9mm"),
        ("QFN-16-1EP_3x3mm_P0.5mm", "QFN-16-1EP 3x3mm P0.5mm"),
        ("PinHeader_1x02_P2.54mm", "Pin Header 1x02 P2.54mm"),
        ("TO-220AB", "TO-220AB"),
        ("HC-05", "HC-05"),
        ("MSTBA_5,08", "MSTBA 5,08"),
        ("A-10_Warthog", "A-10 Warthog"),
        ("table_1.5m", "table 1.5m"),
    ],
)
def test_part_numbers_and_sizes_stay_whole(stem, name):
    assert shape_names.name_of(f"{stem}.step") == name
    assert shape_names.words_of(stem) == name


@pytest.mark.parametrize(
    "stem",
    "0001 03001627 model model_normalized Model-2 textured_simple mesh scene untitled object_3 a "
    "x2 1a2b 8476c4170df24cf5bbe6967222d1a42d 123e4567-e89b-12d3-a456-426614174000 B07B4DBBPR v2 "
    "IMG_0042 point_cloud pointCloud scan-03 lowPoly_LOD0 caf\udce9 _ model(1) A-1 IMG-1234 "
    "W8.89mm 8.89mm 1.2.3 v1.2 M3-10 SCAN-2023-01-15 0a1b-2c3d "
    "chair-123e4567-e89b-12d3-a456-426614174000".split(),
)
def test_file_names_that_say_nothing_give_no_name(stem):
    assert shape_names.name_of(f"chair/{stem}.obj") == ""


@pytest.mark.parametrize(
    ("path", "label_from", "label"),
    [
        ("chair/1a2b/model.obj", "folder", "chair"),
        ("chair/train/chair_0001.off", "folder", "chair"),
        ("furniture/night_stand/1a2b/models/model_normalized.obj", "folder", "night_stand"),
        ("furniture/night_stand/1a2b/models/model_normalized.obj", "1", "furniture"),
        ("03001627/1a2b/model.obj", "folder", ""),
        ("03001627/1a2b/model.obj", "1", "03001627"),
        ("chair/model.obj", "2", ""),
        ("model.obj", "folder", ""),
        ("model.obj", "1", ""),
    ],
)
def test_labels_are_names_of_folders(path, label_from, label):
    assert shape_names.label_of(path, label_from)[0] == label


def test_the_words_of_a_label_are_a_caption_only_if_they_say_something():
    assert shape_names.label_of("night_stand/a.obj", "1") == ("night_stand", "night stand")
    assert shape_names.label_of("03001627/a.obj", "1") == ("03001627", "")


@pytest.mark.parametrize("value", ["parent", "0", "-1", "1.5", "", "²"])
def test_other_values_of_the_flag_are_errors(value):
    with pytest.raises(ValueError, match="expected 'folder'"):
        shape_names.check_label_from(value)
