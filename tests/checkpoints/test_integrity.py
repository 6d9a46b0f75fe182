# SPDX-License-Identifier: Apache-2.0
"""Corrupt checkpoints are detected, named and moved away; a run never continues from one."""

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
    """Workdir with checkpoints of three steps."""
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
    """Returns the largest file with arrays in a checkpoint or an encoder folder."""
    files = [*folder.rglob("d/*"), *folder.glob("*.safetensors")]
    return max(files, key=lambda file: file.stat().st_size)


def corrupt(folder):
    """Flips one bit of an array, which Orbax does not detect."""
    file = largest_file(folder)
    flip(file, byte=file.stat().st_size // 2)


def corrupt_step(workdir, step):
    corrupt(workdir / "checkpoints" / str(step))


def restored(workdir, **options):
    checkpoints = open_workdir(workdir, **options)
    try:
        return checkpoints.restore(state(0))
    finally:
        checkpoints.close()


def test_a_corrupt_newest_checkpoint_is_moved_away_and_the_previous_one_restored(workdir, caplog):
    corrupt_step(workdir, 3)
    assert_trees_equal(restored(workdir), state(2))
    assert "1 of 2 arrays are not what was saved: w/a" in caplog.text
    assert "checkpoint 3 was moved to" in caplog.text
    assert sorted(f.name for f in (workdir / "checkpoints").iterdir()) == ["1", "2"]
    assert (workdir / "corrupt" / "3" / "state").is_dir()


def test_a_step_that_was_moved_away_can_be_saved_again(workdir):
    corrupt_step(workdir, 3)
    checkpoints = open_workdir(workdir)
    checkpoints.restore(state(0))
    checkpoints.save(state(3), step=3)
    checkpoints.close()
    corrupt_step(workdir, 3)
    assert_trees_equal(restored(workdir), state(2))
    assert sorted(f.name for f in (workdir / "corrupt").iterdir()) == ["3", "3_again"]


def test_a_run_without_intact_checkpoints_does_not_start_again(workdir):
    for step in (1, 2, 3):
        corrupt_step(workdir, step)
    with pytest.raises(
        manifest.CorruptCheckpointError, match=r"every checkpoint was corrupt \(\[1, 2, 3\]"
    ):
        restored(workdir)


def test_a_read_only_workdir_raises_on_a_corrupt_checkpoint_and_moves_nothing(workdir):
    corrupt_step(workdir, 3)
    with pytest.raises(manifest.CorruptCheckpointError, match="w/a"):
        restored(workdir, read_only=True)
    assert (workdir / "checkpoints" / "3").is_dir() and not (workdir / "corrupt").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as below
@pytest.mark.parametrize("fault", ["truncated", "missing", "no manifest"])
def test_truncated_and_missing_files_are_detected(workdir, fault):
    file = largest_file(workdir / "checkpoints" / "3")
    if fault == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif fault == "missing":
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
def test_another_state_is_rejected_and_the_checkpoint_stays_in_place(workdir, target, message):
    checkpoints = open_workdir(workdir)
    with pytest.raises(manager.StateMismatchError, match=message):
        checkpoints.restore(target)
    checkpoints.close()
    assert (workdir / "checkpoints" / "3").is_dir()


def test_only_the_run_itself_removes_the_remains_of_an_interrupted_save(workdir):
    step = workdir / "checkpoints" / "3"
    remains = step.rename(step.with_name("3.orbax-checkpoint-tmp"))
    assert paths.newest(workdir).name == "2"
    open_workdir(workdir, read_only=True).close()
    assert remains.exists()
    checkpoints = open_workdir(workdir)
    checkpoints.save(state(3), step=3)  # waits for the removal
    checkpoints.close()
    assert not remains.exists()
    assert_trees_equal(restored(workdir), state(3))


# If a read fails, Orbax abandons the other reads in flight, which then warn.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_random_flip_is_detected_or_changes_no_array(workdir):
    """Half of the flips are uniform over bytes, half over files, so that small files get some."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    folder = workdir / "checkpoints" / "3"
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    sizes = [f.stat().st_size for f in files]
    detected = 0
    for number in range(FLIPS):
        (file,) = rng.choices(files, weights=sizes if number % 2 else None)
        before = file.read_bytes()
        flip(file, byte=rng.randrange(len(before)), bit=rng.randrange(8))
        try:
            # Compares every array with its checksum: an undetected flip has changed none.
            restore.student_of_step(epath.Path(folder)).verify()
        except manifest.CorruptCheckpointError:
            detected += 1
        file.write_bytes(before)
    assert detected > FLIPS / 4


def test_the_tool_lists_corrupt_checkpoints_and_returns_1(workdir, tmp_path, capsys):
    intact = tmp_path / "encoder"
    encoder.save(intact, variables=tiny_variables(), card=tiny_card())
    assert verify.main([str(workdir), str(intact)]) == 0
    assert capsys.readouterr().out.count("intact") == 4
    corrupt_step(workdir, 2)
    assert verify.main([str(workdir)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("CORRUPT") for line in lines] == [False, True, False]
    assert "checkpoints/2" in lines[1]


def test_the_tool_rejects_a_folder_of_neither_kind(tmp_path, capsys):
    assert verify.main([str(tmp_path)]) == 2
    assert "run.json is missing" in capsys.readouterr().err


def test_a_corrupt_encoder_does_not_load(tmp_path):
    folder = tmp_path / "encoder"
    encoder.save(folder, variables=tiny_variables(), card=tiny_card())
    corrupt(folder)
    with pytest.raises(manifest.CorruptCheckpointError, match="not what was saved"):
        encoder.load(folder)


def test_an_edited_manifest_is_detected(workdir):
    path = workdir / "checkpoints" / "3" / "manifest" / "metadata"
    edited = json.loads(path.read_text())
    edited["evaluated"] = False
    path.write_text(json.dumps(edited))
    with pytest.raises(manifest.CorruptCheckpointError, match="changed since it was written"):
        restored(workdir, read_only=True)
