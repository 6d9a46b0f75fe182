# SPDX-License-Identifier: Apache-2.0
"""The convert command, from a released checkpoint file to a loaded encoder."""

import hashlib

import jax
import numpy as np
import peers
import pytest
import safetensors.numpy
from tiny import assert_trees_equal

from mrd_jax import encoder, models
from mrd_jax.checkpoints import initial_weights, model_card
from mrd_jax.tools import convert

OPTIONS = {
    "openshape_small": ["--groups=64", "--group_size=16", "--radius=0.3", "--heads=2"],
    "uni3d_small_swiglu": ["--groups=48", "--group_size=24", "--heads=3"],
}


def checkpoint(folder, name):
    state = {f"module.{key}": np.ascontiguousarray(v) for key, v in peers.small_state(name).items()}
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(state, path)
    return path


@pytest.mark.parametrize("name", OPTIONS)
def test_a_converted_file_embeds_like_the_released_model(tmp_path, name, capsys):
    path, source = checkpoint(tmp_path, name), name.partition("_")[0]
    out = tmp_path / "encoder"
    convert.main(
        [f"--from={source}", f"--checkpoint={path}", f"--output={out}", "--licence=MIT"]
        + OPTIONS[name]
    )
    lines = capsys.readouterr().out.splitlines()
    for key in peers.small_state(name):
        assert sum(line.split()[0] == key for line in lines) == 1
    assert any(line.endswith("(not used)") for line in lines)

    peer, loaded = peers.small(name), encoder.load(out, teacher=convert.TEACHERS[source])
    got = jax.jit(loaded.model.apply)(
        jax.device_get(loaded.variables), peer["in/xyz"], peer["in/rgb"]
    )
    np.testing.assert_allclose(got, peer["out/embedding"], rtol=0, atol=peers.PARITY)
    card = loaded.card
    assert card.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (card.source, card.source_file, card.licence) == (source, path.name, "MIT")
    assert (card.from_y_up, card.colour_fill, card.points) == ("swap", 0.4, 10_000)


def test_loading_for_another_teacher_is_rejected(tmp_path):
    out = tmp_path / "encoder"
    name = "openshape_small"
    path = checkpoint(tmp_path, name)
    convert.main(["--from=openshape", f"--checkpoint={path}", f"--output={out}", *OPTIONS[name]])
    with pytest.raises(model_card.CardMismatchError, match="laion/CLIP-ViT-bigG.*'lit'"):
        encoder.load(out, teacher="lit")


def test_a_file_of_another_source_is_an_error_and_writes_nothing(tmp_path, capsys):
    path = checkpoint(tmp_path, "openshape_small")
    out = tmp_path / "encoder"
    status = convert.main(["--from=uni3d", f"--checkpoint={path}", f"--output={out}"])
    assert status == 2 and not out.exists()
    assert "which every uni3d checkpoint has" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--from=eva"], ["--from=uni3d", "--size=b"]])
def test_size_is_required_with_image_weights_and_only_there(arguments, capsys):
    with pytest.raises(SystemExit):
        convert.parse_options([*arguments, "--checkpoint=x", "--output=y"])
    assert "--from eva needs it" in capsys.readouterr().err


def test_image_weights_are_written_for_initial_weights(tmp_path, capsys):
    prefix = "point_encoder.visual."
    rng = np.random.default_rng(0)
    state = {
        key.removeprefix(prefix): rng.normal(size=shape).astype(np.float32)
        for key, shape in peers.released_keys()["uni3d-ti"][0].items()
        if key.startswith(prefix)
    }
    safetensors.numpy.save_file(state, tmp_path / "eva.safetensors")
    out = tmp_path / "eva.npz"
    convert.main(
        ["--from=eva", "--size=ti", f"--checkpoint={tmp_path / 'eva.safetensors'}"]
        + [f"--output={out}"]
    )
    assert f"--config.initial_weights={out}" in capsys.readouterr().out
    variables = initial_weights.load(str(out))
    model = models.build_model(models.RELEASED["uni3d-ti"] | {"out_dim": 8})
    shapes = model_card.abstract_variables(model, points=512)["params"]
    got = {part: variables["params"][part] for part in ("transformer", "norm")}
    assert set(variables["params"]) == set(got)
    assert_trees_equal(
        jax.tree.map(np.shape, got, is_leaf=lambda x: hasattr(x, "shape")),
        jax.tree.map(lambda leaf: leaf.shape, {part: shapes[part] for part in got}),
    )
    kernel = got["transformer"]["blocks"]["attention"]["output"]["kernel"][3]
    np.testing.assert_array_equal(kernel, state["blocks.3.attn.proj.weight"].T)
