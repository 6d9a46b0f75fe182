# SPDX-License-Identifier: Apache-2.0
"""A small folder laid out as `data_prep.fetch --what parts` leaves KiCad's packages."""

import step_files

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Comment: no stanza of files

Files: *
Copyright: 2018, Somebody
License: CC-BY-SA-4.0-with-exception

Files: Package_DIP.3dshapes/*
Copyright: 2017, A Script
  2019, Another One
License: GPL-3+
Comment: generated

Files: Package_DIP.3dshapes/DIP-8_W8.89mm.step
 Package_DIP.3dshapes/DIP-8_W8.89mm.wrl
Copyright: 2020, One Author
License: CC-BY-SA-4.0-with-exception

License: GPL-3+
 The text of the licence.
"""


def write(root, models, footprints=()):
    """Writes the folder.

    Args:
      root: folder; created.
      models: (library, name, sides of a box in millimetres or bytes) triples.
      footprints: (library, name, descr, tags, model) tuples of texts of the file; model is
        LIBRARY.3dshapes/NAME.
    """
    for library, name, content in models:
        folder = root / "3dmodels" / f"{library}.3dshapes"
        folder.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else step_files.box(content)
        (folder / f"{name}.step").write_bytes(data)
    (root / "footprints").mkdir(parents=True, exist_ok=True)
    for library, name, description, tags, model in footprints:
        folder = root / "footprints" / f"{library}.pretty"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.kicad_mod").write_text(
            f'(footprint "{name}" (version 20211014) (generator pcbnew)\n  (layer "F.Cu")\n'
            f"  (tedit 5A02E8C5)\n  (descr {description})\n  (tags {tags})\n"
            f'  (pad "1" thru_hole rect (at 0 0) (size 1.6 1.6) (drill 0.8))\n'
            f'  (model "${{KICAD6_3DMODEL_DIR}}/{model}.wrl"\n'
            "    (offset (xyz 0 0 0))\n    (scale (xyz 1 1 1))\n    (rotate (xyz 0 0 0))\n  )\n)\n",
            "utf-8",
        )
    (root / "copyright").write_text(COPYRIGHT, "utf-8")
    return root
