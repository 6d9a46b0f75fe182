# SPDX-License-Identifier: Apache-2.0
"""Pictures of point clouds, and contact sheets of search results."""

import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mrd_jax import atomic_io, storage
from mrd_jax.search import shape_index

# Camera angles in degrees, from the front left and above: the first view that data_prep renders.
AZIMUTH = -45.0
_ELEVATION = 30.0
# Supersampling factor per axis.
_SUPERSAMPLING = 3
# Fraction of the side that the point cloud fills.
_FILL = 0.92
# Brightness of the farthest points; the nearest points have 1.
_FAR_BRIGHTNESS = 0.65
# Layout of a tile of the contact sheet in pixels: picture, margin and line height.
_SIDE, _MARGIN, _LINE = 192, 12, 15
# Lines of text per tile: name, score, creator, and up to three lines of the licence.
_LINES = 6
_TEXT_COLOUR, _MUTED_COLOUR = "#1b1f24", "#4a525c"


def draw_cloud(xyz: np.ndarray, rgb: np.ndarray, *, size: int, azimuth: float = AZIMUTH) -> bytes:
    """Draws a point cloud on white; nearer points hide farther ones.

    Args:
      xyz: [points, 3], z up, inside the unit sphere.
      rgb: uint8 [points, 3].
      size: side of the picture in pixels.
      azimuth: angle of the camera in degrees, anticlockwise around z.

    Returns:
      JPEG bytes.
    """
    side = size * _SUPERSAMPLING
    right, up, nearness = _project(np.asarray(xyz, np.float64), azimuth=azimuth)
    centre = [(axis.min() + axis.max()) / 2 for axis in (right, up)]
    half = max(np.ptp(right), np.ptp(up), 1e-6) / 2 / _FILL
    columns = (right - centre[0]) / half * side / 2 + side / 2
    rows = side / 2 - (up - centre[1]) / half * side / 2
    # Wide enough to close the gaps between points, but at most 4% of the side.
    width = max(1, round(min(2 * side / np.sqrt(len(xyz)), 0.04 * side)))
    depth = (nearness - nearness.min()) / max(np.ptp(nearness), 1e-6)
    brightness = _FAR_BRIGHTNESS + (1 - _FAR_BRIGHTNESS) * depth
    colours = np.rint(rgb * brightness[:, None]).astype(np.uint8)
    canvas = np.full((side, side, 3), 255, np.uint8)
    # Far points first: numpy keeps the last of several values that are assigned to one pixel.
    order = np.argsort(nearness, kind="stable")
    offsets = np.arange(width) - width // 2
    offsets = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
    pixels = np.stack([rows, columns], axis=-1)[order].astype(int)[:, None] + offsets
    pixels = np.clip(pixels, 0, side - 1)
    canvas[pixels[..., 0], pixels[..., 1]] = colours[order][:, None]
    picture = Image.fromarray(canvas).resize((size, size), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_sheet(
    path: storage.PathLike,
    index: shape_index.ShapeIndex,
    numbers: np.ndarray,
    scores: np.ndarray,
    *,
    title: str,
    columns: int = 5,
) -> None:
    """Writes search results as a contact sheet with name, score, creator and licence per shape.

    Args:
      path: PNG file to write.
      index: the index that was searched.
      numbers: int [count], rows of the shapes in the index, best first.
      scores: [count], their cosine similarities with the query.
      title: heading of the sheet, such as the query.
      columns: maximum number of tiles per row.
    """
    columns = max(1, min(columns, len(numbers)))
    width, height = _SIDE + 2 * _MARGIN, _SIDE + 2 * _MARGIN + _LINES * _LINE
    top = 40
    sheet = Image.new("RGB", (columns * width, top + -(-len(numbers) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    draw_text(draw, title, at=(_MARGIN, _MARGIN), size=16, width=sheet.width - 2 * _MARGIN)
    for tile, (number, score) in enumerate(zip(numbers, scores, strict=True)):
        x = tile % columns * width + _MARGIN
        y = top + tile // columns * height
        _paste(sheet, index.picture(number), corner=(x, y))
        item = index.items[number]
        y += _SIDE + 4
        draw_text(draw, f"{tile + 1}. {item.title}", at=(x, y), size=13)
        draw_text(draw, f"{score:.3f}", at=(x, y + _LINE))
        draw_text(draw, item.creator, at=(x, y + 2 * _LINE), colour=_MUTED_COLOUR)
        draw_text(
            draw, item.licence, at=(x, y + 3 * _LINE), colour=_MUTED_COLOUR, max_lines=_LINES - 3
        )
    with atomic_io.replacing(path) as temporary, temporary.open("wb") as file:
        sheet.save(file, "PNG")


def draw_text(
    draw: ImageDraw.ImageDraw,
    text: str,
    *,
    at: tuple[int, int],
    size: int = 11,
    width: int = _SIDE,
    colour: str = _TEXT_COLOUR,
    max_lines: int = 1,
) -> None:
    """Draws text, wrapped to a width in pixels; an ellipsis ends text that does not fit.

    Args:
      draw: picture to draw on.
      text: text of one paragraph.
      at: left and top of the first line in pixels.
      size: height of the font in pixels.
      width: width of a line in pixels.
      colour: colour of the text.
      max_lines: largest number of lines.
    """
    # The font that matplotlib installs covers most left-to-right scripts.
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    lines = [*lines[: max_lines - 1], " ".join(lines[max_lines - 1 :])]
    for row, line in enumerate(lines):
        if font.getlength(line) > width:
            while font.getlength(line + "…") > width:
                line = line[:-1]
            line += "…"
        draw.text((at[0], at[1] + row * _LINE), line, fill=colour, font=font)


def _project(xyz: np.ndarray, *, azimuth: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns camera coordinates, each [points]: to the right, upwards and towards the camera."""
    azimuth, elevation = np.radians(azimuth), np.radians(_ELEVATION)
    right = xyz @ [-np.sin(azimuth), np.cos(azimuth), 0]
    level = xyz @ [np.cos(azimuth), np.sin(azimuth), 0]
    up = np.cos(elevation) * xyz[:, 2] - np.sin(elevation) * level
    nearness = np.sin(elevation) * xyz[:, 2] + np.cos(elevation) * level
    return right, up, nearness


def _paste(sheet: Image.Image, data: bytes, *, corner: tuple[int, int]) -> None:
    """Pastes a picture, scaled to fit and centred, into a square of the sheet."""
    with Image.open(io.BytesIO(data)) as opened:
        picture = opened.convert("RGB")
    scale = _SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    left, top = corner
    sheet.paste(picture, (left + (_SIDE - width) // 2, top + (_SIDE - height) // 2))
