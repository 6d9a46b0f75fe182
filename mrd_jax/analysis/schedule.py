# SPDX-License-Identifier: Apache-2.0
"""What a compiled program executes, how often, for which part of the model, in how many cycles.

XLA's TPU compiler writes its own estimate of cycles beside each instruction it schedules. Its
`cost_analysis` counts the body of a loop once; here every instruction counts as often as it runs.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping

from mrd_jax.analysis import hlo, traffic

# Parts of a step, by the words that stand in an instruction's `op_name`: names of Flax modules and
# methods, and the `jax.named_scope`s of the step. The first word of a path that is listed decides.
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
# Of the student, but of no part above: first token, lift, position, projection.
STUDENT, REST_OF_STUDENT = ("PointBert", "Uni3D"), "rest of student"
# Copies and conversions that the compiler made up, keys, metrics.
OTHER = "other"
NAMES = (*dict.fromkeys(PARTS.values()), REST_OF_STUDENT, OTHER)

COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all",
    "collective-broadcast",
)  # fmt: skip

# Larger than any estimate of a real instruction: what the compiler writes where it has none.
_NO_ESTIMATE = 10**14


@dataclasses.dataclass(frozen=True)
class Executed:
    """An instruction that runs, with its place.

    Attributes:
      instruction: of `computation`.
      computation: that holds it.
      times: how often it runs in one step.
      part: of the model.
    """

    instruction: hlo.Instruction
    computation: hlo.Computation
    times: int
    part: str

    @property
    def cycles(self) -> int:
        """The compiler's estimate for one run; 0 where it has none."""
        found = re.search(r'"estimated_cycles":"?(\d+)', self.instruction.attributes)
        cycles = int(found[1]) if found else 0
        return cycles if cycles < _NO_ESTIMATE else 0


@dataclasses.dataclass(frozen=True)
class Collective:
    """What one kind of communication sends in a step.

    Attributes:
      count: how many run.
      bytes: of their results on one device.
    """

    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What one step executes on one device.

    Attributes:
      cycles: by part, see `NAMES`; the compiler's estimate, without communication and kernels.
      bytes: by part, read from and written to main memory.
      collectives: by kind.
      kernel_operations: by part, what hand-written kernels say that they multiply and add; the
        compiler has no estimate of their cycles.
      kernels: calls of those that do not say.
      unknown_loops: loops whose length the text does not tell; they count as one round.
    """

    cycles: Mapping[str, int]
    bytes: Mapping[str, int]
    collectives: Mapping[str, Collective]
    kernel_operations: Mapping[str, int]
    kernels: int
    unknown_loops: int


def read(module: hlo.Module) -> Schedule:
    """Adds up what a program executes."""
    cycles, moved, operations = (collections.Counter() for _ in range(3))
    kernels, sent = 0, {}
    for run in executed(module):
        opcode = run.instruction.opcode
        kind = collective_kind(opcode)
        if kind:
            # An asynchronous one is spread over pieces that share a chain: it runs as often as
            # the piece that runs least.
            chain = re.search(r'chain_id="(\d+)"', run.instruction.attributes)
            key = (kind, chain[1]) if chain else (kind, run.instruction.name)
            times = min(run.times, sent[key][0]) if key in sent else run.times
            sent[key] = times, _sent_bytes(run.instruction)
            continue
        cycles[run.part] += run.times * run.cycles
        moved[run.part] += run.times * traffic.bytes_of(run.instruction, run.computation, module)
        if "tpu_custom_call" in run.instruction.attributes:
            said = re.search(r'"cost_estimate":\{"flops":"(\d+)"', run.instruction.attributes)
            operations[run.part] += run.times * int(said[1] if said else 0)
            kernels += run.times * (said is None)
    unknown = sum(
        instruction.opcode == "while" and trip_count(instruction, module) is None
        for computation in module.computations.values()
        for instruction in computation.instructions.values()
    )
    by_part = dict(cycles), dict(moved), _by_kind(sent), dict(operations)
    return Schedule(*by_part, kernels, unknown)


def executed(module: hlo.Module) -> Iterator[Executed]:
    """The instructions that run, bodies of loops and branches instead of the loops themselves.

    A fusion is one instruction; only the communication inside is given as well.
    """
    yield from _walk(module, module.entry, times=1, part=OTHER)


def _walk(module: hlo.Module, name: str, *, times: int, part: str) -> Iterator[Executed]:
    computation = module.computations[name]
    for instruction in computation.instructions.values():
        own = part_of(instruction, module) or part
        opcode = instruction.opcode
        if opcode == "while":
            rounds = trip_count(instruction, module)
            inner = times * (1 if rounds is None else rounds)
            yield from _walk(module, instruction.called("body"), times=inner, part=own)
        elif opcode == "conditional":
            branches = [
                list(_walk(module, branch, times=times, part=own))
                for branch in instruction.branches()
            ]
            yield from max(branches, key=lambda runs: sum(run.times * run.cycles for run in runs))
        elif opcode in ("call", "async-start"):
            called = instruction.called("to_apply") or instruction.called("calls")
            yield from _walk(module, called, times=times, part=own)
        else:
            yield Executed(instruction, computation, times, own)
            if opcode == "fusion":
                for inner, holder in _inside(module, instruction):
                    if collective_kind(inner.opcode):
                        yield Executed(inner, holder, times, own)


def _inside(
    module: hlo.Module, fusion: hlo.Instruction
) -> Iterator[tuple[hlo.Instruction, hlo.Computation]]:
    """All instructions of a fusion, those of fusions in it included."""
    computation = module.computations[fusion.called("calls")]
    for instruction in computation.instructions.values():
        yield instruction, computation
        if instruction.opcode == "fusion":
            yield from _inside(module, instruction)


def part_of(instruction: hlo.Instruction, module: hlo.Module) -> str | None:
    """The part of the model that an instruction belongs to; None where nothing tells.

    A fusion carries the name of one of its instructions; where that one is of no part, the part
    that most of the others are of.
    """
    part = _part_of_name(instruction.op_name)
    if part is None and instruction.opcode == "fusion":
        inner = (_part_of_name(inner.op_name) for inner, _ in _inside(module, instruction))
        votes = collections.Counter(part for part in inner if part)
        part = votes.most_common(1)[0][0] if votes else None
    return part


def _part_of_name(op_name: str) -> str | None:
    words = re.findall(r"\w+", op_name)
    for word in words:
        if word in PARTS:
            return PARTS[word]
    return REST_OF_STUDENT if any(word in STUDENT for word in words) else None


def trip_count(loop: hlo.Instruction, module: hlo.Module) -> int | None:
    """How often the body of a `while` runs; None where the text does not tell.

    Either the compiler says so, or the condition compares a counter with a constant. Counters are
    taken to start at 0 and to go up by 1, as those of `jax.lax.scan` do.
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


def collective_kind(opcode: str) -> str | None:
    """The kind of communication that an instruction starts; None for everything else."""
    kind = opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES else None


def _sent_bytes(instruction: hlo.Instruction) -> int:
    """Size of the result; a started one also lists its operands, before the results."""
    if not instruction.opcode.endswith("-start") or instruction.opcode == "all-reduce-start":
        return instruction.bytes
    return sum(array.bytes for array in instruction.arrays[len(instruction.operands) :])


def _by_kind(sent: Mapping[tuple[str, str], tuple[int, int]]) -> dict[str, Collective]:
    kinds = {}
    for (kind, _), (times, size) in sent.items():
        before = kinds.get(kind, Collective(0, 0))
        kinds[kind] = Collective(before.count + times, before.bytes + times * size)
    return kinds
