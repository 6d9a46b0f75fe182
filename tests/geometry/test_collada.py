# SPDX-License-Identifier: Apache-2.0
"""COLLADA files."""

import io
import zipfile

import numpy as np
import pytest
from loading import colours, extent, load, triangles
from PIL import Image

from data_prep.foreign import limits
from data_prep.geometry import scene, surface

# Lower left, lower right, upper right, upper left; z is 0.
SQUARE = "0 0 0 1 0 0 1 1 0 0 1 0"
TRIANGLES = '<triangles count="2"{material}>{inputs}<p>{p}</p></triangles>'


def picture(rows, *, alpha=None):
    """Returns a PNG file of rows of colours, from the top."""
    texels = np.array(rows, np.uint8)
    if alpha is not None:
        texels = np.concatenate([texels, np.array(alpha, np.uint8)[..., None]], axis=-1)
    file = io.BytesIO()
    Image.fromarray(texels).save(file, "PNG")
    return file.getvalue()


RED_OVER_BLUE = picture([[[255, 0, 0]], [[0, 0, 255]]])


def source(name, values, params="X Y Z", attributes=""):
    params = params.split()
    count = len(values.split()) // len(params)
    inner = "".join(f'<param name="{p}" type="float"/>' for p in params)
    return (
        f'<source id="{name}"><float_array id="{name}-array">{values}</float_array>'
        f'<technique_common><accessor source="#{name}-array" count="{count}" '
        f'stride="{len(params)}"{attributes}>{inner}</accessor></technique_common></source>'
    )


def geometry(*, name="g", positions=SQUARE, primitives=None, sources=""):
    if primitives is None:
        inputs = '<input semantic="VERTEX" source="#v" offset="0"/>'
        primitives = TRIANGLES.format(material=' material="m"', inputs=inputs, p="0 1 2 0 2 3")
    return (
        f'<geometry id="{name}"><mesh>{source("p", positions)}{sources}'
        f'<vertices id="v"><input semantic="POSITION" source="#p"/></vertices>'
        f"{primitives}</mesh></geometry>"
    )


def effect(terms, params=""):
    return (
        f'<effect id="e"><profile_COMMON>{params}<technique sid="c"><phong>{terms}</phong>'
        "</technique></profile_COMMON></effect>"
    )


BOUND = (
    "<bind_material><technique_common>"
    '<instance_material symbol="m" target="#mat">'
    '<bind_vertex_input semantic="channel" input_semantic="TEXCOORD" input_set="1"/>'
    "</instance_material></technique_common></bind_material>"
)
NODE = f'<node><instance_geometry url="#g">{BOUND}</instance_geometry></node>'


def dae(*, asset="", geometries=None, effects="", nodes=NODE, extra="", version="1.4.1"):
    effects = effects or effect("<diffuse><color>1 0.5 0 1</color></diffuse>")
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        f'<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="{version}">'
        f"<asset>{asset}</asset><library_effects>{effects}</library_effects><library_materials>"
        '<material id="mat"><instance_effect url="#e"/></material></library_materials>'
        f"<library_geometries>{geometries or geometry()}</library_geometries>{extra}"
        f'<library_visual_scenes><visual_scene id="s">{nodes}</visual_scene>'
        '</library_visual_scenes><scene><instance_visual_scene url="#s"/></scene></COLLADA>'
    )


def mean(content):
    return colours(content).mean(axis=0)


@pytest.mark.parametrize(
    ("asset", "up"),
    [
        ("<up_axis>Y_UP</up_axis>", "y"),
        ("<up_axis>Z_UP</up_axis>", "z"),
        ('<unit meter="0.01"/>', None),
    ],
)
def test_vertical_axis_is_that_of_the_asset_and_lengths_stay_in_its_unit(asset, up):
    content = load(dae(asset=asset), "dae")
    assert content.up_axis == up
    np.testing.assert_allclose(extent(content), [1, 1, 0])


def test_x_up_is_turned_to_y_up():
    """The x axis becomes y, and the y axis the negative x."""
    content = load(dae(asset="<up_axis>X_UP</up_axis>"), "dae")
    assert content.up_axis == "y"
    np.testing.assert_allclose(triangles(content)[0], [[0, 0, 0], [0, 1, 0], [-1, 1, 0]])


@pytest.mark.parametrize(
    ("primitives", "faces"),
    [
        ("<triangles count='2'>{v}<p>0 1 2 0 2 3</p></triangles>", 2),
        ("<polylist count='1'>{v}<vcount>4</vcount><p>0 1 2 3</p></polylist>", 2),
        ("<polylist count='2'>{v}<vcount>3 3</vcount><p>0 1 2 0 2 3</p></polylist>", 2),
        ("<polygons count='1'>{v}<p>0 1 2 3</p></polygons>", 2),
        ("<polygons count='2'>{v}<p>0 1 2</p><p>0 2 3</p></polygons>", 2),
        ("<trifans count='1'>{v}<p>0 1 2 3</p></trifans>", 2),
        ("<tristrips count='1'>{v}<p>0 1 3 2</p></tristrips>", 2),
        ("<tristrips count='2'>{v}<p>0 1 3</p><p>1 2 3</p></tristrips>", 2),
    ],
)
def test_primitives_of_each_kind_cover_the_square(primitives, faces):
    inputs = '<input semantic="VERTEX" source="#v" offset="0"/>'
    content = load(dae(geometries=geometry(primitives=primitives.format(v=inputs))), "dae")
    assert len(content.surface.triangles) == faces
    assert surface.face_areas(content.surface).sum() == pytest.approx(1)
    normals = np.cross(*(triangles(content)[:, [1, 2]] - triangles(content)[:, :1]).swapaxes(0, 1))
    assert (normals[:, 2] > 0).all()


def test_concave_polygons_keep_their_area():
    """An L of area 3 in a square of area 4."""
    positions = "2 1 0 1 1 0 1 2 0 0 2 0 0 0 0 2 0 0"
    inputs = '<input semantic="VERTEX" source="#v" offset="0"/>'
    primitives = f"<polylist count='1'>{inputs}<vcount>6</vcount><p>0 1 2 3 4 5</p></polylist>"
    content = load(dae(geometries=geometry(positions=positions, primitives=primitives)), "dae")
    assert surface.face_areas(content.surface).sum() == pytest.approx(3)


def test_holes_of_polygons_stay_open():
    """A square of area 16 with two holes of area 1."""
    positions = (
        "0 0 0 4 0 0 4 4 0 0 4 0 0.5 0.5 0 0.5 1.5 0 1.5 1.5 0 1.5 0.5 0 2 2 0 2 3 0 3 3 0 3 2 0"
    )
    inputs = '<input semantic="VERTEX" source="#v" offset="0"/>'
    primitives = (
        f"<polygons count='1'>{inputs}<ph><p>0 1 2 3</p><h>4 5 6 7</h><h>8 9 10 11</h></ph>"
        "</polygons>"
    )
    content = load(dae(geometries=geometry(positions=positions, primitives=primitives)), "dae")
    assert surface.face_areas(content.surface).sum() == pytest.approx(14)


@pytest.mark.parametrize(
    ("transform", "corner"),
    [
        ("<translate>1 2 3</translate>", [2, 3, 3]),
        ("<scale>2 3 4</scale>", [2, 3, 0]),
        ("<rotate>0 0 1 90</rotate>", [-1, 1, 0]),
        ("<matrix>1 0 0 5 0 1 0 6 0 0 1 7 0 0 0 1</matrix>", [6, 7, 7]),
        ("<translate>1 0 0</translate><rotate>0 0 1 90</rotate>", [0, 1, 0]),
        ("<skew>45 1 0 0 0 1 0</skew>", [1, 2, 0]),
        ("<lookat>5 0 0 5 0 -1 0 1 0</lookat>", [6, 1, 0]),
        ("<translate/>", [1, 1, 0]),
    ],
)
def test_transforms_of_nodes_are_applied_in_order(transform, corner):
    content = load(dae(nodes=NODE.replace("<node>", f"<node>{transform}")), "dae")
    np.testing.assert_allclose(triangles(content)[0, 2], corner, atol=1e-6)


def test_library_nodes_are_instances():
    library = (
        "<library_nodes><node id='n'><translate>0 0 1</translate>"
        f"{NODE.replace('<node>', '<node><translate>0 0 1</translate>')}</node></library_nodes>"
    )
    twice = (
        "<node><instance_node url='#n'/></node>"
        "<node><translate>10 0 0</translate><instance_node url='#n'/></node>"
    )
    content = load(dae(nodes=twice, extra=library), "dae")
    np.testing.assert_allclose(extent(content), [11, 1, 0])
    np.testing.assert_allclose(triangles(content)[..., 2], 2)


def test_nodes_that_instance_themselves_are_refused():
    library = "<library_nodes><node id='n'><instance_node url='#n'/></node></library_nodes>"
    with pytest.raises(scene.MeshError, match=limits.DEPTH.variable):
        load(dae(nodes="<node><instance_node url='#n'/></node>", extra=library), "dae")


def test_nodes_that_double_at_each_level_are_refused():
    pair = "<instance_node url='#n{0}'/><instance_node url='#n{0}'/>"
    library = "".join(f"<node id='n{i}'>{pair.format(i + 1)}</node>" for i in range(60))
    with pytest.raises(scene.MeshError, match=limits.NODES.variable):
        load(
            dae(
                nodes="<node><instance_node url='#n0'/></node>",
                extra=f"<library_nodes>{library}<node id='n60'/></library_nodes>",
            ),
            "dae",
        )


def test_diffuse_colours_are_srgb():
    np.testing.assert_allclose(mean(load(dae(), "dae")), [255, 128, 0], atol=0.6)


@pytest.mark.parametrize(
    "nodes",
    [
        NODE.replace('symbol="m" target="#mat"', 'symbol="other" target="#mat"'),
        "<node><instance_geometry url='#g'/></node>",
    ],
)
def test_materials_that_are_not_bound_are_found_by_name(nodes):
    """Some programs write the name of the material as its symbol."""
    named = dae(nodes=nodes).replace('material="m"', 'material="mat"')
    np.testing.assert_allclose(mean(load(named, "dae")), [255, 128, 0], atol=0.6)


def test_primitives_without_a_symbol_take_the_only_material():
    content = load(dae().replace(' material="m"', ""), "dae")
    np.testing.assert_allclose(mean(content), [255, 128, 0], atol=0.6)


def test_constant_shaders_have_the_colour_of_their_emission():
    shader = effect("<emission><color>0 1 0 1</color></emission>").replace("phong", "constant")
    np.testing.assert_allclose(mean(load(dae(effects=shader), "dae")), [0, 255, 0])


SAMPLER = (
    "<newparam sid='surface'><surface type='2D'><init_from>img</init_from></surface></newparam>"
    "<newparam sid='sampler'><sampler2D><source>surface</source>{wrap}</sampler2D></newparam>"
)
IMAGES = "<library_images><image id='img'><init_from>{path}</init_from></image></library_images>"
TEXTURE = "<diffuse><texture texture='sampler' texcoord='channel'/></diffuse>"


def textured(
    *, terms=TEXTURE, wrap="", path="a.png", uv1="0 0 1 0 1 1 0 1", images=None, params=None
):
    """Returns a square with two sets of texture coordinates; the material uses the second."""
    inputs = (
        '<input semantic="VERTEX" source="#v" offset="0"/>'
        '<input semantic="TEXCOORD" source="#uv0" offset="1" set="0"/>'
        '<input semantic="TEXCOORD" source="#uv1" offset="2" set="1"/>'
    )
    p = " ".join(f"{i} 0 {i}" for i in (0, 1, 2, 0, 2, 3))
    return dae(
        geometries=geometry(
            sources=source("uv0", "0 0", "S T") + source("uv1", uv1, "S T"),
            primitives=TRIANGLES.format(material=' material="m"', inputs=inputs, p=p),
        ),
        effects=effect(terms, SAMPLER.format(wrap=wrap) if params is None else params),
        extra=IMAGES.format(path=path) if images is None else images,
    )


def halves(content):
    """Returns the mean colour of the upper and of the lower half of the square."""
    rng = np.random.default_rng(0)
    xyz, rgb = surface.sample_points(content.surface, points=4000, rng=rng)
    return rgb[xyz[:, 1] > 0.02].mean(axis=0), rgb[xyz[:, 1] < -0.02].mean(axis=0)


@pytest.mark.parametrize("path", ["a.png", "./a.png", "file:///C:/models/a.png", "..\\maps\\a.png"])
def test_texture_lies_by_the_set_that_the_material_names(path):
    upper, lower = halves(load(textured(path=path), "dae", a_png=RED_OVER_BLUE))
    np.testing.assert_allclose(upper, [255, 0, 0])
    np.testing.assert_allclose(lower, [0, 0, 255])


def test_images_of_collada_1_5_and_textures_without_sampler_are_found():
    new = textured(
        images="<library_images><image id='img'><init_from><ref>a.png</ref></init_from></image>"
        "</library_images>",
        params="<newparam sid='sampler'><sampler2D><instance_image url='#img'/></sampler2D>"
        "</newparam>",
    )
    direct = textured(terms="<diffuse><texture texture='img'/></diffuse>", params="")
    for text in (new, direct.replace('set="1"', 'set="0"').replace("#uv0", "#uv1")):
        content = load(text, "dae", a_png=RED_OVER_BLUE)
        assert content.notes == ()
        assert set(map(tuple, colours(content).astype(int))) == {(255, 0, 0), (0, 0, 255)}


@pytest.mark.parametrize(
    ("mode", "lower"),
    [("WRAP", [127.5, 0, 127.5]), ("CLAMP", [0, 0, 255]), ("BORDER", [0, 0, 255])],
)
def test_wrap_modes_hold_outside_of_the_picture(mode, lower):
    """The lower half of the square has v of -1 to 0."""
    wrap = f"<wrap_s>{mode}</wrap_s><wrap_t>{mode}</wrap_t>"
    text = textured(wrap=wrap, uv1="0 -1 1 -1 1 1 0 1")
    _, found = halves(load(text, "dae", a_png=RED_OVER_BLUE))
    np.testing.assert_allclose(found, lower, atol=6)


def test_missing_textures_are_noted():
    content = load(textured(), "dae")
    assert content.notes == ("missing texture",)
    assert not content.surface.coloured.any()


VERTEX_COLOURS = "1 0 0 1 1 0 0 1 0 0 1 1 0 0 1 1"


def coloured(values=VERTEX_COLOURS, params="R G B A"):
    inputs = (
        '<input semantic="VERTEX" source="#v" offset="0"/>'
        '<input semantic="COLOR" source="#c" offset="0"/>'
    )
    return geometry(
        sources=source("c", values, params),
        primitives=TRIANGLES.format(material=' material="m"', inputs=inputs, p="0 1 2 0 2 3"),
    )


@pytest.mark.parametrize(
    ("values", "params"),
    [(VERTEX_COLOURS, "R G B A"), ("1 0 0 1 0 0 0 0 1 0 0 1", "R G B")],
)
def test_vertex_colours_replace_the_plain_colour(values, params):
    """Red below, blue above, mixed between."""
    content = load(dae(geometries=coloured(values, params)), "dae")
    rgb = colours(content, points=4000)
    np.testing.assert_allclose(rgb.mean(axis=0), [127.5, 0, 127.5], atol=5)
    np.testing.assert_allclose(rgb.std(axis=0), [73.6, 0, 73.6], atol=3)  # uniform: 255 / sqrt 12


def test_white_vertex_colours_leave_the_plain_colour():
    content = load(dae(geometries=coloured(" ".join("1" * 16))), "dae")
    np.testing.assert_allclose(mean(content), [255, 128, 0], atol=0.6)


@pytest.mark.parametrize(
    ("terms", "opacity"),
    [
        ("", 1),
        ("<transparent><color>1 1 1 0.25</color></transparent>", 0.25),
        ("<transparent><color>1 1 1 1</color></transparent><transparency><float>0.5</float>"
         "</transparency>", 0.5),
        ("<transparent opaque='A_ZERO'><color>1 1 1 0.25</color></transparent>", 0.75),
        ("<transparent opaque='RGB_ZERO'><color>0 0 0 1</color></transparent><transparency>"
         "<float>1</float></transparency>", 1),
        ("<transparent opaque='RGB_ZERO'><color>0.25 0.25 0.25 1</color></transparent>", 0.75),
        ("<transparent opaque='RGB_ONE'><color>0.25 0.25 0.25 1</color></transparent>", 0.25),
        ("<transparency><float>0</float></transparency>", 1),
        ("<transparency><float>0.75</float></transparency>", 0.75),
    ],
)  # fmt: skip
def test_opacity_by_the_modes_of_transparency(terms, opacity):
    text = dae(effects=effect(f"<diffuse><color>1 0.5 0 1</color></diffuse>{terms}"))
    assert load(text, "dae").surface.opacity[0] == pytest.approx(opacity, abs=1e-5)


def test_programs_that_write_0_for_opaque_mean_transparency_in_all_materials():
    clear = effect(
        "<transparent><color>1 1 1 1</color></transparent><transparency><float>0.2</float>"
        "</transparency>"
    )
    solid = clear.replace('id="e"', 'id="other"').replace("0.2", "0")
    content = load(dae(effects=clear + solid), "dae")
    assert content.surface.opacity[0] == pytest.approx(0.8)
    assert content.notes == ("transparency of 0 without a mode, taken as opaque",)


def test_invisible_files_are_opaque_with_a_note():
    terms = "<transparent opaque='A_ONE'><color>1 1 1 0</color></transparent>"
    content = load(dae(effects=effect(terms)), "dae")
    assert content.notes == (surface.ALL_INVISIBLE,)


@pytest.mark.parametrize("is_mask", [False, True])
def test_alpha_of_a_texture_makes_holes_only_as_transparency(is_mask):
    """The upper half of the picture is clear."""
    png = picture([[[255, 0, 0]], [[0, 0, 255]]], alpha=[[0], [255]])
    mask = "<transparent><texture texture='sampler' texcoord='channel'/></transparent>"
    content = load(textured(terms=TEXTURE + mask * is_mask), "dae", a_png=png)
    found = set(map(tuple, colours(content).astype(int)))
    assert found == ({(0, 0, 255)} if is_mask else {(255, 0, 0), (0, 0, 255)})


def skin(*, joint_node, names="bone"):
    """Returns a square whose upper edge a joint moves; the joint's bind pose is at y = 1."""
    controller = (
        "<library_controllers><controller id='c'><skin source='#g'>"
        "<bind_shape_matrix>1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1</bind_shape_matrix>"
        f"<source id='j'><Name_array id='ja' count='2'>root {names}</Name_array></source>"
        "<source id='i'><float_array id='ia'>1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1 "
        "1 0 0 0 0 1 0 -1 0 0 1 0 0 0 0 1</float_array><technique_common>"
        "<accessor source='#ia' count='2' stride='16'><param type='float4x4'/></accessor>"
        "</technique_common></source>"
        + source("w", "1", "WEIGHT")
        + "<joints><input semantic='JOINT' source='#j'/>"
        "<input semantic='INV_BIND_MATRIX' source='#i'/></joints>"
        "<vertex_weights count='4'><input semantic='JOINT' source='#j' offset='0'/>"
        "<input semantic='WEIGHT' source='#w' offset='1'/>"
        "<vcount>1 1 1 1</vcount><v>0 0 0 0 1 0 1 0</v></vertex_weights>"
        "</skin></controller></library_controllers>"
    )
    nodes = (
        f"<node id='root' sid='root' type='JOINT'>{joint_node}</node>"
        f"<node><translate>9 9 9</translate><instance_controller url='#c'>"
        f"<skeleton>#root</skeleton>{BOUND}</instance_controller></node>"
    )
    return dae(extra=controller, nodes=nodes)


def test_skins_follow_their_joints():
    """The joint stands at y = 3 instead of 1; the node of the skin has no effect."""
    joint = "<node sid='bone' type='JOINT'><translate>0 3 0</translate></node>"
    content = load(skin(joint_node=joint), "dae")
    np.testing.assert_allclose(extent(content), [1, 3, 0], atol=1e-6)
    np.testing.assert_allclose(triangles(content)[0], [[0, 0, 0], [1, 0, 0], [1, 3, 0]], atol=1e-6)
    assert content.notes == ()


def test_skins_without_their_joints_are_in_bind_pose():
    content = load(skin(joint_node="", names="missing"), "dae")
    np.testing.assert_allclose(extent(content), [1, 1, 0], atol=1e-6)
    assert content.notes == ("skin with joints that are missing, taken in its bind pose",)


@pytest.mark.parametrize(("method", "height"), [("NORMALIZED", 2), ("RELATIVE", 2.5)])
def test_morphs_have_their_initial_weights(method, height):
    """Half way to a square of height 3, or half of its positions added."""
    target = geometry(name="t", positions="0 0 0 1 0 0 1 3 0 0 3 0")
    target = target.replace('"p', '"q').replace('"#p', '"#q').replace('"v"', '"u"')
    target = target.replace('"#v"', '"#u"')
    controller = (
        f"<library_controllers><controller id='c'><morph source='#g' method='{method}'>"
        "<source id='n'><IDREF_array id='na' count='1'>t</IDREF_array></source>"
        + source("w", "0.5", "WEIGHT")
        + "<targets><input semantic='MORPH_TARGET' source='#n'/>"
        "<input semantic='MORPH_WEIGHT' source='#w'/></targets></morph></controller>"
        "</library_controllers>"
    )
    nodes = f"<node><instance_controller url='#c'>{BOUND}</instance_controller></node>"
    content = load(dae(geometries=geometry() + target, extra=controller, nodes=nodes), "dae")
    assert extent(content)[1] == pytest.approx(height)


def test_accessors_have_offset_stride_and_parameters_without_name():
    values = "9 0 0 0 7 1 0 0 7 1 1 0 7 0 1 0 7"
    array = source("p", values, "X Y Z").replace('stride="3"', 'stride="4" offset="1"')
    array = array.replace('count="5"', 'count="4"')
    text = dae().replace(source("p", SQUARE), array)
    np.testing.assert_allclose(triangles(load(text, "dae"))[0, 2], [1, 1, 0])


def test_decimal_commas_are_read():
    text = dae(geometries=geometry(positions="0,0 0,0 0,0 2,5 0,0 0,0 2,5 1,0 0,0 0,0 1,0 0,0"))
    np.testing.assert_allclose(extent(load(text, "dae")), [2.5, 1, 0])


def test_documents_in_utf_16_are_read():
    data = dae().replace("utf-8", "utf-16").encode("utf-16")
    assert len(load(data, "dae").surface.triangles) == 2


def test_zae_archives_hold_the_file_and_its_textures():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("manifest.xml", "<dae_root>models/square.dae</dae_root>")
        archive.writestr("models/square.dae", textured(path="../images/a.png"))
        archive.writestr("images/a.png", RED_OVER_BLUE)
    content = load(file.getvalue(), "zae")
    assert content.notes == ()
    np.testing.assert_allclose(halves(content)[0], [255, 0, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<X3D/>", "another format"),
        (dae()[:700], "not well-formed"),
        (dae().replace("0 1 2 0 2 3", "0 1 2 0 2 4"), "does not exist"),
        (dae().replace("0 1 2 0 2 3", "0 1 2 0 2 -1"), "does not exist"),
        (dae().replace("0 1 2 0 2 3", "0 1 2 0 two 3"), "not an integer|integers"),
        (dae().replace('count="4"', 'count="5"'), "shorter"),
        (dae(nodes=""), "no faces"),
        (dae().replace("<COLLADA", '<!DOCTYPE a [<!ENTITY b "c">]><COLLADA'), "entity"),
    ],
)
def test_corrupt_files_are_refused_by_name(text, message):
    with pytest.raises(scene.MeshError, match=message):
        load(text, "dae")


def test_what_is_not_read_is_noted():
    lines = '<lines count="1"><input semantic="VERTEX" source="#v" offset="0"/><p>0 1</p></lines>'
    text = (
        dae()
        .replace("</mesh>", f"{lines}</mesh>")
        .replace(
            "</node>",
            "<instance_geometry url='other.dae#g'/><instance_geometry url='#none'/></node>",
        )
    )
    assert sorted(load(text, "dae").notes) == [
        "geometry in another file, ignored", "lines, ignored", "missing geometry",
    ]  # fmt: skip
