# SPDX-License-Identifier: Apache-2.0
"""What both students do before they differ: choose groups, describe their points, encode them."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.models import microbatch


def embed(
    model: nn.Module,
    xyz: jax.Array,
    rgb: jax.Array,
    *,
    train: bool,
    axis_name: str | None,
    keys: jax.Array | None,
) -> jax.Array:
    """Embed clouds; to be called inside the student's compact `__call__`, arguments as there.

    Args:
      model: has `choose_centres`, `neighbours`, `describe`, `make_tokenizer`, and `embed_tokens`,
        which takes centres [batch, groups, 3], features [batch, groups, width] and keys.
      xyz: [local_batch, points, 3].
      rgb: [local_batch, points, 3].
      train: whether groups are dropped and batch norm goes by the batch.
      axis_name: device axis over which batch norm's statistics are shared; None for one device.
      keys: [local_batch] random keys or None.

    Returns:
      [local_batch, out_dim].
    """
    # What a model has is the same however many clouds it is made with.
    most = 0 if model.is_initializing() else model.micro_batch
    clouds = microbatch.split((xyz.astype(jnp.float32), rgb, keys), most=most)

    def choose(clouds):
        xyz, _, keys = clouds
        centres = model.choose_centres(xyz, train=train, keys=keys)
        return centres, model.neighbours(xyz, centres)

    def describe(rows):
        (xyz, rgb, _), (centres, index) = rows
        return model.describe(xyz, rgb, centres, index)

    def tokens(rows, features):
        (_, _, keys), (centres, _) = rows
        return centres, features, keys if train else None

    rows = microbatch.with_held(choose, clouds)
    features = microbatch.apply(describe, rows)
    features = model.make_tokenizer(name="tokenizer")(features, train, axis_name)
    return microbatch.collect(
        lambda model, tokens: model.embed_tokens(*tokens),
        model,
        microbatch.apply(tokens, rows, features),
    )
