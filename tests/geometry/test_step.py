# SPDX-License-Identifier: Apache-2.0
"""CAD models in STEP and IGES files."""

import sys

import numpy as np
import pytest
import step_files
from loading import colours, extent, load, triangles

from data_prep.foreign import limits
from data_prep.geometry import formats, scene
from data_prep.geometry.readers import isolated

pytest.importorskip("cascadio", reason="the extra `formats` (cascadio) is not installed")


@pytest.mark.parametrize(("unit", "metres"), [("millimetre", 1e-3), ("metre", 1)])
def test_lengths_are_metres_whatever_the_unit(unit, metres):
    content = load(step_files.box((30, 20, 10), unit=unit), "step")
    np.testing.assert_allclose(extent(content), np.array([30, 20, 10]) * metres, rtol=1e-6)
    np.testing.assert_allclose(triangles(content).min(axis=(0, 1)), 0, atol=1e-6 * metres)
    assert len(content.surface.triangles) == 12


def test_z_is_up():
    assert load(step_files.box((1, 1, 1)), "stp").up_axis == "z"
    assert formats.up_axis("part.stp") == formats.up_axis("part.STEP") == "z"


def test_colours_are_those_of_the_file():
    content = load(step_files.box((3, 2, 1), colour=(0.8, 0.4, 0.2)), "step")
    np.testing.assert_allclose(colours(content).mean(axis=0), [204, 102, 51], atol=1)


def test_parts_without_a_colour_take_that_of_the_encoder():
    content = load(step_files.box((3, 2, 1)), "step")
    assert not content.surface.coloured.any()
    np.testing.assert_allclose(colours(content).mean(axis=0), 0.4 * 255)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"solid cube\nendsolid", "ISO-10303-21"),
        (step_files.box((1, 1, 1))[:3000], "no surfaces"),
        (b"ISO-10303-21;\nHEADER;\nENDSEC;\nDATA;\nENDSEC;\nEND-ISO-10303-21;\n", "no surfaces"),
    ],
)
def test_files_without_surfaces_are_refused(data, message):
    with pytest.raises(scene.MeshError, match=message):
        load(data, "step")


def replace_reader(monkeypatch, tmp_path, code):
    """Replaces the process of the reader by one that runs some code."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setattr(isolated.sys, "executable", str(script))


def test_reader_that_takes_too_long_is_ended(monkeypatch, tmp_path):
    replace_reader(monkeypatch, tmp_path, "while True: pass")
    monkeypatch.setenv(limits.READER_SECONDS.variable, "1")
    with pytest.raises(scene.MeshError, match=limits.READER_SECONDS.variable):
        load(step_files.box((1, 1, 1)), "step")


def test_crash_of_the_library_is_an_error_of_the_file(monkeypatch, tmp_path):
    replace_reader(monkeypatch, tmp_path, "import os, signal; os.kill(os.getpid(), 11)")
    with pytest.raises(scene.MeshError, match="unreadable STEP file: it ended the process"):
        load(step_files.box((1, 1, 1)), "step")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")
def test_reader_has_a_limit_of_memory(monkeypatch):
    monkeypatch.setenv(limits.READER_BYTES.variable, str(2**26))
    with pytest.raises(scene.MeshError, match="READER_BYTES|ended the process"):
        load(step_files.box((1, 1, 1)), "step")


def _iges(*, colour=0):
    """Returns an IGES file of a rectangle of 10 by 20 millimetres: a trimmed plane."""
    words = ",,4Htest,4Htest,4Htest,4Htest,32,308,15,308,15,,1.,2,2HMM,1,0.01,"
    more = "15H20200101.000000,1E-07,20.,,,11,0,15H20200101.000000,;"
    lines = ["test".ljust(72) + "S      1\n"]
    lines += [text.ljust(72) + f"G{i:7d}\n" for i, text in enumerate((words, more), start=1)]
    entities = [
        (144, "144,3,1,0,5;"),  # the plane of entry 3, within the curve of entry 5
        (108, "108,0.,0.,1.,0.,0,0.,0.,0.,0.;"),
        (142, "142,0,3,0,7,2;"),
        (102, "102,4,9,11,13,15;"),
        (110, "110,0.,0.,0.,10.,0.,0.;"),
        (110, "110,10.,0.,0.,10.,20.,0.;"),
        (110, "110,10.,20.,0.,0.,20.,0.;"),
        (110, "110,0.,20.,0.,0.,0.,0.;"),
    ]
    directory, parameters = [], []
    for i, (kind, text) in enumerate(entities, start=1):
        number = 2 * i - 1
        first = [kind, i, 0, 0, 0, 0, 0, 0]
        dependent = "00000000" if kind == 144 else "00010000"
        directory.append("".join(f"{v:8d}" for v in first) + dependent + f"D{number:7d}\n")
        second = [kind, 0, colour if kind == 144 else 0, 1, 0]
        row = "".join(f"{v:8d}" for v in second).ljust(72)
        directory.append(row + f"D{number + 1:7d}\n")
        parameters.append(text.ljust(64) + f"{number:8d}P{i:7d}\n")
    counts = f"S{1:7d}G{2:7d}D{len(directory):7d}P{len(parameters):7d}".ljust(72) + "T      1\n"
    return "".join([*lines, *directory, *parameters, counts]).encode()


def test_lengths_of_iges_files_are_metres_too():
    content = load(_iges(), "igs")
    np.testing.assert_allclose(extent(content), [0.01, 0.02, 0], atol=1e-9)
    assert content.up_axis == "z" and content.notes == ()


def test_colours_of_iges_files_are_noted():
    assert load(_iges(colour=2), "iges").notes == ("colours of IGES files, ignored",)
