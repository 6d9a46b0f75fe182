# SPDX-License-Identifier: Apache-2.0
"""MiniLM sentence embeddings, the frozen text model of the LiT teacher (Wang et al. 2020)."""

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import transformers

from data_prep.teachers import batching, notices, token_counts
from mrd_jax.convert import rules

DIM = 384
# Maximum length in the training of the sentence model; longer texts are truncated.
MAX_TOKENS = 256
# Lengths are rounded up to a multiple of this, to compile for few shapes only.
LENGTH_STEP = 4

RULES = (
    rules.Rule(r"(embeddings\.(?:word|position|token_type)_embeddings)\.weight", r"\1/embedding"),
    rules.Rule(r"(.*LayerNorm)\.weight", r"\1/scale"),
    rules.Rule(r"(.*(?:query|key|value|dense))\.weight", r"\1/kernel", rules.DENSE),
    rules.Rule(r"(.*)\.bias", r"\1/bias"),
)
# Positions 0, 1, 2, ..., and BERT's pooler, which a mean replaces.
IGNORED = (r"embeddings\.position_ids", r"pooler\..*")


class MiniLM:
    """Sentence encoder.

    Args:
      folder: folder with config.json, tokenizer.json and model.safetensors.
      batch_size: texts per call; None as in `batching.BatchedFunction`.
      dtype: type of the activations; weights are float32.
    """

    def __init__(self, folder: pathlib.Path, *, batch_size: int | None, dtype: jnp.dtype):
        config = transformers.BertConfig.from_pretrained(folder)
        with notices.suppress_flax_deprecation():
            model = transformers.FlaxBertModel(
                config, dtype=dtype, _do_init=False, add_pooling_layer=False
            )
        path = folder / "model.safetensors"
        variables = rules.apply(
            safetensors.numpy.load_file(path),
            rules=RULES,
            ignored=IGNORED,
            expected=model.params_shape_tree,
            source=str(path),
        ).tree
        self._tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)

        def embed(variables, batch):
            hidden = model(**batch, params=variables).last_hidden_state
            return mean_pool(hidden.astype(jnp.float32), mask=batch["attention_mask"])

        tokens = jax.ShapeDtypeStruct((MAX_TOKENS,), np.int32)
        row = {"input_ids": tokens, "attention_mask": tokens}
        self._function = batching.BatchedFunction(embed, variables, batch_size=batch_size, row=row)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts.

        Args:
          texts: any number of sentences.

        Returns:
          float32 [len(texts), 384], unit norm.
        """
        if not texts:
            return np.zeros((0, DIM), np.float32)
        tokens = self._tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)
        # Batches of similar lengths: padding would otherwise be half of the work.
        order = np.argsort([len(ids) for ids in tokens["input_ids"]], kind="stable")
        features = np.empty((len(texts), DIM), np.float32)
        size = self._function.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        padded = (pad_tokens([tokens["input_ids"][row] for row in rows]) for rows in batches)
        for rows, values in zip(batches, self._function(padded), strict=True):
            features[rows] = values
        return features

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Returns how many texts have more tokens than the model reads."""
        return token_counts.count_longer(self._tokenizer, texts, tokens=MAX_TOKENS)


def pad_tokens(sequences: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Pads token sequences to a common length.

    Args:
      sequences: [batch] lists of token ids.

    Returns:
      input_ids and attention_mask, int32 [batch, tokens]; tokens is a multiple of LENGTH_STEP.
    """
    tokens = -(-max(map(len, sequences)) // LENGTH_STEP) * LENGTH_STEP
    mask = np.array([len(ids) for ids in sequences])[:, None] > np.arange(tokens)
    # 0 is BERT's padding token; masked tokens are never read.
    input_ids = np.zeros(mask.shape, np.int32)
    input_ids[mask] = np.concatenate(sequences)
    return {"input_ids": input_ids, "attention_mask": mask.astype(np.int32)}


def mean_pool(hidden: jax.Array, *, mask: jax.Array) -> jax.Array:
    """Averages the tokens that are not padding, and normalises the mean.

    Args:
      hidden: [batch, tokens, dim].
      mask: [batch, tokens], 1 for a token and 0 for padding.

    Returns:
      [batch, dim], unit norm.
    """
    weights = mask[..., None].astype(hidden.dtype)
    mean = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
