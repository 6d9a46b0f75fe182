# SPDX-License-Identifier: Apache-2.0
"""Default config: every field with its meaning, its unit and, where it has one, its source.

Experiments override fields and never add any; only `model` depends on the architecture.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns full MRD with small default sizes; not an experiment of its own."""
    config = ConfigDict()

    # Seed of parameter initialisation, sample order, caption and view sampling, and augmentation.
    config.seed = 0
    # Encoder that a new run starts from: a folder of mrd_jax.tools.convert, the workdir of another
    # run, or an .npz file of EVA's image weights; local or gs://. "" initialises at random.
    config.initial_weights = ""
    # Backend: "pmap", or "shard_map" (jit over a device mesh). Both run the same step function.
    config.spmd = "pmap"
    # FSDP: shard parameters, optimizer state and EMA over the devices instead of replicating them.
    # Requires "shard_map". Same result up to rounding.
    config.shard_state = False
    # Bit-equal results on NVIDIA GPUs, also of a run that is resumed: XLA excludes atomic sums and
    # does not choose kernels by measurement, which costs time. CPUs and TPUs do not need it.
    config.deterministic = False
    # Samples per step over all devices. Every other sample of the batch is a negative.
    config.batch_size = 64
    # Optimizer steps of the run; the learning-rate schedule spans them.
    config.total_steps = 1_000
    # Steps between two lines of metrics. The last step is always logged.
    config.log_every = 20
    # Steps between two evaluations. The last step is always evaluated.
    config.eval_every = 200
    # Steps between two checkpoints. The last step is always saved.
    config.checkpoint_every = 200
    # Disjoint subsets of the points of a cloud whose embeddings are averaged in evaluation.
    config.eval_windows = 1
    # Head that embeds in evaluation, of a student with `model.relation_head`: "contrastive",
    # "relation", or "mean", the normalised sum of both unit embeddings.
    config.eval_head = "contrastive"
    # Number of newest checkpoints to keep in the workdir.
    config.checkpoints_kept = 2
    # Number of best checkpoints to keep in addition. If > 0, every evaluation saves a checkpoint.
    config.checkpoints_best = 0
    # Evaluation metric that ranks checkpoints, named as in metrics.jsonl. Higher is better, except
    # for median ranks.
    config.best_metric = "test/top1"
    # Consecutive steps with a non-finite loss or gradient, whose updates are skipped, before the
    # run stops. 0 never stops it.
    config.max_nonfinite_steps = 10
    # Experiment tracker that gets a copy of metrics, pictures, results and report:
    # "none", or "wandb" (Weights & Biases; the environment sets project and mode).
    config.tracker = "none"
    # Steps to record with the JAX profiler, from the sixth step after each start. 0 disables it.
    config.profile_steps = 0
    # Hang detection: minutes without a completed step before the stacks of all threads are dumped.
    # Must exceed the duration of an evaluation. 0 disables it.
    config.hang_minutes = 60.0
    # Exit with status 1 after dumping the stacks, so that a supervisor can restart the run.
    config.exit_on_hang = False

    config.data = data()
    config.teacher = ConfigDict()
    # Name of the teacher that data_prep recorded in the data set. "" accepts any teacher.
    config.teacher.name = ""
    # Dimension of the teacher's features.
    config.teacher.dim = 384

    config.augment = augment()
    config.model = model()
    config.loss = loss()
    config.optimizer = optimizer()
    return config


def data() -> ConfigDict:
    """Returns the data set and the sampling of captions, images and hard negatives."""
    config = ConfigDict()
    # Folder of the TFDS data set, including the version; local or gs://BUCKET/NAME/1.0.0.
    config.directory = ""
    # Split to train on.
    config.train_split = "train"
    # Split to evaluate on. "" disables evaluation.
    config.test_split = "test"
    # Data set of the test split, if another one, such as Objaverse-LVIS. "" is `directory`. With
    # another data set, the baselines that are computed on the training split are not reported.
    config.test_directory = ""
    # Points per record, of which the student receives `model.points`. 0 takes the number that the
    # data set was prepared with; another number must be that.
    config.points = 0
    # Caption kinds to sample from, uniformly. () samples from all kinds.
    config.caption_kinds = ()
    # Two-stage sampling instead: first a group, then uniformly one of its kinds, as in
    # (("name",), ("blip", "msft")). Kinds that are in no group are never sampled. () disables it.
    config.caption_groups = ()
    # Relative probability of each group, renormalised over the groups that a record has. () is
    # uniform.
    config.caption_chances = ()
    # Probability of using a shape's own picture instead of a rendered view (OpenShape: 0.5, for
    # Objaverse's thumbnails). A negative value samples uniformly from all images.
    config.picture_probability = -1.0
    # Positives of a shape in the contrastive terms: distinct images and captions that are drawn
    # per step, as by the rules above one after another. With more than one, none competes with the
    # others (multi_positive.py; after HOLA, arXiv 2606.01334). A record with fewer has empty slots.
    config.image_positives = 1
    config.text_positives = 1
    # Hard negatives per batch: rows that are replaced by neighbours of other rows. An epoch then
    # takes records / (batch_size - hard_negatives) steps. 0 disables them.
    config.hard_negatives = 0
    # Nearest neighbours of a row that its hard negatives are sampled from (OpenShape's code: 31).
    config.neighbours = 31
    # Output file of mrd_jax.tools.neighbours. "" is its default path below `directory`.
    config.neighbours_file = ""
    # Maximum number of distinct corrupt records to skip in training; one more stops the run. See
    # mrd_jax.data.corrupt_records.
    config.corrupt_records = 0
    # Threads per process that read records ahead. They pay where a read takes milliseconds: on a
    # bucket or a network disk. -1 chooses 64 for data in a bucket, and 0 for files.
    config.read_threads = -1
    # Cache decoded records in memory. Suitable for data sets below about 2 GiB.
    config.cache = False
    return config


def augment() -> ConfigDict:
    """Returns OpenShape's augmentation in its order, then extras that OpenShape does not have."""
    config = ConfigDict()
    # Point dropout: maximum fraction of points that are replaced by the first point. 0 disables it.
    config.dropout_max = 0.875
    # Range of the isotropic scale, sampled uniformly. (1, 1) disables it.
    config.scale = (0.8, 1.25)
    # Maximum translation per axis, sampled uniformly in +-shift; the unit is the radius of the
    # unit sphere. 0 disables it.
    config.shift = 0.1
    # Small rotations about x, y and z: standard deviation of the angles in radians. 0 disables
    # them.
    config.rotate_sigma = 0.06
    # Small rotations: maximum angle in radians; larger ones are clipped.
    config.rotate_clip = 0.18
    # Maximum rotation about the vertical axis in degrees, sampled uniformly in +-rotate_z. 0
    # disables it.
    config.rotate_z = 180.0
    # Probability of replacing all colours of a cloud by `color_fill`. 0 disables it.
    config.color_drop = 0.5
    # Grey value of clouds without colours, in 0..1.
    config.color_fill = 0.4
    # Probability of mirroring left and right. Not in OpenShape.
    config.mirror = 0.0
    # Standard deviation of Gaussian noise per coordinate, in units of the unit sphere's radius. Not
    # in OpenShape.
    config.jitter_sigma = 0.0
    # Maximum colour shift per cloud and channel, sampled uniformly in +-color_jitter. Not in
    # OpenShape.
    config.color_jitter = 0.0
    return config


def model() -> ConfigDict:
    """Returns Point-BERT as in OpenShape's scaling 4: 32.3 M parameters at out_dim 1,280."""
    config = ConfigDict()
    # Architecture: "point_bert" or "uni3d".
    config.name = "point_bert"
    # Points per cloud that the student receives.
    config.points = 10_000
    # Width of the transformer.
    config.dim = 512
    # Number of transformer blocks.
    config.depth = 12
    # Number of attention heads, each of width dim / heads.
    config.heads = 8
    # Hidden width of the MLPs.
    config.mlp_dim = 1_536
    # Output width of the set abstraction that embeds a group, before the projection to `dim`.
    config.sa_dim = 256
    # Number of groups, which is the number of point tokens.
    config.groups = 384
    # Radius of a group (ball query), in units of the unit sphere's radius.
    config.radius = 0.2
    # Points per group.
    config.group_size = 64
    # Dimension of the embedding. Must equal `teacher.dim`.
    config.out_dim = 384
    # Patch dropout: fraction of groups dropped in training. 0 disables it.
    config.patch_dropout = 0.0
    # How patch dropout is applied: "fewer" samples fewer group centres (OpenShape), "random" drops
    # some of all groups (Uni3D).
    config.patch_choice = "fewer"
    # Type of activations, "float32" or "bfloat16". Parameters, norms and softmax are float32.
    config.dtype = "float32"
    # Rematerialise (recompute) each block in the backward pass: less memory, about a third more
    # time.
    config.remat = False
    # Micro-batching: clouds per device that pass the student at a time. This is not gradient
    # accumulation: loss, gradient and batch norm are those of the whole batch. Must divide the
    # clouds per device. 0 disables it.
    config.micro_batch = 0
    # Implementation of attention: "xla" is the library's, on every platform; "pallas", on TPUs,
    # keeps the scores in vector memory (heads of width 64, an even number of them, at most 513
    # tokens at width 1,024); "cudnn", on NVIDIA GPUs, keeps them on the chip (dtype bfloat16).
    # "auto" selects what platform, sizes and dtype permit; on a CPU, one head at a time.
    config.attention = "auto"
    # Head of its own for the relations: "linear", a second projection of the same features, whose
    # embeddings enter the distillation terms, while the contrastive terms keep the first (ours; as
    # the projection heads of contrastive learning, Chen et al. 2020); or "none".
    config.relation_head = "none"
    return config


def loss() -> ConfigDict:
    """Returns the MRD objective (arXiv 2407.14007).

    Fields marked "ours" are not specified by the published abstract.
    """
    config = ConfigDict()
    # Weight of the point-image half of the contrastive term.
    config.image_weight = 0.5
    # Weight of the point-text half of the contrastive term.
    config.text_weight = 0.5
    # lambda_intra, lambda_image, lambda_text: weights of the intra-modal distillation term (points
    # with points) and of the cross-modal ones (points with images, points with texts). Ours: with
    # all three at 0, 0.1, 0.3 and 1, the mean of top-1, mAP and R@5 on the validation split of the
    # parts is 65.5, 70.4, 69.9 and 68.7 (docs/science.md).
    config.lambda_intra = 0.1
    config.lambda_image = 0.1
    config.lambda_text = 0.1
    # Schedule of the lambdas: fraction of the run over which a factor of all three rises linearly
    # from 0 to 1 at its beginning, and falls from 1 to 0 at its end (ours). 0 keeps them constant.
    config.lambda_warmup = 0.0
    config.lambda_anneal = 0.0
    # Relation matrices: "similarity" (softmax of scaled cosines, preferred by the paper), "cosine",
    # or "euclidean" (divided by the batch mean).
    config.relation = "similarity"
    # Divergence between relations. For "similarity": "jeffrey" (preferred by the paper), "kl" or
    # "js"; for "cosine" and "euclidean": "l2" or "smooth_l1".
    config.divergence = "jeffrey"
    # Weights of the target relations of a term: "dynamic" (learnable) or "static" (equal).
    config.weights = "dynamic"
    # Weights of the three terms against each other: "dynamic" (learnable), which one public summary
    # of the paper describes, or "static" (equal: the lambdas alone count).
    config.term_weights = "static"
    # Dynamic weights of the terms: smallest fraction of its lambda that a term keeps (ours).
    config.term_weight_floor = 0.25
    # What the weights mix: the "divergences" from each target, or the "targets" themselves.
    config.mix = "divergences"
    # Entropy regularisation of weights w over K targets, or over K terms if these have dynamic
    # weights: entropy_weight * (log K - H(w)) is added to the loss (ours).
    config.entropy_weight = 0.01
    # Temperature of the teacher's relations (ours).
    config.teacher_temperature = 0.1
    # Temperatures of the single targets, in the order of `candidates`; () for teacher_temperature.
    config.teacher_temperatures = ConfigDict({"intra": (), "image": (), "text": ()})
    # Number of samples of the batch that a row of the teacher's relations effectively spreads over
    # (its perplexity, as in t-SNE), within a modality (VV, TT) and across modalities (VT, TV). The
    # temperature of each target is solved for it when the run starts; `mrd_jax.tools.calibrate`
    # prints it. 0 for the fixed temperatures above.
    config.neighbours_within = 0.0
    config.neighbours_across = 0.0
    # Temperature of the student's relations (ours).
    config.student_temperature = 0.1
    # Temperature of the student's cross-modal relations; 0 for student_temperature.
    config.student_temperature_cross = 0.0
    # Learn the logarithms of the student's temperatures.
    config.learn_student_temperature = False
    # Temperature that the student's relations have instead: "none"; "contrastive", 1 / s of the
    # contrastive terms; or "teacher", that of the target, also if it is solved for.
    config.student_temperature_follows = "none"
    # Exclude the diagonal of the intra-modal relation.
    config.exclude_self_intra = True
    # Exclude the diagonal of the cross-modal relations.
    config.exclude_self_cross = False
    # Teacher features of the relations, targets and the columns of the student's cross-modal ones:
    # "drawn", the (first) image and caption of the contrastive terms; or "mean", the mean unit
    # feature of all images and captions, weighted by the probability of drawing each (ours).
    config.relation_features = "drawn"
    config.candidates = ConfigDict()
    # Target relations of the intra term as modality pairs: V image, T text (ours).
    config.candidates.intra = ("VV", "TT")
    # Target relations of the image term (ours).
    config.candidates.image = ("VV", "TV")
    # Target relations of the text term (ours).
    config.candidates.text = ("TT", "VT")
    # Computation of the relations: "plain" materialises [local_batch, global_batch] matrices;
    # "blockwise" processes `block` columns at a time, with the same result in less memory; "auto"
    # is "blockwise" from 2^22 entries per matrix (see mrd_jax.losses.options).
    config.form = "auto"
    # Columns per block of "blockwise". More columns are faster and take more memory.
    config.block = 1_024
    # Type of the embeddings that are gathered and multiplied, "float32" or "bfloat16". Sums,
    # softmax and divergences are float32.
    config.dtype = "float32"
    # Initial log of the learnable scale of the contrastive logits: log(1 / 0.07) (CLIP).
    config.log_scale_init = 2.6592600369327783
    # Maximum log of the scale: log 100 (CLIP).
    config.log_scale_max = 4.605170185988092
    return config


def optimizer() -> ConfigDict:
    """Returns AdamW with linear warm-up and a learning-rate decay."""
    config = ConfigDict()
    # Peak learning rate.
    config.learning_rate = 5e-4
    # Learning-rate decay: "cosine", or "steps" (OpenShape).
    config.schedule = "cosine"
    # Schedule "cosine": final learning rate as a fraction of the peak.
    config.final_learning_rate = 0.01
    # Schedule "steps": factor applied to the learning rate after every `decay_every` steps.
    config.decay_rate = 1.0
    # Schedule "steps": steps between two decays.
    config.decay_every = 10_000
    # Layer-wise learning-rate decay: factor from each transformer block to the one below it (Uni3D:
    # 0.95). 1 disables it.
    config.layer_decay = 1.0
    # Steps of linear warm-up from 0 to the peak.
    config.warmup_steps = 100
    # Exponential decay rate of AdamW's first moment.
    config.b1 = 0.9
    # Exponential decay rate of AdamW's second moment.
    config.b2 = 0.98
    # Weight decay of matrices. Biases, norms, temperatures and mixing weights are not decayed.
    config.weight_decay = 0.05
    # Maximum global norm of the gradient; larger gradients are rescaled. 0 disables clipping.
    config.clip_norm = 1.0
    # Decay of the exponential moving average (EMA) of the student's parameters. If > 0, the EMA is
    # evaluated instead of the last parameters. 0 disables it.
    config.ema_decay = 0.0
    return config
