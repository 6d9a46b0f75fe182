# SPDX-License-Identifier: Apache-2.0
"""Exported encoders: one file that another process embeds with, without this package."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_encoder import POINTS, random_clouds, tiny_card, tiny_variables

from docs.examples import embed_exported
from mrd_jax import encoder
from mrd_jax.encoder import exporting
from mrd_jax.tools import export

pytest.importorskip("flatbuffers", reason='jax.export needs pip install "mrd_jax[export]"')

# Embeds the clouds of argv[2] with the file of argv[1]; no module of this project can be imported.
READER = """
import sys
for name in ("mrd_jax", "flax", "data_prep", "configs"):
    sys.modules[name] = None
import numpy as np
from jax import export
with np.load(sys.argv[1]) as file:
    program = export.deserialize(bytearray(file["program"]))
    weights = {name: file[name] for name in file if name.startswith("weights/")}
clouds = np.load(sys.argv[2])
np.save(sys.argv[3], program.call(weights, clouds["xyz"], clouds["rgb"]))
"""


# The same with this package, from the folder of the encoder.
WITH_PACKAGE = """
import sys
import numpy as np
from mrd_jax import encoder
clouds = np.load(sys.argv[2])
pairs = list(zip(clouds["xyz"], clouds["rgb"], strict=True))
np.save(sys.argv[3], encoder.load(sys.argv[1]).embed(pairs, batch_size=1))
"""


def run_elsewhere(program, file, clouds, folder, *, isolated):
    """Embeds in a process of a plain machine: one device, no compiler flags of the tests."""
    np.savez(folder / "clouds.npz", xyz=clouds[0], rgb=clouds[1])
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    path = {} if isolated else {"PYTHONPATH": os.pathsep.join(sys.path)}
    flags = ["-I"] if isolated else []
    subprocess.run(
        [sys.executable, *flags, "-c", program, file, folder / "clouds.npz", folder / "out.npy"],
        check=True,
        env=plain | path | {"JAX_PLATFORMS": "cpu"},
        cwd=folder,
    )
    return np.load(folder / "out.npy")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "encoder"
    encoder.save(folder, variables=tiny_variables(), card=tiny_card())
    return folder


@pytest.fixture(scope="module")
def exported(saved):
    out = saved.parent / "encoder.npz"
    arguments = ["--to=stablehlo", f"--checkpoint={saved}", f"--output={out}"]
    assert export.main(arguments) == 0
    return out


@pytest.fixture(scope="module")
def one_by_one(saved):
    loaded = encoder.load(saved, devices=jax.devices()[:1])
    return loaded.embed(random_clouds(3), batch_size=1)


def stacked(clouds):
    return [np.stack(parts) for parts in zip(*clouds, strict=True)]


def test_a_process_without_this_package_gives_the_bits_of_one_with_it(exported, saved, tmp_path):
    clouds = stacked(random_clouds(3))
    found = run_elsewhere(READER, exported, clouds, tmp_path, isolated=True)
    wanted = run_elsewhere(WITH_PACKAGE, saved, clouds, tmp_path, isolated=False)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)


def test_the_file_says_which_version_platforms_and_encoder_it_has(exported):
    with np.load(exported) as file:
        fields = json.loads(str(file["card"]))
        program = jax.export.deserialize(bytearray(file["program"]))
    assert fields["version"] == exporting.VERSION == 1
    assert fields["card"] == tiny_card().as_dict()
    assert program.platforms == tuple(fields["platforms"]) == ("cpu", "cuda", "tpu")
    clouds = [str(shape.shape) for shape in program.in_avals[-2:]]
    assert clouds == [f"(batch, {POINTS}, 3)"] * 2


@pytest.mark.slow
def test_a_fixed_batch_is_embedded_at_once(saved, one_by_one, tmp_path):
    out = tmp_path / "encoder.npz"
    assert (
        export.main(
            ["--to=stablehlo", f"--checkpoint={saved}", f"--output={out}", "--batch_size=3"]
        )
        == 0
    )
    with np.load(out) as file:
        program = jax.export.deserialize(bytearray(file["program"]))
        weights = {name: file[name] for name in file if name.startswith("weights/")}
    assert program.in_avals[-1].shape == (3, POINTS, 3)
    found = program.call(weights, *stacked(random_clouds(3)))
    np.testing.assert_allclose(found, one_by_one, rtol=0, atol=1e-6)


def test_the_example_embeds_a_mesh_as_the_encoder(exported, saved, tmp_path):
    mesh = tmp_path / "tetrahedron.obj"
    mesh.write_text(
        "v 0 0 0\nv 2 0 0\nv 0 1 0\nv 0 0 3\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n", "utf-8"
    )
    found = embed_exported.embed(exported, mesh)
    (xyz,), (rgb,) = embed_exported.prepare(mesh, tiny_card().as_dict())
    want = encoder.load(saved, devices=jax.devices()[:1]).embed([(xyz, rgb)], batch_size=1)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)
    # The file has y up; the largest extent, along its z, is horizontal for the encoder.
    assert np.argmax(np.ptp(xyz, axis=0)) == 1 and xyz[:, 1].min() < -0.5


def test_mistakes_end_before_anything_is_exported(saved, exported, tmp_path, capsys):
    start = ["--to=stablehlo", f"--checkpoint={saved}"]
    for arguments, message in (
        ([f"--output={exported}"], "exists; choose another path"),
        ([f"--output={tmp_path / 'x.bin'}"], "expected a name that ends with .npz"),
        ([f"--output={tmp_path / 'x.npz'}", "--batch_size=-1"], "expected 0 or more"),
    ):
        with pytest.raises(SystemExit):
            export.main([*start, *arguments])
        assert message in capsys.readouterr().err
