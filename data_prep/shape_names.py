# SPDX-License-Identifier: Apache-2.0
"""Derives names and classes of shapes from the names of their files and folders.

A wrong name poisons training and evaluation, so a file name that says nothing gives no name:
`model_normalized.obj`, `scene.gltf`, `1a2b.glb`, a hash, a number or a UUID.

Part numbers and sizes stay whole, since they are what tells parts apart: `D_SOD-123.step` is
"D SOD-123", and `DIP-8_W8.89mm.step` is "DIP-8 W8.89mm". A number after a word is a counter:
`oak_chair-2.glb` is "oak chair".
"""

import posixpath
import re
import unicodedata
from collections.abc import Sequence

# Value of --label_from: the nearest folder whose name says something.
FOLDER = "folder"
LABEL_FROM_HELP = (
    "folders that name the classes, and shapes whose file name says nothing: folder, the nearest "
    "one whose name says something, or its level, such as 1 for those directly in the input folder"
)
# Words that describe a file and not its content, in lower case. A name needs at least one other.
GENERIC_WORDS = frozenset(
    "model models mesh meshes scene scenes object objects obj objs shape shapes asset assets item "
    "items part parts component group geometry geom body solid surface default root node main "
    "untitled unnamed unknown noname new copy final temp tmp test train val demo example sample "
    "file files data input output out result results export exported exports import imported "
    "download downloads source src raw clean cleaned processed converted convert fixed merged "
    "normalized normalised normalize simplified simple reduced decimated remeshed watertight "
    "manifold textured texture textures material materials colored coloured colors colours vertex "
    "baked uv visual visuals collision high low mid med medium hi lo res poly lod highpoly lowpoly "
    "3d 2d cad scan scans scanned cloud clouds pointcloud points point pcd version ver rev "
    "img dsc glb gltf glbs off ply stl npy npz fbx dae usd usdz step stp blend zip the a of and "
    "no with".split()
)
# A number, with a letter at most, such as v2 or A-1; a version or a size; hexadecimal digits, two
# of them numbers at least; and letters between numbers, as in identifiers of shops and catalogues.
_IDENTIFIER = re.compile(
    r"[a-z]?\d*-?\d+[a-z]?|v\d+[.\d]*|[a-z]{0,2}\d+\.\d.*"
    r"|(?=[a-f]*\d)[0-9a-f]{8,}|(?=.*\d.*\d)[0-9a-f]{4,}|.*\d[a-z]+\d.*"
)
# Abbreviation in capitals, and a hyphen before what has a digit, such as SOD-123, TO-220AB, HC-SR04
# and QFN-16-1EP. Neither dates such as 2023-01-15 nor counters such as in SOFA-001 are.
_PART_NUMBER = re.compile(
    r"(?![A-Z]{3,}-0\d*$)[A-Z]{1,5}\d{0,4}[A-Z]?"
    r"(?!-\d{4}-\d{2}(?:-|$))(?:-[A-Z]{0,3}\d[0-9A-Z]*)+"
)
# Number with a decimal point and at most two letters before it, such as W8.89mm and 1.6x0.8mm. A
# number without letters is none, since it may be a version or a date.
_SIZE = re.compile(
    r"(?=.*[A-Za-z])(?![vV]\d)[A-Za-z]{0,2}\d+\.\d+(?:[xX\u00d7]\d+(?:\.\d+)?)*[A-Za-z]{0,3}"
)
# What separates words; of these, hyphens and points may also be inside of one.
_SEPARATORS = re.compile(r"[\s_+()\[\]\x00-\x1f\x7f-\x9f]+")
# Version, such as v1.2.
_VERSION = re.compile(r"v\d+(?:\.\d+)*")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def name_of(path: str) -> str:
    """Derives the name of a shape from its file name: the words without trailing counters.

    `oak_chair-2.glb` and `oakChair2.glb` become "oak chair",
    `DamagedHelmet.glb` becomes "Damaged Helmet", and `SOT-23-5_1.6x2.9mm.step` "SOT-23-5
    1.6x2.9mm"; `0001.ply`, `model_normalized.obj` and names that are not UTF-8 become "".
    """
    return words_of(posixpath.splitext(posixpath.basename(path))[0])


def words_of(text: str) -> str:
    """Returns the words of the name of a file, without suffix, or of a folder; see `name_of`."""
    text = unicodedata.normalize("NFC", text)
    if _UUID.search(text.lower()) or any("\ud800" <= char <= "\udfff" for char in text):
        return ""
    # In oakChair, capitals only separate words, which are lower-case; abbreviations stay.
    is_camel_case = text[:1].islower()

    def separate(match: re.Match) -> str:
        start = match.group()
        return " " + (start.lower() if is_camel_case and len(start) == 2 else start)

    # A capital after two lower-case letters starts a word: DamagedHelmet has two, iPhone one.
    separated = re.sub(r"(?<=[a-z]{2})[A-Z][a-z]?", separate, text)
    # Control characters, which only a broken or malicious file name has, separate words, too.
    words = [word for piece in _SEPARATORS.split(separated) for word in _split(piece)]
    # Removes the number of stool2, but not that of a word as short as mp3.
    words[-1:] = [re.sub(r"(?<=[a-z]{3})\d+$", "", word) for word in words[-1:]]
    while words and words[-1].isdigit():
        words.pop()
    return " ".join(words) if any(map(_is_informative, words)) else ""


def label_of(path: str, label_from: str) -> tuple[str, str]:
    """Returns the class of a shape by the folders that it is in, and the words of that class.

    Args:
      path: path of the file relative to the input folder, with forward slashes.
      label_from: FOLDER for the nearest folder whose name says something, or a level: "1" is the
        folder directly in the input folder.

    Returns:
      The name of the folder as it is written, and its words, see `words_of`; "" if there is none.
    """
    folders = [unicodedata.normalize("NFC", name) for name in path.split("/")[:-1]]
    if label_from == FOLDER:
        candidates: Sequence[str] = [name for name in reversed(folders) if words_of(name)]
    else:
        candidates = folders[int(label_from) - 1 : int(label_from)]
    for name in candidates:
        label = " ".join(name.encode("utf-8", "replace").decode().split())
        return label, words_of(name)
    return "", ""


def check_label_from(value: str) -> str:
    """Returns a value of --label_from if it is valid.

    Raises:
      ValueError: it is neither FOLDER nor a level of at least 1.
    """
    if value != FOLDER and not (value.isascii() and value.isdigit() and int(value[:9]) > 0):
        raise ValueError(
            f"--label_from is {value!r}; expected {FOLDER!r}, the nearest folder whose name says "
            "something, or a number, such as 1 for the folders directly in the input folder"
        )
    return value


def _split(piece: str) -> list[str]:
    """Splits a text at hyphens and points, but not inside of part numbers, sizes and versions."""
    # A stem is followed by numbers of copies in some programs: chair.001.
    if _PART_NUMBER.fullmatch(piece) or _SIZE.fullmatch(piece) or _VERSION.fullmatch(piece):
        return [piece]
    for separator in "-.":
        if separator in piece:
            return [word for part in piece.split(separator) for word in _split(part)]
    return [piece] if piece else []


def _is_informative(word: str) -> bool:
    word = word.lower()
    if word.rstrip("-0123456789") in GENERIC_WORDS or _IDENTIFIER.fullmatch(word):
        return False
    return len(word) > 1 or not word.isascii()
