# SPDX-License-Identifier: Apache-2.0
"""Reader of zip archives that hold one mesh or point cloud, with its materials and textures."""

import dataclasses
import io
import posixpath
from collections.abc import Iterable

from data_prep.foreign import archives
from data_prep.geometry import file_checks, formats, scene
from data_prep.geometry.assets import Assets

# Types that also hold licences and tables: they count only if the archive holds no other type.
_MINOR_TYPES = ("asc", "npy", "npz", "txt")
# Members that are named in a message.
_NAMED = 5


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads the one mesh or point cloud in a zip archive.

    Args:
      data: bytes of the archive.
      assets: collects the notes. Materials and textures are read from the archive.
      file_type: unused.

    Returns:
      The scene; its vertical axis is that of the type of the member.

    Raises:
      scene.MeshError: the archive is corrupt, or holds no or several files of known types.
      limits.LimitError: a file exceeds a limit.
      formats.MissingPackageError: the package that reads the member is not installed.
    """
    del file_type
    try:
        archive = archives.Archive(io.BytesIO(data))
        name = choose(archive.names())
        member = archive.read(name)
    except archives.ArchiveError as error:
        raise scene.MeshError(str(error)) from error
    member_type = formats.suffix(name)
    formats.FORMATS[member_type].size_limit.check(len(member))
    file_checks.check(member, file_type=member_type)
    inside = Assets(archive.read, folder=posixpath.dirname(name))
    inside.notes = assets.notes
    found = formats.reader(member_type)(member, assets=inside, file_type=member_type)
    return dataclasses.replace(found, up_axis=found.up_axis or formats.up_axis(name))


def choose(names: Iterable[str]) -> str:
    """Returns the name of the member to read.

    Args:
      names: paths of all members. Hidden ones and those of macOS's `__MACOSX` are ignored.

    Raises:
      scene.MeshError: none or several have a known type.
    """
    visible = sorted(name for name in names if not _is_hidden(name))
    known = [
        n for n in visible if formats.suffix(n) in formats.TYPES and formats.suffix(n) != "zip"
    ]
    major = [name for name in known if formats.suffix(name) not in _MINOR_TYPES]
    chosen = major or known
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise scene.MeshError(
            "the archive holds several meshes or point clouds; unpack it and name those to read: "
            f"{_listed(chosen)}"
        )
    for name in visible:
        if formats.suffix(name) in formats.UNSUPPORTED:
            formats.check_type(formats.suffix(name))
    raise scene.MeshError(
        f"the archive holds no mesh or point cloud of a known type: {_listed(visible)}"
    )


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(name[-80:] for name in names[:_NAMED]) + more if names else "it is empty"
