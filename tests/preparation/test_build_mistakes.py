# SPDX-License-Identifier: Apache-2.0
"""Mistakes on the command line of a build end with two lines and status 2, before any work."""

import json
import os
import re
import types

import huggingface_hub
import pytest
import requests
import tiny_catalogue
from fake_data import FakeSource, run_build

from data_prep import build, lock, prepare, sources
from data_prep.teachers import lit, names

SIZES = ["--points", "24", "--views", "1", "--image_size", "8", "--workers", "0"]


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    tiny_catalogue.chairs(folder)
    return folder


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def arguments_of(raw, output, *more, teacher="lit", source="furniture"):
    folders = ["--input", str(raw), "--output", str(output)]
    return ["--source", source, *folders, "--teacher", teacher, *SIZES, *more]


def error_of(main, arguments, capsys):
    """Runs a command that must return status 2; returns what it printed to stderr."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err
    assert status == 2, error
    assert error.startswith("error: ") and len(error.splitlines()) <= 2, error
    return error


def offline(*args, **kwargs):
    raise requests.exceptions.ConnectionError("no network")


def no_such_model(name, **kwargs):
    answer = requests.Response()
    answer.status_code = 404
    raise huggingface_hub.errors.RepositoryNotFoundError("404: not found", response=answer)


@pytest.mark.parametrize(
    ("teacher", "answer", "message"),
    [
        ("litt", None, "--teacher litt: no such teacher or folder"),
        ("", None, "--teacher : no such teacher or folder"),
        ("data/teachers/lit_furnitur", None, "data/teachers/lit_furnitur: no such teacher or fold"),
        ("{raw}", None, "the folder holds neither lit_teacher.json nor config.json"),
        ("{raw}/Test.sh3f", None, "no such teacher or folder"),
        ("owner/clip", offline, "owner/clip: .*the Hugging Face Hub cannot be reached"),
        ("owner/clip@v1", no_such_model, "the Hugging Face Hub has no such checkpoint .404"),
        ("owner--x/clip", None, "not a valid hub name"),
    ],
)
def test_mistyped_teacher_is_rejected_before_any_shape_is_prepared(
    raw, tmp_path, monkeypatch, capsys, teacher, answer, message
):
    if answer:
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, *a, **k: answer(*a))
    output = tmp_path / "out"
    arguments = arguments_of(raw, output, teacher=teacher.format(raw=raw))
    error = error_of(build.main, arguments, capsys)
    assert re.search(message, error), error
    assert "expected 'lit' (trained on the input), the folder of a LiT teacher" in error
    assert not output.exists()
    assert not list(tmp_path.rglob("shard-*.npz"))


def test_teacher_folder_without_weights_is_rejected(raw, tmp_path, capsys):
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    error = error_of(build.main, arguments_of(raw, tmp_path, teacher=str(folder)), capsys)
    assert "model_type is 'bert', expected 'clip'" in error
    assert not list(tmp_path.rglob("shard-*.npz"))


@pytest.mark.parametrize(("kind", "accepted"), [("clip", True), ("bert", False)])
def test_hub_name_is_resolved_by_the_config_alone(tmp_path, monkeypatch, kind, accepted):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": kind}))
    requested = []

    def download(name, file, *, revision):
        requested.append((name, file, revision))
        return str(config)

    files = types.SimpleNamespace(siblings=[types.SimpleNamespace(rfilename="config.json")])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    if accepted:
        names.check("owner/model@abc", released=False)
    else:
        with pytest.raises(ValueError, match="model_type is 'bert' on the hub, expected 'clip'"):
            names.check("owner/model@abc", released=False)
    assert requested == [("owner/model", "config.json", "abc")]


def test_cached_config_is_enough_without_network(tmp_path, monkeypatch):
    snapshot = tmp_path / "cache" / "models--owner--model" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "clip"}')
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda name, file, revision: os.fspath(snapshot / file),
    )
    names.check("owner/model", released=False)


def test_lit_needs_its_weight_packages(monkeypatch):
    def missing(package):
        raise FileNotFoundError(f"{package.name} is not installed: pip install it")

    from data_prep.teachers.lit.frozen import packages

    monkeypatch.setattr(packages, "locate", missing)
    with pytest.raises(ValueError, match="--teacher lit: .* is not installed: pip install"):
        names.check("lit", released=False)


def test_folder_of_a_lit_teacher_is_accepted(tmp_path):
    (tmp_path / lit.CONFIG_FILE).write_text("{}")
    names.check(str(tmp_path), released=False)


def test_released_is_allowed_only_where_the_source_has_features(raw, tmp_path, capsys):
    names.check("released", released=True)
    with pytest.raises(ValueError, match=r"expected 'released' \(features that come with the data"):
        names.check("litt", released=True)
    error = error_of(build.main, arguments_of(raw, tmp_path, teacher="released"), capsys)
    assert re.search("--teacher released: .*furniture", error)


@pytest.mark.parametrize("main", [build.main, prepare.main])
def test_missing_input_folder_is_named(tmp_path, capsys, main):
    arguments = arguments_of(tmp_path / "absent", tmp_path / "out")
    if main is prepare.main:
        arguments = [a for a in arguments if a not in ("--teacher", "lit")]
    error = error_of(main, arguments, capsys)
    assert f"--input {tmp_path / 'absent'}: not a folder" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("main", [build.main, prepare.main])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", ""])
@pytest.mark.parametrize("flag", ["--points", "--item_seconds", "--image_size"])
def test_number_out_of_range_is_rejected(raw, tmp_path, capsys, main, flag, value):
    arguments = arguments_of(raw, tmp_path / "out", f"{flag}={value}")
    if main is prepare.main:
        arguments = [a for a in arguments if a not in ("--teacher", "lit")]
    error = error_of(main, arguments, capsys)
    assert f"argument {flag}: expected an integer of at least 1" in error
    assert f"found {value!r}" in error


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--batch_size", "0"), ("--seed", "-1"), ("--views", "-1"), ("--views", "13")],
)
def test_other_numbers_out_of_range_are_rejected(raw, tmp_path, capsys, flag, value):
    error = error_of(build.main, arguments_of(raw, tmp_path, f"{flag}={value}"), capsys)
    assert f"argument {flag}: expected " in error and "an integer of at least" in error


def test_unknown_source_is_rejected(raw, tmp_path, capsys):
    error = error_of(build.main, arguments_of(raw, tmp_path, source="furnitures"), capsys)
    assert "argument --source: invalid choice: 'furnitures'" in error and "'furniture'" in error


def test_output_folder_in_use_is_named(raw, tmp_path, capsys):
    with lock.acquire(tmp_path / "out"):
        error = error_of(build.main, arguments_of(raw, tmp_path / "out"), capsys)
    assert f"--output {tmp_path / 'out'}: another data_prep.build is writing" in error


def test_options_that_differ_from_the_existing_data_set_are_named(copied, monkeypatch, capsys):
    monkeypatch.setitem(sources.SOURCES, "fake", FakeSource())
    monkeypatch.setattr("data_prep.teachers.names.check", lambda *args, **kwargs: None)
    arguments = arguments_of(copied, copied, source="fake", teacher="fake/teacher")
    error = error_of(build.main, arguments, capsys)
    assert "was built with --views 2, but --views 1 was given; pass --overwrite" in error


def test_data_set_of_another_program_is_not_replaced(copied, monkeypatch):
    path = copied / "fake" / "1.0.0" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["build"]
    path.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="was not written by data_prep.build; pass --overwrite"):
        run_build(copied, monkeypatch)
