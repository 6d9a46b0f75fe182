# SPDX-License-Identifier: Apache-2.0
"""Runs the commands of the README and the documentation, unchanged.

They run in a small copy of a clone after `make quickstart`: a tiny encoder, a tiny data set and
tiny meshes with the names that the pages use, a fake teacher that encodes colours, and configs with
smaller sizes. Quick commands run in this process; the slow tests run every command of a page,
trainings in separate processes. Commands that no test runs are listed with the reason, so a new
command block has to be run or listed.
"""

import dataclasses
import io
import json
import os
import pathlib
import runpy
import shlex
import shutil
import subprocess
import sys
import zipfile

import doc_pages
import numpy as np
import PIL.Image
import pytest
import small_shapes
import tiny_index
from doc_pages import PAGES, ROOT
from tiny_encoder import DIM, FIELDS, POINTS, tiny_card, tiny_variables

import benchmarks.study.__main__ as study
import mrd_jax.demo.__main__ as demo
import scripts.tpu_pod.__main__ as tpu_pod
from benchmarks import transfer
from data_prep import build, estimate, teachers, verify
from mrd_jax import encoder
from mrd_jax.evaluation import held_out_split
from mrd_jax.tools import (
    classify,
    cluster,
    coverage,
    duplicates,
    embed,
    index,
    search,
)
from mrd_jax.tools import verify as verify_checkpoints

PYTHON = ".venv/bin/python"
TRAIN = f"{PYTHON} -m mrd_jax.main --config configs/quickstart.py --workdir"
# Beginning of a command -> reason that no test runs it.
NOT_RUN = {
    "make quickstart": "fetches packages and meshes, and takes ten minutes",
    ".venv/bin/mrd-jax quickstart": "fetches meshes and trains; tests/project/test_command_help.py",
    f"{PYTHON} -m benchmarks.gallery": "needs Chromium and a trained run",
    "make furniture": "fetches meshes and trains for 20 minutes; tests/project/test_benchmarks.py",
    "make study": "hours of training; tests/project/test_study.py",
    "make test": "runs this test",
    "python3 -m venv": "creates the environment of the tests",
    ".venv/bin/pip install": "fetches packages",
    f"{PYTHON} -m data_prep.build --source furniture": "fetches a CLIP; tests/teachers",
    f"{PYTHON} -m data_prep.fetch": "downloads packages; tests/sources",
    f"{PYTHON} -m data_prep.build --source kicad_parts": "needs the packages; tests/sources",
    f"{PYTHON} -m data_prep.build --source objaverse": "needs Objaverse; tests/sources",
    f"{PYTHON} -m data_prep.merge": "needs two parts; tests/preparation",
    f"{PYTHON} -m data_prep.status": "needs a build; tests/preparation/test_status.py",
    ".venv/bin/hf download": "needs the Hugging Face Hub",
    "unzip -q -o raw/": "needs the file of the line before it",
    "srun": "needs Slurm",
    f"{TRAIN} runs/clip": "needs the data set of the line before it",
    f"{TRAIN} /shared/run": "waits for a second machine; tests/distributed starts both",
    f"{PYTHON} -m mrd_jax.main --config configs/mrd_pointbert.py": "needs OpenShape's data",
    f"{PYTHON} -m mrd_jax.main --config configs/uni3d_g.py": "needs OpenShape's data",
    f"{PYTHON} -m mrd_jax.main --mode finetune": "needs more labelled shapes; tests/finetuning",
    f"{PYTHON} -m mrd_jax.main --mode eval --workdir runs/finetune": "needs the run before it",
    f"{PYTHON} -m mrd_jax.tools.compile": "needs a compiler; `make tpu` and `make gpu`",
    f"{PYTHON} -m mrd_jax.tools.selfcheck": "minutes; it has its own tests",
    f"{PYTHON} -m benchmarks.teacher_features": "needs a released teacher and prepared shapes",
    f"{PYTHON} -m benchmarks.peers": "needs a GPU and a peer's code; tests/gpu/test_peers.py",
    f"{PYTHON} -m mrd_jax.tools.plan": "needs the TPU compiler; tests/tpu/test_planning.py",
    f"{PYTHON} -m benchmarks.gpu_parts": "needs the GPU compiler; tests/gpu",
    f"{PYTHON} -m benchmarks.tpu_losses": "needs the TPU compiler; tests/tpu/test_compile_tpu.py",
    f"{PYTHON} -m mrd_jax.tools.convert": "needs a released file; tests/encoders",
    f"{PYTHON} -m data_prep.teachers.open_clip.text_tower": "downloads 10 GB; tests/teachers",
    f"{PYTHON} -m mrd_jax.tools.reproduce": "needs released files; tests/encoders",
    f"{PYTHON} -m mrd_jax.tools.export": "tests/encoders/test_export.py",
    f"{PYTHON} docs/examples/embed_exported.py": "tests/encoders/test_export.py",
    ".venv/bin/hf": "downloads from the Hub, or uploads to it",
    f"{PYTHON} -m mrd_jax.demo --checkpoint runs/quickstart --index library --workers": (
        "starts processes; tests/search/test_server.py"
    ),
    f"{PYTHON} -m benchmarks.duplicates": "needs the catalogues; tests/library",
    "gcloud": "needs Google Cloud",
    "docker": "needs a Docker daemon",
    "kubectl": "needs a cluster; tests/tpu/test_clusters.py",
    "CLUSTER=": "needs a cluster; tests/tpu/test_clusters.py",
    "sbatch": "needs Slurm; tests/tpu/test_clusters.py",
}
# Programs that take more than a few seconds: run in separate processes, in the slow tests only.
SLOW = ("mrd_jax.main", "docs/examples/student.py")
# Program -> its function in this process, and the arguments that reduce its size.
QUICK = {
    "benchmarks.study": (study.main, ()),
    "benchmarks.transfer": (transfer.main, ()),
    "data_prep.build": (
        lambda arguments: build.build(build.parse_options(arguments)),
        ("--points", str(POINTS), "--views", "1", "--image_size", "24", "--workers", "0"),
    ),
    "data_prep.estimate": (estimate.main, ()),
    "data_prep.verify": (verify.main, ("--workers", "1")),
    "mrd_jax.tools.classify": (classify.main, ()),
    "mrd_jax.tools.cluster": (cluster.main, ()),
    "mrd_jax.tools.coverage": (coverage.main, ()),
    "mrd_jax.tools.duplicates": (duplicates.main, ()),
    "mrd_jax.tools.embed": (embed.main, ()),
    "mrd_jax.tools.index": (index.main, ()),
    "mrd_jax.tools.search": (search.main, ()),
    "mrd_jax.tools.verify": (verify_checkpoints.main, ()),
    "mrd_jax.demo": (demo.main, ("--port", "0")),
    "scripts.tpu_pod": (tpu_pod.main, ("--dry_run",)),
}
# Arguments that reduce the work of a script.
SCRIPTS: dict[str, tuple[str, ...]] = {}
# Placeholders for the reader's own values.
PLACEHOLDERS = {"FILES...": "my_shapes"}

# Code that is appended to configs/quickstart.py.
SMALLER = f"""

_whole = get_config


def get_config() -> ConfigDict:
    config = _whole()
    config.update(batch_size=4, total_steps=2, eval_windows=1)
    config.data.points, config.teacher.dim = {POINTS}, {DIM}
    config.model.update(points={POINTS}, **{FIELDS})
    config.optimizer.warmup_steps = 1
    return config
"""
# Shapes that the tutorial copies from the furniture catalogue.
SHAPES = (
    "oakChair",
    "antiqueChair",
    "stool2",
    "bench",
    "sofa",
    "bed2",
    "desk",
    "cactus",
    "umbrella",
    "verticalShelves",
)


class Teacher(tiny_index.FakeTeacher):
    """Also accepts encoded images, as passed by a build."""

    def encode_images(self, images, *, progress=False):
        opened = [PIL.Image.open(io.BytesIO(x)) if isinstance(x, bytes) else x for x in images]
        return super().encode_images(opened)


@pytest.fixture(scope="module", autouse=True)
def small_parts(fast_compile):
    """Replaces all teachers by the fake one, and all encoders by one, so that it compiles once."""
    load, kept = encoder.load, []

    def load_teacher(place, **_):
        assert pathlib.Path(place).is_dir(), f"no teacher in {place}"
        return Teacher()

    def once(path, **expected):
        kept.append(kept[0] if kept else load(path, **expected))
        return dataclasses.replace(kept[0], classes=encoder.class_head.read(pathlib.Path(path)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "load_teacher", load_teacher)
        patch.setattr("data_prep.teachers.names.check", lambda *args, **kwargs: None)
        patch.setattr(encoder, "load", once)
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory, small_parts):
    """A folder like a clone after `make quickstart`, with the files of a reader."""
    folder = tmp_path_factory.mktemp("world")
    for name, colour in zip(SHAPES, small_shapes.COLOURS, strict=True):
        box = small_shapes.box(colour=small_shapes.rgb(colour))
        small_shapes.write(folder / "my_shapes" / f"{name}.obj", box)
    catalogue(folder)
    shutil.copytree(folder / "my_shapes", folder / "meshes")
    for place in ("runs/quickstart", "encoders/openshape", "encoders/uni3d-b"):
        encoder.save(folder / place, variables=tiny_variables(), card=tiny_card())
    head = encoder.ClassHead(("low", "wide"), np.eye(DIM, 2, dtype=np.float32), np.zeros(2))
    tuned = folder / "runs" / "finetune" / "encoder"
    encoder.save(tuned, variables=tiny_variables(), card=tiny_card(), classes=head)
    for place in ("docs", "scripts"):
        (folder / place).symlink_to(ROOT / place)
    shutil.copytree(ROOT / "configs", folder / "configs")
    with (folder / "configs" / "quickstart.py").open("a") as file:
        file.write(SMALLER)
    (folder / "data" / "teachers" / "lit_furniture").mkdir(parents=True)
    for teacher in (
        "CLIP-ViT-bigG-14-laion2B-39B-b160k",
        "eva02_enormous_patch14_plus_clip_224.laion2b_s9b_b144k",
    ):
        (folder / "teachers" / teacher).mkdir(parents=True)
    furniture(folder)
    return folder


def catalogue(folder):
    """Writes the shapes and a picture as a fetched catalogue."""
    path = folder / "data" / "sweethome3d" / "BlendSwap-CC-0.sh3f"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as file:
        for name in SHAPES:
            file.write(folder / "my_shapes" / f"{name}.obj", f"blendswap-cc-0/{name}/{name}.obj")
        file.writestr("blendswap-cc-0/cactus.png", small_shapes.picture((0, 255, 0)))


def furniture(folder):
    """Builds a data set with classes and a training split, and what an evaluation of it saves."""
    lines = ["path,label,split"]
    for number, colour in enumerate(small_shapes.COLOURS):
        box = small_shapes.box((1 + number % 2, 2, 3), small_shapes.rgb(colour))
        small_shapes.write(folder / "raw" / f"{colour}.ply", box)
        lines.append(f"{colour}.ply,{('low', 'wide')[number % 2]},{('train', 'test')[number > 3]}")
    (folder / "raw" / "table.csv").write_text("\n".join(lines) + "\n")
    arguments = ["--source", "folder", "--input", folder / "raw", "--output", folder / "built"]
    arguments += ["--teacher", folder / "data" / "teachers" / "lit_furniture"]
    call("data_prep.build", [*map(str, arguments)])
    (folder / "built" / "folder").rename(folder / "data" / "furniture")
    saved = {}
    for split, count in (("train", 4), ("test", 6)):
        held_out = held_out_split.load_held_out(str(folder / "data" / "furniture" / "1.0.0"), split)
        saved |= {split: tiny_index.unit_rows(count), f"{split}_ids": held_out.ids}
    np.savez(folder / "runs" / "quickstart" / "embeddings.npz", **saved)
    data = {"directory": "data/furniture/1.0.0", "train_split": "train", "test_split": "test"}
    config = {"total_steps": 2, "seed": 0, "data": data}
    (folder / "runs" / "quickstart" / "results.json").write_text(json.dumps({"config": config}))


@pytest.fixture
def world(template, tmp_path, monkeypatch):
    """A copy of the template as the working directory."""
    folder = shutil.copytree(template, tmp_path / "world", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)
    return folder


def call(program, arguments):
    run, smaller = QUICK[program]
    status = run([*smaller, *arguments])
    assert not isinstance(status, int) or status == 0, (program, arguments)


def split_command(command):
    """Returns the program of a command and its arguments."""
    words = shlex.split(os.path.expandvars(command))
    words = [PLACEHOLDERS.get(word, word) for word in words]
    start = 2 if words[1] == "-m" else 1
    return words[start], words[start + 1 :]


def run_command(command, *, slow, monkeypatch):
    """Runs a command unless it is listed, or too long for this test."""
    if command.startswith(tuple(NOT_RUN)):
        return
    if command.startswith("unzip "):
        if not shutil.which("unzip"):
            pytest.skip("unzip is not installed")
        subprocess.run(shlex.split(command), check=True, capture_output=True)
        return
    if command.startswith("export "):
        for assignment in shlex.split(os.path.expandvars(command))[1:]:
            monkeypatch.setenv(*assignment.split("=", 1))
        return
    program, arguments = split_command(command)
    if program in SLOW:
        if slow:
            run_process(command)
    elif program.endswith(".py"):
        run_script(program, arguments, monkeypatch)
    else:
        call(program, arguments)


def run_script(program, arguments, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [program, *SCRIPTS.get(program, ()), *arguments])
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as end:
            assert not end.code, (program, end.code)


def run_process(command):
    """Runs a command of Python in the world, with its configs."""
    words = [sys.executable, *shlex.split(command)[1:]]
    path = os.pathsep.join([str(pathlib.Path.cwd()), str(ROOT)])
    # Of this process's flags only those that make compiling quick.
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def run_page(page, *, slow, monkeypatch):
    for block in doc_pages.blocks(page):
        if block.file:
            pathlib.Path(block.file).write_text(block.text, "utf-8")
        elif block.language == "sh":
            for command in block.commands:
                run_command(command, slow=slow, monkeypatch=monkeypatch)
        elif block.language == "python":
            exec(compile(block.text, block.page, "exec"), {})


def has_slow(page):
    return any(
        split_command(command)[0] in SLOW
        for name, command in doc_pages.commands()
        if name == doc_pages.name(page) and command.startswith(PYTHON)
    )


WITH_BLOCKS = [page for page in PAGES if any(block.language for block in doc_pages.blocks(page))]


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=doc_pages.name)
def test_quick_commands_of_a_page_run(page, world, monkeypatch):
    run_page(page, slow=False, monkeypatch=monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", [*filter(has_slow, WITH_BLOCKS)], ids=doc_pages.name)
def test_every_command_of_a_page_runs(page, world, monkeypatch):
    run_page(page, slow=True, monkeypatch=monkeypatch)


def test_every_block_has_a_known_language():
    """Blocks with {.python} include parts of files that have their own tests."""
    kinds = {block.language for page in PAGES for block in doc_pages.blocks(page)}
    assert kinds <= {"sh", "python", "csv", "bibtex", "{.python}", ""}
    for page in PAGES:
        for block in doc_pages.blocks(page):
            if block.language == "{.python}":
                assert block.text.startswith('--8<-- "docs/examples/'), block
            if block.language == "csv":
                assert block.file, block


def test_every_command_is_run_or_listed():
    for page, command in doc_pages.commands():
        if not command.startswith((*NOT_RUN, "export ", "unzip ")):
            assert command.startswith((PYTHON, "python ")), (page, command)
            program, _ = split_command(command)
            known = {*SLOW, *QUICK, *SCRIPTS, "docs/examples/evaluator.py"}
            assert program in known, f"{page}: run `{command}` in this file, or list it in NOT_RUN"


@pytest.mark.parametrize("beginning", NOT_RUN)
def test_listed_commands_are_on_some_page(beginning):
    assert any(command.startswith(beginning) for _, command in doc_pages.commands())


def test_table_of_the_tutorial_lists_existing_shapes():
    tables = [b.text for b in doc_pages.blocks(ROOT / "docs/tutorial.md") if b.language == "csv"]
    listed = {line.split(",")[0] for line in tables[0].splitlines()[1:]}
    assert listed < {f"{name}.obj" for name in SHAPES}
