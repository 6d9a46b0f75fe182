# SPDX-License-Identifier: Apache-2.0
r"""The baseline Uni3D (Zhou et al., ICLR 2024), size b: contrastive loss only, from EVA's weights.

python -m mrd_jax.tools.convert --from eva --size b --checkpoint eva02_b.safetensors \
    --output encoders/eva02_b.npz
python -m mrd_jax.main --config configs/uni3d.py --workdir runs/uni3d

Other training lists: `--config configs/uni3d.py:ensembled_no_lvis` or `:shapenet`. "Code" below is
github.com/baaivision/Uni3D, scripts/pretrain.sh unless another file is named. Uni3D's teacher is
EVA02-E-14-plus (dimension 1,024); this config uses that of OpenShape's released features.
"""

from ml_collections import ConfigDict

from configs import base, ensembles


def get_config(variant: str = "ensembled") -> ConfigDict:
    """Returns Uni3D's hyperparameters on OpenShape's released features."""
    config = base.get_config()

    # jit over a device mesh, suited to several hosts. Ours.
    config.spmd = "shard_map"
    # Code: 48 on each of 24 GPUs.
    config.batch_size = 1_152
    # Code: --epochs.
    ensembles.choose(config, variant, epochs=200)
    # EVA's image weights, written by the command above (code: --pretrained-pc).
    config.initial_weights = "encoders/eva02_b.npz"
    config.model = model()

    # Contrastive loss only: no distillation.
    config.loss.lambda_intra = 0.0
    config.loss.lambda_image = 0.0
    config.loss.lambda_text = 0.0
    # Uni3D's loss is the sum of an image and a text term.
    config.loss.image_weight = 1.0
    config.loss.text_weight = 1.0

    # Code: --lr, --point-lr.
    config.optimizer.learning_rate = 1e-3
    # Code, utils/scheduler.py: the cosine schedule ends at 0.
    config.optimizer.final_learning_rate = 0.0
    # Code: --warmup. The run on ShapeNet is shorter than that; it warms up for a tenth of its steps
    # (ours).
    config.optimizer.warmup_steps = min(10_000, config.total_steps // 10)
    # Code, utils/params.py: values of models whose name does not contain "ViT".
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    # Code: --wd, --point-wd. utils/optim.py excludes vectors.
    config.optimizer.weight_decay = 0.1
    # Code: --point-ld.
    config.optimizer.layer_decay = 0.95
    # Code: --grad-clip-norm.
    config.optimizer.clip_norm = 5.0
    return config


def model() -> ConfigDict:
    """Returns Uni3D size b, whose transformer is that of EVA-02 size b."""
    config = ConfigDict()
    config.name = "uni3d"
    # Points per cloud that the student receives (code: --npoints).
    config.points = 10_000
    # Width of the transformer (released size b, as are the next four).
    config.dim = 768
    # Number of transformer blocks.
    config.depth = 12
    # Number of attention heads.
    config.heads = 12
    # Hidden width of the MLPs.
    config.mlp_dim = 2_048
    # Kind of MLP: SwiGLU with a norm before the output projection.
    config.mlp = "swiglu_norm"
    # Width of a group's embedding (code: --pc-encoder-dim).
    config.encoder_dim = 512
    # Number of groups, which is the number of point tokens (code: --num-group).
    config.groups = 512
    # Points per group (code: --group-size).
    config.group_size = 64
    # Dimension of the teacher's features.
    config.out_dim = 1_280
    # Patch dropout: fraction of groups dropped in training (code: --patch-dropout).
    config.patch_dropout = 0.5
    # The dropped groups are sampled at random (code).
    config.patch_choice = "random"
    # Stochastic depth (code: --drop-path-rate).
    config.drop_path = 0.2
    # Type of activations. Parameters, norms and softmax are float32. Ours.
    config.dtype = "bfloat16"
    # Rematerialise (recompute) each block in the backward pass. Ours.
    config.remat = True
    # Micro-batching as in configs/base.py; 0 disables it. Ours.
    config.micro_batch = 0
    # Implementation of attention as in configs/base.py. Ours.
    config.attention = "auto"
    # Head of its own for the relations as in configs/base.py. Ours.
    config.relation_head = "none"
    return config
