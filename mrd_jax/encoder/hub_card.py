# SPDX-License-Identifier: Apache-2.0
"""README.md of an encoder folder: what the Hugging Face Hub reads and shows of it."""

from mrd_jax.checkpoints import model_card

# Identifiers of the Hub -> names by which they are recognised, in small letters.
_LICENCES = {
    "apache-2.0": ("apache-2.0", "apache 2.0", "apache license 2.0"),
    "bsd-3-clause": ("bsd-3-clause",),
    "cc-by-4.0": ("cc-by-4.0", "cc by 4.0"),
    "cc-by-nc-4.0": ("cc-by-nc-4.0", "cc by-nc 4.0"),
    "cc-by-sa-4.0": ("cc-by-sa-4.0", "cc by-sa 4.0"),
    "cc0-1.0": ("cc0-1.0", "cc0 1.0", "cc0"),
    "mit": ("mit", "mit license"),
}


def markdown(card: model_card.ModelCard) -> str:
    """Formats the README of an encoder.

    Args:
      card: model card of the encoder.

    Returns:
      YAML front matter, then Markdown that ends with a newline.
    """
    size = card.size or card.student["name"]
    rows = {
        "architecture": size,
        "parameters": f"{card.parameters:,}",
        "teacher": f"`{card.teacher}`" if card.teacher else "unknown",
        "dimension of the embeddings": str(card.teacher_dim),
        "points per point cloud": f"{card.points:,}",
        "vertical axis": f"{card.up_axis}; clouds with y up: {card.from_y_up}",
        "vertical axis of the Flax module": card.module_up_axis,
        "normalisation": card.normalisation,
        "colour of points without one": f"{card.colour_fill:g}",
        "weights": _origin(card),
        "licence of the weights": card.licence or "unknown",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""{_front_matter(card)}
# {size}

An encoder of coloured point clouds whose embeddings compare with the image and text features of its
teacher. It was written by `mrd_jax`, and reads with it:

```python
from mrd_jax import encoder

loaded = encoder.load("hf://USER/NAME")  # or a local folder
embeddings = loaded.embed([(xyz, rgb)])  # xyz, rgb: [{card.points}, 3]
```

| | |
| --- | --- |
{table}

`config.json` has these and all other fields, `manifest.json` the checksums of the arrays in
`model.safetensors`, which `load` compares.
"""


def _front_matter(card: model_card.ModelCard) -> str:
    lines = ["---", "library_name: mrd_jax", *_licence(card.licence)]
    lines += ["pipeline_tag: feature-extraction", "tags:"]
    lines += [f"- {tag}" for tag in ("3d", "point-cloud", "jax", "flax", card.student["name"])]
    return "\n".join([*lines, "---", ""])


def _licence(licence: str) -> list[str]:
    """Returns the lines for a licence; one that the Hub does not know is "other" with its name."""
    if not licence:
        return []
    for identifier, names in _LICENCES.items():
        if licence.lower() in names:
            return [f"license: {identifier}"]
    quoted = licence.replace("\\", "\\\\").replace('"', '\\"')
    return ["license: other", f'license_name: "{quoted}"']


def _origin(card: model_card.ModelCard) -> str:
    if not card.source_file:
        return f"trained by {card.source}"
    return f"converted from `{card.source_file}` of {card.source}, SHA-256 {card.source_sha256}"
