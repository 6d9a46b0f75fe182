# SPDX-License-Identifier: Apache-2.0
"""3MF files of printers."""

import io
import zipfile

import numpy as np
import pytest
from loading import colours, extent, load, triangles
from PIL import Image

from data_prep.foreign import limits
from data_prep.geometry import scene, surface

CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
MATERIALS = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
PRODUCTION = "http://schemas.microsoft.com/3dmanufacturing/production/2015/06"
RELATIONSHIPS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Target="/{path}" Id="r" '
    'Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/></Relationships>'
)
# A square in the plane of x and y.
VERTICES = "".join(f'<vertex x="{x}" y="{y}" z="0"/>' for x, y in ((0, 0), (2, 0), (2, 1), (0, 1)))


def mesh(first="", second="", **attributes):
    words = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return (
        f'<object id="1" type="model"{words}><mesh><vertices>{VERTICES}</vertices><triangles>'
        f'<triangle v1="0" v2="1" v3="2" {first}/><triangle v1="0" v2="2" v3="3" {second}/>'
        "</triangles></mesh></object>"
    )


def model(resources, build='<item objectid="1"/>', unit="millimeter"):
    return (
        f'<?xml version="1.0"?><model unit="{unit}" xmlns="{CORE}" xmlns:m="{MATERIALS}" '
        f'xmlns:p="{PRODUCTION}"><resources>{resources}</resources><build>{build}</build></model>'
    )


def packed(text, *, path="3D/3dmodel.model", relationships=True, **files):
    """Returns an archive; in names of other files, "__" stands for a slash, "_" for a dot."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        if relationships:
            archive.writestr("_rels/.rels", RELATIONSHIPS.format(path=path))
        archive.writestr(path, text)
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return file.getvalue()


def read(resources, build='<item objectid="1"/>', **files):
    return load(packed(model(resources, build), **files), "3mf")


def rgb_of_halves(content):
    """Returns the mean colours of the first and of the second triangle."""
    rng = np.random.default_rng(0)
    xyz, rgb = surface.sample_points(content.surface, points=4000, rng=rng)
    below = xyz[:, 1] * 2 < xyz[:, 0]
    return rgb[below].mean(axis=0), rgb[~below].mean(axis=0)


@pytest.mark.parametrize("unit", ["micron", "millimeter", "inch", "meter"])
def test_lengths_stay_in_the_unit_of_the_file_and_z_is_up(unit):
    content = load(packed(model(mesh(), unit=unit)), "3mf")
    np.testing.assert_allclose(extent(content), [2, 1, 0])
    assert content.up_axis == "z" and content.notes == ()
    assert not content.surface.coloured.any()


@pytest.mark.parametrize(
    ("path", "relationships"), [("3D/3dmodel.model", False), ("3D/other.model", True)]
)
def test_root_model_is_that_of_the_relationships(path, relationships):
    content = load(packed(model(mesh()), path=path, relationships=relationships), "3mf")
    assert len(content.surface.triangles) == 2


def test_items_and_components_are_placed_by_their_transforms():
    """Row vectors: the last three numbers are the translation; the component is applied first."""
    holder = (
        '<object id="2"><components><component objectid="1" transform="1 0 0 0 1 0 0 0 1 5 0 0"/>'
        "</components></object>"
    )
    turn = "0 1 0 -1 0 0 0 0 1 0 0 7"  # x to y, y to negative x, then 7 up
    content = read(mesh() + holder, f'<item objectid="2" transform="{turn}"/>')
    np.testing.assert_allclose(triangles(content)[0], [[0, 5, 7], [0, 7, 7], [-1, 7, 7]])


def test_components_of_other_models_are_read():
    """The production extension puts each object into its own file."""
    holder = (
        '<object id="9"><components><component objectid="1" p:path="/3D/objects/part.model"/>'
        "</components></object>"
    )
    archive = packed(model(holder, '<item objectid="9"/>'), D3=b"")
    file = io.BytesIO(archive)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("3D/objects/part.model", model(mesh(), ""))
    content = load(file.getvalue(), "3mf")
    assert len(content.surface.triangles) == 2 and content.notes == ()


BASE = (
    '<basematerials id="5"><base name="a" displaycolor="#FF0000"/>'
    '<base name="b" displaycolor="#0000FF80"/></basematerials>'
)


def test_base_materials_colour_triangles():
    content = read(BASE + mesh('pid="5" p1="0"', 'pid="5" p1="1"'))
    first, second = rgb_of_halves(content)
    np.testing.assert_allclose(first, [255, 0, 0])
    np.testing.assert_allclose(second, [0, 0, 255])


def test_triangles_without_a_colour_have_that_of_their_object():
    content = read(BASE + mesh('pid="5" p1="1"', "", pid="5", pindex="0"))
    first, second = rgb_of_halves(content)
    np.testing.assert_allclose(first, [0, 0, 255])
    np.testing.assert_allclose(second, [255, 0, 0])


def test_objects_give_their_colour_to_components_without_one():
    holder = '<object id="2" pid="5" pindex="0"><components><component objectid="1"/></components>'
    content = read(BASE + mesh() + holder + "</object>", '<item objectid="2"/>')
    np.testing.assert_allclose(colours(content).mean(axis=0), [255, 0, 0])


GROUP = (
    '<m:colorgroup id="6"><m:color color="#FF0000"/><m:color color="#0000ff"/>'
    '<m:color color="#00FF00FF"/></m:colorgroup>'
)


def test_color_groups_are_interpolated_over_a_triangle():
    """The mean of a triangle is the mean of its corners."""
    content = read(GROUP + mesh('pid="6" p1="0" p2="1" p3="2"', 'pid="6" p1="2"'))
    first, second = rgb_of_halves(content)
    np.testing.assert_allclose(first, [85, 85, 85], atol=4)
    np.testing.assert_allclose(second, [0, 255, 0])


def test_invisible_files_are_opaque_with_a_note():
    """SolidWorks writes an alpha of 0."""
    base = '<basematerials id="5"><base name="a" displaycolor="#CAD1EE00"/></basematerials>'
    content = read(base + mesh(pid="5", pindex="0"))
    np.testing.assert_allclose(colours(content).mean(axis=0), [202, 209, 238])
    assert content.notes == (surface.ALL_INVISIBLE,)


def picture():
    """Returns a PNG file, red above blue."""
    file = io.BytesIO()
    Image.fromarray(np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8)).save(file, "PNG")
    return file.getvalue()


TEXTURE = (
    '<m:texture2d id="7" path="/3D/a.png" contenttype="image/png"/>'
    '<m:texture2dgroup id="8" texid="7"><m:tex2coord u="0" v="0"/><m:tex2coord u="1" v="0"/>'
    '<m:tex2coord u="1" v="1"/><m:tex2coord u="0" v="1"/></m:texture2dgroup>'
)
CORNERS = ('pid="8" p1="0" p2="1" p3="2"', 'pid="8" p1="0" p2="2" p3="3"')


def test_textures_have_their_origin_at_the_lower_left():
    content = read(TEXTURE + mesh(*CORNERS), **{"3D__a_png": picture()})
    rng = np.random.default_rng(0)
    xyz, rgb = surface.sample_points(content.surface, points=2000, rng=rng)
    np.testing.assert_allclose(rgb[xyz[:, 1] > 0.01].mean(axis=0), [255, 0, 0])
    np.testing.assert_allclose(rgb[xyz[:, 1] < -0.01].mean(axis=0), [0, 0, 255])


def test_missing_textures_are_noted():
    content = read(TEXTURE + mesh(*CORNERS))
    assert content.notes == ("missing texture",)
    assert not content.surface.coloured.any()


def test_composites_are_mixtures_of_base_materials():
    composite = (
        '<m:compositematerials id="9" matid="5" matindices="0 1"><m:composite values="1 3"/>'
        "</m:compositematerials>"
    )
    content = read(BASE + composite + mesh(pid="9", pindex="0"))
    np.testing.assert_allclose(colours(content).mean(axis=0), [63.75, 0, 191.25], atol=0.6)


@pytest.mark.parametrize(
    ("pids", "rgb"), [("5 8", [127.5, 0, 127.5]), ("5 6", [0, 255, 0]), ("6", [255, 0, 0])]
)
def test_layers_are_replaced_by_a_texture_or_the_last_colours(pids, rgb):
    layers = (
        f'<m:multiproperties id="9" pids="{pids}"><m:multi pindices="0 0"/>'
        '<m:multi pindices="0 1"/><m:multi pindices="0 2"/><m:multi pindices="1 3"/>'
        "</m:multiproperties>"
    )
    if pids == "5 6":
        layers = layers.replace("0 0", "0 2").replace("0 1", "0 2")
        layers = layers.replace('<m:multi pindices="1 3"/>', "")
        corners = ('pid="9" p1="0" p2="1" p3="2"',) * 2
    else:
        corners = ('pid="9" p1="0" p2="1" p3="2"', 'pid="9" p1="0" p2="2" p3="3"')
    if pids == "6":
        layers = layers.replace("1 3", "0 3")
    content = read(BASE + GROUP + TEXTURE + layers + mesh(*corners), **{"3D__a_png": picture()})
    np.testing.assert_allclose(colours(content, points=8000).mean(axis=0), rgb, atol=4)
    assert content.notes == (("several layers of colours, one is read",) if " " in pids else ())


def test_supports_of_the_printer_are_ignored_with_a_note():
    support = mesh().replace('id="1" type="model"', 'id="2" type="support"')
    content = read(mesh() + support, '<item objectid="1"/><item objectid="2"/>')
    assert len(content.surface.triangles) == 2
    assert content.notes == ("support of the printer, ignored",)


def test_colours_painted_in_a_slicer_are_noted():
    content = read(mesh('paint_color="4"'))
    assert content.notes == ("colours painted in a slicer, ignored",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04 no archive", "zip archive"),
        (packed(model(mesh()))[:-30], "zip archive"),
        (packed(model(mesh(), "")), "builds no object"),
        (packed(model(mesh().replace('v3="3"', 'v3="4"'))), "does not exist"),
        (packed(model(mesh().replace('x="0"', ""))), "without numbers"),
        (packed(model(mesh()).replace("<resources>", "")), "not well-formed"),
        (packed(model(BASE + mesh('pid="5" p1="7"'))), "colour that does not exist"),
        (packed("<!DOCTYPE a [<!ENTITY b 'c'>]>" + model("")[21:]), "entity"),
    ],
)
def test_corrupt_files_are_refused_by_name(data, message):
    with pytest.raises(scene.MeshError, match=message):
        load(data, "3mf")


def test_archives_without_a_model_are_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "text")
    with pytest.raises(scene.MeshError, match="without the model"):
        load(file.getvalue(), "3mf")


def test_archives_that_unpack_to_too_much_are_refused(monkeypatch):
    monkeypatch.setenv(limits.MEMBER_BYTES.variable, "100000")
    data = packed(model(mesh()) + " " * 10**6)
    assert len(data) < 5000
    with pytest.raises(scene.MeshError, match=limits.MEMBER_BYTES.variable):
        load(data, "3mf")


def test_objects_that_contain_themselves_are_refused():
    pair = '<object id="{0}"><components><component objectid="{1}"/><component objectid="{1}"/>'
    chain = "".join(pair.format(i, i + 1) + "</components></object>" for i in range(2, 60))
    loop = '<object id="1"><components><component objectid="1"/></components></object>'
    for resources, start in ((loop, "1"), (chain, "2")):
        with pytest.raises(scene.MeshError, match="MRD_MAX"):
            read(resources, f'<item objectid="{start}"/>')
