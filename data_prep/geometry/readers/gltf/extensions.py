# SPDX-License-Identifier: Apache-2.0
"""Extensions of glTF: which are read, noted, harmless or refused."""

from typing import Any

from data_prep.geometry.readers.gltf import fields
from data_prep.geometry.scene import MeshError

# Read as their specifications define them.
READ = {
    # Geometry.
    "EXT_mesh_gpu_instancing",
    "EXT_meshopt_compression",
    "KHR_draco_mesh_compression",
    "KHR_mesh_quantization",
    "KHR_meshopt_compression",
    "KHR_node_visibility",
    "MSFT_lod",
    # Materials.
    "EXT_texture_avif",
    "EXT_texture_webp",
    "KHR_materials_emissive_strength",
    "KHR_materials_pbrSpecularGlossiness",
    "KHR_materials_unlit",
    "KHR_texture_transform",
}
# Change what is seen, and are not read; the part is read without them, and a note names them.
NOTED = {
    # Geometry.
    "AGI_articulations",
    "EXT_mesh_polygon",
    "KHR_gaussian_splatting",
    "KHR_materials_displacement",
    "MAXAR_mesh_variants",
    "MPEG_mesh_linking",
    # Materials.
    "ADOBE_materials_thin_transparency",
    "EXT_texture_astc",
    "EXT_texture_procedurals",
    "KHR_materials_common",
    "KHR_materials_diffuse_transmission",
    "KHR_materials_sheen",
    "KHR_materials_transmission",
    "KHR_materials_variants",
    "KHR_materials_volume",
    "KHR_materials_volume_scatter",
    "KHR_technique_webgl",
    "KHR_techniques_webgl",
    "KHR_texture_basisu",
    "KHR_texture_procedurals",
    "MSFT_texture_dds",
    "NV_materials_mdl",
}
# Do not change the shape at rest or its base colour: metadata, lights, sound, physics, highlights.
HARMLESS = {
    "ADOBE_materials_clearcoat_specular",
    "ADOBE_materials_clearcoat_tint",
    "AGI_stk_metadata",
    "BENTLEY_materials_line_style",
    "BENTLEY_materials_planar_fill",
    "BENTLEY_materials_point_style",
    "CESIUM_primitive_outline",
    "CESIUM_RTC",
    "EXT_feature_metadata",
    "EXT_instance_features",
    "EXT_lights_ies",
    "EXT_lights_image_based",
    "EXT_mesh_features",
    "EXT_mesh_manifold",
    "EXT_mesh_primitive_edge_visibility",
    "EXT_structural_metadata",
    "FB_geometry_metadata",
    "FB_ngon_encoding",
    "GODOT_single_root",
    "GRIFFEL_bim_data",
    "KHR_animation_pointer",
    "KHR_audio",
    "KHR_audio_emitter",
    "KHR_collision_shapes",
    "KHR_implicit_shapes",
    "KHR_interactivity",
    "KHR_lights_punctual",
    "KHR_materials_anisotropy",
    "KHR_materials_clearcoat",
    "KHR_materials_dispersion",
    "KHR_materials_ior",
    "KHR_materials_iridescence",
    "KHR_materials_specular",
    "KHR_node_hoverability",
    "KHR_node_selectability",
    "KHR_physics_rigid_bodies",
    "KHR_xmp",
    "KHR_xmp_json_ld",
    "MAXAR_image_ortho",
    "MAXAR_temporal_light_traits",
    "MOZ_hubs_components",
    "MPEG_animation_timing",
    "MPEG_audio_spatial",
    "MSFT_packing_normalRoughnessMetallic",
    "MSFT_packing_occlusionRoughnessMetallic",
    "OMI_audio_emitter",
    "OMI_collider",
    "OMI_physics_body",
    "OMI_physics_joint",
    "OMI_physics_shape",
    "OMI_seat",
    "OMI_spawn_point",
    "VRM",
    "VRMC_materials_mtoon",
    "VRMC_node_constraint",
    "VRMC_springBone",
    "VRMC_vrm",
}
_SPLATS = "export the splats as .ply"
# Hold the geometry in a form that is not read -> remedy.
REFUSED = {
    "KHR_gaussian_splatting_compression_spz": _SPLATS,
    "KHR_gaussian_splatting_compression_spz_2": _SPLATS,
    "MPEG_buffer_circular": "export the model without streams",
    "MPEG_media": "export the model without streams",
    "WEB3D_quantized_attributes": "export the model again as glTF 2.0",
}
_NO_REMEDY = "export the model without it"


def check(tree: dict[str, Any], *, notes: list[str]) -> None:
    """Checks the extensions that a file states.

    Args:
      tree: JSON of the file.
      notes: list to which a note for each extension is appended that is ignored.

    Raises:
      MeshError: a required extension is not read; the message names it and says what to do.
    """
    for name in fields.get_strings(tree, "extensionsRequired"):
        if name in REFUSED or name not in READ | NOTED | HARMLESS:
            raise refusal(name)
    for name in sorted(set(fields.get_strings(tree, "extensionsUsed"))):
        if name in NOTED:
            notes.append(f"glTF extension ignored: {name}")
        # Without being required, a refused one has other data beside it, or fails when it is used.
        elif name not in READ | HARMLESS | set(REFUSED):
            notes.append(f"unknown glTF extension ignored: {name[:60]}")


def refusal(name: str) -> MeshError:
    """Returns the error about an extension that a file requires and that is not read."""
    remedy = REFUSED.get(name, _NO_REMEDY)
    return MeshError(f"requires the glTF extension {name[:60]}, which is not read; {remedy}")
