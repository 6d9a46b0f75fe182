# SPDX-License-Identifier: Apache-2.0
"""Summary of a small compiled program, against figures computed by hand."""

import pytest

from mrd_jax.analysis import hlo, schedule, traffic

# Two nested loops, a call, a conditional, kernels, synchronous and asynchronous collectives. The
# layouts and the comments in tuples are XLA's; S(1) is the vector memory (VMEM) of a TPU.
PROGRAM = """\
HloModule jit_train_step, is_scheduled=true

%sum.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add.1 = f32[]{:T(128)} add(%a, %b)
}

%tokens (p0: bf16[8,4], p1: bf16[4,16]) -> bf16[8,16] {
  %p0 = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[4,16]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[8,16]{1,0:T(8,128)(2,1)} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%piece (q0: f32[4,4]) -> (f32[4,4], f32[8,4], u32[]) {
  %q0 = f32[4,4]{1,0} parameter(0)
  %all-gather.1 = f32[8,4]{1,0} all-gather(%q0), dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %custom-call.1 = (f32[4,4]{1,0}, f32[8,4]{1,0}, /*index=2*/u32[]{:S(2)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%piece.2 (q1: f32[4,4]) -> f32[8,4] {
  %q1 = f32[4,4]{1,0} parameter(0)
  ROOT %all-gather.2 = f32[8,4]{1,0} all-gather(%q1), dimensions={0}, frontend_attributes={chain_id="0"}
}

%of_losses (l0: f32[4,4]) -> f32[4,4] {
  %l0 = f32[4,4]{1,0} parameter(0)
  %exp.1 = f32[4,4]{1,0} exponential(%l0), metadata={op_name="jit(train_step)/jvp(losses)/exp"}
  %exp.2 = f32[4,4]{1,0} exponential(%exp.1), metadata={op_name="jit(train_step)/jvp(losses)/exp"}
  ROOT %add.2 = f32[4,4]{1,0} add(%exp.1, %exp.2), metadata={op_name="jit(train_step)/optimizer/add"}
}

%inner_condition (c0: (s32[], f32[4,4])) -> pred[] {
  %c0 = (s32[]{:T(128)}, f32[4,4]{1,0}) parameter(0)
  %counter.1 = s32[]{:T(128)} get-tuple-element(%c0), index=0
  %limit.1 = s32[]{:T(128)} constant(99)
  ROOT %less.1 = pred[]{:T(512)} compare(%counter.1, %limit.1), direction=LT
}

%inner_body (b0: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %b0 = (s32[]{:T(128)}, f32[4,4]{1,0}) parameter(0)
  %counter.2 = s32[]{:T(128)} get-tuple-element(%b0), index=0
  %value.2 = f32[4,4]{1,0} get-tuple-element(%b0), index=1
  %negate.1 = f32[4,4]{1,0} negate(%value.2), backend_config={"window_config":{"estimated_cycles":"2"}}
  %fusion.2 = f32[8,4]{1,0} fusion(%value.2), kind=kLoop, calls=%piece.2
  ROOT %tuple.2 = (s32[]{:T(128)}, f32[4,4]{1,0}) tuple(%counter.2, %negate.1)
}

%outer_condition (d0: (s32[], f32[4,4])) -> pred[] {
  %d0 = (s32[]{:T(128)}, f32[4,4]{1,0}) parameter(0)
  %counter.3 = s32[]{:T(128)} get-tuple-element(%d0), index=0
  %limit.3 = s32[]{:T(128)} constant(5)
  ROOT %less.3 = pred[]{:T(512)} compare(%counter.3, %limit.3), direction=LT
}

%outer_body (e0: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %e0 = (s32[]{:T(128)}, f32[4,4]{1,0}) parameter(0)
  %copy.1 = f32[4,4]{1,0} copy(%e0), metadata={op_name="jit(train_step)/jvp(PointBert)/PointBert.describe/gather"}, backend_config={"window_config":{"estimated_cycles":"10"}}
  ROOT %while.1 = (s32[]{:T(128)}, f32[4,4]{1,0}) while(%e0), condition=%inner_condition, body=%inner_body, backend_config={"known_trip_count":{"n":"3"}}
}

%called (f0: f32[4,4]) -> f32[4,4] {
  %f0 = f32[4,4]{1,0} parameter(0)
  ROOT %fusion.3 = f32[4,4]{1,0} fusion(%f0), kind=kLoop, calls=%of_losses, backend_config={"window_config":{"estimated_cycles":"7"}}
}

%cheap (g0: f32[4,4]) -> f32[4,4] {
  %g0 = f32[4,4]{1,0} parameter(0)
  ROOT %negate.2 = f32[4,4]{1,0} negate(%g0), backend_config={"window_config":{"estimated_cycles":"4"}}
}

%costly (h0: f32[4,4]) -> f32[4,4] {
  %h0 = f32[4,4]{1,0} parameter(0)
  ROOT %negate.3 = f32[4,4]{1,0} negate(%h0), backend_config={"window_config":{"estimated_cycles":"9"}}
}

ENTRY %main (x: bf16[8,4], y: bf16[4,16], z: f32[4,4], i: s32[]) -> f32[4,4] {
  %x = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %y = bf16[4,16]{1,0:T(8,128)(2,1)} parameter(1)
  %z = f32[4,4]{1,0} parameter(2)
  %i = s32[]{:T(128)} parameter(3)
  %fusion.1 = bf16[8,16]{1,0:T(8,128)(2,1)} fusion(%x, %y), kind=kOutput, calls=%tokens, metadata={op_name="jit(train_step)/transpose(jvp(PointBert))/tokenizer/layer_0/dot_general"}, backend_config={"window_config":{"estimated_cycles":"100"}}
  %copy.9 = f32[4,4]{1,0:S(1)} copy(%z), metadata={op_name="jit(train_step)/jvp(PointBert)/lift/add"}, backend_config={"window_config":{"estimated_cycles":"9223372036854775807"}}
  %kernel.1 = f32[4,4]{1,0:S(1)} custom-call(%copy.9), custom_call_target="tpu_custom_call"
  %kernel.2 = f32[4,4]{1,0:S(1)} custom-call(%copy.9), custom_call_target="tpu_custom_call", metadata={op_name="jit(train_step)/jvp(PointBert)/transformer/pallas_call"}, backend_config={"custom_call_config":{"cost_estimate":{"flops":"700","transcendentals":"9","bytes_accessed":"8"}}}
  %fusion.4 = (f32[4,4]{1,0}, f32[8,4]{1,0}, /*index=2*/u32[]{:S(2)}) fusion(%z), kind=kLoop, calls=%piece
  %tuple.1 = (s32[]{:T(128)}, f32[4,4]{1,0}) tuple(%i, %z)
  %while.2 = (s32[]{:T(128)}, f32[4,4]{1,0}) while(%tuple.1), condition=%outer_condition, body=%outer_body, metadata={op_name="jit(train_step)/augment/while"}
  %call.1 = f32[4,4]{1,0} call(%z), to_apply=%called
  %conditional.1 = f32[4,4]{1,0} conditional(%i, %z, %z), branch_computations={%cheap, %costly}, metadata={op_name="jit(train_step)/optimizer/cond"}
  %all-reduce.1 = (f32[10]{0:T(128)}, f32[]{:T(128)}) all-reduce(%call.1, %conditional.1), to_apply=%sum.1
  ROOT %add.9 = f32[4,4]{1,0} add(%call.1, %conditional.1)
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def summary():
    return schedule.summarize(hlo.parse(PROGRAM))


def test_cycles_are_multiplied_by_trip_counts_and_assigned_to_parts(summary):
    assert summary.cycles == {
        "tokenizer": 100,
        "grouping": 5 * 10,
        # No name of its own: the part of the enclosing loop. 5 x 3 iterations.
        "augment": 5 * 3 * 2,
        # The part of two of the three instructions in the fusion.
        "losses": 7,
        # The more expensive branch.
        "optimizer": 9,
        # The largest integer stands for no estimate.
        "rest of student": 0,
        # Kernels have no estimate.
        "transformer": 0,
        "other": 0,
    }


def test_collective_in_several_pieces_counts_once(summary):
    assert summary.collectives == {
        "all-gather": schedule.Collective(count=1, bytes=8 * 4 * 4),
        "all-reduce": schedule.Collective(count=1, bytes=11 * 4),
    }


def test_only_bytes_in_main_memory_count(summary):
    assert summary.bytes["tokenizer"] == 2 * (8 * 4 + 4 * 16 + 8 * 16)
    assert summary.bytes["rest of student"] == 4 * 16  # reads main memory, writes vector memory
    assert summary.bytes["augment"] == 5 * 3 * (2 * 64 + 64 + 128)


def test_kernels_with_and_without_declared_operations_are_counted_apart(summary):
    assert summary.kernels == 1
    assert summary.kernel_operations == {"other": 0, "transformer": 700}
    assert summary.unknown_loops == 0


def test_loop_of_unknown_length_counts_once_and_is_reported():
    unknown = PROGRAM.replace("compare(%counter.3, %limit.3)", "compare(%limit.3, %counter.3)")
    summary = schedule.summarize(hlo.parse(unknown))
    assert summary.unknown_loops == 1
    assert summary.cycles["grouping"] == 10


def test_trip_count_is_found_in_a_fused_comparison():
    fused = """\
%less (p: s32[], q: s32[]) -> pred[] {
  %p = s32[] parameter(0)
  %q = s32[] parameter(1)
  ROOT %compare.1 = pred[] compare(%p, %q), direction=LT
}
"""
    fusion = "fusion(%counter.3, %limit.3), kind=kLoop, calls=%less"
    program = PROGRAM.replace("compare(%counter.3, %limit.3), direction=LT", fusion)
    program = program.replace("%sum.1 (a", f"{fused}\n%sum.1 (a", 1)
    assert schedule.summarize(hlo.parse(program)).cycles["grouping"] == 5 * 10


SLICED = """\
%inside (p0: f32[100,8], p1: s32[], p2: f32[1,8]) -> f32[100,8] {{
  %p0 = f32[100,8]{{1,0}} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[1,8]{{1,0}} parameter(2)
  %zero = s32[] constant(0)
  %piece = f32[1,8]{{1,0}} dynamic-slice(%p0, %p1, %zero)
  {root}
}}

ENTRY %main (x: f32[100,8], i: s32[], n: f32[1,8]) -> f32[100,8] {{
  %x = f32[100,8]{{1,0}} parameter(0)
  %i = s32[]{{:S(2)}} parameter(1)
  %n = f32[1,8]{{1,0}} parameter(2)
  ROOT %fusion = {result} fusion(%x, %i, %n), kind=kLoop, calls=%inside
}}
"""
ADD = "ROOT %add = f32[1,8]{1,0} add(%piece, %p2)"
UPDATE = "ROOT %update = f32[100,8]{1,0} dynamic-update-slice(%p0, %p2, %p1, %zero)"
WHOLE = "ROOT %negate = f32[100,8]{1,0} negate(%p0)"


@pytest.mark.parametrize(
    ("root", "result", "wanted"),
    [
        (ADD, "f32[1,8]{1,0}", 32 + 32 + 32),  # the slice, the addend, the sum
        (UPDATE, "f32[100,8]{1,0}", 32 + 32 + 32),  # the slice, the update, and its write
        (WHOLE, "f32[100,8]{1,0}", 3200 + 3200),
    ],
)
def test_slices_and_updates_count_only_their_own_bytes(root, result, wanted):
    module = hlo.parse(SLICED.format(root=root, result=result))
    main = module.computations["main"]
    # The last case does not read the addend.
    assert traffic.count_bytes(main.instructions["fusion"], main, module) == wanted


def test_asynchronous_copies_count_read_and_write_once():
    text = """\
ENTRY %main (x: f32[100]) -> f32[100] {
  %x = f32[100]{0} parameter(0)
  %copy-start.1 = (f32[100]{0:S(1)}, f32[100]{0}, u32[]{:S(2)}) copy-start(%x)
  %copy-done.1 = f32[100]{0:S(1)} copy-done(%copy-start.1)
  %slice-start.1 = ((f32[100]{0}), f32[10]{0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:10]}
  ROOT %slice-done.1 = f32[10]{0:S(1)} slice-done(%slice-start.1)
}
"""
    module = hlo.parse(text)
    assert sum(schedule.summarize(module).bytes.values()) == 400 + 40


def test_malformed_program_is_rejected():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule nothing\n")
    with pytest.raises(ValueError, match="line 2.*not an instruction"):
        hlo.parse("ENTRY %main () -> f32[] {\n  nonsense\n}\n")


def test_array_passed_to_a_kernel_several_times_is_read_once():
    program = """\
HloModule jit_step, is_scheduled=true

ENTRY %main (p: f32[10,10]) -> f32[10] {
  %p = f32[10,10]{1,0} parameter(0)
  ROOT %kernel = f32[10]{0} custom-call(%p, %p, %p), custom_call_target="tpu_custom_call"
}
"""
    assert sum(schedule.summarize(hlo.parse(program)).bytes.values()) == 400 + 40
