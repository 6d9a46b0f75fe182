# SPDX-License-Identifier: Apache-2.0
"""Encoders become checkpoints of the peers' PyTorch modules, exactly, and can be read back."""

import json

import exported
import jax
import numpy as np
import peers
import pytest
import safetensors.numpy
from tiny import assert_trees_equal
from tiny_encoder import tiny_card

from mrd_jax import convert, encoder, models
from mrd_jax.checkpoints import model_card
from mrd_jax.convert import files, openshape, rules
from mrd_jax.models import axes
from mrd_jax.tools import convert as convert_tool

# Arrays of the modules that no encoder uses, besides the counters.
UNUSED = (".visual.cls_token", ".visual.pos_embed", ".visual.patch_embed.", ".visual.head.")


def is_unused(key):
    return key == "logit_scale" or key.endswith("tracked") or any(part in key for part in UNUSED)


@pytest.fixture(scope="module")
def computed_by_peers():
    with np.load(peers.FIXTURES / "exported.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", peers.SMALL)
def test_a_released_state_dict_returns_bit_for_bit(name):
    peer, state = peers.small(name), peers.small_state(name)
    student = model_card.student_of(peer.model)
    source = name.partition("_")[0]
    found, filled = convert.to_state_dict(peer.variables, student=student, source=source)
    assert found.keys() == state.keys()
    assert set(filled) == {key for key in state if is_unused(key)}
    for key in state.keys() - set(filled):
        assert found[key].dtype == state[key].dtype == np.float32
        np.testing.assert_array_equal(found[key], state[key], err_msg=key)


@pytest.mark.parametrize("name", peers.SMALL)
def test_a_relation_head_is_left_out(name):
    peer = peers.small(name)
    params = peer.variables["params"]
    two = peer.variables | {"params": params | {"relation_projection": params["projection"]}}
    student = model_card.student_of(peer.model)
    (found, filled), (wanted, as_filled) = (
        convert.to_state_dict(variables, student=student | head, source=name.partition("_")[0])
        for variables, head in ((two, {"relation_head": "linear"}), (peer.variables, {}))
    )
    assert found.keys() == wanted.keys() and filled == as_filled
    for key, array in wanted.items():
        np.testing.assert_array_equal(found[key], array)


@pytest.mark.parametrize("name", models.RELEASED)
def test_every_published_size_gets_the_keys_and_shapes_of_its_release(name):
    keys, _ = peers.released_keys()[name]
    out_dim = {"openshape-b32": 512, "openshape-l14": 768}.get(name)
    out_dim = out_dim or (1280 if name.startswith("openshape") else 1024)
    model = models.build_model(models.RELEASED[name] | {"out_dim": out_dim})
    shapes = model_card.abstract_variables(model, points=512)
    # Zeros without memory.
    variables = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    state, filled = convert.to_state_dict(
        variables, student=model_card.student_of(model), source=name.partition("-")[0]
    )
    prefix = openshape.CLIP_PREFIX if name in convert_tool.CLIP_STUDENTS else ""
    assert {prefix + key: value.shape for key, value in state.items()} == keys
    assert {key for key, value in state.items() if value.dtype != np.float32} == {
        key for key in state if key.endswith("num_batches_tracked")
    }
    assert set(filled) == {key for key in state if is_unused(key)}


@pytest.mark.parametrize("case", exported.CASES)
def test_the_module_of_the_peer_loaded_every_array_in_its_place(case, computed_by_peers):
    source, up_axis, _ = exported.CASES[case]
    variables = exported.variables(case)
    if up_axis == "y":
        variables = axes.weights_for_y_up(
            variables, architecture=exported.student(case)["name"], convention="rotate"
        )
    state, _ = convert.to_state_dict(variables, student=exported.student(case), source=source)
    want = computed_by_peers[f"{case}/sums"]
    np.testing.assert_allclose(exported.sums(state), want, rtol=1e-9, atol=1e-9)


# Architectures without a fixture of the released modules; the others differ in the direction only.
NEW = ("openshape_xyz", "openshape_bare")


@pytest.mark.parametrize(
    "case",
    [
        case if case in NEW else pytest.param(case, marks=pytest.mark.slow)
        for case in exported.CASES
    ],
)
def test_the_module_of_the_peer_embeds_as_the_encoder(case, computed_by_peers):
    model = models.build_model(exported.CASES[case][2])
    found = jax.jit(model.apply)(exported.variables(case), *exported.clouds())
    want = computed_by_peers[f"{case}/embedding"]
    np.testing.assert_allclose(found, want, rtol=0, atol=peers.PARITY)


@pytest.mark.parametrize("convention", ["rotate", "swap"])
@pytest.mark.parametrize("case", ["openshape", "openshape_xyz", "uni3d_gelu"])
def test_the_weights_for_y_up_take_the_points_before_the_conversion_to_z_up(case, convention):
    variables, architecture = exported.variables(case), exported.student(case)["name"]
    options = dict(architecture=architecture, convention=convention)
    turned = axes.weights_for_y_up(variables, **options)
    y_up = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    x, y, z = y_up.T
    z_up = np.stack([x, -z, y] if convention == "rotate" else [x, z, y], axis=1)
    np.testing.assert_array_equal(axes.to_y_up(z_up, convention=convention), y_up)
    second = ("lift", "kernel") if architecture == "point_bert" else ("position_hidden", "kernel")
    rows = [("tokenizer", "layer_0", "kernel", 0), (*second, 0)]
    rows += [("tokenizer", "layer_0", "kernel", 3)] if architecture == "point_bert" else []
    for *path, first in rows:
        before, after = variables["params"], turned["params"]
        for name in path:
            before, after = before[name], after[name]
        part = slice(first, first + 3)
        np.testing.assert_allclose(y_up @ after[part], z_up @ before[part], rtol=1e-6, atol=1e-6)
    assert_trees_equal(axes.weights_for_z_up(turned, **options), variables)


@pytest.fixture
def saved(tmp_path):
    def save(case, **fields):
        student, variables = exported.student(case), exported.variables(case)
        card = tiny_card(
            student=student, teacher_dim=student["out_dim"], points=exported.POINTS,
            parameters=model_card.count_parameters(variables), **fields,
        )  # fmt: skip
        encoder.save(tmp_path / case, variables=variables, card=card)
        return tmp_path / case

    return save


@pytest.mark.parametrize("case", ["openshape_bare", "openshape_xyz", "uni3d_swiglu_norm"])
def test_a_written_file_is_read_back_to_the_same_encoder(case, saved, tmp_path, capsys):
    source, up_axis, fields = exported.CASES[case]
    out = tmp_path / "model.safetensors"
    folder = saved(case, module_up_axis=up_axis)
    status = convert_tool.main([f"--to={source}", f"--checkpoint={folder}", f"--output={out}"])
    assert status == 0
    printed = capsys.readouterr().out
    described = json.loads(out.with_suffix(".json").read_text())
    assert described["up_axis"] == up_axis and described["encoder"]["licence"] == "CC0"
    for key in described["filled"]:
        assert f"{key}  (not used: filled" in printed
    again = tmp_path / "again"
    options = [f"--groups={fields['groups']}", f"--group_size={fields['group_size']}"]
    options += [f"--heads={fields['heads']}"]
    options += [f"--radius={fields['radius']}"] if source == "openshape" else []
    read = [f"--from={source}", f"--checkpoint={out}", f"--output={again}"]
    assert convert_tool.main([*read, *options]) == 0
    found = encoder.load(again)
    assert_trees_equal(found.variables, exported.variables(case))
    assert found.card.student == exported.student(case)
    # The vertical axis is read from the card beside the file: a release of Uni3D would have y up.
    assert found.card.module_up_axis == up_axis


def test_an_encoder_for_clouds_with_y_up_embeds_the_same_shapes(saved, tmp_path):
    folder, out = saved("uni3d_gelu"), tmp_path / "model.safetensors"
    arguments = ["--to=uni3d", "--up=y", f"--checkpoint={folder}", f"--output={out}"]
    assert convert_tool.main(arguments) == 0
    out.with_suffix(".json").unlink()
    fields = exported.CASES["uni3d_gelu"][2]
    options = [f"--{name}={fields[name]}" for name in ("groups", "group_size", "heads")]
    again = ["--from=uni3d", f"--checkpoint={out}", f"--output={tmp_path / 'again'}", *options]
    assert convert_tool.main(again) == 0
    want = axes.weights_for_y_up(
        exported.variables("uni3d_gelu"), architecture="uni3d", convention="rotate"
    )
    found = encoder.load(tmp_path / "again")
    assert_trees_equal(found.variables, want)
    assert found.card.module_up_axis == "y"


def test_an_existing_file_is_kept(saved, tmp_path, capsys):
    folder = saved("openshape")
    for existing, message in (("x.safetensors", "x.safetensors exists"), ("x.json", "x.json exi")):
        (tmp_path / existing).write_text("mine")
        arguments = ["--to=openshape", f"--checkpoint={folder}"]
        assert convert_tool.main([*arguments, f"--output={tmp_path / 'x.safetensors'}"]) == 2
        assert message in capsys.readouterr().err
        assert (tmp_path / existing).read_text() == "mine"
        (tmp_path / existing).unlink()


def test_an_encoder_of_another_architecture_or_without_a_form_is_an_error():
    variables, student = exported.variables("openshape"), exported.student("openshape")
    with pytest.raises(ValueError, match="a point_bert; a module of uni3d holds a uni3d"):
        convert.to_state_dict(variables, student=student, source="uni3d")
    for heads in (1, 4):
        with pytest.raises(ValueError, match=f"its {heads} heads share 128 channels"):
            convert.to_state_dict(variables, student=student | {"heads": heads}, source="openshape")


def test_a_leaf_without_a_rule_or_with_two_is_an_error_with_its_path():
    leaf = np.zeros((2, 6))
    table = (rules.Rule("a", "x/kernel", part=(0, 2)), rules.Rule("b", "x/kernel", part=(1, 2)))
    assert rules.invert({"x": {"kernel": leaf}}, rules=table, layout="").keys() == {"a", "b"}
    with pytest.raises(ValueError, match=r"y: filled by the parts \[\]"):
        rules.invert({"x": {"kernel": leaf}, "y": leaf}, rules=table, layout="")
    for wrong in (table[:1], (*table, rules.Rule("c", "x/kernel"))):
        with pytest.raises(ValueError, match="x/kernel: filled by the parts"):
            rules.invert({"x": {"kernel": leaf}}, rules=wrong, layout="")


@pytest.mark.parametrize("case", ["openshape", "openshape_bare", "uni3d_swiglu"])
def test_a_pickle_has_the_layout_of_the_release(case, saved, tmp_path):
    torch = pytest.importorskip("torch", reason='pickles need pip install "mrd_jax[convert]"')
    source, out = exported.CASES[case][0], tmp_path / "model.pt"
    arguments = [f"--to={source}", f"--checkpoint={saved(case)}", f"--output={out}"]
    assert convert_tool.main(arguments) == 0
    content = torch.load(out, weights_only=True)
    entry = {"openshape": "state_dict", "uni3d_swiglu": "module"}.get(case)
    keys = list(content[entry] if entry else content)
    prefix = {"openshape": "module.", "openshape_bare": "pc_encoder."}.get(case, "")
    assert all(key.startswith(prefix) for key in keys)
    beside = tmp_path / "model.safetensors"
    arguments[-1] = f"--output={beside}"
    out.with_suffix(".json").unlink()
    assert convert_tool.main(arguments) == 0
    want = safetensors.numpy.load_file(beside)
    found = files.read(out, source=source)
    assert found.keys() == want.keys()
    for key, value in want.items():
        assert found[key].dtype == value.dtype and found[key].shape == value.shape
        np.testing.assert_array_equal(found[key], value)
