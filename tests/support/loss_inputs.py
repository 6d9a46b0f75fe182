# SPDX-License-Identifier: Apache-2.0
"""Configs, embeddings and weights for the tests of the objective."""

import functools
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mrd_jax import losses


def loss_config(**overrides):
    """Returns a config with all terms active.

    The weights of the terms differ, and the temperatures suit a batch of random vectors.
    """
    config = ml_collections.ConfigDict(
        {
            "image_weight": 0.5,
            "text_weight": 0.4,
            "lambda_intra": 1.0,
            "lambda_image": 0.7,
            "lambda_text": 1.3,
            "relation": "similarity",
            "divergence": "jeffrey",
            "weights": "dynamic",
            "term_weights": "static",
            "term_weight_floor": 0.2,
            "lambda_warmup": 0.0,
            "lambda_anneal": 0.0,
            "mix": "divergences",
            "entropy_weight": 0.1,
            "teacher_temperature": 0.25,
            "student_temperature": 0.5,
            "learn_student_temperature": False,
            "student_temperature_cross": 0.0,
            "student_temperature_follows": "none",
            "relation_features": "drawn",
            "teacher_temperatures": {"intra": (), "image": (), "text": ()},
            "neighbours_within": 0.0,
            "neighbours_across": 0.0,
            "form": "plain",
            "block": 1024,
            "dtype": "float32",
            "exclude_self_intra": True,
            "exclude_self_cross": False,
            "candidates": {"intra": ("VV", "TT"), "image": ("VV", "TV"), "text": ("TT", "VT")},
            "log_scale_init": math.log(1 / 0.07),
            "log_scale_max": math.log(100),
        }
    )
    with config.unlocked():
        config.update(overrides)
    return config


SMOOTH = {"relation": "euclidean", "divergence": "smooth_l1"}
TEMPERATURES = {
    "teacher_temperatures": {"intra": (0.2, 0.3), "image": (0.4, 0.15), "text": (0.35, 0.45)}
}
VARIANTS = {
    "default": {},
    "kl": {"divergence": "kl"},
    "js": {"divergence": "js"},
    "mixed targets": {"mix": "targets"},
    "mixed targets, kl": {"mix": "targets", "divergence": "kl"},
    "static": {"weights": "static"},
    "euclidean, l2": {"relation": "euclidean", "divergence": "l2"},
    "euclidean, smooth l1": SMOOTH,
    "euclidean, mixed targets": SMOOTH | {"mix": "targets"},
    "cosine, l2": {"relation": "cosine", "divergence": "l2"},
    "cosine, smooth l1": {"relation": "cosine", "divergence": "smooth_l1"},
    "intra diagonal kept": {"exclude_self_intra": False},
    "cross diagonal excluded": {"exclude_self_cross": True},
    "distances, cross diagonal excluded": SMOOTH | {"exclude_self_cross": True},
    "learnt student temperature": {"learn_student_temperature": True},
    "student temperature": {"student_temperature": 0.4},
    "teacher temperature": {"teacher_temperature": 0.3},
    "student temperature of cross terms": {"student_temperature_cross": 0.3},
    "learnt student temperatures": {
        "learn_student_temperature": True,
        "student_temperature_cross": 0.3,
    },
    "contrastive temperature": {"student_temperature_follows": "contrastive"},
    "teacher's temperature": {"student_temperature_follows": "teacher"},
    "temperatures of single targets": TEMPERATURES,
    "temperatures of single targets, student follows": TEMPERATURES
    | {"student_temperature_follows": "teacher"},
    "dynamic terms": {"term_weights": "dynamic"},
    "dynamic terms alone": {"term_weights": "dynamic", "weights": "static"},
    "two dynamic terms": {"term_weights": "dynamic", "lambda_image": 0.0},
    "no regulariser": {"entropy_weight": 0.0},
    "one candidate": {"candidates": {"intra": ("VV", "TT"), "image": ("VV",), "text": ("VT",)}},
    "three candidates": {
        "candidates": {"intra": ("VV", "TT", "VT"), "image": ("VV", "TV"), "text": ("TT", "VT")}
    },
    "no intra": {"lambda_intra": 0.0},
    "no image term": {"lambda_image": 0.0},
    "no text term": {"lambda_text": 0.0},
    "contrastive alone": {"lambda_intra": 0.0, "lambda_image": 0.0, "lambda_text": 0.0},
    "distillation alone": {"image_weight": 0.0, "text_weight": 0.0},
    "no contrast with texts": {"text_weight": 0.0},
    "clipped scale": {"log_scale_max": 1.5},
}


def embeddings_of(batch=6, dim=4, seed=0, relation_head=False):
    """Draws correlated embeddings, so that every part is of order one; not normalised."""
    draw = np.random.default_rng(seed).normal
    common = draw(size=(batch, dim))
    head = {"relation_points": common - 2 * draw(size=(batch, dim))} if relation_head else {}
    return head | {
        "points": 2 * common + draw(size=(batch, dim)),
        "image": common + 0.5 * draw(size=(batch, dim)),
        "text": 3 * common + draw(size=(batch, dim)),
        "has_image": np.arange(batch) % 4 != 1,
        "has_text": np.arange(batch) % 5 != 3,
        "log_scale": 2.0,
    }


# Options that need more than one feature of each modality, see `several_embeddings_of`.
SEVERAL = {
    "means as relation features": ((1, 1), {"relation_features": "mean"}),
    "several positives": ((3, 2), {}),
    "several positives and means": ((3, 2), {"relation_features": "mean"}),
    "several images, one text, and means": ((3, 1), {"relation_features": "mean"}),
}


def several_embeddings_of(positives, *, batch=6, dim=4, seed=0):
    """Returns `embeddings_of` with means, and with these numbers of images and texts per sample.

    Some samples have fewer, as those without any in `embeddings_of`; empty slots are nan.
    """
    embeddings = embeddings_of(batch=batch, dim=dim, seed=seed)
    draw = np.random.default_rng(seed + 1).normal
    for name, count in zip(("image", "text"), positives, strict=True):
        first = embeddings[name]
        embeddings[f"{name}_mean"] = first + draw(size=first.shape)
        if count > 1:
            slots = first[:, None] + 0.7 * draw(size=(batch, count, dim))
            slots[:, 0] = first
            filled = 1 + np.arange(batch) % count
            has = embeddings[f"has_{name}"][:, None] & (np.arange(count) < filled[:, None])
            embeddings[name] = np.where(has[..., None], slots, np.nan)
            embeddings[f"has_{name}"] = has
    return embeddings


def weights_of(config):
    """Returns loss parameters with unequal weights, so that swapped weights are detected."""
    logits = [0.3, -0.4, 0.6]
    return {
        "mixing": {
            term: np.roll(logits, shift)[: len(config.candidates[term])]
            for shift, term in enumerate(("intra", "image", "text"))
        },
        "term_mixing": np.array([0.5, -0.7, 0.9]),
        "student_log_temperature": math.log(0.6),
        "student_log_temperature_cross": math.log(0.35),
    }


def float32(tree):
    def cast(leaf):
        leaf = jnp.asarray(leaf)
        return leaf if leaf.dtype == bool else leaf.astype(jnp.float32)

    return jax.tree.map(cast, tree)


def learnt_of(embeddings, config):
    """Returns everything that receives a gradient."""
    names = {"points", "relation_points", "log_scale"} & embeddings.keys()
    learnt = {name: embeddings[name] for name in names}
    return learnt | {"weights": float32(weights_of(config))}


def objective(learnt, embeddings, config, axis_name=None, **options):
    """Computes `mrd_loss` as a function of everything that receives a gradient."""
    learnt = dict(learnt)
    weights = learnt.pop("weights")
    return losses.mrd_loss(embeddings | learnt, weights, config, axis_name=axis_name, **options)


def evaluate(config, embeddings, **options):
    """Returns parts and gradients on one device; eager, so that variants share compiled parts."""
    embeddings = float32(embeddings)
    learnt = learnt_of(embeddings, config)
    run = jax.value_and_grad(functools.partial(objective, config=config, **options), has_aux=True)
    (value, parts), gradients = run(learnt, embeddings)
    assert float(value) == float(parts["total"])
    return parts, gradients
