# SPDX-License-Identifier: Apache-2.0
r"""The baseline Uni3D (Zhou et al., ICLR 2024), size b: contrastive loss alone, from EVA's weights.

python -m mrd_jax.tools.convert --from eva --size b --checkpoint eva02_b.safetensors \
    --output encoders/eva02_b.npz
python -m mrd_jax.main --config configs/uni3d.py --workdir runs/uni3d

The other training lists: `--config configs/uni3d.py:ensembled_no_lvis` or `:shapenet`. "code"
below is github.com/baaivision/Uni3D, scripts/pretrain.sh where no other file is named. Its teacher
is EVA02-E-14-plus (1,024 long); here it is that of OpenShape's released features.
"""

from ml_collections import ConfigDict

from configs import base, ensembles


def get_config(variant: str = "ensembled") -> ConfigDict:
    """Uni3D's numbers on OpenShape's released features."""
    config = base.get_config()

    # jit over a mesh: several hosts without round trips. Ours.
    config.spmd = "shard_map"
    # Code: 48 on each of 24 GPUs.
    config.batch_size = 1_152
    # Code: --epochs.
    ensembles.choose(config, variant, epochs=200)
    # EVA's image weights, as the command above writes them (code: --pretrained-pc).
    config.initial_weights = "encoders/eva02_b.npz"
    config.model = model()

    # Contrastive loss alone: no distillation.
    config.loss.lambda_intra = 0.0
    config.loss.lambda_image = 0.0
    config.loss.lambda_text = 0.0
    # Uni3D's loss: the sum of an image and a text term.
    config.loss.image_weight = 1.0
    config.loss.text_weight = 1.0

    # Code: --lr, --point-lr.
    config.optimizer.learning_rate = 1e-3
    # Code, utils/scheduler.py: a cosine that ends at zero.
    config.optimizer.final_learning_rate = 0.0
    # Code: --warmup. ShapeNet's run is shorter than that: a tenth of it (ours).
    config.optimizer.warmup_steps = min(10_000, config.total_steps // 10)
    # Code, utils/params.py: those of models that are not called ViT.
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    # Code: --wd, --point-wd; utils/optim.py leaves out vectors.
    config.optimizer.weight_decay = 0.1
    # Code: --point-ld.
    config.optimizer.layer_decay = 0.95
    # Code: --grad-clip-norm.
    config.optimizer.clip_norm = 5.0
    return config


def model() -> ConfigDict:
    """Uni3D's size b, whose blocks are those of EVA-02's size b."""
    config = ConfigDict()
    config.name = "uni3d"
    # Points per cloud the student sees (code: --npoints).
    config.points = 10_000
    # Width, blocks, heads, hidden width and kind of MLP of the released size b.
    config.dim = 768
    config.depth = 12
    config.heads = 12
    config.mlp_dim = 2_048
    config.mlp = "swiglu_norm"
    # Code: --pc-encoder-dim, --num-group, --group-size.
    config.encoder_dim = 512
    config.groups = 512
    config.group_size = 64
    # As long as the teacher's features.
    config.out_dim = 1_280
    # Code: --patch-dropout; which groups are dropped is drawn.
    config.patch_dropout = 0.5
    config.patch_choice = "random"
    # Code: --drop-path-rate.
    config.drop_path = 0.2
    # Activations; parameters, norms and softmax stay float32. Ours.
    config.dtype = "bfloat16"
    # Recompute each block in the backward pass. Ours.
    config.remat = True
    # Clouds of a device that pass the student at a time; 0 takes them all at once. Ours.
    config.micro_batch = 0
    # On a TPU, as in configs/base.py. Ours.
    config.attention = "auto"
    return config
