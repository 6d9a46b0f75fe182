# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0, the frozen image backbone of the LiT teacher (Tan and Le 2019).

The Lite variant uses ReLU6 instead of swish and has no squeeze-and-excitation. Names of layers and
padding are those of the TensorFlow release from which the weights were converted.
"""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_prep.teachers.lit.frozen import torch_file
from mrd_jax.convert import rules

# Value of the TensorFlow release. With Flax's default of 1e-5, channels of low variance would be
# several times too large.
BATCH_NORM_EPSILON = 1e-3
# The Lite models expect (x - 127) / 128 instead of ImageNet's mean and standard deviation.
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0
FEATURES = 1280

# Per stage: blocks, kernel size, stride of the first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

RULES = (
    rules.Rule(r"_conv_stem\.weight", "params/stem/kernel", rules.CONV),
    rules.Rule(r"_conv_head\.weight", "params/head/kernel", rules.CONV),
    rules.Rule(
        r"_blocks\.(\d+)\._(expand|depthwise|project)_conv\.weight",
        r"params/block_\1/\2/kernel",
        rules.CONV,
    ),
    rules.Rule(r"_bn0\.weight", "params/stem_norm/scale"),
    rules.Rule(r"_bn0\.bias", "params/stem_norm/bias"),
    rules.Rule(r"_bn0\.running_(mean|var)", r"batch_stats/stem_norm/\1"),
    rules.Rule(r"_bn1\.weight", "params/head_norm/scale"),
    rules.Rule(r"_bn1\.bias", "params/head_norm/bias"),
    rules.Rule(r"_bn1\.running_(mean|var)", r"batch_stats/head_norm/\1"),
    rules.Rule(r"_blocks\.(\d+)\._bn(\d)\.weight", r"params/block_\1/norm\2/scale"),
    rules.Rule(r"_blocks\.(\d+)\._bn(\d)\.bias", r"params/block_\1/norm\2/bias"),
    rules.Rule(r"_blocks\.(\d+)\._bn(\d)\.running_(mean|var)", r"batch_stats/block_\1/norm\2/\3"),
)
# PyTorch's batch counter, and the ImageNet classifier.
IGNORED = (r".*\.num_batches_tracked", r"_fc\.(weight|bias)")


def depthwise(images: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Computes a depthwise convolution as a sum of shifted images.

    XLA's grouped convolution is 3 to 20 times slower on CPU.

    Args:
      images: [batch, height, width, channels].
      kernel: [size, size, 1, channels].
      stride: stride along both axes.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), channels], with TensorFlow's padding
      "SAME" (odd padding is larger at the bottom and right).
    """
    size = kernel.shape[0]
    height, width = (-(-n // stride) for n in images.shape[1:3])
    pads = [
        max((n - 1) * stride + size - m, 0)
        for n, m in zip((height, width), images.shape[1:3], strict=True)
    ]
    images = jnp.pad(images, ((0, 0), *((p // 2, p - p // 2) for p in pads), (0, 0)))
    total = jnp.zeros((), images.dtype)
    for row in range(size):
        for column in range(size):
            shifted = images[
                :,
                row : row + (height - 1) * stride + 1 : stride,
                column : column + (width - 1) * stride + 1 : stride,
            ]
            total = total + shifted * kernel[row, column, 0]
    return total


class DepthwiseConv(nn.Module):
    """Flax module with the kernel of `depthwise`."""

    size: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height', width', channels]."""
        shape = (self.size, self.size, 1, images.shape[-1])
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        return depthwise(images, kernel.astype(self.dtype), stride=self.stride)


class Block(nn.Module):
    """Inverted bottleneck: expand, depthwise, project; residual if the shapes are equal."""

    size: int
    stride: int
    expansion: int
    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels_in] to [batch, height', width', channels]."""
        width = images.shape[-1]
        hidden = images
        if self.expansion != 1:
            hidden = _conv(width * self.expansion, self.dtype, "expand")(hidden)
            hidden = jax.nn.relu6(_norm(self.dtype, "norm0")(hidden))
        hidden = DepthwiseConv(self.size, self.stride, self.dtype, name="depthwise")(hidden)
        hidden = jax.nn.relu6(_norm(self.dtype, "norm1")(hidden))
        hidden = _conv(self.channels, self.dtype, "project")(hidden)
        hidden = _norm(self.dtype, "norm2")(hidden)
        return images + hidden if self.stride == 1 and width == self.channels else hidden


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 up to the pooled features, for inference only."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Returns the pooled features of images.

        Args:
          pixels: uint8 [batch, height, width, 3].

        Returns:
          float32 [batch, 1280], non-negative.
        """
        images = ((pixels.astype(jnp.float32) - PIXEL_MEAN) / PIXEL_SCALE).astype(self.dtype)
        images = nn.Conv(32, (3, 3), strides=2, use_bias=False, dtype=self.dtype, name="stem")(
            images
        )
        images = jax.nn.relu6(_norm(self.dtype, "stem_norm")(images))
        index = 0
        for blocks, size, first_stride, expansion, channels in STAGES:
            for number in range(blocks):
                stride = first_stride if number == 0 else 1
                block = Block(size, stride, expansion, channels, self.dtype, name=f"block_{index}")
                images = block(images)
                index += 1
        images = _conv(FEATURES, self.dtype, "head")(images)
        images = jax.nn.relu6(_norm(self.dtype, "head_norm")(images))
        return images.astype(jnp.float32).mean(axis=(1, 2))


def _conv(channels: int, dtype: jnp.dtype, name: str) -> nn.Conv:
    return nn.Conv(channels, (1, 1), use_bias=False, dtype=dtype, name=name)


def _norm(dtype: jnp.dtype, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=True, epsilon=BATCH_NORM_EPSILON, dtype=dtype, name=name
    )


def load_variables(path: pathlib.Path) -> dict:
    """Reads the released weights.

    Args:
      path: `.pth` file of the weight package.

    Returns:
      Variables of `EfficientNetLite0` (`params` and `batch_stats`), float32 numpy arrays.

    Raises:
      ValueError: the file contains other weights, or more than plain tensors.
    """
    pixels = jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8)
    expected = jax.eval_shape(EfficientNetLite0().init, jax.random.key(0), pixels)
    state = torch_file.load(path)
    return rules.apply(
        state, rules=RULES, ignored=IGNORED, expected=expected, source=str(path)
    ).tree
