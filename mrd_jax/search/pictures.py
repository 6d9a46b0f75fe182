# SPDX-License-Identifier: Apache-2.0
"""Pictures of clouds, and the sheet of pictures that a search has found."""

import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mrd_jax.search import index as indices

# Degrees: from the left front and above, as the first view that data_prep renders.
_AZIMUTH, _ELEVATION = -45.0, 30.0
# Pixels a side before they are averaged to one.
_SAMPLES = 3
# Part of the side that the cloud fills.
_FILL = 0.92
# Brightness of the farthest points; the nearest have 1.
_FAR = 0.65
# Of a tile of the sheet, in pixels: the picture, the margin and the lines below it.
_SIDE, _MARGIN, _LINE = 192, 12, 15
# Lines of text of a tile: name, score, creator, and up to three of the licence.
_LINES = 6
_INK, _SOFT = "#1b1f24", "#4a525c"


def draw_cloud(xyz: np.ndarray, rgb: np.ndarray, *, size: int) -> bytes:
    """Draws a cloud on white, nearer points over farther ones.

    Args:
      xyz: [points, 3], z up, in the unit sphere.
      rgb: uint8 [points, 3].
      size: side in pixels.

    Returns:
      JPEG bytes.
    """
    side = size * _SAMPLES
    right, up, back = _view(np.asarray(xyz, np.float64))
    centre = [(axis.min() + axis.max()) / 2 for axis in (right, up)]
    half = max(np.ptp(right), np.ptp(up), 1e-6) / 2 / _FILL
    columns = (right - centre[0]) / half * side / 2 + side / 2
    rows = side / 2 - (up - centre[1]) / half * side / 2
    # As wide as the gaps between points spread over the outline, but no blot.
    reach = max(1, round(min(2 * side / np.sqrt(len(xyz)), 0.04 * side)))
    shade = _FAR + (1 - _FAR) * (back - back.min()) / max(np.ptp(back), 1e-6)
    colours = np.rint(rgb * shade[:, None]).astype(np.uint8)
    canvas = np.full((side, side, 3), 255, np.uint8)
    # Far points first: of several that fall on one pixel, numpy keeps the last.
    order = np.argsort(back, kind="stable")
    offsets = np.arange(reach) - reach // 2
    shifts = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
    places = np.stack([rows, columns], axis=-1)[order].astype(int)[:, None] + shifts
    places = np.clip(places, 0, side - 1)
    canvas[places[..., 0], places[..., 1]] = colours[order][:, None]
    picture = Image.fromarray(canvas).resize((size, size), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_sheet(
    path: Path,
    index: indices.Index,
    numbers: np.ndarray,
    scores: np.ndarray,
    *,
    title: str,
    columns: int = 5,
) -> None:
    """Writes found shapes as one picture: each with its name, score, creator and licence.

    Args:
      path: PNG file.
      index: that was searched.
      numbers: int [count] of the shapes, best first.
      scores: [count], their cosines.
      title: what was searched for.
      columns: tiles side by side.
    """
    columns = max(1, min(columns, len(numbers)))
    width, height = _SIDE + 2 * _MARGIN, _SIDE + 2 * _MARGIN + _LINES * _LINE
    top = 40
    sheet = Image.new("RGB", (columns * width, top + -(-len(numbers) // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    _write(pen, title, at=(_MARGIN, _MARGIN), size=16, width=sheet.width - 2 * _MARGIN)
    for place, (number, score) in enumerate(zip(numbers, scores, strict=True)):
        x = place % columns * width + _MARGIN
        y = top + place // columns * height
        _paste(sheet, index.picture(number), corner=(x, y))
        item = index.items[number]
        y += _SIDE + 4
        _write(pen, f"{place + 1}. {item.title}", at=(x, y), size=13)
        _write(pen, f"{score:.3f}", at=(x, y + _LINE))
        _write(pen, item.creator, at=(x, y + 2 * _LINE), ink=_SOFT)
        _write(pen, item.licence, at=(x, y + 3 * _LINE), ink=_SOFT, most=_LINES - 3)
    sheet.save(path, "PNG")


def _view(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates [points] to the right, upwards and towards the camera."""
    azimuth, elevation = np.radians(_AZIMUTH), np.radians(_ELEVATION)
    right = xyz @ [-np.sin(azimuth), np.cos(azimuth), 0]
    level = xyz @ [np.cos(azimuth), np.sin(azimuth), 0]
    up = np.cos(elevation) * xyz[:, 2] - np.sin(elevation) * level
    back = np.sin(elevation) * xyz[:, 2] + np.cos(elevation) * level
    return right, up, back


def _paste(sheet: Image.Image, file: Path, *, corner: tuple[int, int]) -> None:
    """Puts a picture into the middle of its square."""
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    scale = _SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    left, top = corner
    sheet.paste(picture, (left + (_SIDE - width) // 2, top + (_SIDE - height) // 2))


def _write(
    pen: ImageDraw.ImageDraw,
    text: str,
    *,
    at: tuple[int, int],
    size: int = 11,
    width: int = _SIDE,
    ink: str = _INK,
    most: int = 1,
) -> None:
    """Writes text on at most so many lines; what does not fit is cut off."""
    # As matplotlib brings it, it knows most scripts that are read from left to right.
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    for row, line in enumerate(lines):
        if font.getlength(line) > width:
            while font.getlength(line + "…") > width:
                line = line[:-1]
            line += "…"
        pen.text((at[0], at[1] + row * _LINE), line, fill=ink, font=font)
