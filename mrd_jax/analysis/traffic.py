# SPDX-License-Identifier: Apache-2.0
"""Counts the bytes that an instruction reads from and writes to a device's main memory.

Each operand and each result counts once, without padding. A slice or gather counts the elements it
takes, an update in place the elements it writes. Arrays that the compiler placed in a faster memory
do not count, nor does the workspace of a cuBLAS or cuDNN call. Arrays that stay in a GPU's L2 cache
between two operations count.
"""

import re

from mrd_jax.analysis import hlo

# Opcodes that move no data of their own.
_MOVES_NOTHING = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id "
    "opt-barrier iota".split()
)
# Opcodes that read as many bytes of their first operand as they return.
_TAKES = ("slice", "dynamic-slice", "gather")
_UPDATES = "dynamic-update-slice"
# Calls whose last result is a workspace.
_LIBRARY_CALL = re.compile(r'custom_call_target="__cu(?:blas|dnn)')


def count_bytes(
    instruction: hlo.Instruction, computation: hlo.Computation, module: hlo.Module
) -> int:
    """Returns the bytes that one execution of an instruction moves.

    Args:
      instruction: an instruction from `schedule.iterate_executed`.
      computation: computation that contains the instruction.
      module: program that contains the computation.
    """
    opcode = instruction.opcode
    if opcode in _MOVES_NOTHING or opcode.endswith("-done"):
        return 0
    operands = [computation.instructions[name] for name in instruction.operands]
    if opcode == "slice-start":
        taken = instruction.arrays[1]
        return taken.bytes * (taken.in_main_memory + _all_in_main_memory(operands[0]))
    if opcode == "copy-start":
        # The result holds destination, source and a semaphore.
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
    if opcode == "custom-call" and _LIBRARY_CALL.search(instruction.attributes):
        results = instruction.arrays[: max(1, len(instruction.arrays) - 1)]
        return sum(map(_main_bytes, operands)) + sum(array.bytes for array in results)
    # A kernel may have one array as several operands, each for a part of it.
    distinct = {array.name: array for array in [*operands, instruction]}.values()
    return sum(map(_main_bytes, distinct))


def _fusion_bytes(
    fusion: hlo.Instruction, operands: list[hlo.Instruction], inside: hlo.Computation
) -> int:
    parameters = {
        int(instruction.operand_text): instruction
        for instruction in inside.instructions.values()
        if instruction.opcode == "parameter"
    }
    read = 0
    for number, operand in enumerate(operands):
        whole = _main_bytes(operand)
        read += min(whole, _bytes_read(parameters[number], inside)) if whole else 0
    root = inside.instructions[inside.root]
    results = (
        [inside.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    )
    if len(results) != len(fusion.arrays):
        return read + _main_bytes(fusion)
    written = (
        _bytes_written(result, inside) * array.in_main_memory
        for result, array in zip(results, fusion.arrays, strict=True)
    )
    return read + sum(written)


def _bytes_read(parameter: hlo.Instruction, inside: hlo.Computation) -> int:
    """Returns the bytes of a parameter that the instructions of a fusion read."""
    total = 0
    for user in inside.instructions.values():
        if parameter.name not in user.operands:
            continue
        if user.opcode == "bitcast":
            total += _bytes_read(user, inside)
        elif user.opcode in _TAKES and user.operands[0] == parameter.name:
            total += user.bytes
        elif not (user.opcode == _UPDATES and user.operands[0] == parameter.name):
            return parameter.bytes
    return total


def _bytes_written(result: hlo.Instruction, inside: hlo.Computation) -> int:
    """Returns the bytes of a result that are written."""
    while result.opcode == "bitcast":
        result = inside.instructions[result.operands[0]]
    if result.opcode == _UPDATES:
        return inside.instructions[result.operands[1]].bytes
    return result.bytes


def _main_bytes(instruction: hlo.Instruction) -> int:
    return sum(array.bytes for array in instruction.arrays if array.in_main_memory)


def _all_in_main_memory(instruction: hlo.Instruction) -> bool:
    return all(array.in_main_memory for array in instruction.arrays)
