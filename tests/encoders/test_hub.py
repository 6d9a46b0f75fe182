# SPDX-License-Identifier: Apache-2.0
"""Encoder folders are repositories of the Hugging Face Hub, and hf:// paths load them."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import yaml
from tiny import assert_trees_equal
from tiny_encoder import DIM, POINTS, tiny_card, tiny_variables

from mrd_jax import encoder, hub
from mrd_jax.checkpoints import fingerprinting, initial_weights, manifest, model_card, paths
from mrd_jax.cli import command
from mrd_jax.encoder import hub_card
from mrd_jax.tools import verify

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "encoder"
    encoder.save(folder, variables=tiny_variables(), card=tiny_card(licence="MIT"))
    return folder


@pytest.fixture
def cache(saved, tmp_path, monkeypatch):
    """The local cache of huggingface_hub after a download of user/tiny, and no network."""
    from huggingface_hub import constants

    repository = tmp_path / "models--user--tiny"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    (repository / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(saved.iterdir())):
        blob = repository / "blobs" / f"{number:040x}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_a_saved_folder_has_the_files_of_a_repository(saved):
    names = ["README.md", "config.json", "manifest.json", "model.safetensors"]
    assert sorted(path.name for path in saved.iterdir()) == names
    config = json.loads((saved / "config.json").read_text())
    assert config.pop("model_type") == "mrd_jax"
    assert model_card.from_dict(config) == tiny_card(licence="MIT")
    arrays = safetensors.numpy.load_file(saved / "model.safetensors")
    want = tiny_variables()["params"]["projection"]["kernel"]
    np.testing.assert_array_equal(arrays["params.projection.kernel"], want)
    text = (saved / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["library_name"] == "mrd_jax" and fields["license"] == "mit"
    assert "point_bert" in fields["tags"]
    for fact in ("`fake/teacher`", f"| {DIM} |", f"[{POINTS}, 3]", "rotate", "unit_sphere"):
        assert fact in body


@pytest.mark.parametrize(
    "licence, fields",
    [
        ("", {}),
        ("CC0", {"license": "cc0-1.0"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ('my "own": licence', {"license": "other", "license_name": 'my "own": licence'}),
    ],
)
def test_the_front_matter_names_the_licence_as_the_hub_does(licence, fields):
    text = hub_card.markdown(tiny_card(licence=licence))
    found = yaml.safe_load(text.split("---\n")[1])
    assert {name: value for name, value in found.items() if name.startswith("license")} == fields


@pytest.mark.parametrize("name", ["hf://user/tiny", f"hf://user/tiny@{COMMIT}"])
def test_an_encoder_of_the_hub_is_read_from_the_cache_without_a_network(cache, saved, name):
    loaded = encoder.load(name, devices=jax.devices()[:1])
    assert_trees_equal(loaded.variables, tiny_variables())
    assert hub.resolve(name).name == COMMIT
    assert command.encoder_path(name).name == COMMIT
    assert_trees_equal(initial_weights.load(name), tiny_variables())
    found = fingerprinting.checkpoint_fingerprint(name)
    assert found == fingerprinting.checkpoint_fingerprint(saved)


def test_the_checksums_of_a_downloaded_encoder_are_compared(cache):
    file = (cache / "model.safetensors").resolve()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(manifest.CorruptCheckpointError, match="not what was saved"):
        encoder.load("hf://user/tiny")
    assert verify.main([str(cache)]) == 1


def test_an_unknown_name_or_revision_is_an_error_of_one_line(cache, capsys):
    for name in ("hf://user/other", "hf://user/tiny@v2"):
        with pytest.raises(FileNotFoundError, match="not on the Hub, or not reachable") as error:
            encoder.load(name)
        assert "\n" not in str(error.value)
    for name in ("hf://tiny", "hf://user/tiny@", "hf://user/tiny/folder"):
        with pytest.raises(ValueError, match="expected hf://USER/NAME"):
            encoder.load(name)
    with pytest.raises(SystemExit):
        verify.main(["hf://tiny"])
    assert "expected hf://USER/NAME" in capsys.readouterr().err


def test_the_config_of_another_library_is_no_encoder(tmp_path):
    (tmp_path / paths.CARD_FILE).write_text('{"model_type": "clip"}')
    with pytest.raises(FileNotFoundError, match="holds no encoder"):
        encoder.load(tmp_path)
