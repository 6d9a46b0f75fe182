# SPDX-License-Identifier: Apache-2.0
"""Pictures of inspected files: views of the meshes beside the points that an encoder gets."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data_prep.geometry.listing import printable
from data_prep.geometry.surface import Surface, rotate_upright
from mrd_jax import atomic_io
from mrd_jax.search import inspection, pictures

# Views of a mesh and of its points, from above and a quarter turn apart.
VIEWS = 4
# Layout in pixels: side of a picture, margin, height of the title, and of the text of a row.
SIDE, MARGIN, TITLE_HEIGHT, TEXT_HEIGHT = 160, 8, 28, 48
# A sheet of this many files takes 40 MB of memory, and is as high as most viewers show.
ROWS_PER_SHEET = 50
WIDTH = 2 * VIEWS * (SIDE + MARGIN) + 2 * MARGIN
ROW_HEIGHT = TEXT_HEIGHT + SIDE + MARGIN
TITLE = "Left: four views of the mesh. Right: four views of the points that an encoder gets."
_MUTED, _RED = "#4a525c", "#b3261e"


def draw_row(inspected: inspection.Inspection) -> Image.Image:
    """Draws the row of a file: its name and facts above four views of the mesh and of its points.

    Args:
      inspected: result of `inspection.inspect_file`. A cloud has no views of a mesh, and a file
        that cannot be used has no pictures.

    Returns:
      RGB picture of WIDTH x ROW_HEIGHT pixels, or of TEXT_HEIGHT if there are no pictures.
    """
    facts, cloud = inspected.facts, inspected.cloud
    row = Image.new("RGB", (WIDTH, TEXT_HEIGHT if cloud is None else ROW_HEIGHT), "white")
    draw = ImageDraw.Draw(row)
    draw.line([(MARGIN, 0), (WIDTH - MARGIN, 0)], fill="#c8ccd1")
    width, at = WIDTH - 2 * MARGIN, (MARGIN, MARGIN // 2)
    pictures.draw_text(draw, printable(facts.file), at=at, size=13, width=width)
    at = (MARGIN, MARGIN // 2 + 18)
    colour = _RED if facts.error or facts.notes else _MUTED
    pictures.draw_text(draw, _describe(facts), at=at, size=12, width=width, colour=colour)
    if inspected.surface is not None:
        for number, view in enumerate(_mesh_views(inspected.surface, up=facts.up_axis)):
            row.paste(Image.fromarray(view), _corner(number))
    if cloud is not None:
        rgb = np.rint(cloud.rgb * 255).astype(np.uint8)
        for number in range(VIEWS):
            azimuth = pictures.AZIMUTH + 360 / VIEWS * number
            data = pictures.draw_cloud(cloud.xyz, rgb, size=SIDE, azimuth=azimuth)
            row.paste(Image.open(io.BytesIO(data)), _corner(VIEWS + number))
    return row


class SheetWriter:
    """Collects rows and writes them into PNG files of `ROWS_PER_SHEET` rows each.

    The first file has the name that was given, the second one that of `page_path`, and so on.

    Args:
      path: the first file to write.
    """

    def __init__(self, path: Path):
        self._path = path
        self._rows: list[Image.Image] = []
        self.written: list[Path] = []

    def add(self, row: Image.Image) -> None:
        """Adds a row from `draw_row`; writes a file when it is full."""
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_SHEET:
            self._write()

    def close(self) -> None:
        """Writes the remaining rows; without any row, a file with the title only."""
        if self._rows or not self.written:
            self._write()

    def _write(self) -> None:
        path = page_path(self._path, len(self.written) + 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sheet(path, self._rows)
        self.written.append(path)
        self._rows = []


def page_path(path: Path, number: int) -> Path:
    """Returns the file of a page: `sheet.png`, `sheet-2.png`, `sheet-3.png`."""
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def write_sheet(path: Path, rows: Sequence[Image.Image]) -> None:
    """Writes rows below a title into a PNG file, atomically.

    Args:
      path: file to write.
      rows: pictures from `draw_row`.
    """
    top = TITLE_HEIGHT
    sheet = Image.new("RGB", (WIDTH, top + sum(row.height for row in rows)), "white")
    pictures.draw_text(
        ImageDraw.Draw(sheet), TITLE, at=(MARGIN, MARGIN), size=12, width=WIDTH - 2 * MARGIN
    )
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    with atomic_io.replacing(path) as temporary, temporary.open("wb") as file:
        sheet.save(file, "PNG")


def _corner(number: int) -> tuple[int, int]:
    """Returns left and top of a picture of the row; a gap parts the mesh from its points."""
    left = MARGIN + number * (SIDE + MARGIN) + (MARGIN if number >= VIEWS else 0)
    return left, TEXT_HEIGHT


def _mesh_views(surface: Surface, *, up: str | None) -> list[np.ndarray]:
    """Renders views of a surface in the axes of its file; blank views are missing."""
    from data_prep.geometry import render, viewpoints  # need the extra `prep`, which clouds do not

    upright = rotate_upright(surface) if up == "y" else surface
    # The ring from above, as the views of the points.
    cameras = viewpoints.angles(12)[:VIEWS]
    return render.render_views(upright, cameras=cameras, size=SIDE)


def _describe(facts: inspection.Facts) -> str:
    """Returns the facts in one line; an error or notes first."""
    parts = [f"error: {facts.error}"] if facts.error else []
    parts += [f"notes: {', '.join(facts.notes)}"] if facts.notes else []
    if facts.kind == "mesh":
        parts += [f"{facts.triangles} triangles", f"parts: {facts.parts}"]
    elif facts.kind == "cloud":
        parts += [f"cloud of {facts.points} points"]
    if facts.extent:
        parts += ["extent " + " x ".join(f"{side:.6g}" for side in facts.extent)]
    if facts.colour_mean:
        parts += ["mean colour " + " ".join(f"{value:.0f}" for value in facts.colour_mean)]
    elif not facts.error:
        parts += ["no colours"]
    return "; ".join([*parts, f"{facts.up_axis} up"])
