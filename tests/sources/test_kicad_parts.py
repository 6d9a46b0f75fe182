# SPDX-License-Identifier: Apache-2.0
"""Source `kicad_parts`, on boxes and footprints laid out as KiCad's."""

import collections

import kicad_folder
import numpy as np
import pytest

from data_prep import licences, prepare, shapes, sources
from data_prep.build_flags import Execution
from data_prep.sources.kicad import debian_copyright, footprints, parts, series

pytest.importorskip("cascadio", reason="the extra `formats` (cascadio) is not installed")

DIP = ("Package_DIP", "DIP-8_W8.89mm", (10, 6, 3))
SETTINGS = {"points": 64, "views": 1, "image_size": 16, "seed": 0}


def contents(root):
    return sources.SOURCES["kicad_parts"].contents(root)


def test_a_part_has_its_class_name_description_tags_and_attribution(tmp_path):
    footprint = ("Package_DIP", "F", '"8-lead \\"DIP\\" (http://x.y/a_(b).pdf)"', '"THT DIP"')
    kicad_folder.write(tmp_path, [DIP], [(*footprint, "package_dip.3dshapes/DIP-8_W8.89MM")])
    (item,) = contents(tmp_path).items
    assert item.id == "Package_DIP/DIP-8_W8.89mm"
    assert item.label == "DIP package" and item.series == "DIP package/DIP-#_W#mm"
    assert item.captions == (
        ("name", "DIP package DIP-8 W8.89mm"),
        ("tags", "DIP package DIP-8 W8.89mm, THT DIP"),
        ("caption", '8-lead "DIP"'),
    )
    assert (item.creator, item.licence) == ("2020, One Author", "CC-BY-SA-4.0-with-exception")
    assert licences.short_name(item.licence) == "by-sa"


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        (
            "Header, 3 pins (see https://a.b/c.pdf), generated with kicad-generator",
            "Header, 3 pins",
        ),
        (
            "SOIC, 8 Pin (JEDEC MS-012AA, https://a.b/x(1).pdf), 5mm",
            "SOIC, 8 Pin (JEDEC MS-012AA), 5mm",
        ),
        ("QFN (www.a.com/d, exposed pad)", "QFN (exposed pad)"),
        ("script generated using x.py", ""),
        ("http://a.b/only.pdf", ""),
        ("Diode, P 10.9mm", "Diode, P 10.9mm"),
    ],
    ids=["generated", "brackets", "www", "script", "address", "plain"],
)
def test_descriptions_lose_addresses_and_generators(raw, cleaned):
    assert footprints.clean(raw) == cleaned


def test_values_without_quotes_are_read(tmp_path):
    kicad_folder.write(tmp_path, [DIP], [("L", "F", "LGA-8", "lga", "A.3dshapes/b")])
    assert footprints.read(tmp_path / "footprints") == {("a", "b"): (("LGA-8",), "lga")}


def test_the_last_matching_stanza_states_the_licence(tmp_path):
    kicad_folder.write(tmp_path, [DIP])
    stanzas = debian_copyright.read(tmp_path / "copyright")
    found = debian_copyright.find(stanzas, "Package_DIP.3dshapes/DIP-4_W7.62mm.step")
    assert (found.licence, found.copyright) == ("GPL-3+", "2017, A Script 2019, Another One")
    other = debian_copyright.find(stanzas, "Relay_THT.3dshapes/R.step")
    assert other.licence == "CC-BY-SA-4.0-with-exception"


def test_names_keep_part_numbers():
    assert parts.full_name("SMD diode", "D_SOD-123") == "SMD diode D SOD-123"
    assert parts.full_name("pin header", "PinHeader_1x02_P2.54mm") == "Pin Header 1x02 P2.54mm"


def test_what_is_left_out_or_differs_is_counted_by_name(tmp_path):
    box = (4, 3, 2)
    models = [("Package_DIP", f"DIP-{n}_W7.62mm", (n, 3, 2)) for n in range(4, 14)]
    models += [("Relay_THT", "Relay_A", box), ("Relay_THT", "Relay_B", box), ("New", "X", box)]
    notes = contents(kicad_folder.write(tmp_path, models)).notes
    assert notes[0].startswith("1 models whose file equals")
    assert notes[1].startswith("2 models beyond 8 of a series")
    assert notes[2].startswith("12 models that no footprint references")
    assert notes[3] == "libraries without a class, left out: New (1 models)"
    assert notes[4].startswith("libraries that differ from version 6.0.10: Battery (0 models, ")


def test_the_choice_within_a_series_does_not_change_with_other_parts():
    few = {f"a{n}": "s" for n in range(20)}
    assert len(series.limit(few)) == 8
    assert series.limit(few | {"b": "t"}) == series.limit(few) | {"b"}
    assert series.limit(dict(reversed(few.items()))) == series.limit(few)


def part(number, *, label="a", kind=None, geometry=""):
    name = f"{label}/{number if kind is None else kind}"
    return series.Part(f"{label}{number}", label, name, geometry or f"{label}{number}")


def test_no_joined_series_is_in_two_splits():
    every = [part(n, kind=n // 3, geometry=str(n % 50)) for n in range(90)]
    joined = series.join(every)
    assert joined["a/0"] == joined["a/16"]  # parts 0 to 2 and 48 to 50: 0 and 50 are alike
    splits = series.split(every)
    where = collections.defaultdict(set)
    by_id = {p.id: p for p in every}
    for name, ids in splits.items():
        for i in ids:
            where[joined[by_id[i].series]].add(name)
    assert all(len(names) == 1 for names in where.values())
    assert sum(map(len, splits.values())) == 50  # the other 40 are duplicates


def test_every_class_has_a_fifth_of_its_series_for_testing_and_some_for_validation():
    every = [part(n) for n in range(20)] + [part(n, label="b") for n in range(2)]
    every += [part(0, label="c")]
    splits = series.split(every)
    counts = {
        name: collections.Counter(i[0] for i in ids).most_common() for name, ids in splits.items()
    }
    assert counts == {
        "train": [("a", 13), ("b", 1), ("c", 1)],
        "validation": [("a", 3)],
        "test": [("a", 4), ("b", 1)],
    }
    assert series.split(every[:22]) | {"train": 0} == splits | {"train": 0}


def test_equal_parts_of_other_classes_stay_in_one_split():
    every = [part(n, geometry="same" if n < 2 else "") for n in range(10)]
    every += [part(n, label="b", geometry="same" if n < 1 else "") for n in range(10)]
    splits = series.split(every)
    place = {i: name for name, ids in splits.items() for i in ids}
    assert "a1" not in place and place["a0"] == place["b0"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Summary and shapes of a box, the same twice as large, another box, and a corrupt file."""
    root = tmp_path_factory.mktemp("kicad")
    models = [DIP, ("Relay_THT", "Big", (20, 12, 6)), ("Relay_THT", "Other", (20, 12, 7))]
    models += [("Relay_THT", "Corrupt", b"ISO-10303-21;\nrubbish")]
    kicad_folder.write(root, models)
    execution = Execution(workers=0)
    summary = prepare.prepare_shapes(
        "kicad_parts", root, root / "x", **SETTINGS, execution=execution
    )
    (path,) = prepare.shard_paths(root / "x")
    return summary, path


def test_geometry_is_known_at_unit_size_and_survives_the_cache(prepared):
    box, big, other = shapes.load_shard(prepared[1])
    assert [shape.name for shape in (big, other)] == ["relay Big", "relay Other"]
    assert box.geometry == big.geometry != other.geometry != ""
    indexed = shapes.load_index(prepared[1])
    assert [entry.shape.geometry for entry in indexed] == [
        box.geometry,
        big.geometry,
        other.geometry,
    ]
    assert (box.catalogue, box.category) == ("DIP package/DIP-#_W#mm", "Package_DIP")
    groups = sources.SOURCES["kicad_parts"].groups(None, [box, big, other])
    assert groups == {
        box.id: "DIP package/DIP-#_W#mm",
        big.id: "DIP package/DIP-#_W#mm",
        other.id: "relay/Other",
    }


def test_z_is_up_and_a_file_that_does_not_convert_is_counted(prepared):
    box = shapes.load_shard(prepared[1])[0]
    extent = np.ptp(box.xyz, axis=0)
    assert extent[0] > extent[1] > extent[2]
    (reason,) = prepared[0].skipped
    assert "surfaces" in reason and len(box.images) == 1 and box.faults == ()
    assert any(note.startswith("vertical axis, z") for note in prepared[0].notes)


def test_shapes_without_a_geometry_keep_the_fingerprint_of_earlier_versions():
    shape = shapes.Shape(
        id="i",
        source="s",
        name="n",
        catalogue="c",
        category="",
        creator="",
        licence="",
        xyz=np.zeros((1, 3), np.float32),
        rgb=np.zeros((1, 3), np.uint8),
        images=(),
        image_kinds=(),
        captions=(),
        label="",
    )
    # Written by version 0.1.0.
    assert (
        shapes.fingerprint(shape)
        == "48ede1a8df830cffa2f7fec3b8967d7ede00b3606102051fcc62990350edcae5"
    )


def test_a_folder_without_the_packages_is_an_error_that_says_how_to_fetch_them(tmp_path):
    with pytest.raises(ValueError, match=r"data_prep\.fetch --what parts --output"):
        contents(tmp_path)
