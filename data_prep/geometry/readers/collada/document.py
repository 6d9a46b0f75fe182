# SPDX-License-Identifier: Apache-2.0
"""Elements of a COLLADA document, and numbers in them."""

import dataclasses
import urllib.parse
from xml.etree.ElementTree import Element

import numpy as np

from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import xml_documents


@dataclasses.dataclass(frozen=True)
class Document:
    """Parsed file.

    Attributes:
      root: root element; names have no namespaces.
      elements: elements by identifier.
      assets: reads textures, and collects the notes.
      arrays: arrays that were read before, by reference.
    """

    root: Element
    elements: dict[str, Element]
    assets: Assets
    arrays: dict[str, np.ndarray | None] = dataclasses.field(default_factory=dict)

    def target(self, reference: str | None, *, kind: str) -> Element | None:
        """Returns the element that a reference, "#name", names.

        Args:
          reference: value of an attribute such as `url` or `source`.
          kind: name of the expected element, for the note.

        Returns:
          The element; None, and a note, if it is in another file or missing.
        """
        name = urllib.parse.unquote((reference or "").strip())
        if name and not name.startswith("#"):
            self.assets.notes.append(f"{kind} in another file, ignored")
            return None
        found = self.elements.get(name[1:])
        if found is None:
            self.assets.notes.append(f"missing {kind}")
        return found


def parse(data: bytes, *, assets: Assets) -> Document:
    """Parses a file.

    Raises:
      scene.MeshError: it is no COLLADA document.
    """
    root = xml_documents.parse(data)
    if root.tag != "COLLADA":
        raise scene.MeshError(f"XML of another format; its root is {root.tag[:40]!r}")
    return Document(root, xml_documents.identifiers(root), assets)


def floats(element: Element | None) -> np.ndarray:
    """Returns the numbers in an element, float64 [n]; empty for None.

    Numbers are separated by white space; some programs write decimal commas.

    Raises:
      scene.MeshError: something is not a number.
    """
    text = "" if element is None else element.text or ""
    try:
        return np.array(text.replace(",", ".").split(), np.float64)
    except ValueError as error:
        raise scene.MeshError("a list with something else than numbers") from error


def integers(element: Element | None) -> np.ndarray:
    """Returns the integers in an element, int64 [n]; empty for None."""
    text = "" if element is None else element.text or ""
    try:
        return np.array(text.split(), np.int64)
    except (ValueError, OverflowError) as error:
        raise scene.MeshError("a list with something else than integers") from error
