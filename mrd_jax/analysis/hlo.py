# SPDX-License-Identifier: Apache-2.0
"""Reads the text of a compiled program (HLO) into computations of instructions.

Only what the analysis needs is kept, and nothing is interpreted. The grammar is XLA's printer's, as
`jax.stages.Compiled.as_text()` gives it: one instruction a line, computations between braces at the
margin, `ENTRY` before the one that runs.
"""

import dataclasses
import math
import re

# Bits of one element; what is not listed (tokens, opaque values) takes no memory.
_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32,
    "s64": 64, "u64": 64, "f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64,
    "c64": 64, "c128": 128,
}  # fmt: skip

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](\{[^{}]*\})?")
# S(n) in a layout is a memory of its own: 1 is the vector memory of a TPU, others hold scalars,
# semaphores or the host's copy. Without it, an array lies in the device's main memory.
_MEMORY_SPACE = re.compile(r"S\([1-9]\d*\)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result.

    Attributes:
      dims: as printed.
      bytes: without the padding of its layout.
      in_main_memory: whether it lies in the device's main memory.
    """

    dims: tuple[int, ...]
    bytes: int
    in_main_memory: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique within the program.
      opcode: such as "fusion".
      arrays: of the result, several where it is a tuple.
      operands: names.
      operand_text: what stands between the operands' parentheses: the value of a constant.
      attributes: the rest of the line.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    operand_text: str
    attributes: str

    @property
    def op_name(self) -> str:
        """Where in the traced program it comes from; "" where the compiler made it up."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def bytes(self) -> int:
        """Size of the whole result."""
        return sum(array.bytes for array in self.arrays)

    def called(self, attribute: str) -> str | None:
        """Name of the computation behind `attribute`, such as "body"."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None

    def branches(self) -> tuple[str, ...]:
        """Names of the computations that a conditional chooses from."""
        found = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if found:
            return tuple(name.strip().lstrip("%") for name in found[1].split(","))
        both = self.called("true_computation"), self.called("false_computation")
        return tuple(name for name in both if name)


@dataclasses.dataclass(frozen=True)
class Computation:
    """A list of instructions.

    Attributes:
      instructions: by name, in the order of the text, which is the schedule's.
      root: name of the one whose result leaves.
    """

    instructions: dict[str, Instruction]
    root: str


@dataclasses.dataclass(frozen=True)
class Module:
    """A whole program.

    Attributes:
      computations: by name.
      entry: name of the one that runs.
    """

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """Reads a program.

    Raises:
      ValueError: there is no entry, or a line does not read as an instruction.
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
                raise ValueError(f"line {number} of the HLO is no instruction: {line[:120]!r}")
            instructions[start[2]] = _instruction(start[2], line[start.end() :], number)
            root = start[2] if start[1] else root
    if entry is None:
        raise ValueError("the HLO has no ENTRY computation; expected Compiled.as_text() of a step")
    return Module(computations, entry)


def _instruction(name: str, rest: str, number: int) -> Instruction:
    """Splits what follows `name = ` into type, opcode, operands and attributes."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    found = re.match(r" ([\w\-]+)\(", rest[end:])
    if found is None:
        raise ValueError(f"line {number} of the HLO has no opcode: {rest[:120]!r}")
    first = end + found.end()
    last = _closing(rest, first - 1)
    operand_text = rest[first:last]
    return Instruction(
        name,
        found[1],
        tuple(_array(match) for match in _ARRAY.finditer(rest[:end])),
        tuple(re.findall(r"%([\w.\-]+)", operand_text)),
        operand_text,
        rest[last + 1 :],
    )


def _closing(text: str, opening: int) -> int:
    """Position of the parenthesis that closes the one at `opening`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"unbalanced parentheses in the HLO: {text[:120]!r}")


def _array(match: re.Match) -> Array:
    dims = tuple(int(dim.lstrip("<=")) for dim in match[2].split(",") if dim)
    bits = _BITS.get(match[1], 0) * math.prod(dims)
    return Array(dims, -(-bits // 8), not _MEMORY_SPACE.search(match[3] or ""))
