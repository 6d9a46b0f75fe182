# SPDX-License-Identifier: Apache-2.0
"""A converted Uni3D and its EVA-CLIP teacher, from released files to a search by words."""

import json
import shutil

import jax
import numpy as np
import open_clip_small
import open_clip_towers
import peers
import pytest
import safetensors.numpy
from tiny_encoder import random_clouds

from data_prep.teachers import prompts
from data_prep.teachers.open_clip import text_tower, tokens, towers
from mrd_jax import encoder
from mrd_jax.demo import server
from mrd_jax.search import queries, shape_index
from mrd_jax.tools import convert, embed, search

pytestmark = pytest.mark.usefixtures("fast_compile")
# Name of a local copy of the repository that the converter records.
TEACHER = "eva02_enormous_patch14_plus_clip_224.laion2b_s9b_b144k"
DIM = 16


def released_uni3d():
    """Returns a state dict of Uni3D that embeds into the space of the small teacher."""
    state = peers.small_state("uni3d_small_glu")
    random = np.random.default_rng(0)
    for leaf in ("weight", "bias"):
        key = f"point_encoder.trans2embed.{leaf}"
        shape = (DIM, *state[key].shape[1:])
        state[key] = random.standard_normal(shape, np.float32)
    return state


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Returns the working directory: released files, a converted encoder, and an index."""
    folder = tmp_path_factory.mktemp("uni3d")
    safetensors.numpy.save_file(released_uni3d(), folder / "uni3d.safetensors")
    open_clip_small.write_folder(folder / TEACHER, "eva_post")
    (folder / "files").mkdir()
    for number, (xyz, rgb) in enumerate(random_clouds(3)):
        np.savez(folder / "files" / f"shape_{number}.npz", xyz=xyz, rgb=rgb)
    with pytest.MonkeyPatch.context() as patch, open_clip_towers.small_architectures():
        patch.chdir(folder)
        sizes = ["--groups", "48", "--group_size", "24", "--heads", "3"]
        arguments = ["--from", "uni3d", "--checkpoint", "uni3d.safetensors", *sizes]
        assert convert.main([*arguments, "--output", "encoder"]) == 0
        load = encoder.load
        one_device = {"devices": jax.local_devices()[:1]}
        patch.setattr(encoder, "load", lambda path, **_: load(path, **one_device))
        arguments = ["--checkpoint", "encoder", "--output", "E.npz", "--up", "z", "files"]
        assert embed.main(arguments) == 0
        arguments = ["build", "--embeddings", "E.npz", "--output", "index", "--points", "50"]
        assert search.main([*arguments, "--teacher", TEACHER]) == 0
        yield folder


def find(capsys, *arguments):
    capsys.readouterr()
    status = search.main(["find", "--index", "index", "--text", "Red Chair", *arguments])
    return status, *capsys.readouterr()


def expected_scores(folder):
    """Returns the score of every shape, from the module and the embeddings alone."""
    tower = towers.text_tower(open_clip_towers.config("eva_post"), "float32")
    tokenizer = tokens.Tokenizer(
        folder / TEACHER,
        length=open_clip_small.LENGTH,
        vocabulary=open_clip_small.VOCABULARY,
        clean="lower",
    )
    texts = tokenizer([template.format("Red Chair") for template in prompts.NAME_TEMPLATES])
    params = open_clip_towers.parameters("eva_post")[1]
    rows = np.asarray(tower.embed(params, {"tokens": texts}), np.float64)
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
    with np.load(folder / "E.npz") as arrays:
        scores = arrays["embeddings"] @ (mean / np.linalg.norm(mean))
        return dict(zip(arrays["files"].tolist(), scores.tolist(), strict=True))


def test_words_find_the_shapes_of_a_converted_uni3d(workspace, capsys):
    status, out, _ = find(capsys, "--format", "json")
    found = json.loads(out)
    want = expected_scores(workspace)
    assert status == 0
    assert [row["id"] for row in found] == sorted(want, key=lambda file: -want[file])
    for row in found:
        assert row["score"] == pytest.approx(want[row["id"]], abs=2e-3)  # rows are float16


def test_the_text_tower_alone_gives_the_same_answer(workspace, capsys):
    _, want, _ = find(capsys)
    assert text_tower.main(["--teacher", TEACHER, "--output", "texts"]) == 0
    assert find(capsys, "--teacher", "texts") == (0, want, "")


@pytest.mark.slow
def test_the_page_starts_with_the_text_tower_alone(workspace):
    assert text_tower.main(["--teacher", TEACHER, "--output", "page_texts"]) == 0
    index = shape_index.read("index")
    teacher = queries.load_teacher(index, "page_texts")
    searcher = queries.Searcher(
        index, encoder=queries.load_encoder(index, workspace / "encoder"), teacher=teacher
    )
    server.warm_up(searcher)
    assert not teacher.has_images


def test_a_teacher_of_another_name_or_dimension_is_rejected(workspace, capsys):
    other = shutil.copytree(workspace / TEACHER, workspace / "ViT-B-32", dirs_exist_ok=True)
    status, _, error = find(capsys, "--teacher", str(other))
    assert status == 2
    assert f"name = 'timm/{TEACHER}', but that of --teacher has name = 'ViT-B-32'" in error
    other = open_clip_small.write_folder(workspace / "other" / TEACHER, "vit_gelu")
    status, _, error = find(capsys, "--teacher", str(other))
    assert status == 2
    assert "dim = 16, but that of --teacher has dim = 12" in error
