# SPDX-License-Identifier: Apache-2.0
"""Writes STEP files (AP214) of a box."""

import itertools

_UNITS = {
    "millimetre": "(LENGTH_UNIT()NAMED_UNIT(*)SI_UNIT(.MILLI.,.METRE.))",
    "metre": "(LENGTH_UNIT()NAMED_UNIT(*)SI_UNIT($,.METRE.))",
}


class _File:
    """Entities of a STEP file."""

    def __init__(self):
        self.lines = []

    def add(self, text):
        self.lines.append(text)
        return f"#{len(self.lines)}"

    def text(self):
        body = "".join(f"#{i}={line};\n" for i, line in enumerate(self.lines, start=1))
        return (
            "ISO-10303-21;\nHEADER;\nFILE_DESCRIPTION((''),'2;1');\n"
            "FILE_NAME('','',(''),(''),'','','');\nFILE_SCHEMA(('AUTOMOTIVE_DESIGN'));\nENDSEC;\n"
            f"DATA;\n{body}ENDSEC;\nEND-ISO-10303-21;\n"
        )


def box(size, *, unit="millimetre", colour=None):
    """Returns a STEP file of a box with a corner at the origin.

    Args:
      size: lengths of the sides in x, y and z.
      unit: "millimetre" or "metre".
      colour: sRGB, 0 to 1, of all faces, or None.
    """
    file = _File()

    def vector(kind, values):
        return file.add(f"{kind}('',({','.join(f'{v:.6f}' for v in values)}))")

    corners = list(itertools.product((0, 1), repeat=3))
    points = {c: [s * side for s, side in zip(c, size, strict=True)] for c in corners}
    vertices = {
        c: file.add(f"VERTEX_POINT('',{vector('CARTESIAN_POINT', points[c])})") for c in corners
    }
    edges = {}
    for first, last in itertools.combinations(corners, 2):
        if sum(a != b for a, b in zip(first, last, strict=True)) == 1:
            way = [b - a for a, b in zip(first, last, strict=True)]
            line = file.add(f"VECTOR('',{vector('DIRECTION', way)},1.)")
            line = file.add(f"LINE('',{vector('CARTESIAN_POINT', points[first])},{line})")
            edges[first, last] = file.add(
                f"EDGE_CURVE('',{vertices[first]},{vertices[last]},{line},.T.)"
            )
    faces = [_face(file, vector, axis, side, points, edges) for axis in range(3) for side in (0, 1)]
    shell = file.add(f"CLOSED_SHELL('',({','.join(faces)}))")
    solid = file.add(f"MANIFOLD_SOLID_BREP('box',{shell})")
    context = _context(file, unit)
    origin = _placement(file, vector, [0, 0, 0], [0, 0, 1], [1, 0, 0])
    shape = file.add(f"ADVANCED_BREP_SHAPE_REPRESENTATION('',({origin},{solid}),{context})")
    _product(file, shape)
    if colour is not None:
        _style(file, solid, colour, context)
    return file.text().encode()


def _placement(file, vector, point, axis, reference):
    parts = (
        vector("CARTESIAN_POINT", point),
        vector("DIRECTION", axis),
        vector("DIRECTION", reference),
    )
    return file.add(f"AXIS2_PLACEMENT_3D('',{','.join(parts)})")


def _face(file, vector, axis, side, points, edges):
    """Adds one side of the box; its edges run counter-clockwise as seen from outside."""
    across = [(axis + 1) % 3, (axis + 2) % 3]
    ring = []
    for a, b in ((0, 0), (1, 0), (1, 1), (0, 1)) if side else ((0, 0), (0, 1), (1, 1), (1, 0)):
        corner = [0, 0, 0]
        corner[axis], corner[across[0]], corner[across[1]] = side, a, b
        ring.append(tuple(corner))
    oriented = []
    for first, last in zip(ring, [*ring[1:], ring[0]], strict=True):
        forward = (first, last) in edges
        edge = edges[(first, last) if forward else (last, first)]
        oriented.append(file.add(f"ORIENTED_EDGE('',*,*,{edge},{'.T.' if forward else '.F.'})"))
    loop = file.add(f"EDGE_LOOP('',({','.join(oriented)}))")
    bound = file.add(f"FACE_OUTER_BOUND('',{loop},.T.)")
    normal, reference = [0, 0, 0], [0, 0, 0]
    normal[axis], reference[across[0]] = (1 if side else -1), 1
    plane = file.add(f"PLANE('',{_placement(file, vector, points[ring[0]], normal, reference)})")
    return file.add(f"ADVANCED_FACE('',({bound}),{plane},.T.)")


def _context(file, unit):
    length = file.add(_UNITS[unit])
    angle = file.add("(NAMED_UNIT(*)PLANE_ANGLE_UNIT()SI_UNIT($,.RADIAN.))")
    solid = file.add("(NAMED_UNIT(*)SI_UNIT($,.STERADIAN.)SOLID_ANGLE_UNIT())")
    precision = file.add(
        f"UNCERTAINTY_MEASURE_WITH_UNIT(LENGTH_MEASURE(1.E-07),{length},'accuracy','')"
    )
    return file.add(
        "(GEOMETRIC_REPRESENTATION_CONTEXT(3)GLOBAL_UNCERTAINTY_ASSIGNED_CONTEXT"
        f"(({precision}))GLOBAL_UNIT_ASSIGNED_CONTEXT(({length},{angle},{solid}))"
        "REPRESENTATION_CONTEXT('',''))"
    )


def _product(file, shape):
    application = file.add("APPLICATION_CONTEXT('automotive design')")
    context = file.add(f"PRODUCT_CONTEXT('',{application},'mechanical')")
    product = file.add(f"PRODUCT('box','box','',({context}))")
    formation = file.add(f"PRODUCT_DEFINITION_FORMATION('','',{product})")
    stage = file.add(f"PRODUCT_DEFINITION_CONTEXT('part definition',{application},'design')")
    definition = file.add(f"PRODUCT_DEFINITION('design','',{formation},{stage})")
    holder = file.add(f"PRODUCT_DEFINITION_SHAPE('','',{definition})")
    file.add(f"SHAPE_DEFINITION_REPRESENTATION({holder},{shape})")


def _style(file, solid, colour, context):
    rgb = file.add(f"COLOUR_RGB('',{','.join(f'{c:.6f}' for c in colour)})")
    fill = file.add(f"FILL_AREA_STYLE_COLOUR('',{rgb})")
    fill = file.add(f"FILL_AREA_STYLE('',({fill}))")
    side = file.add(f"SURFACE_STYLE_FILL_AREA({fill})")
    side = file.add(f"SURFACE_SIDE_STYLE('',({side}))")
    usage = file.add(f"SURFACE_STYLE_USAGE(.BOTH.,{side})")
    style = file.add(f"PRESENTATION_STYLE_ASSIGNMENT(({usage}))")
    item = file.add(f"STYLED_ITEM('',({style}),{solid})")
    file.add(f"MECHANICAL_DESIGN_GEOMETRIC_PRESENTATION_REPRESENTATION('',({item}),{context})")
