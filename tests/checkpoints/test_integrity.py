# SPDX-License-Identifier: Apache-2.0
"""A damaged checkpoint is noticed, named and set aside; it is never what a run goes on from."""

import json
import random

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from tiny import assert_trees_equal, tiny_config
from tiny_encoder import tiny_card, tiny_variables

from mrd_jax import encoder
from mrd_jax.checkpoints import manager, manifest, paths, restore
from mrd_jax.tools import verify

FLIPS = 200


def state(s):
    rng = np.random.default_rng(s)
    return {"step": jnp.int32(s), "w": {"a": jnp.asarray(rng.normal(size=(40, 30)), jnp.float32)}}


def open_workdir(folder, **options):
    return manager.CheckpointManager(
        str(folder), config=tiny_config(checkpoints_kept=3), fingerprint="data", **options
    )


@pytest.fixture
def workdir(tmp_path):
    """Three saved steps."""
    checkpoints = open_workdir(tmp_path, card=tiny_card())
    for s in (1, 2, 3):
        checkpoints.save(state(s), step=s)
    checkpoints.close()
    return tmp_path


def flip(path, *, byte, bit=0):
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def largest_file(folder):
    """Of those with arrays in them, in a folder that Orbax wrote."""
    return max(folder.rglob("d/*"), key=lambda file: file.stat().st_size)


def damage(folder):
    """One bit of an array, which Orbax itself restores without a word."""
    file = largest_file(folder)
    flip(file, byte=file.stat().st_size // 2)


def damage_step(workdir, step):
    damage(workdir / "checkpoints" / str(step))


def restored(workdir, **options):
    checkpoints = open_workdir(workdir, **options)
    try:
        return checkpoints.restore(state(0))
    finally:
        checkpoints.close()


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_it_read(workdir, caplog):
    damage_step(workdir, 3)
    assert_trees_equal(restored(workdir), state(2))
    assert "1 of 2 arrays are not what was saved: w/a" in caplog.text
    assert "checkpoint 3 was moved to" in caplog.text
    assert sorted(f.name for f in (workdir / "checkpoints").iterdir()) == ["1", "2"]
    assert (workdir / "corrupt" / "3" / "state").is_dir()


def test_the_step_that_was_set_aside_can_be_saved_again(workdir):
    damage_step(workdir, 3)
    checkpoints = open_workdir(workdir)
    checkpoints.restore(state(0))
    checkpoints.save(state(3), step=3)
    checkpoints.close()
    damage_step(workdir, 3)
    assert_trees_equal(restored(workdir), state(2))
    assert sorted(f.name for f in (workdir / "corrupt").iterdir()) == ["3", "3_again"]


def test_without_one_whole_checkpoint_a_run_does_not_begin_anew(workdir):
    for step in (1, 2, 3):
        damage_step(workdir, step)
    with pytest.raises(
        manifest.CorruptCheckpointError, match=r"every checkpoint was corrupt \(\[1, 2, 3\]"
    ):
        restored(workdir)


def test_reading_only_a_damaged_checkpoint_is_an_error_and_nothing_moves(workdir):
    damage_step(workdir, 3)
    with pytest.raises(manifest.CorruptCheckpointError, match="w/a"):
        restored(workdir, read_only=True)
    assert (workdir / "checkpoints" / "3").is_dir() and not (workdir / "corrupt").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as below
@pytest.mark.parametrize("fault", ["cut", "gone", "no manifest"])
def test_files_that_are_cut_or_gone_are_noticed(workdir, fault):
    file = largest_file(workdir / "checkpoints" / "3")
    if fault == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif fault == "gone":
        file.unlink()
    else:
        (workdir / "checkpoints" / "3" / "manifest" / "metadata").unlink()
    with pytest.raises(manifest.CorruptCheckpointError, match=r"checkpoints/3"):
        restored(workdir, read_only=True)
    assert_trees_equal(restored(workdir), state(2))


@pytest.mark.parametrize(
    "target, message",
    [
        ({"step": jnp.int32(0), "w": {"a": jnp.zeros((40, 30), jnp.bfloat16)}}, "bfloat16"),
        ({"step": jnp.int32(0), "w": {"a": jnp.zeros((40, 31), jnp.float32)}}, r"\[40, 31\] here"),
        ({"step": jnp.int32(0), "w": {"b": jnp.zeros((40, 30), jnp.float32)}}, "w/b: absent there"),
    ],
)
def test_another_state_is_refused_and_the_checkpoint_left_in_place(workdir, target, message):
    checkpoints = open_workdir(workdir)
    with pytest.raises(manager.StateMismatchError, match=message):
        checkpoints.restore(target)
    checkpoints.close()
    assert (workdir / "checkpoints" / "3").is_dir()


def test_what_a_killed_save_left_is_removed_by_the_run_and_by_nobody_else(workdir):
    step = workdir / "checkpoints" / "3"
    left = step.rename(step.with_name("3.orbax-checkpoint-tmp"))
    assert paths.newest(workdir).name == "2"
    open_workdir(workdir, read_only=True).close()
    assert left.exists()
    checkpoints = open_workdir(workdir)
    checkpoints.save(state(3), step=3)  # waits until there is room
    checkpoints.close()
    assert not left.exists()
    assert_trees_equal(restored(workdir), state(3))


# Where a read fails, Orbax abandons the others that are under way, and they complain.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_random_flip_is_noticed_or_leaves_the_arrays_as_they_were(workdir):
    """Half of the flips by byte, half by file, so that small files get their share."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    folder = workdir / "checkpoints" / "3"
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    sizes = [f.stat().st_size for f in files]
    noticed = 0
    for number in range(FLIPS):
        (file,) = rng.choices(files, weights=sizes if number % 2 else None)
        before = file.read_bytes()
        flip(file, byte=rng.randrange(len(before)), bit=rng.randrange(8))
        try:
            # Compares every array with its checksum, so that a flip unnoticed changed none.
            restore.student_of_step(epath.Path(folder)).verify()
        except manifest.CorruptCheckpointError:
            noticed += 1
        file.write_bytes(before)
    assert noticed > FLIPS / 4


def test_the_tool_names_damaged_checkpoints_and_says_so_in_its_status(workdir, tmp_path, capsys):
    whole = tmp_path / "encoder"
    encoder.save(whole, variables=tiny_variables(), card=tiny_card())
    assert verify.main([str(workdir), str(whole)]) == 0
    assert capsys.readouterr().out.count("intact") == 4
    damage_step(workdir, 2)
    assert verify.main([str(workdir)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("CORRUPT") for line in lines] == [False, True, False]
    assert "checkpoints/2" in lines[1]


def test_the_tool_refuses_a_folder_of_neither_kind(tmp_path, capsys):
    assert verify.main([str(tmp_path)]) == 2
    assert "run.json is missing" in capsys.readouterr().err


def test_an_encoder_that_was_damaged_does_not_load(tmp_path):
    folder = tmp_path / "encoder"
    encoder.save(folder, variables=tiny_variables(), card=tiny_card())
    damage(folder)
    with pytest.raises(manifest.CorruptCheckpointError, match="not what was saved"):
        encoder.load(folder)


def test_a_manifest_that_was_edited_is_noticed(workdir):
    path = workdir / "checkpoints" / "3" / "manifest" / "metadata"
    edited = json.loads(path.read_text())
    edited["evaluated"] = False
    path.write_text(json.dumps(edited))
    with pytest.raises(manifest.CorruptCheckpointError, match="changed since it was written"):
        restored(workdir, read_only=True)
