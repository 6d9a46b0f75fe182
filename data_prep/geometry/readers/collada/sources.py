# SPDX-License-Identifier: Apache-2.0
"""Arrays of COLLADA geometry, and the inputs of primitives that name them."""

import dataclasses
from xml.etree.ElementTree import Element

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.readers.collada import document
from data_prep.geometry.readers.collada.document import Document


@dataclasses.dataclass(frozen=True)
class Input:
    """Array that the corners of a primitive index.

    Attributes:
      semantic: meaning, such as "POSITION", "TEXCOORD" or "COLOR".
      offset: position of its index among those of a corner.
      set: number of the set of texture coordinates or colours.
      source: reference to the element `source`.
    """

    semantic: str
    offset: int
    set: int
    source: str


def read_inputs(parent: Element, *, doc: Document) -> list[Input]:
    """Returns the inputs of a primitive; VERTEX is replaced by the inputs of its `vertices`.

    Raises:
      scene.MeshError: an offset or a set is not a number.
    """
    found = []
    for element in parent.findall("input"):
        semantic, source = element.get("semantic", ""), element.get("source", "")
        offset, number = _number(element, "offset"), _number(element, "set")
        if semantic != "VERTEX":
            found.append(Input(semantic, offset, number, source))
            continue
        vertices = doc.target(source, kind="vertices")
        for inner in [] if vertices is None else vertices.findall("input"):
            name = inner.get("semantic", "")
            found.append(Input(name, offset, _number(inner, "set"), inner.get("source", "")))
    return found


def _number(element: Element, name: str) -> int:
    text = element.get(name) or "0"
    if not text.strip().isdigit() or len(text) > 9:
        raise scene.MeshError(f"an input whose {name} is not a number")
    return int(text)


def read_source(reference: str, *, doc: Document) -> np.ndarray | None:
    """Reads an array of numbers.

    Args:
      reference: reference to an element `source`.
      doc: parsed file.

    Returns:
      float64 [items, components]; parameters without a name are skipped. None, and a note, if the
      array is missing.

    Raises:
      scene.MeshError: the array is shorter than its accessor says.
      limits.LimitError: it is too large.
    """
    if reference not in doc.arrays:
        source = doc.target(reference, kind="array")
        doc.arrays[reference] = None if source is None else _read_array(source, doc=doc)
    return doc.arrays[reference]


def _read_array(source: Element, *, doc: Document) -> np.ndarray | None:
    """Reads the numbers of an element `source`, as its accessor says."""
    accessor = source.find("technique_common/accessor")
    array = None
    if accessor is not None:
        array = doc.elements.get((accessor.get("source") or "").removeprefix("#"))
    if array is None:
        array = source.find("float_array")
    values = document.floats(array)
    if accessor is None:
        return values.reshape(-1, 3) if not len(values) % 3 else None
    params = accessor.findall("param")
    kept = [index for index, param in enumerate(params) if param.get("name")]
    stride = _number(accessor, "stride") or max(len(params), 1)
    if not kept or any(param.get("type") == "float4x4" for param in params):
        kept = list(range(stride))
    first = _number(accessor, "offset")
    count = _number(accessor, "count")
    limits.VERTICES.check(count)
    if kept[-1] >= stride or count and first + (count - 1) * stride + kept[-1] >= len(values):
        raise scene.MeshError("an array shorter than its accessor says")
    rows = first + stride * np.arange(count)
    return values[rows[:, None] + np.array(kept)]


def read_names(reference: str, *, doc: Document) -> list[str]:
    """Reads an array of names, such as those of joints."""
    source = doc.target(reference, kind="array")
    if source is None:
        return []
    for kind in ("Name_array", "IDREF_array", "SIDREF_array"):
        array = source.find(kind)
        if array is not None:
            return (array.text or "").split()
    return []
