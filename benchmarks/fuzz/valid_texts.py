# SPDX-License-Identifier: Apache-2.0
"""Small valid files of formats that are texts."""

# Polygons of different sizes with colours of faces, and a list that readers skip.
PLY = """ply
format ascii 1.0
comment made by hand
element vertex 4
property double x
property double y
property double z
property float nx
element face 2
property list uchar int vertex_indices
property uchar red
property uchar green
property uchar blue
element edge 1
property list uchar short ends
end_header
0 0 0 0.5
1 0 0 0.5
1 1 0 0.5
0 1 1 0.5
4 0 1 2 3 255 0 0
3 0 1 2 0 0 255
2 0 1
"""
COFF = """COFF
# colours of vertices
4 2 0
0 0 0 255 0 0 255
1 0 0 255 0 0 255
1 1 0 0 255 0 255
0 1 0 0 255 0 255
3 0 1 2
4 0 1 2 3
"""
PCD = """# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS x y z rgb
SIZE 4 4 4 4
TYPE F F F U
COUNT 1 1 1 1
WIDTH 8
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 8
DATA {}
"""
COLLADA = """<?xml version="1.0" encoding="utf-8"?>
<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">
<asset><unit meter="0.01"/><up_axis>Z_UP</up_axis></asset>
<library_images><image id="i"><init_from>a.png</init_from></image></library_images>
<library_effects><effect id="e"><profile_COMMON>
<newparam sid="s"><surface type="2D"><init_from>i</init_from></surface></newparam>
<newparam sid="t"><sampler2D><source>s</source></sampler2D></newparam>
<technique sid="c"><phong><diffuse><texture texture="t" texcoord="UV"/></diffuse>
<transparency><float>1</float></transparency></phong></technique></profile_COMMON></effect>
<effect id="f"><profile_COMMON><technique sid="c"><lambert>
<diffuse><color>1 0.5 0 1</color></diffuse></lambert></technique></profile_COMMON></effect>
</library_effects>
<library_materials><material id="m"><instance_effect url="#e"/></material>
<material id="n"><instance_effect url="#f"/></material></library_materials>
<library_geometries><geometry id="g"><mesh>
<source id="p"><float_array id="q" count="12">0 0 0 1 0 0 1 1 0 0 1 0</float_array>
<technique_common><accessor source="#q" count="4" stride="3"><param name="X" type="float"/>
<param name="Y" type="float"/><param name="Z" type="float"/></accessor></technique_common></source>
<source id="u"><float_array id="w" count="8">0 0 1 0 1 1 0 1</float_array>
<technique_common><accessor source="#w" count="4" stride="2"><param name="S" type="float"/>
<param name="T" type="float"/></accessor></technique_common></source>
<vertices id="v"><input semantic="POSITION" source="#p"/></vertices>
<triangles count="2" material="a"><input semantic="VERTEX" source="#v" offset="0"/>
<input semantic="TEXCOORD" source="#u" offset="1" set="0"/>
<p>0 0 1 1 2 2 0 0 2 2 3 3</p></triangles>
<polylist count="1" material="b"><input semantic="VERTEX" source="#v" offset="0"/>
<vcount>4</vcount><p>0 1 2 3</p></polylist></mesh></geometry></library_geometries>
<library_visual_scenes><visual_scene id="s"><node id="x"><rotate>0 0 1 90</rotate>
<node><matrix>1 0 0 0 0 1 0 0 0 0 1 2 0 0 0 1</matrix><instance_geometry url="#g"><bind_material>
<technique_common><instance_material symbol="a" target="#m">
<bind_vertex_input semantic="UV" input_semantic="TEXCOORD" input_set="0"/></instance_material>
<instance_material symbol="b" target="#n"/></technique_common></bind_material>
</instance_geometry></node></node></visual_scene></library_visual_scenes>
<scene><instance_visual_scene url="#s"/></scene></COLLADA>
"""
RELATIONSHIPS = """<?xml version="1.0"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Target="/3D/3dmodel.model" Id="r"
Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/></Relationships>
"""
THREE_MF = """<?xml version="1.0"?>
<model unit="millimeter" xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
xmlns:m="http://schemas.microsoft.com/3dmanufacturing/material/2015/02"><resources>
<basematerials id="5"><base name="a" displaycolor="#FF8000"/>
<base name="b" displaycolor="#0000FFFF"/></basematerials>
<m:colorgroup id="6"><m:color color="#FF0000"/><m:color color="#00FF00FF"/></m:colorgroup>
<m:texture2d id="7" path="/3D/Texture/a.png" contenttype="image/png"/>
<m:texture2dgroup id="8" texid="7"><m:tex2coord u="0" v="0"/><m:tex2coord u="1" v="0.5"/>
</m:texture2dgroup>
<object id="1" type="model" pid="5" pindex="0"><mesh><vertices><vertex x="0" y="0" z="0"/>
<vertex x="2" y="0" z="0"/><vertex x="2" y="1" z="0"/><vertex x="0" y="1" z="0"/></vertices>
<triangles><triangle v1="0" v2="1" v3="2"/>
<triangle v1="0" v2="2" v3="3" pid="6" p1="0" p2="1" p3="0"/>
<triangle v1="1" v2="2" v3="3" pid="8" p1="0" p2="1" p3="0"/></triangles></mesh></object>
<object id="2"><components><component objectid="1" transform="1 0 0 0 1 0 0 0 1 5 0 0"/>
<component objectid="1"/></components></object></resources>
<build><item objectid="2" transform="0 1 0 -1 0 0 0 0 1 0 0 7"/></build></model>
"""
VRML = """#VRML V2.0 utf8
DEF a Transform { translation 1 2 3 rotation 0 0 1 1.57 scale 1 2 1 children [ DEF s Shape {
appearance Appearance { material Material { diffuseColor 1 0.5 0 transparency 0.1 } }
geometry IndexedFaceSet { coord Coordinate { point [ 0 0 0, 1 0 0, 1 1 0, 0 1 0 ] }
color Color { color [ 1 0 0, 0 1 0, 0 0 1, 1 1 1 ] } coordIndex [ 0 1 2 3 -1 0 1 2 -1 ] } }
Shape { geometry Box { size 1 2 3 } } Shape { geometry Sphere { radius 2 } }
Shape { geometry Cylinder { } } Shape { geometry Cone { height 1 } }
Shape { geometry Extrusion { spine [ 0 0 0, 0 1 0, 1 2 0 ] } }
Shape { geometry ElevationGrid { xDimension 2 zDimension 2 height [ 0 1 2 3 ] } } USE s ] }
Viewpoint { position 0 0 10 }
ROUTE a.x TO a.y
"""
VRML_1 = """#VRML V1.0 ascii
Separator { Material { diffuseColor [ 1 0 0, 0 1 0 ] } MaterialBinding { value PER_FACE }
Coordinate3 { point [ 0 0 0, 1 0 0, 1 1 0, 0 1 0 ] } Translation { translation 1 0 0 }
DEF f IndexedFaceSet { coordIndex [ 0, 1, 2, -1, 0, 2, 3, -1 ] } Cube { width 2 } USE f }
"""
X3D = """<?xml version="1.0" encoding="UTF-8"?>
<X3D profile="Interchange" version="3.3"><Scene><Transform translation="1 2 3" scale="1 2 1">
<Shape DEF="s"><Appearance><Material diffuseColor="1 0.5 0"/></Appearance>
<IndexedFaceSet coordIndex="0 1 2 3 -1"><Coordinate point="0 0 0, 1 0 0, 1 1 0, 0 1 0"/>
<Color color="1 0 0, 0 1 0, 0 0 1, 1 1 1"/></IndexedFaceSet></Shape></Transform>
<Shape USE="s"/><Shape><TriangleSet><Coordinate point="0 0 0 1 0 0 0 1 0"/></TriangleSet></Shape>
</Scene></X3D>
"""
X3DV = """#X3D V3.2 utf8
PROFILE Immersive
META "title" "a"
Shape { appearance Appearance { material Material { diffuseColor 1 0.5 0 } }
geometry IndexedTriangleSet { index [ 0 1 2 ] coord Coordinate { point [ 0 0 0 1 0 0 1 1 0 ] } } }
Shape { geometry PointSet { coord Coordinate { point [ 0 0 0 1 0 0 ] } } }
"""
# A disc in one colour.
STEP = """ISO-10303-21;
HEADER;
FILE_DESCRIPTION((''),'2;1');
FILE_NAME('','',(''),(''),'','','');
FILE_SCHEMA(('AUTOMOTIVE_DESIGN'));
ENDSEC;
DATA;
#1=CARTESIAN_POINT('',(0.,0.,0.));
#2=DIRECTION('',(0.,0.,1.));
#3=DIRECTION('',(1.,0.,0.));
#4=AXIS2_PLACEMENT_3D('',#1,#2,#3);
#5=CARTESIAN_POINT('',(2.,0.,0.));
#6=VERTEX_POINT('',#5);
#7=CIRCLE('',#4,2.);
#8=EDGE_CURVE('',#6,#6,#7,.T.);
#9=ORIENTED_EDGE('',*,*,#8,.T.);
#10=EDGE_LOOP('',(#9));
#11=FACE_OUTER_BOUND('',#10,.T.);
#12=PLANE('',#4);
#13=ADVANCED_FACE('',(#11),#12,.T.);
#14=OPEN_SHELL('',(#13));
#15=SHELL_BASED_SURFACE_MODEL('',(#14));
#16=(LENGTH_UNIT()NAMED_UNIT(*)SI_UNIT(.MILLI.,.METRE.));
#17=(NAMED_UNIT(*)PLANE_ANGLE_UNIT()SI_UNIT($,.RADIAN.));
#18=(NAMED_UNIT(*)SI_UNIT($,.STERADIAN.)SOLID_ANGLE_UNIT());
#19=(GEOMETRIC_REPRESENTATION_CONTEXT(3)GLOBAL_UNIT_ASSIGNED_CONTEXT((#16,#17,#18))REPRESENTATION_CONTEXT('',''));
#20=MANIFOLD_SURFACE_SHAPE_REPRESENTATION('',(#4,#15),#19);
#21=APPLICATION_CONTEXT('automotive design');
#22=PRODUCT_CONTEXT('',#21,'mechanical');
#23=PRODUCT('disc','disc','',(#22));
#24=PRODUCT_DEFINITION_FORMATION('','',#23);
#25=PRODUCT_DEFINITION_CONTEXT('part definition',#21,'design');
#26=PRODUCT_DEFINITION('design','',#24,#25);
#27=PRODUCT_DEFINITION_SHAPE('','',#26);
#28=SHAPE_DEFINITION_REPRESENTATION(#27,#20);
#29=COLOUR_RGB('',0.8,0.4,0.2);
#30=FILL_AREA_STYLE_COLOUR('',#29);
#31=FILL_AREA_STYLE('',(#30));
#32=SURFACE_STYLE_FILL_AREA(#31);
#33=SURFACE_SIDE_STYLE('',(#32));
#34=SURFACE_STYLE_USAGE(.BOTH.,#33);
#35=PRESENTATION_STYLE_ASSIGNMENT((#34));
#36=STYLED_ITEM('',(#35),#13);
#37=MECHANICAL_DESIGN_GEOMETRIC_PRESENTATION_REPRESENTATION('',(#36),#19);
ENDSEC;
END-ISO-10303-21;
"""
# A rectangle: a plane within four lines. Lines have 80 columns: 72 of content, then a number.
_IGES = """test|S      1
,,4Htest,4Htest,4Htest,4Htest,32,308,15,308,15,,1.,2,2HMM,1,0.01,|G      1
15H20200101.000000,1E-07,20.,,,11,0,15H20200101.000000,;|G      2
     144       1       0       0       0       0       0       000000000|D      1
     144       0       0       1       0|D      2
     108       2       0       0       0       0       0       000010000|D      3
     108       0       0       1       0|D      4
     142       3       0       0       0       0       0       000010000|D      5
     142       0       0       1       0|D      6
     102       4       0       0       0       0       0       000010000|D      7
     102       0       0       1       0|D      8
     110       5       0       0       0       0       0       000010000|D      9
     110       0       0       1       0|D     10
     110       6       0       0       0       0       0       000010000|D     11
     110       0       0       1       0|D     12
     110       7       0       0       0       0       0       000010000|D     13
     110       0       0       1       0|D     14
     110       8       0       0       0       0       0       000010000|D     15
     110       0       0       1       0|D     16
144,3,1,0,5;                                                           1|P      1
108,0.,0.,1.,0.,0,0.,0.,0.,0.;                                         3|P      2
142,0,3,0,7,2;                                                         5|P      3
102,4,9,11,13,15;                                                      7|P      4
110,0.,0.,0.,10.,0.,0.;                                                9|P      5
110,10.,0.,0.,10.,20.,0.;                                             11|P      6
110,10.,20.,0.,0.,20.,0.;                                             13|P      7
110,0.,20.,0.,0.,0.,0.;                                               15|P      8
S      1G      2D     16P      8|T      1
"""
IGES = "".join(
    row[: row.index("|")].ljust(72) + row[row.index("|") + 1 :] + "\n" for row in _IGES.splitlines()
)
