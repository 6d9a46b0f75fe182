# SPDX-License-Identifier: Apache-2.0
"""VRML 1.0, VRML97 and X3D files."""

import gzip
import io
import math

import numpy as np
import pytest
from loading import colours, extent, load, triangles
from PIL import Image

from data_prep.foreign import limits
from data_prep.geometry import formats, scene, surface

V2, V1, X3DV = "#VRML V2.0 utf8\n", "#VRML V1.0 ascii\n", "#X3D V3.2 utf8\nPROFILE Immersive\n"
POINTS = "coord Coordinate { point [ 0 0 0, 1 0 0, 1 1 0, 0 1 0 ] }"
SQUARE = f"geometry IndexedFaceSet {{ {POINTS} coordIndex [ 0 1 2 3 -1 ] }}"
ORANGE = "appearance Appearance { material Material { diffuseColor 1 0.5 0 } }"


def shape(geometry=SQUARE, appearance=ORANGE):
    return f"Shape {{ {appearance} {geometry} }}"


def v2(text):
    return load(V2 + text, "wrl")


def v1(text):
    return load(V1 + text, "wrl")


def mean(content):
    return colours(content, points=4000).mean(axis=0)


def area(content):
    return surface.face_areas(content.surface).sum()


@pytest.mark.parametrize("header", [V2, X3DV])
@pytest.mark.parametrize(
    "text",
    [
        shape(),
        f"Group {{ children [ {shape()} ] }}",
        f"Group {{ children {shape()} }}",
        f"DEF a Group {{ children DEF b {shape()} }} ROUTE a.x TO b.y",
        f'Anchor {{ url "a#{{" children [ Collision {{ children [ {shape()} ] '
        f"proxy {shape()} }} ] }}",
        f'# comment with }} and " \nWorldInfo {{ title "a }} # \\" b" }} {shape()}',
        f"LOD {{ range [ 1 ] level [ {shape()} Group {{ children [ {shape()} {shape()} ] }} ] }}",
        f"Switch {{ whichChoice 1 choice [ Group {{ }} {shape()} ] }}",
        f'Script {{ field SFNode a NULL eventIn SFTime b url "c" }} {shape()}',
        shape().replace(" ", ",\n\t"),
    ],
)
def test_grammar_and_groups(header, text):
    content = load(header + text, "wrl")
    assert len(content.surface.triangles) == 2 and area(content) == pytest.approx(1)
    np.testing.assert_allclose(mean(content), [255, 128, 0], atol=0.6)
    assert content.notes == ()


def test_vertical_axis_is_y_by_the_standard_but_not_certain():
    assert v2(shape()).up_axis is None
    assert formats.up_axis("a.wrl") == "y" and not formats.up_is_certain("a.wrl")


def test_used_nodes_are_those_that_were_defined():
    text = (
        f"DEF s {shape()} Transform {{ translation 5 0 0 children USE s }}"
        f" Shape {{ appearance DEF a Appearance {{ material DEF m Material {{ }} }} }}"
    )
    np.testing.assert_allclose(extent(v2(text)), [6, 1, 0])


@pytest.mark.parametrize(
    ("fields", "corner"),
    [
        ("translation 1 2 3", [2, 3, 3]),
        ("scale 2 3 4", [2, 3, 0]),
        (f"rotation 0 0 2 {math.pi / 2}", [-1, 1, 0]),
        (f"translation 1 0 0 rotation 0 0 1 {math.pi / 2} scale 2 1 1", [0, 2, 0]),
        (f"center 1 1 0 rotation 0 0 1 {math.pi / 2}", [1, 1, 0]),
        (f"scale 2 1 1 scaleOrientation 0 0 1 {math.pi / 2}", [1, 2, 0]),
    ],
)
def test_transforms(fields, corner):
    content = v2(f"Transform {{ {fields} children {shape()} }}")
    np.testing.assert_allclose(triangles(content)[0, 2], corner, atol=1e-6)


def test_concave_polygons_and_several_in_one_list():
    """An L of area 3 and a triangle of area 0.5, the last without -1."""
    points = "2 1 0 1 1 0 1 2 0 0 2 0 0 0 0 2 0 0"
    geometry = (
        f"geometry IndexedFaceSet {{ coord Coordinate {{ point [ {points} ] }}"
        " coordIndex [ 0 1 2 3 4 5 -1, -1, 0 1 2 ] }"
    )
    content = v2(shape(geometry))
    assert area(content) == pytest.approx(3.5) and len(content.surface.triangles) == 5


@pytest.mark.parametrize(("ccw", "normal"), [("", 1), ("ccw TRUE", 1), ("ccw FALSE", -1)])
def test_order_of_corners(ccw, normal):
    content = v2(shape(SQUARE.replace("coordIndex", f"{ccw} coordIndex")))
    (first, second, third), _ = triangles(content)
    assert np.cross(second - first, third - first)[2] == pytest.approx(normal)


TWO = (
    "geometry IndexedFaceSet { coord Coordinate { point [ 0 0 0, 1 0 0, 1 1 0, 0 1 0 ] } "
    "coordIndex [ 0 1 2 -1 0 2 3 -1 ] color Color { color [ 1 0 0, 0 0 1, 0 1 0, 0 0 0 ] } %s }"
)


@pytest.mark.parametrize(
    ("fields", "rgb"),
    [
        ("colorPerVertex FALSE", [127.5, 0, 127.5]),  # one red, one blue
        ("colorPerVertex FALSE colorIndex [ 2 2 ]", [0, 255, 0]),
        ("", [85, 85, 42.5]),  # means of red, blue, green; and of red, green, black
        ("colorIndex [ 1 1 1 -1 1 1 1 -1 ]", [0, 0, 255]),
    ],
)
def test_colours_of_vertices_and_faces(fields, rgb):
    content = v2(shape(TWO % fields))
    np.testing.assert_allclose(mean(content), rgb, atol=5)
    assert content.notes == ()


@pytest.mark.parametrize(
    ("material", "rgb"),
    [
        ("Material { }", [204, 204, 204]),
        ("Material { diffuseColor 0 0 0 emissiveColor 0 0 1 }", [0, 0, 255]),
        ("Material { diffuseColor 1 0 0 emissiveColor 0 0 1 }", [255, 0, 0]),
    ],
)
def test_colours_of_materials(material, rgb):
    content = v2(shape(appearance=f"appearance Appearance {{ material {material} }}"))
    np.testing.assert_allclose(mean(content), rgb)


@pytest.mark.parametrize("appearance", ["", "appearance Appearance { }", "appearance NULL"])
def test_shapes_without_material_have_no_colour(appearance):
    assert not v2(shape(appearance=appearance)).surface.coloured.any()


def test_transparency():
    clear = ORANGE.replace("0 }", "0 transparency 0.75 }", 1)
    assert v2(shape(appearance=clear)).surface.opacity[0] == pytest.approx(0.25)


def picture():
    """Returns a PNG file, red above blue."""
    file = io.BytesIO()
    Image.fromarray(np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8)).save(file, "PNG")
    return file.getvalue()


def textured(*, geometry="", texture="", more=""):
    appearance = (
        f'appearance Appearance {{ texture ImageTexture {{ url [ "a.png" ] {texture} }} {more} }}'
    )
    square = SQUARE.replace("coordIndex", f"{geometry} coordIndex")
    return load(V2 + shape(square, appearance), "wrl", a_png=picture())


def lower_share_of_red(content):
    """Returns how much of the lower half of the square is red."""
    rng = np.random.default_rng(0)
    xyz, rgb = surface.sample_points(content.surface, points=8000, rng=rng)
    return (rgb[xyz[:, 1] < 0] == (255, 0, 0)).all(axis=1).mean()


MOVED = "textureTransform TextureTransform { %s }"
COORDINATES = "texCoord TextureCoordinate { point [ 0 0, 1 0, 1 1, 0 1 ] } "


BELOW = COORDINATES.replace("0 0, 1 0", "0 -1, 1 -1")


@pytest.mark.parametrize(
    ("arguments", "share"),
    [
        ({"geometry": COORDINATES}, 0),
        ({}, 0),  # by the bounding box
        ({"geometry": COORDINATES + "texCoordIndex [ 2 3 0 1 -1 ]"}, 1),
        ({"geometry": COORDINATES.replace("1 1, 0 1", "1 2, 0 2")}, 0.5),
        ({"geometry": BELOW}, 0.5),
        ({"geometry": BELOW, "texture": "repeatT FALSE"}, 0),
        ({"geometry": COORDINATES, "more": MOVED % "translation 0 0.5"}, 1),
        ({"geometry": COORDINATES, "more": MOVED % "scale 1 2"}, 0.5),
    ],
)  # fmt: skip
def test_textures(arguments, share):
    content = textured(**arguments)
    assert lower_share_of_red(content) == pytest.approx(share, abs=0.03)
    assert content.notes == ()


@pytest.mark.parametrize(
    ("solid", "size", "expected_area", "tolerance"),
    [
        ("Box { size 1 2 3 }", [1, 2, 3], 22, 1e-6),
        ("Box { }", [2, 2, 2], 24, 1e-6),
        ("Sphere { radius 2 }", [4, 4, 4], 16 * math.pi, 0.01),
        ("Cylinder { radius 2 height 5 }", [4, 5, 4], 28 * math.pi, 0.01),
        ("Cylinder { radius 2 height 5 top FALSE bottom FALSE }", [4, 5, 4], 20 * math.pi, 0.01),
        ("Cone { bottomRadius 3 height 4 }", [6, 4, 6], 24 * math.pi, 0.01),
        ("Cone { bottomRadius 3 height 4 bottom FALSE }", [6, 4, 6], 15 * math.pi, 0.01),
        ("ElevationGrid { xDimension 3 zDimension 2 zSpacing 2 height [ 1 1 1 1 1 1 ] }",
         [2, 0, 2], 4, 1e-6),
        ("Extrusion { spine [ 0 0 0, 0 3 0 ] crossSection [ 1 1, 1 -1, -1 -1, -1 1, 1 1 ] }",
         [2, 3, 2], 32, 1e-6),
        ("Extrusion { spine [ 0 0 0, 0 3 0 ] beginCap FALSE endCap FALSE scale [ 1 1, 1 1 ] }",
         [2, 3, 2], 24, 1e-6),
        ("Extrusion { spine [ 0 0 0, 5 0 0 ] }", [5, 2, 2], 48, 1e-6),
    ],
)  # fmt: skip
def test_solids(solid, size, expected_area, tolerance):
    content = v2(shape(f"geometry {solid}"))
    np.testing.assert_allclose(extent(content), size, atol=0.01)
    assert area(content) == pytest.approx(expected_area, rel=tolerance)
    assert content.notes == ()


@pytest.mark.parametrize("solid", ["Box { }", "Sphere { }", "Cylinder { }", "Cone { }"])
def test_faces_of_solids_look_outwards(solid):
    faces = triangles(v2(shape(f"geometry {solid}")))
    normals = np.cross(faces[:, 1] - faces[:, 0], faces[:, 2] - faces[:, 0])
    middles = faces.mean(axis=1)
    has_area = np.linalg.norm(normals, axis=1) > 1e-9
    assert (np.einsum("fk,fk->f", normals, middles)[has_area] > 0).all()


def test_extrusions_turn_with_their_spine():
    """At a right-angled bend, the cross section stands at 45 degrees."""
    content = v2(shape("geometry Extrusion { spine [ 0 0 0, 0 5 0, 5 5 0 ] }"))
    corners = np.unique(triangles(content).reshape(-1, 3).round(4), axis=0)
    half = math.sqrt(0.5)
    bend = [[-half, 5 + half], [half, 5 - half]]
    start, end = [[-1, 0], [1, 0]], [[5, 4], [5, 6]]
    expected = [[x, y, z] for x, y in [*start, *bend, *end] for z in (-1, 1)]
    np.testing.assert_allclose(corners, np.unique(np.round(expected, 4), axis=0), atol=1e-4)


def test_points_are_a_cloud_with_colours():
    geometry = (
        "geometry PointSet { coord Coordinate { point [ 0 0 0, 1 2 3 ] } "
        "color Color { color [ 1 0 0, 0 0 1 ] } }"
    )
    content = v2(f"Transform {{ translation 1 0 0 children {shape(geometry)} }}")
    np.testing.assert_allclose(content.xyz, [[1, 0, 0], [2, 2, 3]])
    np.testing.assert_allclose(content.rgb, [[1, 0, 0], [0, 0, 1]])


def test_what_is_not_read_is_noted_and_counted():
    text = (
        'Inline { url "b.wrl" } Switch { choice [ Group { } ] }'
        f"{shape('geometry Text { string [ `a` ] }'.replace('`', chr(34))) * 2} {shape()} USE none"
    )
    assert sorted(v2(text).notes) == [
        "Switch that shows none of its children, ignored",
        "USE of a node that is not defined, ignored",
        "nodes of a type that is not read: Inline (1)",
        "nodes of a type that is not read: Text (2)",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("solid cube\n", "VRML"),
        (V2 + "PROTO Ball [ ] { Sphere { } } Ball { }", "prototypes"),
        (V2 + 'EXTERNPROTO Ball [ ] "ball.wrl" Ball { }', "prototypes"),
        (V2 + shape()[:-1], "brace is not closed"),
        (V2 + shape().split("]")[0], "bracket is not closed"),
        (V2 + shape() + "}", "without an opening"),
        (V2 + shape(SQUARE.replace("2 3 -1", "2 9 -1")), "does not exist"),
        (V2 + shape(SQUARE.replace("1 1 0", "1 one 0")), "numbers"),
        (V2 + "Group { children [ " * 500 + "] } " * 500, limits.NESTING.variable),
        (V2 + "Group { " * 500, limits.NESTING.variable),
        (V2 + "Shape { geometry ElevationGrid { xDimension 100000 zDimension 100000 } }", "grid"),
        (V2, "no faces"),
    ],
)
def test_corrupt_and_hostile_files_are_refused_by_name(text, message):
    with pytest.raises(scene.MeshError, match=message):
        load(text, "wrl")


def test_nodes_that_double_at_each_level_are_refused():
    levels = "".join(
        f"DEF g{i} Group {{ children [ USE g{i - 1} USE g{i - 1} ] }} " for i in range(1, 60)
    )
    with pytest.raises(scene.MeshError, match=limits.NODES.variable):
        v2(f"DEF g0 Group {{ }} {levels}")


@pytest.mark.parametrize("file_type", ["wrl", "wrz"])
def test_files_compressed_by_gzip_are_read(file_type):
    assert len(load(gzip.compress((V2 + shape()).encode()), file_type).surface.triangles) == 2


def test_files_that_unpack_to_too_much_are_refused(monkeypatch):
    monkeypatch.setenv(limits.MEMBER_BYTES.variable, "100000")
    data = gzip.compress((V2 + shape() + " " * 10**6).encode())
    with pytest.raises(scene.MeshError, match=limits.MEMBER_BYTES.variable):
        load(data, "wrz")


OLD = (
    "Coordinate3 { point [ 0 0 0, 1 0 0, 1 1 0, 0 1 0 ] } "
    "%s IndexedFaceSet { coordIndex [ 0, 1, 2, -1, 0, 2, 3, -1 ] %s }"
)


def test_properties_of_version_1_hold_until_the_separator_ends():
    square = OLD % ("", "")
    text = (
        "Separator { Material { diffuseColor [ 1 0 0 ] transparency [ 0.5 ] } "
        f"Separator {{ Material {{ diffuseColor 0 0 1 }} {square} }} "
        f"Translation {{ translation 3 0 0 }} {square} "
        f"TransformSeparator {{ Scale {{ scaleFactor 2 2 2 }} }} {square} }}"
    )
    content = v1(text)
    np.testing.assert_allclose(extent(content), [4, 1, 0])
    np.testing.assert_allclose(content.surface.opacity, [1, 0.5, 0.5])
    np.testing.assert_allclose(mean(content), [170, 0, 85], atol=6)


@pytest.mark.parametrize(
    ("node", "corner"),
    [
        ("Translation { translation 1 2 3 }", [2, 3, 3]),
        ("Scale { scaleFactor 2 3 4 }", [2, 3, 0]),
        (f"Rotation {{ rotation 0 0 1 {math.pi / 2} }}", [-1, 1, 0]),
        ("MatrixTransform { matrix 1 0 0 0 0 1 0 0 0 0 1 0 5 6 7 1 }", [6, 7, 7]),
        ("Transform { translation 1 0 0 scaleFactor 2 2 2 }", [3, 2, 0]),
        ("Translation { translation 1 0 0 } Scale { scaleFactor 2 2 2 }", [3, 2, 0]),
    ],
)
def test_transforms_of_version_1(node, corner):
    content = v1(f"Separator {{ {node} {OLD % ('', '')} }}")
    np.testing.assert_allclose(triangles(content)[0, 2], corner, atol=1e-6)


@pytest.mark.parametrize(
    ("binding", "fields", "rgb"),
    [
        ("OVERALL", "", [255, 0, 0]),
        ("PER_FACE", "", [127.5, 0, 127.5]),
        ("PER_FACE_INDEXED", "materialIndex [ 2 2 ]", [0, 255, 0]),
        ("PER_VERTEX_INDEXED", "materialIndex [ 1 1 1 -1 1 1 1 -1 ]", [0, 0, 255]),
        ("PER_VERTEX", "", [85, 85, 42.5]),
    ],
)
def test_bindings_of_materials_of_version_1(binding, fields, rgb):
    material = "Material { diffuseColor [ 1 0 0, 0 0 1, 0 1 0, 0 0 0 ] } "
    content = v1(material + OLD % (f"MaterialBinding {{ value {binding} }}", fields))
    np.testing.assert_allclose(mean(content), rgb, atol=5)


def test_textures_of_version_1():
    nodes = (
        'Texture2 { filename "a.png" wrapS CLAMP } '
        "TextureCoordinate2 { point [ 0 0, 1 0, 1 1, 0 1 ] }"
    )
    fields = "textureCoordIndex [ 0 1 2 -1 0 2 3 -1 ]"
    content = load(V1 + OLD % (nodes, fields), "wrl", a_png=picture())
    assert lower_share_of_red(content) == pytest.approx(0, abs=0.01)
    np.testing.assert_array_equal(content.surface.wrap, [[scene.CLAMP, scene.REPEAT]])


@pytest.mark.parametrize(
    ("solid", "size"),
    [
        ("Cube { width 1 height 2 depth 3 }", [1, 2, 3]),
        ("Sphere { radius 2 }", [4, 4, 4]),
        ("Cylinder { radius 2 parts (SIDES | TOP) }", [4, 2, 4]),
        ("Cone { bottomRadius 3 parts SIDES }", [6, 2, 6]),
    ],
)
def test_solids_of_version_1(solid, size):
    np.testing.assert_allclose(extent(v1(solid)), size, atol=0.01)


X3D = (
    '<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE X3D PUBLIC "ISO//Web3D//DTD X3D 3.2//EN" '
    '"http://www.web3d.org/specifications/x3d-3.2.dtd"><X3D profile="Immersive"><Scene>%s</Scene>'
    "</X3D>"
)
XML_SHAPE = (
    '<Shape DEF="s"><Appearance>%s</Appearance>'
    '<IndexedFaceSet coordIndex="0 1 2 3 -1"><Coordinate point="0 0 0, 1 0 0, 1 1 0, 0 1 0"/>'
    '<TextureCoordinate point="0 0 1 0 1 1 0 1"/></IndexedFaceSet></Shape>'
)


def test_x3d_has_the_same_nodes_as_xml():
    shape = XML_SHAPE % '<Material diffuseColor="1 0.5 0"/>'
    text = X3D % (
        f'<Transform translation="1 0 0">{shape}</Transform>'
        '<Transform translation="5 0 0"><Shape USE="s"/></Transform>'
    )
    content = load(text, "x3d")
    np.testing.assert_allclose(extent(content), [5, 1, 0])
    np.testing.assert_allclose(mean(content), [255, 128, 0], atol=0.6)


@pytest.mark.parametrize("url", ["'a.png' 'http://b/a.png'", "a.png", "'a.png'"])
def test_textures_of_x3d(url):
    quoted = url.replace("'", "&quot;")
    text = X3D % (XML_SHAPE % f'<ImageTexture url="{quoted}" repeatS="false"/>')
    content = load(text, "x3d", a_png=picture())
    assert lower_share_of_red(content) == pytest.approx(0, abs=0.01)
    np.testing.assert_array_equal(content.surface.wrap, [[scene.CLAMP, scene.REPEAT]])


@pytest.mark.parametrize(
    ("geometry", "faces"),
    [
        ('<IndexedTriangleSet index="0 1 2 0 2 3">{0}</IndexedTriangleSet>', 2),
        ("<TriangleSet>{0}</TriangleSet>", 1),
        ('<IndexedQuadSet index="0 1 2 3">{0}</IndexedQuadSet>', 2),
        ("<QuadSet>{0}</QuadSet>", 2),
    ],
)
def test_triangle_and_quad_sets_of_x3d(geometry, faces):
    points = '<Coordinate point="0 0 0 1 0 0 1 1 0 0 1 0"/>'
    content = load(X3D % f"<Shape>{geometry.format(points)}</Shape>", "x3d")
    assert len(content.surface.triangles) == faces and area(content) == pytest.approx(faces / 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (X3D % '<ProtoDeclare name="a"/>', "prototypes"),
        ("<COLLADA/>", "COLLADA|another format"),
        ((X3D % "")[:-9], "not well-formed"),
        (X3D % "".join(["<Group>"] * 300 + ["</Group>"] * 300), limits.NESTING.variable),
        ((X3D % "").replace('3.2.dtd"', '3.2.dtd" [<!ENTITY b "c">]'), "entity"),
    ],
)
def test_corrupt_x3d_is_refused_by_name(text, message):
    with pytest.raises(scene.MeshError, match=message):
        load(text, "x3d")
