# SPDX-License-Identifier: Apache-2.0
"""Reader of the formats that trimesh reads."""

import io

import numpy as np
import trimesh

from data_prep.foreign import limits
from data_prep.geometry import mesh_checks, scene
from data_prep.geometry.assets import Assets


class _Resolver(trimesh.resolvers.Resolver):
    """Resolver of trimesh that reads through `assets`, and remembers the textures."""

    def __init__(self, assets: Assets):
        self._assets = assets

    def get(self, name: str) -> bytes:
        kind = "materials file" if name.lower().endswith(".mtl") else "texture"
        data = self._assets.read(name, kind=kind)
        if data is None:
            raise FileNotFoundError(name)
        return data

    def keys(self) -> list[str]:
        return []

    def namespaced(self, namespace: str) -> "_Resolver":
        return self

    def write(self, name: str, data: bytes) -> None:
        raise OSError(f"{name}: sources are read only")


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads a scene."""
    mesh_checks.check(data, file_type=file_type)
    loaded = trimesh.load_scene(
        io.BytesIO(data), file_type=file_type, resolver=_Resolver(assets), process=False
    )
    limits.PARTS.check(len(loaded.graph.nodes_geometry))
    parts, points = [], []
    for node in loaded.graph.nodes_geometry:
        transform, name = loaded.graph[node]
        mesh = loaded.geometry[name]
        vertices = mesh.vertices @ transform[:3, :3].T + transform[:3, 3]
        if isinstance(mesh, trimesh.Trimesh) and len(mesh.faces):
            if mesh.faces.min() < 0 or mesh.faces.max() >= len(vertices):
                raise scene.MeshError("a face names a vertex that does not exist")
            parts.append(scene.Part(vertices[mesh.faces], **_appearance(mesh, notes=assets.notes)))
        elif len(vertices):
            colours = np.asarray(getattr(mesh, "colors", ()))
            rgb = colours[:, :3] if len(colours) == len(vertices) else None
            points.append(scene.Points(vertices, rgb))
    return scene.Scene(tuple(parts), tuple(points))


def _appearance(mesh: trimesh.Trimesh, *, notes: list[str]) -> dict:
    visual = mesh.visual
    if isinstance(visual, trimesh.visual.ColorVisuals) and visual.defined:
        colours = visual.vertex_colors[mesh.faces] / np.float32(255)
        if visual.kind == "face":
            colours = np.repeat(visual.face_colors[:, None] / np.float32(255), 3, axis=1)
        return {"colours": colours}
    material = getattr(visual, "material", None)
    image = getattr(material, "image", getattr(material, "baseColorTexture", None))
    if material is None or (image is not None and image.format is None):
        return {}
    uv = visual.uv
    if image is not None and uv is not None and len(uv) == len(mesh.vertices):
        rgba = np.asarray(image.convert("RGBA"))
        return {"texture": scene.Texture(rgba), "uv": np.asarray(uv)[mesh.faces]}
    colour = getattr(material, "diffuse", getattr(material, "baseColorFactor", None))
    if colour is None:
        return {}
    return {"texture": scene.plain(*(np.asarray(colour)[:3] / 255))}
