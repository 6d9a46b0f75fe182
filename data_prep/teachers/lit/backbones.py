# SPDX-License-Identifier: Apache-2.0
"""Frozen image and text models of a LiT teacher."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageOps

from data_prep.teachers import batching
from data_prep.teachers.lit import feature_cache
from data_prep.teachers.lit.frozen import efficientnet, minilm, packages

# Height and width in pixels. Lite0 was trained at 224; 160 halves the cost of the image model, the
# largest part of a first build.
IMAGE_SIZE = 160
PREPROCESSING = (
    f"white square, {IMAGE_SIZE} px bicubic, "
    f"(x - {efficientnet.PIXEL_MEAN:g}) / {efficientnet.PIXEL_SCALE:g}"
)


class Backbones:
    """Both frozen models, loaded from the installed weight packages.

    Args:
      batch_size: texts per call; None as in `batching.BatchedFunction`.
      picture_batch_size: images per call, or None for `batch_size`.
      dtype: type of the activations, "float32" or "bfloat16".
      cache: cache of backbone features, or None.
    """

    def __init__(
        self,
        *,
        batch_size: int | None,
        picture_batch_size: int | None = None,
        dtype: str,
        cache: feature_cache.FeatureCache | None = None,
    ):
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}, expected 'float32' or 'bfloat16'")
        folder = packages.locate(packages.EFFICIENTNET)
        model = efficientnet.EfficientNetLite0(dtype=jnp.dtype(dtype))
        self._images = batching.BatchedFunction(
            lambda variables, batch: model.apply(variables, batch["pixels"]),
            efficientnet.load_variables(folder / packages.EFFICIENTNET.files[0][0]),
            batch_size=picture_batch_size or batch_size,
            row={"pixels": jax.ShapeDtypeStruct((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)},
        )
        self.encode_texts = minilm.MiniLM(
            packages.locate(packages.MINILM), batch_size=batch_size, dtype=jnp.dtype(dtype)
        )
        self._context = f"{packages.EFFICIENTNET.weights_sha256} {dtype}"
        self._cache = cache

    def backbone_features(
        self, images: Sequence[batching.Picture], *, progress: bool = False
    ) -> np.ndarray:
        """Embeds images with the image model; runs it only on images that are not in the cache.

        Args:
          images: opened images or encoded bytes.
          progress: whether to show a progress bar.

        Returns:
          float32 [len(images), 1280].
        """
        if not images:
            return np.zeros((0, efficientnet.FEATURES), np.float32)
        cache = feature_cache.FeatureCache() if self._cache is None else self._cache
        keys: list[bytes] = []
        new: list[bytes] = []

        def uncached_batches():
            pixels = {}
            prepared = batching.prepare_pictures(images, prepare=to_pixels, progress=progress)
            for image in prepared:
                key = feature_cache.picture_key(image, context=self._context)
                keys.append(key)
                if key not in cache and key not in pixels:
                    pixels[key] = image
                if len(pixels) == self._images.batch_size:
                    new.extend(pixels)
                    yield {"pixels": np.stack(list(pixels.values()))}
                    pixels = {}
            if pixels:
                new.extend(pixels)
                yield {"pixels": np.stack(list(pixels.values()))}

        for rows in self._images(uncached_batches()):
            cache.add(new[: len(rows)], rows)
            del new[: len(rows)]
        cache.save()
        return cache.rows(keys)


def to_pixels(image: PIL.Image.Image) -> np.ndarray:
    """Resizes an RGB image to uint8 [160, 160, 3], padded with white to a square."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    padded = PIL.ImageOps.pad(image, size, PIL.Image.Resampling.BICUBIC, color="white")
    return np.asarray(padded, np.uint8)
