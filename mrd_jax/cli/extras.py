# SPDX-License-Identifier: Apache-2.0
"""The extras of this installation: what each is for, and which of its packages are missing."""

import functools
import importlib.metadata
from collections.abc import Iterable, Iterator

from packaging.requirements import Requirement

# What a user gains by each extra of setup.py.
PURPOSES = {
    "prep": "prepares data, and reads meshes and teachers for embedding and search",
    "formats": "reads STEP, IGES, LAS, LAZ and E57, and meshes that meshoptimizer has compressed",
    "demo": "serves the search page and its API",
    "ann": "searches indexes of 200,000 shapes and more approximately, by faiss",
    "gcs": "reads and writes gs:// URLs",
    "tpu": "trains on TPUs, and compiles for them on any machine",
    "cuda12": "trains on NVIDIA GPUs whose driver supports CUDA 12, and compiles for them",
    "cuda13": "trains on NVIDIA GPUs whose driver supports CUDA 13",
    "k8s": "finds the other processes of a Kubernetes job",
    "cluster": "prepares data on a Ray cluster",
    "convert": "reads and writes the .pt files of published encoders",
    "export": "writes an encoder as a StableHLO program",
    "hub": "loads encoders from the Hugging Face Hub: hf://USER/NAME",
    "wandb": "sends metrics to Weights & Biases",
    "notebooks": "runs the notebooks of the documentation",
    "docs": "builds the documentation's site",
    "test": "runs the tests",
    "browser": "tests the search page in a browser",
}


@functools.cache
def requirements() -> dict[str, tuple[Requirement, ...]]:
    """Returns the requirements of each extra that apply to this Python and platform; "" for none.

    Raises:
      ImportError: mrd_jax runs from a folder and is not installed.
    """
    try:
        lines = importlib.metadata.requires("mrd_jax") or ()
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError("mrd_jax is not installed: pip install . in its folder") from error
    parsed = [Requirement(line) for line in lines]
    return {
        extra: tuple(item for item in parsed if _belongs(item, extra)) for extra in ("", *PURPOSES)
    }


def faults(wanted: Iterable[Requirement]) -> Iterator[str]:
    """Yields each package that is missing or has a version out of range.

    Args:
      wanted: requirements; the extras of a package are looked up as well.
    """
    for requirement in wanted:
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{requirement.name} is missing"
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield f"{requirement.name} is {found}, expected {requirement.specifier}"
        for extra in requirement.extras:
            lines = importlib.metadata.requires(requirement.name) or ()
            below = [item for item in map(Requirement, lines) if _belongs(item, extra)]
            yield from faults(below)


def _belongs(requirement: Requirement, extra: str) -> bool:
    """Returns whether a requirement is that of an extra and not of the package in any case."""
    marker = requirement.marker
    if not extra:
        return marker is None or marker.evaluate({"extra": ""})
    return (
        marker is not None
        and marker.evaluate({"extra": extra})
        and not marker.evaluate({"extra": ""})
    )
