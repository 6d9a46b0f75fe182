# SPDX-License-Identifier: Apache-2.0
"""Parses XML of untrusted files."""

from xml.etree import ElementTree

from data_prep.geometry import scene

_ENTITY = "<!ENTITY"


def check_entities(data: bytes) -> None:
    """Checks that a document declares no entities, which may expand to any size.

    Raises:
      scene.MeshError: it does.
    """
    encodings = ("ascii", "utf-16-le", "utf-16-be")
    if any(_ENTITY.encode(encoding) in data for encoding in encodings):
        raise scene.MeshError("XML with entity declarations, which are not read")


def parse(data: bytes) -> ElementTree.Element:
    """Parses a document. Names of elements lose their namespaces; those of attributes keep them.

    Entities that the document declares and references to other files are not expanded: the parser
    (expat) opens no files, and limits the expansion in encodings that `check_entities` cannot see.

    Args:
      data: bytes of the document.

    Raises:
      scene.MeshError: it is not well-formed, or declares entities.
    """
    check_entities(data)
    try:
        root = ElementTree.fromstring(data.lstrip())
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise scene.MeshError(f"XML that is not well-formed: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def identifiers(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """Returns the elements of a document by their attribute `id`; the first of equal ones."""
    found: dict[str, ElementTree.Element] = {}
    for element in root.iter():
        name = element.get("id")
        if name:
            found.setdefault(name, element)
    return found
