# SPDX-License-Identifier: Apache-2.0
"""Operations on arrays, written per platform, that the models call.

`attention`, with `attention_rows`, its Pallas kernels for TPUs, and `attention_cudnn`, for NVIDIA
GPUs; `point_search` and `points_triton`, for sampling and neighbour search, the latter for NVIDIA
GPUs, and `bit_words`, which the former uses; `chunked_pooling`, for the tokenizers. None of them
has parameters. `platforms` names the platforms.
"""
