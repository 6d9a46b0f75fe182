# SPDX-License-Identifier: Apache-2.0
"""File types of meshes and point clouds, their readers and their vertical axes."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from data_prep.foreign import limits
from data_prep.geometry.scene import MeshError

# Version of all readers together, increased whenever files give other points or colours. Prepared
# shapes, data sets, embeddings and indexes record it; those that do not are of version 1.
READER_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Format:
    """File format of meshes or of point clouds.

    Attributes:
      name: name of the format in messages.
      up: vertical axis, "y" or "z", of a file that does not state it. glTF defines it; most
        programs write OBJ with y up; the other types come from scanners, CAD and printers, and
        have z up.
      reader: module in `data_prep.geometry.readers`.
      packages: modules that the reader imports, beyond those that the project always needs.
      extra: extra of this project that installs them.
      up_is_certain: whether the format, and not a habit, defines the vertical axis.
      has_columns: whether the reader takes names of columns.
      size_limit: limit on the size of a file. Files of points take less memory than meshes.
    """

    name: str
    up: str
    reader: str
    packages: tuple[str, ...] = ()
    extra: str = ""
    up_is_certain: bool = False
    has_columns: bool = False
    size_limit: limits.Limit = limits.FILE_BYTES


class MissingPackageError(ImportError):
    """Raised when the package that reads a file type is not installed; the message names it."""


# Extra with the packages that read CAD models and the files of laser scanners.
_EXTRA = "formats"
FORMATS = {
    "glb": Format("glTF", "y", "gltf.reader", up_is_certain=True),
    "gltf": Format("glTF", "y", "gltf.reader", up_is_certain=True),
    "vrm": Format("glTF", "y", "gltf.reader", up_is_certain=True),
    "obj": Format("OBJ", "y", "obj"),
    "off": Format("OFF", "z", "off"),
    "ply": Format("PLY", "z", "ply"),
    "stl": Format("STL", "z", "stl"),
    # COLLADA states the vertical axis, and defines y for files that do not.
    "dae": Format("COLLADA", "y", "collada", up_is_certain=True),
    "zae": Format("COLLADA", "y", "zipped", up_is_certain=True),
    # The build platform of a printer is the plane of x and y.
    "3mf": Format("3MF", "z", "three_mf", up_is_certain=True),
    # VRML and X3D define y, but CAD programs write z.
    "wrl": Format("VRML", "y", "vrml"),
    "wrz": Format("VRML", "y", "vrml"),
    "vrml": Format("VRML", "y", "vrml"),
    "x3d": Format("X3D", "y", "vrml"),
    "x3dv": Format("X3D", "y", "vrml"),
    # The glTF files of the CAD library are not turned to y up.
    "step": Format("STEP", "z", "cad", ("cascadio",), _EXTRA),
    "stp": Format("STEP", "z", "cad", ("cascadio",), _EXTRA),
    "iges": Format("IGES", "z", "cad", ("cascadio",), _EXTRA),
    "igs": Format("IGES", "z", "cad", ("cascadio",), _EXTRA),
    "npy": Format("NumPy array", "z", "arrays", size_limit=limits.ARRAY_BYTES),
    "npz": Format("NumPy archive", "z", "arrays", size_limit=limits.ARRAY_BYTES),
    "pcd": Format("PCD", "z", "pcd", size_limit=limits.ARRAY_BYTES),
    "las": Format("LAS", "z", "las", ("laspy", "lazrs"), _EXTRA, size_limit=limits.ARRAY_BYTES),
    "laz": Format("LAZ", "z", "las", ("laspy", "lazrs"), _EXTRA),
    "e57": Format("E57", "z", "e57", ("pye57",), _EXTRA, size_limit=limits.ARRAY_BYTES),
    "xyz": Format("text", "z", "text_points", has_columns=True),
    "txt": Format("text", "z", "text_points", has_columns=True),
    "pts": Format("text", "z", "text_points", has_columns=True),
    "asc": Format("text", "z", "text_points", has_columns=True),
    # The vertical axis is that of the file in the archive.
    "zip": Format("zip", "z", "zipped"),
}
TYPES = tuple(FORMATS)
# Help of the option --columns of commands.
COLUMNS_HELP = (
    "columns of text files (xyz, txt, pts, asc): a letter each, such as xyzirgb or xyz___rgb, or "
    "names with commas (default: those of the file's header, or a guess from number and values)"
)
_BLENDER = "open it in Blender and export it as .glb"
_BLENDER_ADD_ON = "import it into Blender with an add-on and export it as .glb"
_OWN_PROGRAM = "export it as .glb, .fbx or .obj in the program that made it"
_ASSIMP = "convert it by `assimp export FILE out.glb` (Debian package assimp-utils)"
_CLOUD_COMPARE = "open it in CloudCompare and save it as .ply"
# How to convert files of types that are not read.
_CONVERSIONS = {
    _BLENDER: "abc blend blend1 fbx usd usda usdc usdz",
    _BLENDER_ADD_ON: "b3d dxf ifc iqm mhx2 pmd pmx vox",
    _OWN_PROGRAM: "3dm c4d catpart dwg f3d ipt jt ma max mb prt sldasm sldprt skp x_b x_t ztl",
    _ASSIMP: "3ds ac amf ase cob hmp irrmesh lwo lws lxo md2 md3 md5mesh mdl ms3d nff ogex q3o"
    " smd ter x xgl zgl",
    _CLOUD_COMPARE: "ptx rcp rcs",
    "open it in FreeCAD and export it as .step": "brep fcstd sat",
    "open it in MeshLab and export it as .ply": "ctm iv vtk vtp wrp",
    "convert it to a mesh by scikit-image (skimage.measure.marching_cubes)": "dcm nii nrrd vdb",
}
# Types that are not read -> how to convert them.
UNSUPPORTED = {
    file_type: remedy for remedy, types in _CONVERSIONS.items() for file_type in types.split()
}


def suffix(path: PurePath | str) -> str:
    """Returns the type of a file: its suffix in lower case, without dot."""
    return PurePath(path).suffix[1:].lower()


def check_type(file_type: str) -> None:
    """Checks that a type of file is read.

    Raises:
      scene.MeshError: it is not; the message says how to convert it, where that is known.
    """
    if file_type in FORMATS:
        return
    if file_type in UNSUPPORTED:
        raise MeshError(f"{file_type} files are not read; {UNSUPPORTED[file_type]}")
    raise MeshError(f"unknown type {file_type!r}; expected one of {', '.join(TYPES)}")


def reader(file_type: str) -> Callable[..., Any]:
    """Returns the function that reads a file type; see `data_prep.geometry.readers`.

    Raises:
      MissingPackageError: a package is not installed; the message says how to install it.
    """
    kind = FORMATS[file_type]
    for package in kind.packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"{error.name} is missing; {file_type} files need it. Run pip install "
                f'"mrd_jax[{kind.extra}]"'
            ) from error
    return importlib.import_module(f"data_prep.geometry.readers.{kind.reader}").read


def up_axis(path: PurePath | str) -> str:
    """Returns the vertical axis of a file type, "y" or "z"; "z" for an unknown type."""
    kind = FORMATS.get(suffix(path))
    return kind.up if kind else "z"


def up_is_certain(path: PurePath | str) -> bool:
    """Returns whether a standard defines the vertical axis of the file type, as for glTF."""
    kind = FORMATS.get(suffix(path))
    return bool(kind and kind.up_is_certain)
