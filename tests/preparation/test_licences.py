# SPDX-License-Identifier: Apache-2.0
"""`data_prep.build --licence`: names of licences, and what is prepared and kept."""

import types

import numpy as np
import pytest
from small_shapes import run_build

from data_prep import licences, shapes, sources
from mrd_jax.data import source

# Four clouds and their licences as tables and Sketchfab write them.
LICENCES = {"a": "CC BY 4.0", "b": "cc-by-nc-sa", "c": "Public domain", "d": ""}


@pytest.mark.parametrize(
    "licence, name",
    [
        ("CC BY 4.0", "by"),
        ("CC BY-SA 4.0", "by-sa"),
        ("CC BY-NC 4.0", "by-nc"),
        ("CC BY-NC-SA 4.0", "by-nc-sa"),
        ("CC0 1.0", "cc0"),
        ("cc-by-nc-nd-4.0", "by-nc-nd"),
        ("by-sa", "by-sa"),
        ("BY-NC-SA", "by-nc-sa"),
        ("Public domain", "cc0"),
        ("CC-0", "cc0"),
        ("Creative Commons Attribution 3.0 Unported license © Emmanuel Puybaret / eTeks", "by"),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 4.0", "by-nc-sa"),
        ("Creative Commons - Attribution - No Derivatives", "by-nd"),
        ("https://creativecommons.org/licenses/by-sa/4.0/", "by-sa"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "cc0"),
        ("MIT", "mit"),
        ("All rights  reserved by San Andreas", "all rights reserved by san andreas"),
        ("", "unstated"),
        ("  ", "unstated"),
    ],
)
def test_short_names_of_licences(licence, name):
    assert licences.short_name(licence) == name


def test_every_licence_of_objaverse_has_a_short_name_that_can_be_selected():
    from data_prep.sources import objaverse

    names = {short: licences.short_name(usual) for short, usual in objaverse.LICENCES.items()}
    assert names == {short: short for short in objaverse.LICENCES}
    assert set(names) <= set(licences.KNOWN)


def test_names_are_parsed_in_any_spelling_and_order():
    assert licences.parse("cc0, CC-BY-SA,by,by") == ("by", "by-sa", "cc0")
    with pytest.raises(ValueError, match="expected names such as by,by-sa"):
        licences.parse(" , ")


def items(**changes):
    return [
        types.SimpleNamespace(id=name, licence=licence, **changes)
        for name, licence in LICENCES.items()
    ]


def test_unknown_names_are_an_error_that_lists_those_that_occur():
    occurring = r"by \(1\), by-nc-sa \(1\), cc0 \(1\), unstated \(1\)"
    with pytest.raises(ValueError, match=f"--licence bye: unknown; .* 'x' are {occurring}"):
        licences.check(items(), ("by", "bye"), source="'x'")
    with pytest.raises(ValueError, match=f"--licence by-nd: no shape; .* are {occurring}"):
        licences.check(items(), ("by-nd",), source="x")
    with pytest.raises(ValueError, match="--source x does not state the licences"):
        licences.check([types.SimpleNamespace(id="a")], ("by",), source="x")


def test_items_that_are_skipped_anyway_keep_their_reason():
    def prepare(item):
        raise shapes.SkipShape(item.skip)

    with pytest.raises(shapes.SkipShape, match="not in the table"):
        licences.Filter(prepare, ("by",))(items(skip="not in the table")[1])


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for number, name in enumerate(LICENCES):
        np.save(root / f"{name}.npy", np.random.default_rng(number).normal(size=(64, 3)))
    rows = [f"{name}.npy,{name},{licence}" for name, licence in LICENCES.items()]
    (root / "table.csv").write_text("\n".join(["path,id,licence", *rows]) + "\n")
    return root


def test_only_wanted_licences_are_prepared_and_others_join_when_they_are_wanted(
    folder, tmp_path, monkeypatch, capsys
):
    prepared, prepare = [], sources.folder.Folder.prepare
    monkeypatch.setattr(
        sources.folder.Folder,
        "prepare",
        lambda self, item, **settings: prepared.append(item.id) or prepare(self, item, **settings),
    )

    def build(licence, **options):
        prepared.clear()
        names = licences.parse(licence) if licence else ()
        path = run_build("folder", folder, tmp_path / "out", monkeypatch, licence=names, **options)
        kept = [record["id"] for record in source.open_split(path, "test")]
        return kept, list(prepared), capsys.readouterr().out

    kept, done, printed = build("by,cc0")
    assert kept == done == ["a", "c"]
    assert "licences: 2 of 4 items kept; left out, by-nc-sa: 1, unstated: 1\n" in printed
    assert "skipped, licence by-nc-sa, not in --licence: 1" in printed
    # Fewer licences need no work, more prepare the shards that lack them.
    assert build("cc0", overwrite=True)[:2] == (["c"], [])
    assert build("by,unstated", overwrite=True)[:2] == (["a", "d"], ["a", "d"])
    assert build("", overwrite=True)[:2] == (["a", "b", "c", "d"],) * 2
    assert build("by-nc-sa,cc0", overwrite=True)[:2] == (["b", "c"], [])
    with pytest.raises(ValueError, match=r"built with --licence \['by-nc-sa', 'cc0'\], but --lic"):
        build("cc0")
