# SPDX-License-Identifier: Apache-2.0
"""CLIP teacher: any transformers checkpoint of CLIP, from a folder or the Hugging Face Hub."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import transformers

from data_prep.teachers import batching, clip_weights, notices, token_counts
from data_prep.teachers.interface import TeacherInfo

# Settings of the image processor that affect the pixels.
PREPROCESSING_FIELDS = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


# Fields of a tokenizer's result that the text model reads.
TOKEN_FIELDS = ("input_ids", "attention_mask")


class ClipTeacher:
    """CLIP checkpoint with the interface of `teachers.Teacher`.

    Args:
      model: Flax model without parameters.
      params: parameters of the model.
      image_processor: image processor of the checkpoint.
      tokenizer: tokenizer of the checkpoint.
      name: hub name or folder name.
      revision: commit on the hub, or a checksum of the weights.
      batch_size: texts per call; None as in `batching.BatchedFunction`.
      picture_batch_size: images per call, or None for `batch_size`.
    """

    has_images = True

    def __init__(
        self,
        *,
        model: transformers.FlaxCLIPModel,
        params: dict,
        image_processor: transformers.CLIPImageProcessor,
        tokenizer: transformers.PreTrainedTokenizerBase,
        name: str,
        revision: str,
        batch_size: int | None,
        picture_batch_size: int | None = None,
    ):
        settings = image_processor.to_dict()
        self.info = TeacherInfo(
            name=name,
            revision=revision,
            dim=model.config.projection_dim,
            kind="clip",
            preprocessing=json.dumps({k: settings[k] for k in PREPROCESSING_FIELDS}),
        )
        self._image_processor = image_processor
        self._tokenizer = tokenizer
        self._max_tokens = model.config.text_config.max_position_embeddings
        scale, mean, std = _scaling(image_processor)

        def embed_images(params, batch):
            # Here and not on the host: uint8 pixels are faster to make and to copy.
            pixels = (batch["pixels"].astype(jnp.float32) * scale - mean) / std
            return model.get_image_features(pixels.transpose(0, 3, 1, 2), params=params)

        def embed_texts(params, batch):
            return model.get_text_features(**batch, params=params)

        image_names = ("vision_model", "visual_projection", "logit_scale")
        text_names = ("text_model", "text_projection", "logit_scale")
        side = model.config.vision_config.image_size
        pixels = {"pixels": jax.ShapeDtypeStruct((side, side, 3), np.uint8)}
        tokens = jax.ShapeDtypeStruct((self._max_tokens,), np.int32)
        self._images, self._texts = (
            batching.BatchedFunction(
                function, {name: params[name] for name in names}, batch_size=size, row=row
            )
            for function, names, size, row in (
                (embed_images, image_names, picture_batch_size or batch_size, pixels),
                (embed_texts, text_names, batch_size, dict.fromkeys(TOKEN_FIELDS, tokens)),
            )
        )

    def encode_images(
        self, images: Sequence[batching.Picture], *, progress: bool = False
    ) -> np.ndarray:
        """Embeds images, float32 [len(images), dim]; see `teachers.Teacher`."""
        prepared = batching.prepare_pictures(images, prepare=self._to_pixels, progress=progress)
        batches = (
            {"pixels": pixels}
            for pixels in batching.stack_batches(prepared, batch_size=self._images.batch_size)
        )
        return self._collect(self._images(batches))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts, float32 [len(texts), dim]; see `teachers.Teacher`."""
        if not texts:
            return self._collect(())
        # A constant length compiles once. CLIP's causal mask hides the padding after the text.
        tokens = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="np",
        )
        batches = batching.row_batches(
            {name: tokens[name].astype(np.int32) for name in TOKEN_FIELDS},
            batch_size=self._texts.batch_size,
        )
        return self._collect(self._texts(batches))

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Returns how many texts have more tokens than the text model reads."""
        return token_counts.count_longer(self._tokenizer, texts, tokens=self._max_tokens)

    def _to_pixels(self, image: PIL.Image.Image) -> np.ndarray:
        return to_pixels(image, self._image_processor)

    def _collect(self, batches) -> np.ndarray:
        return np.concatenate([np.zeros((0, self.info.dim), np.float32), *batches])

    @classmethod
    def load(
        cls,
        name_or_dir: str | pathlib.Path,
        *,
        batch_size: int | None = None,
        picture_batch_size: int | None = None,
        dtype: str = "float32",
    ) -> ClipTeacher:
        """Loads a checkpoint; see `teachers.load_teacher` for arguments and errors."""
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}, expected 'float32' or 'bfloat16'")
        folder, revision = clip_weights.resolve(str(name_or_dir))
        config = _read_config(folder)
        image_processor, tokenizer = _read_processor(folder)
        with notices.suppress_flax_deprecation():
            model = transformers.FlaxCLIPModel(config, dtype=jnp.dtype(dtype), _do_init=False)
        params, checksum = clip_weights.load(folder, expected=model.params_shape_tree)
        params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)
        return cls(
            model=model,
            params=params,
            image_processor=image_processor,
            tokenizer=tokenizer,
            name=str(name_or_dir) if revision else folder.resolve().name,
            revision=revision or checksum(),
            batch_size=batch_size,
            picture_batch_size=picture_batch_size,
        )


def to_pixels(image: PIL.Image.Image, processor: transformers.CLIPImageProcessor) -> np.ndarray:
    """Resizes and crops an RGB image as a processor does, but does not scale its values.

    Returns:
      uint8 [height, width, 3].
    """
    if _has_final_size(image, processor):
        return np.asarray(image)
    pixels = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")
    return pixels["pixel_values"][0].transpose(1, 2, 0)


def check_folder(folder: pathlib.Path) -> None:
    """Checks that a folder holds a CLIP checkpoint, without reading its weights.

    Raises:
      FileNotFoundError: the config, the processor, the tokenizer or the weights are missing.
      ValueError: the config is not that of a CLIP.
    """
    _read_config(folder)
    _read_processor(folder)
    clip_weights.check_files(clip_weights.weight_files(folder), folder=folder)


def _scaling(
    processor: transformers.CLIPImageProcessor,
) -> tuple[np.float32, np.ndarray, np.ndarray]:
    """Returns factor, mean and standard deviation, by which uint8 pixels become inputs."""
    factor = processor.rescale_factor if processor.do_rescale else 1
    mean = processor.image_mean if processor.do_normalize else [0.0] * 3
    std = processor.image_std if processor.do_normalize else [1.0] * 3
    return np.float32(factor), np.float32(mean), np.float32(std)


def _has_final_size(image: PIL.Image.Image, processor: transformers.CLIPImageProcessor) -> bool:
    """Returns whether the processor would neither resize nor crop an image."""
    size, crop, (width, height) = processor.size, processor.crop_size, image.size
    if processor.do_center_crop and (height, width) != (crop["height"], crop["width"]):
        return False
    if not processor.do_resize:
        return True
    if "shortest_edge" in size:
        return min(width, height) == size["shortest_edge"]
    return (height, width) == (size["height"], size["width"])


def _read_config(folder: pathlib.Path) -> transformers.CLIPConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found; expected the folder of a CLIP checkpoint (save_pretrained, or "
            "OpenCLIP with its open_clip_config.json) or of a LiT teacher"
        )
    kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    if kind != "clip":
        raise ValueError(
            f"{path}: model_type is {kind!r}, expected 'clip'; other models are not supported"
        )
    return transformers.CLIPConfig.from_pretrained(folder)


def _read_processor(folder: pathlib.Path):
    """Returns image processor and tokenizer of the checkpoint.

    There is no fallback: the processor of another checkpoint would give wrong features silently.
    """
    remedy = (
        "save it there with `CLIPProcessor.from_pretrained(NAME).save_pretrained(FOLDER)`, where "
        "NAME is the checkpoint of the weights"
    )
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the image processor is missing; {remedy}")
    tokenizer_files = [folder / "tokenizer.json", folder / "vocab.json"]
    if not any(path.is_file() for path in tokenizer_files):
        names = " or ".join(str(path) for path in tokenizer_files)
        raise FileNotFoundError(f"{names}: the tokenizer is missing; {remedy}")
    return (
        transformers.CLIPImageProcessor.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
