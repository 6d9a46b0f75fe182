# SPDX-License-Identifier: Apache-2.0
"""Parser of the text form of VRML 1.0, VRML 2.0 and X3D.

It knows the grammar, and no node types: in the body of a node, a name before a brace starts a child
node (VRML 1.0), and every other name is a field, whose value is a list, a node, numbers, strings or
one word.
"""

import re

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.readers.vrml import nodes
from data_prep.geometry.readers.vrml.nodes import Node

_TOKEN = re.compile(
    r"""(?:[\s,]|\#[^\n\r]*)*        # white space, commas and comments
    (?: (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<mark>[{}\[\]()])
      | (?P<word>[^\s,{}\[\]()"#]+) )""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"[+-]?(\d|\.\d)")
# Nodes without geometry whose bodies declare fields, unlike those of others.
_SKIPPED = ("Script", "ComposedShader", "ShaderProgram", "PackagedShader")
# Nodes of a shape: transform, shape, appearance, material, texture, faces, coordinates, ...
_NODES_PER_INSTANCE = 10


class Parser:
    """Parses one file.

    Attributes:
      notes: list to which notes are appended.
    """

    def __init__(self, text: str, *, notes: list[str]):
        self._text = text
        self._position = 0
        self._named: dict[str, Node] = {}
        self._count = 0
        self.notes = notes

    def parse(self) -> Node:
        """Returns a node of type "" that has the nodes of the file as children.

        Raises:
          scene.MeshError: the text does not follow the grammar, or has prototypes.
          limits.LimitError: nodes are nested too deeply, or there are too many.
        """
        root = Node("")
        self._body(root, depth=0)
        return root

    def _next(self) -> str:
        """Returns the next token, "" at the end; strings keep their quotes."""
        match = _TOKEN.match(self._text, self._position)
        if match is None:
            self._position = len(self._text)
            return ""
        self._position = match.end()
        return match[match.lastgroup or 0]

    def _peek(self) -> str:
        position = self._position
        token = self._next()
        self._position = position
        return token

    def _body(self, node: Node, *, depth: int) -> None:
        """Parses the body of a node, up to its brace or the end of the file."""
        limits.NESTING.check(depth)
        while True:
            token = self._next()
            if token == "":
                if depth:
                    raise scene.MeshError("truncated; a brace is not closed")
                return
            if token == "}":
                if depth:
                    return
                raise scene.MeshError("a closing brace without an opening one")
            if token in ("PROTO", "EXTERNPROTO"):
                raise scene.MeshError("prototypes (PROTO) are not read; export without them")
            if token == "ROUTE":
                for _ in range(3):  # from TO to
                    self._next()
            elif token in ("PROFILE", "COMPONENT", "META", "UNIT", "IMPORT", "EXPORT"):
                self._statement(token)
            elif token in ("DEF", "USE") or self._peek() == "{":
                self._add(node, "", token, depth)
            elif token[0] in '[]{()"':
                raise scene.MeshError(f"{token[0]!r} where a field or a node is expected")
            else:
                self._field(node, token, depth)

    def _statement(self, token: str) -> None:
        """Skips a statement of the header of an X3D file."""
        for _ in range({"PROFILE": 1, "COMPONENT": 1, "META": 2, "UNIT": 3}.get(token, 1)):
            self._next()
        if self._peek() == "AS":
            self._next()
            self._next()

    def _add(self, parent: Node, field: str, token: str, depth: int) -> None:
        """Parses a node whose first token was read, and adds it to its parent."""
        name = None
        if token == "USE":
            found = self._named.get(self._next())
            if found is None:
                self.notes.append("USE of a node that is not defined, ignored")
            else:
                parent.children.append((field, found))
            return
        if token == "DEF":
            name, token = self._next(), self._next()
        if self._next() != "{":
            raise scene.MeshError("a node without a brace")
        self._count += 1
        limits.NODES.check(self._count // _NODES_PER_INSTANCE)
        node = Node(token)
        if token in _SKIPPED:
            self._skip()
        else:
            self._body(node, depth=depth + 1)
        if name is not None:
            self._named[name] = node
        parent.children.append((field, node))

    def _skip(self) -> None:
        """Skips the body of a node."""
        depth = 1
        while depth:
            token = self._next()
            if token == "":
                raise scene.MeshError("truncated; a brace is not closed")
            depth += (token == "{") - (token == "}")

    def _field(self, node: Node, name: str, depth: int) -> None:
        """Parses the value of a field."""
        token = self._peek()
        if token == "[":
            self._next()
            self._list(node, name, depth)
        elif token == "(":  # bits of VRML 1.0, such as (SIDES | TOP)
            words = []
            while (token := self._next()) not in (")", ""):
                words.append(token)
            node.fields[name] = words
        elif token.startswith('"') or _NUMBER.match(token):
            words = []
            while (token := self._peek()).startswith('"') or _NUMBER.match(token):
                words.append(_unquoted(self._next()))
            node.fields[name] = words
        elif token not in ("}", ""):
            self._next()
            if token in ("DEF", "USE") or self._peek() == "{":
                self._add(node, name, token, depth)
            else:  # TRUE, NULL, a name of VRML 1.0
                node.fields[name] = [token]

    def _list(self, node: Node, name: str, depth: int) -> None:
        """Parses a list of numbers, strings or nodes, after its bracket."""
        end = self._text.find("]", self._position)
        if end < 0:
            raise scene.MeshError("truncated; a bracket is not closed")
        first = self._peek()
        if _NUMBER.match(first):
            plain = self._text[self._position : end]
            if '"' not in plain:
                plain = re.sub(r"#[^\n\r]*", " ", plain) if "#" in plain else plain
                node.fields[name] = nodes.to_numbers(plain)
                # A bracket in a comment would end the list early.
                self._position = end + 1
                return
        words: list[str] = []
        while (token := self._next()) != "]":
            if token == "":
                raise scene.MeshError("truncated; a bracket is not closed")
            if token in ("DEF", "USE") or self._peek() == "{":
                self._add(node, name, token, depth)
            else:
                words.append(_unquoted(token))
        node.fields[name] = words or np.zeros(0)


def _unquoted(token: str) -> str:
    """Returns a token without the quotes and escapes of a string."""
    return re.sub(r"\\(.)", r"\1", token[1:-1]) if token.startswith('"') else token
