# SPDX-License-Identifier: Apache-2.0
"""Bytes that an instruction reads from and writes to a device's main memory.

Results count once and operands once each, without padding. Of what is only sliced or gathered
from, what is taken counts; of what is updated in place, what is new. Arrays that the compiler
placed in a faster memory do not count.
"""

from mrd_jax.analysis import hlo

# Rename, group or wait for what others moved.
_MOVES_NOTHING = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id "
    "opt-barrier iota".split()
)
# Read from their first operand only as much as they return.
_TAKES = ("slice", "dynamic-slice", "gather")
_UPDATES = "dynamic-update-slice"


def bytes_of(instruction: hlo.Instruction, computation: hlo.Computation, module: hlo.Module) -> int:
    """Bytes moved by one run of an instruction.

    Args:
      instruction: one that `schedule.executed` gives.
      computation: that holds it.
      module: that holds both.
    """
    opcode = instruction.opcode
    if opcode in _MOVES_NOTHING or opcode.endswith("-done"):
        return 0
    operands = [computation.instructions[name] for name in instruction.operands]
    if opcode == "slice-start":
        taken = instruction.arrays[1]
        return taken.bytes * (taken.in_main_memory + _all_in_main_memory(operands[0]))
    if opcode == "copy-start":
        # Destination and source, then a semaphore.
        return sum(array.bytes for array in instruction.arrays[:2] if array.in_main_memory)
    if opcode == "fusion":
        return _fusion_bytes(
            instruction, operands, module.computations[instruction.called("calls")]
        )
    if opcode in _TAKES:
        source = instruction.bytes * _all_in_main_memory(operands[0])
        return source + sum(map(_main_bytes, [*operands[1:], instruction]))
    if opcode == _UPDATES:
        return _main_bytes(operands[1]) + operands[1].bytes * _all_in_main_memory(instruction)
    # A kernel is given one array several times, for a part of it each.
    once = {one.name: one for one in [*operands, instruction]}.values()
    return sum(map(_main_bytes, once))


def _fusion_bytes(
    fusion: hlo.Instruction, operands: list[hlo.Instruction], inside: hlo.Computation
) -> int:
    parameters = {
        int(one.operand_text): one
        for one in inside.instructions.values()
        if one.opcode == "parameter"
    }
    read = 0
    for number, operand in enumerate(operands):
        whole = _main_bytes(operand)
        read += min(whole, _read_of(parameters[number], inside)) if whole else 0
    root = inside.instructions[inside.root]
    results = (
        [inside.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    )
    if len(results) != len(fusion.arrays):
        return read + _main_bytes(fusion)
    written = (
        _written_of(result, inside) * array.in_main_memory
        for result, array in zip(results, fusion.arrays, strict=True)
    )
    return read + sum(written)


def _read_of(parameter: hlo.Instruction, inside: hlo.Computation) -> int:
    """Bytes of a parameter that the fusion's instructions look at."""
    total = 0
    for user in inside.instructions.values():
        if parameter.name not in user.operands:
            continue
        if user.opcode == "bitcast":
            total += _read_of(user, inside)
        elif user.opcode in _TAKES and user.operands[0] == parameter.name:
            total += user.bytes
        elif not (user.opcode == _UPDATES and user.operands[0] == parameter.name):
            return parameter.bytes
    return total


def _written_of(result: hlo.Instruction, inside: hlo.Computation) -> int:
    """Bytes of a result that are new."""
    while result.opcode == "bitcast":
        result = inside.instructions[result.operands[0]]
    if result.opcode == _UPDATES:
        return inside.instructions[result.operands[1]].bytes
    return result.bytes


def _main_bytes(instruction: hlo.Instruction) -> int:
    return sum(array.bytes for array in instruction.arrays if array.in_main_memory)


def _all_in_main_memory(instruction: hlo.Instruction) -> bool:
    return all(array.in_main_memory for array in instruction.arrays)
