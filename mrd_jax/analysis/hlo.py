# SPDX-License-Identifier: Apache-2.0
"""Parser for the text of a compiled program (HLO).

Keeps only what the analysis needs. The grammar is that of XLA's printer, as returned by
`jax.stages.Compiled.as_text()`: one instruction per line, each computation in braces that start at
the margin, and `ENTRY` before the main computation.
"""

import dataclasses
import math
import re

# Bits per element; types that are not listed (tokens, opaque values) take no memory.
_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32,
    "s64": 64, "u64": 64, "f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64,
    "c64": 64, "c128": 128,
}  # fmt: skip

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](\{[^{}]*\})?")
# S(n) in a layout is a memory space: 1 is the vector memory (VMEM) of a TPU, others hold scalars,
# semaphores or host memory. Without it, an array is in the device's main memory (HBM).
_MEMORY_SPACE = re.compile(r"S\([1-9]\d*\)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result.

    Attributes:
      dims: shape.
      bytes: size without the padding of its layout.
      in_main_memory: whether the array is in the device's main memory.
    """

    dims: tuple[int, ...]
    bytes: int
    in_main_memory: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation.

    Attributes:
      name: name, unique within the program.
      opcode: operation, such as "fusion".
      arrays: result; several arrays if it is a tuple.
      operands: names of the operands.
      operand_text: text between the operands' parentheses, such as the value of a constant.
      attributes: rest of the line.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    operand_text: str
    attributes: str

    @property
    def op_name(self) -> str:
        """Path of the instruction in the traced program; "" if the compiler inserted it."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def bytes(self) -> int:
        """Size of the result."""
        return sum(array.bytes for array in self.arrays)

    def called(self, attribute: str) -> str | None:
        """Returns the name of the computation in an attribute such as "body"; None if absent."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None

    def branches(self) -> tuple[str, ...]:
        """Returns the names of the branch computations of a conditional."""
        found = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if found:
            return tuple(name.strip().lstrip("%") for name in found[1].split(","))
        both = self.called("true_computation"), self.called("false_computation")
        return tuple(name for name in both if name)


@dataclasses.dataclass(frozen=True)
class Computation:
    """A sequence of instructions, such as a loop body or a fusion.

    Attributes:
      instructions: instructions by name, in the order of the text, which is the schedule.
      root: name of the instruction whose result is returned.
    """

    instructions: dict[str, Instruction]
    root: str


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: computations by name.
      entry: name of the main computation.
    """

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """Parses the text of a compiled program.

    Raises:
      ValueError: the text has no ENTRY computation, or a line is not an instruction.
    """
    computations, entry = {}, None
    name, instructions, root = None, {}, ""
    for number, line in enumerate(text.splitlines(), 1):
        head = _HEAD.match(line)
        if head:
            name, instructions, root = head[2], {}, ""
            entry = name if head[1] else entry
        elif line.startswith("}") and name:
            computations[name] = Computation(instructions, root)
            name = None
        elif name and line.strip():
            start = _LINE.match(line)
            if start is None:
                raise ValueError(f"line {number} of the HLO is not an instruction: {line[:120]!r}")
            instructions[start[2]] = _parse_instruction(start[2], line[start.end() :], number)
            root = start[2] if start[1] else root
    if entry is None:
        raise ValueError("the HLO has no ENTRY computation; expected jax.stages.Compiled.as_text()")
    return Module(computations, entry)


def _parse_instruction(name: str, rest: str, number: int) -> Instruction:
    """Splits the text after `name = ` into type, opcode, operands and attributes."""
    end = _find_closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    found = re.match(r" ([\w\-]+)\(", rest[end:])
    if found is None:
        raise ValueError(f"line {number} of the HLO has no opcode: {rest[:120]!r}")
    first = end + found.end()
    last = _find_closing(rest, first - 1)
    operand_text = rest[first:last]
    return Instruction(
        name,
        found[1],
        tuple(_parse_array(match) for match in _ARRAY.finditer(rest[:end])),
        tuple(re.findall(r"%([\w.\-]+)", operand_text)),
        operand_text,
        rest[last + 1 :],
    )


def _find_closing(text: str, opening: int) -> int:
    """Returns the position of the parenthesis that closes the one at `opening`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"unbalanced parentheses in the HLO: {text[:120]!r}")


def _parse_array(match: re.Match) -> Array:
    dims = tuple(int(dim.lstrip("<=")) for dim in match[2].split(",") if dim)
    bits = _BITS.get(match[1], 0) * math.prod(dims)
    return Array(dims, -(-bits // 8), not _MEMORY_SPACE.search(match[3] or ""))
