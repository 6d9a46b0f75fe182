# SPDX-License-Identifier: Apache-2.0
"""Summarizes the instructions that a compiled program executes: cycles, bytes, communication.

XLA's TPU compiler annotates each scheduled instruction with an estimate of its cycles; its GPU
compiler does not, so that only kernels and bytes can be counted. JAX's `cost_analysis` counts the
body of a loop once; here, every instruction is multiplied by the number of times it runs.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping

from mrd_jax.analysis import hlo, traffic

# Part of a step by the words in an instruction's `op_name`: names of Flax modules and methods, and
# the `jax.named_scope`s of the step. The first word of the path that is listed here decides.
PARTS = {
    "augment": "augment",
    "choose_centres": "grouping",
    "neighbours": "grouping",
    "describe": "grouping",
    "tokenizer": "tokenizer",
    "transformer": "transformer",
    "losses": "losses",
    "gradient_sum": "optimizer",
    "optimizer": "optimizer",
}
# In the student, but in none of the parts above: class token, lift, position, projection.
STUDENT, REST_OF_STUDENT = ("PointBert", "Uni3D"), "rest of student"
# Copies and conversions that the compiler inserted, random keys, metrics.
OTHER = "other"
NAMES = (*dict.fromkeys(PARTS.values()), REST_OF_STUDENT, OTHER)

COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all",
    "collective-broadcast",
)  # fmt: skip

# Opcodes that no GPU kernel is launched for; besides, the second half of an asynchronous operation.
_LAUNCHES_NOTHING = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id "
    "opt-barrier".split()
)

# The compiler writes a value above this where it has no estimate.
_NO_ESTIMATE = 10**14


@dataclasses.dataclass(frozen=True)
class Executed:
    """An instruction that is executed.

    Attributes:
      instruction: the instruction.
      computation: the computation that contains it.
      times: number of executions per step.
      part: part of the step, one of `NAMES`.
    """

    instruction: hlo.Instruction
    computation: hlo.Computation
    times: int
    part: str

    @property
    def cycles(self) -> int:
        """The compiler's estimate for one execution; 0 if it has none."""
        found = re.search(r'"estimated_cycles":"?(\d+)', self.instruction.attributes)
        cycles = int(found[1]) if found else 0
        return cycles if cycles < _NO_ESTIMATE else 0


@dataclasses.dataclass(frozen=True)
class Collective:
    """Communication of one kind in a step.

    Attributes:
      count: number of collectives executed.
      bytes: total size of their results on one device.
    """

    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Summary of one step on one device.

    Attributes:
      cycles: the compiler's estimate by part (see `NAMES`), without communication and kernels.
      bytes: bytes read from and written to main memory, by part.
      collectives: communication by kind.
      kernel_operations: operations that Pallas kernels declare, by part; the compiler does not
        estimate their cycles.
      kernels: number of calls of kernels that declare no operations.
      unknown_loops: number of loops whose trip count is not in the text; they count as one
        iteration.
      launches: number of kernels that a GPU launches, by part, collectives and library calls
        included; a library call may launch several.
      library_calls: number of calls of other libraries and of Pallas kernels by their target, such
        as "__cublas$lt$matmul".
    """

    cycles: Mapping[str, int]
    bytes: Mapping[str, int]
    collectives: Mapping[str, Collective]
    kernel_operations: Mapping[str, int]
    kernels: int
    unknown_loops: int
    launches: Mapping[str, int]
    library_calls: Mapping[str, int]


def summarize(module: hlo.Module) -> Schedule:
    """Sums cycles, bytes and communication over the instructions that a program executes."""
    cycles, moved, operations, launches, calls = (collections.Counter() for _ in range(5))
    kernels, sent = 0, {}
    for run in iterate_executed(module):
        launches[run.part] += run.times * launches_kernel(run.instruction.opcode)
        target = re.search(r'custom_call_target="([^"]*)"', run.instruction.attributes)
        if target:
            calls[target[1]] += run.times
        kind = get_collective_kind(run.instruction.opcode)
        if kind:
            # An asynchronous collective is split into pieces with the same chain_id; it runs as
            # often as the piece with the fewest executions.
            chain = re.search(r'chain_id="(\d+)"', run.instruction.attributes)
            key = (kind, chain[1]) if chain else (kind, run.instruction.name)
            times = min(run.times, sent[key][0]) if key in sent else run.times
            sent[key] = times, _sent_bytes(run.instruction)
            continue
        cycles[run.part] += run.times * run.cycles
        moved[run.part] += run.times * traffic.count_bytes(run.instruction, run.computation, module)
        if "tpu_custom_call" in run.instruction.attributes:
            declared = re.search(r'"cost_estimate":\{"flops":"(\d+)"', run.instruction.attributes)
            operations[run.part] += run.times * int(declared[1] if declared else 0)
            kernels += run.times * (declared is None)
    unknown = sum(
        instruction.opcode == "while" and get_trip_count(instruction, module) is None
        for computation in module.computations.values()
        for instruction in computation.instructions.values()
    )
    by_part = dict(cycles), dict(moved), _by_kind(sent), dict(operations)
    return Schedule(*by_part, kernels, unknown, dict(launches), dict(calls))


def launches_kernel(opcode: str) -> bool:
    """Returns whether an instruction with an opcode launches a kernel on a GPU."""
    return opcode not in _LAUNCHES_NOTHING and not opcode.endswith(("-done", "-update"))


def iterate_executed(module: hlo.Module) -> Iterator[Executed]:
    """Yields the executed instructions; loops and conditionals are replaced by their bodies.

    Of the branches of a conditional, the most expensive one is taken: by cycles, then by bytes. A
    fusion is one instruction, followed by the collectives inside it.
    """
    yield from _walk(module, module.entry, times=1, part=OTHER)


def _walk(module: hlo.Module, name: str, *, times: int, part: str) -> Iterator[Executed]:
    computation = module.computations[name]
    for instruction in computation.instructions.values():
        own = find_part(instruction, module) or part
        opcode = instruction.opcode
        if opcode == "while":
            trips = get_trip_count(instruction, module)
            inner = times * (1 if trips is None else trips)
            yield from _walk(module, instruction.called("body"), times=inner, part=own)
        elif opcode == "conditional":
            branches = [
                list(_walk(module, branch, times=times, part=own))
                for branch in instruction.branches()
            ]
            yield from max(branches, key=functools.partial(_cost, module))
        elif opcode in ("call", "async-start"):
            called = instruction.called("to_apply") or instruction.called("calls")
            yield from _walk(module, called, times=times, part=own)
        else:
            yield Executed(instruction, computation, times, own)
            if opcode == "fusion":
                for inner, fused in _fused_instructions(module, instruction):
                    if get_collective_kind(inner.opcode):
                        yield Executed(inner, fused, times, own)


def _cost(module: hlo.Module, runs: list[Executed]) -> tuple[int, int]:
    """Returns cycles and bytes of a branch."""
    moved = (traffic.count_bytes(run.instruction, run.computation, module) for run in runs)
    return (
        sum(run.times * run.cycles for run in runs),
        sum(run.times * size for run, size in zip(runs, moved, strict=True)),
    )


def _fused_instructions(
    module: hlo.Module, fusion: hlo.Instruction
) -> Iterator[tuple[hlo.Instruction, hlo.Computation]]:
    """Yields the instructions of a fusion with their computation, nested fusions included."""
    computation = module.computations[fusion.called("calls")]
    for instruction in computation.instructions.values():
        yield instruction, computation
        if instruction.opcode == "fusion":
            yield from _fused_instructions(module, instruction)


def find_part(instruction: hlo.Instruction, module: hlo.Module) -> str | None:
    """Returns the part of the step that an instruction belongs to, None if it is unknown.

    A fusion carries the name of one of its instructions. If that name is in no part, the most
    frequent part among its instructions is returned.
    """
    part = _part_of_name(instruction.op_name)
    if part is None and instruction.opcode == "fusion":
        fused = _fused_instructions(module, instruction)
        inner = (_part_of_name(inner.op_name) for inner, _ in fused)
        votes = collections.Counter(part for part in inner if part)
        part = votes.most_common(1)[0][0] if votes else None
    return part


def _part_of_name(op_name: str) -> str | None:
    words = re.findall(r"\w+", op_name)
    for word in words:
        if word in PARTS:
            return PARTS[word]
    return REST_OF_STUDENT if any(word in STUDENT for word in words) else None


def get_trip_count(loop: hlo.Instruction, module: hlo.Module) -> int | None:
    """Returns the number of iterations of a `while` instruction, None if it is not in the text.

    It is either annotated by the compiler, or the constant that the condition compares the counter
    with. Counters are assumed to start at 0 and to be incremented by 1, as in `jax.lax.scan`.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition = module.computations[loop.called("condition")]
    compare = condition.instructions[condition.root]
    if compare.opcode == "fusion":
        condition = module.computations[compare.called("calls")]
        outer = module.computations[loop.called("condition")].instructions
        arguments = [outer[name] for name in compare.operands]
        compare = condition.instructions[condition.root]
    else:
        arguments = []
    if compare.opcode != "compare" or "direction=LT" not in compare.attributes:
        return None
    limit = condition.instructions[compare.operands[1]]
    if limit.opcode == "parameter" and arguments:
        limit = arguments[int(limit.operand_text)]
    return int(limit.operand_text) if limit.opcode == "constant" else None


def get_collective_kind(opcode: str) -> str | None:
    """Returns the kind of collective that an opcode starts, None for other opcodes."""
    kind = opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES else None


def _sent_bytes(instruction: hlo.Instruction) -> int:
    """Returns the size of the result; a "-start" instruction lists its operands before it."""
    if not instruction.opcode.endswith("-start") or instruction.opcode == "all-reduce-start":
        return instruction.bytes
    return sum(array.bytes for array in instruction.arrays[len(instruction.operands) :])


def _by_kind(sent: Mapping[tuple[str, str], tuple[int, int]]) -> dict[str, Collective]:
    kinds = {}
    for (kind, _), (times, size) in sent.items():
        before = kinds.get(kind, Collective(0, 0))
        kinds[kind] = Collective(before.count + times, before.bytes + times * size)
    return kinds
