# SPDX-License-Identifier: Apache-2.0
"""Parser of X3D as XML: the same nodes, with fields in attributes."""

import re
from xml.etree.ElementTree import Element

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.readers import xml_documents
from data_prep.geometry.readers.vrml.nodes import Node

_PROTOTYPES = ("ProtoDeclare", "ExternProtoDeclare", "ProtoInstance")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


def parse(data: bytes, *, notes: list[str]) -> Node:
    """Returns a node of type "" that has the nodes of the file as children.

    Raises:
      scene.MeshError: the file is no X3D, or has prototypes.
      limits.LimitError: nodes are nested too deeply.
    """
    root = xml_documents.parse(data)
    content = root.find("Scene")
    if root.tag != "X3D" or content is None:
        raise scene.MeshError(f"XML of another format; its root is {root.tag[:40]!r}")
    if any(next(content.iter(name), None) is not None for name in _PROTOTYPES):
        raise scene.MeshError("prototypes (PROTO) are not read; export without them")
    result, named = Node(""), dict[str, Node]()
    _fill(result, content, named, notes=notes, depth=1)
    return result


def _fill(
    node: Node, element: Element, named: dict[str, Node], *, notes: list[str], depth: int
) -> None:
    """Adds the children of an element to a node."""
    limits.NESTING.check(depth)
    for child in element:
        role = child.get("containerField", "")
        if "USE" in child.attrib:
            found = named.get(child.get("USE", ""))
            if found is None:
                notes.append("USE of a node that is not defined, ignored")
            else:
                node.children.append((role, found))
            continue
        made = Node(child.tag, {name: _words(text) for name, text in child.attrib.items()})
        _fill(made, child, named, notes=notes, depth=depth + 1)
        if "DEF" in child.attrib:
            named[child.get("DEF", "")] = made
        node.children.append((role, made))


def _words(text: str) -> list[str]:
    """Returns the quoted strings of an attribute, or all of it as one word."""
    strings = _STRING.findall(text)
    return [re.sub(r"\\(.)", r"\1", string) for string in strings] if strings else [text]
