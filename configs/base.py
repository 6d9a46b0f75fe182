# SPDX-License-Identifier: Apache-2.0
"""Every field of a run with its unit, source and default; experiments override, never add."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Full MRD with neutral sizes; not an experiment of its own."""
    config = ConfigDict()

    # One seed for initialisation, order of samples, drawn views and captions, augmentation.
    config.seed = 0
    # Encoder that a new run starts from: a folder of mrd_jax.tools.convert, another run's workdir,
    # or an .npz of EVA's image weights; "" starts from random weights.
    config.initial_weights = ""
    # "pmap", or "shard_map" (jit over a mesh). Both run the same step body.
    config.spmd = "pmap"
    # The devices share parameters, optimizer and moving average between the steps rather than hold
    # them all, each; "shard_map" only. The same numbers.
    config.shard_state = False
    # Samples per step over all devices; every one is a negative and a relation of the others.
    config.batch_size = 64
    # Optimizer steps of the whole run; the learning-rate schedule spans them.
    config.total_steps = 1_000
    # Steps between metric lines, evaluations and checkpoints; the last step always does all three.
    config.log_every = 20
    config.eval_every = 200
    config.checkpoint_every = 200
    # Disjoint samples of a cloud whose embeddings are averaged in evaluation.
    config.eval_windows = 1
    # Newest checkpoints kept in the workdir.
    config.checkpoints_kept = 2
    # Best checkpoints kept besides; every evaluation then saves one. 0 is off.
    config.checkpoints_best = 0
    # Best by which metric of an evaluation, named as in metrics.jsonl: the highest, of a
    # median_rank the lowest.
    config.best_metric = "test/top1"
    # Updates in a row that may be left out because they are not finite; then the run stops. 0
    # never stops it.
    config.max_nonfinite_steps = 10
    # Steps to record for TensorBoard's profiler, from the sixth after each start on; 0 is off.
    config.profile_steps = 0
    # Minutes without a step after which the stack of every thread is printed; 0 is off. Longer
    # than an evaluation takes.
    config.hang_minutes = 60.0
    # And end the process then, with status 1, for whatever restarts it.
    config.exit_on_hang = False

    config.data = data()
    config.teacher = ConfigDict()
    # Name recorded in the data set by data_prep; "" accepts any teacher of the right dimension.
    config.teacher.name = ""
    # Length of the teacher's features, which is also the student's embedding.
    config.teacher.dim = 384

    config.augment = augment()
    config.model = model()
    config.loss = loss()
    config.optimizer = optimizer()
    return config


def data() -> ConfigDict:
    """Where the records are and what the host draws from them."""
    config = ConfigDict()
    # Folder of the TFDS data set, version included.
    config.directory = ""
    config.train_split = "train"
    # "" trains without evaluating, for data sets that hold nothing to test on.
    config.test_split = "test"
    # Another data set that the test split is of, such as Objaverse-LVIS; "" is `directory`. Then
    # there is no training split of its kind to measure a majority or a floor on.
    config.test_directory = ""
    # Points per record, as prepared; the student sees `model.points` of them.
    config.points = 10_000
    # Kinds of caption that may be drawn, each with an equal chance; () allows all.
    config.caption_kinds = ()
    # Or groups of kinds, such as (("name",), ("blip", "msft")): first a group, then one of its
    # kinds with an equal chance. A kind in no group is never drawn. () draws as above.
    config.caption_groups = ()
    # Relative chance of each group, among those that a record has; () makes them equal.
    config.caption_chances = ()
    # Chance of drawing a shape's own picture rather than a rendered view (OpenShape: 0.5 for
    # Objaverse's thumbnails); a negative value draws uniformly from all pictures.
    config.picture_probability = -1.0
    # Rows of each batch that are neighbours of its other rows, as hard negatives; 0 is off. With h
    # of them in a batch of b, an epoch takes records / (b - h) steps.
    config.hard_negatives = 0
    # Nearest records of a row that its hard negatives are drawn from (OpenShape's code: 31).
    config.neighbours = 31
    # File of mrd_jax.tools.neighbours; "" is where it writes by itself, below `directory`.
    config.neighbours_file = ""
    # Distinct records that may be left out of training because they are damaged, see
    # mrd_jax.data.corrupt_records; one more stops the run. 0 stops it at the first.
    config.corrupt_records = 0
    # Keep decoded records in memory: right below about 2 GiB.
    config.cache = False
    return config


def augment() -> ConfigDict:
    """OpenShape's augmentation, in its order; each field off at its neutral value."""
    config = ConfigDict()
    # Upper end of the share of points replaced by the first point; 0 is off.
    config.dropout_max = 0.875
    # Isotropic scale, drawn uniformly; (1, 1) is off.
    config.scale = (0.8, 1.25)
    # Shift per axis, drawn uniformly in +-shift, in units of the unit sphere; 0 is off.
    config.shift = 0.1
    # Small rotations about x, y, z: standard deviation and clip in radians; 0 is off.
    config.rotate_sigma = 0.06
    config.rotate_clip = 0.18
    # Largest rotation about the vertical axis in degrees, drawn in +-; 180 is any, 0 is off.
    config.rotate_z = 180.0
    # Chance of replacing all colours of a cloud by `color_fill`, in 0..1.
    config.color_drop = 0.5
    config.color_fill = 0.4
    # Chance of mirroring left and right; not in OpenShape.
    config.mirror = 0.0
    # Gaussian noise per coordinate: standard deviation, unit sphere; not in OpenShape.
    config.jitter_sigma = 0.0
    # Per-cloud colour shift, drawn uniformly in +-color_jitter per channel; not in OpenShape.
    config.color_jitter = 0.0
    return config


def model() -> ConfigDict:
    """Point-BERT as OpenShape's scaling 4, 32.3 M parameters at out_dim 1,280."""
    config = ConfigDict()
    config.name = "point_bert"
    # Points per cloud the student sees.
    config.points = 10_000
    # Width, blocks, attention heads (64 wide each) and hidden width of the transformer.
    config.dim = 512
    config.depth = 12
    config.heads = 8
    config.mlp_dim = 1_536
    # Width of a group's token before it is lifted to `dim`.
    config.sa_dim = 256
    # Groups (tokens), their radius in units of the unit sphere, and points per group.
    config.groups = 384
    config.radius = 0.2
    config.group_size = 64
    # Length of the embedding; equals teacher.dim.
    config.out_dim = 384
    # Share of groups left out in training; 0 is off.
    config.patch_dropout = 0.0
    # Which: "fewer" samples fewer centres (OpenShape), "random" drops some of all (Uni3D).
    config.patch_choice = "fewer"
    # Activations; parameters, norms and softmax stay float32.
    config.dtype = "float32"
    # Recompute each block in the backward pass: less memory, about a third more time.
    config.remat = False
    # Clouds of a device that pass the student at a time; the loss, its gradient and batch norm stay
    # those of the whole batch. Divides the clouds of a device; 0 takes them all at once.
    config.micro_batch = 0
    # On a TPU: "pallas", kernels that keep scores in vector memory (heads of 64, an even number of
    # them, 513 tokens of width 1,024 or fewer); "xla", the library's attention; "auto", the
    # kernels where they take the sizes. Elsewhere all are the same.
    config.attention = "auto"
    return config


def loss() -> ConfigDict:
    """MRD (arXiv 2407.14007). Fields marked *ours* are not settled by the published abstract."""
    config = ConfigDict()
    # Weights of the two halves of the contrastive term.
    config.image_weight = 0.5
    config.text_weight = 0.5
    # lambda_intra, lambda_image, lambda_text: weights of the three distillation terms (ours).
    config.lambda_intra = 1.0
    config.lambda_image = 1.0
    config.lambda_text = 1.0
    # Relation matrices: "similarity" (softmax of scaled cosines, the paper's preferred form),
    # "cosine" or "euclidean" (divided by their batch mean).
    config.relation = "similarity"
    # "jeffrey" (the paper's preferred form), "kl" or "js"; for the last two relations "l2" or
    # "smooth_l1".
    config.divergence = "jeffrey"
    # "dynamic": learnable weights of a term's candidate targets; "static": equal ones.
    config.weights = "dynamic"
    # Mix the "divergences" to the candidates, or the "targets" themselves.
    config.mix = "divergences"
    # Pull of the mixing weights towards equal ones (ours): entropy_weight * (log K - H(w)).
    config.entropy_weight = 0.01
    # Temperatures of the teacher's and the student's relations (ours).
    config.teacher_temperature = 0.1
    config.student_temperature = 0.1
    # Learn the logarithm of the student's temperature.
    config.learn_student_temperature = False
    # Leave the diagonal out of the intra relation, and of the cross relations.
    config.exclude_self_intra = True
    config.exclude_self_cross = False
    # Target relations of each term, by modality pair: V image, T text (ours).
    config.candidates = ConfigDict()
    config.candidates.intra = ("VV", "TT")
    config.candidates.image = ("VV", "TV")
    config.candidates.text = ("TT", "VT")
    # How relations are computed: "plain", from whole [local, global] matrices; "blockwise", a block
    # of columns at a time, the same values in flat memory; "auto", blockwise from 2^22 entries of a
    # matrix on (see mrd_jax.losses.options).
    config.form = "auto"
    # Columns of the global batch at a time, blockwise; more are faster and take more memory.
    config.block = 1_024
    # Type of the unit embeddings that are gathered and multiplied, "float32" or "bfloat16"; sums,
    # softmaxes and divergences stay float32.
    config.dtype = "float32"
    # Learnable scale of the contrastive logits: log(1 / 0.07) at the start, log 100 at most (CLIP).
    config.log_scale_init = 2.6592600369327783
    config.log_scale_max = 4.605170185988092
    return config


def optimizer() -> ConfigDict:
    """AdamW with linear warm-up and a decay of the learning rate."""
    config = ConfigDict()
    config.learning_rate = 5e-4
    # "cosine", or "steps" (OpenShape).
    config.schedule = "cosine"
    # Of "cosine": learning rate at the end, as a share of the peak.
    config.final_learning_rate = 0.01
    # Of "steps": the learning rate is multiplied by `decay_rate` after every `decay_every` steps.
    config.decay_rate = 1.0
    config.decay_every = 10_000
    # Share of the learning rate that a block of the transformer gets relative to the next one;
    # 1 is off (Uni3D: 0.95).
    config.layer_decay = 1.0
    config.warmup_steps = 100
    config.b1 = 0.9
    config.b2 = 0.98
    # Decay of matrices; biases, norms, temperatures and mixing weights have none.
    config.weight_decay = 0.05
    # Largest global norm of the gradient; 0 is off.
    config.clip_norm = 1.0
    # Decay of the moving average of the student's parameters, which is then the one evaluated;
    # 0 is off.
    config.ema_decay = 0.0
    return config
