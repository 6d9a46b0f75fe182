# SPDX-License-Identifier: Apache-2.0
"""Settings that the study compares: the student's recipe, the objective, methods and regimes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks.study import derived

# Batch size of all runs but those of two regimes.
BATCH_SIZE = 64
LAMBDAS = ("loss.lambda_intra", "loss.lambda_image", "loss.lambda_text")


def lambdas(intra: float, cross: float) -> dict[str, Any]:
    """Returns the weights of the intra term and of both cross terms."""
    return dict(zip(LAMBDAS, (intra, cross, cross), strict=True))


@dataclasses.dataclass(frozen=True)
class Setting:
    """A named choice of config fields.

    Attributes:
      name: name in tables.
      family: question that it answers; two settings of one family exclude each other.
      overrides: values of config fields by dotted name.
      branched: whether the weights of two runs are averaged: after half of the steps with the
        contrastive terms alone, one run goes on with them and one with the objective. Weights of
        independent runs cannot be averaged.
    """

    name: str
    family: str
    overrides: Mapping[str, Any]
    branched: bool = False


CONTRASTIVE = Setting("contrastive", "control", lambdas(0.0, 0.0))
# Objective of the configs that the study starts from.
REFERENCE = Setting("MRD, lambda 1", "control", {})
# Names of the chosen objective among the methods, and of contrastive alignment with half the steps.
MRD, SHORTER = "MRD", "contrastive, half the steps"
# Names of contrastive alignment with one of the terms of MRD.
WITH_INTRA, WITH_CROSS = "contrastive + intra", "contrastive + cross"
# Names of the runs on the furniture that use the parts.
FROM_PARTS, WITH_PARTS = "MRD, from the weights of the parts", "MRD, trained with the parts"


@dataclasses.dataclass(frozen=True)
class Option:
    """One change of the student's recipe.

    Attributes:
      overrides: values of config fields by dotted name.
      cost: cost of a step against the config that the study starts from.
      step_factor: factor of the number of steps: more than 1 for an option with cheaper steps, less
        for one with more expensive steps, where options are compared at equal cost.
    """

    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cost: float = 1.0
    step_factor: float = 1.0


# Costs were measured with the CPU backend on one core. Options that change the same field exclude
# each other.
RECIPE: dict[str, Option] = {
    "as it is": Option(),
    "no patch dropout, half the steps": Option({"model.patch_dropout": 0.0}, 2.0, 0.5),
    "patch dropout 0.75, 1.75 times the steps": Option({"model.patch_dropout": 0.75}, 0.57, 1.75),
    # The average warms up: in runs of less than 890 steps a decay above 0.99 changes nothing.
    "no EMA": Option({"optimizer.ema_decay": 0.0}),
    "no colour drop": Option({"augment.color_drop": 0.0}),
    "colour drop 0.5": Option({"augment.color_drop": 0.5}),
    "width 384": Option({"model.dim": 384, "model.heads": 6, "model.mlp_dim": 768}, 1.7),
    # Records of 4,096 points have two windows of this size.
    "2,048 points": Option({"model.points": 2_048, "eval_windows": 2}, 1.3),
}
# Steps at which the options are compared, except for `step_factor`, and lengths of a run.
RECIPE_STEPS = 300
LENGTHS = (600, 1_200)


def _neighbours(count: int) -> Setting:
    fields = {"loss.neighbours_within": float(count), "loss.neighbours_across": float(count)}
    return Setting(f"{count} effective neighbours", "neighbours", fields)


# One change of the objective each; what wins is combined, see `choices.combine`.
RELATIONS: tuple[Setting, ...] = (
    *(_neighbours(count) for count in (2, 4, 8, 16)),
    Setting("no diagonal in cross terms", "diagonal", {"loss.exclude_self_cross": True}),
    Setting("lambda 0.1", "lambda", lambdas(0.1, 0.1)),
    Setting("lambda 0.3", "lambda", lambdas(0.3, 0.3)),
    Setting("divergence kl", "divergence", {"loss.divergence": "kl"}),
    Setting("divergence js", "divergence", {"loss.divergence": "js"}),
    Setting("static weights", "weights", {"loss.weights": "static"}),
    Setting(
        "temperatures tied to the contrastive scale",
        "temperatures",
        {"loss.student_temperature_follows": "contrastive"},
    ),
    Setting(
        "student's temperatures of the targets",
        "temperatures",
        {"loss.student_temperature_follows": "teacher"},
    ),
    Setting(
        "separate learned temperatures",
        "temperatures",
        {"loss.learn_student_temperature": True, "loss.student_temperature_cross": 0.1},
    ),
    Setting("lambda warmed up", "schedule", {"loss.lambda_warmup": 0.3}),
    Setting("lambda annealed to 0", "schedule", {"loss.lambda_anneal": 0.5}),
    Setting("dynamic weights of the terms", "term weights", {"loss.term_weights": "dynamic"}),
    Setting("averaged weights of two branches", "averaged weights", {}, branched=True),
    Setting(
        "relation head, contrastive head embeds",
        "relation head",
        {"model.relation_head": "linear", "eval_head": "contrastive"},
    ),
    Setting(
        "relation head, mean of both embeds",
        "relation head",
        {"model.relation_head": "linear", "eval_head": "mean"},
    ),
    Setting("relations of mean features", "relation features", {"loss.relation_features": "mean"}),
    Setting(
        "3 images and 2 captions as positives",
        "positives",
        {"data.image_positives": 3, "data.text_positives": 2},
    ),
    Setting("TT alone in the intra term", "candidates", {"loss.candidates.intra": ("TT",)}),
)


# Fields that need one distillation term, and two.
_OF_A_TERM = ("model.relation_head", "eval_head")
_OF_SEVERAL_TERMS = ("loss.term_weights",)


def methods(chosen: Setting) -> list[Setting]:
    """Returns the methods that are compared on the test splits.

    Terms that a method leaves out have lambda 0; everything else is that of the chosen objective,
    without the fields that need these terms.

    Args:
      chosen: chosen objective.
    """
    off, fields = lambdas(0.0, 0.0), chosen.overrides
    cross_off = {name: off[name] for name in LAMBDAS[1:]}
    one_term = _without(fields, _OF_SEVERAL_TERMS)
    no_term = _without(one_term, _OF_A_TERM)
    return [
        Setting(CONTRASTIVE.name, "method", {**no_term, **off}),
        Setting(WITH_INTRA, "method", {**one_term, **cross_off}, chosen.branched),
        Setting(WITH_CROSS, "method", {**fields, LAMBDAS[0]: 0.0}, chosen.branched),
        Setting(MRD, "method", fields, chosen.branched),
    ]


def compared(chosen: Setting) -> list[Setting]:
    """Returns contrastive alignment and MRD with the chosen objective, among `methods`."""
    first, *_, last = methods(chosen)
    return [first, last]


def _without(fields: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


@dataclasses.dataclass(frozen=True)
class Regime:
    """A condition under which MRD and contrastive alignment are compared.

    Attributes:
      derivation: data set, but for the fold.
      batch_size: batch size; each method sees the same number of samples with every batch size.
    """

    derivation: derived.Derivation = derived.Derivation()
    batch_size: int = BATCH_SIZE


# Folds of the parts that regimes are compared on; the reference is the test stage.
REGIME_FOLDS = (0, 1)
REGIMES: dict[str, Regime] = {
    "10% of the shapes": Regime(derived.Derivation(fraction=0.1)),
    "30% of the shapes": Regime(derived.Derivation(fraction=0.3)),
    "batch 32": Regime(batch_size=32),
    "batch 256": Regime(batch_size=256),
    "30% wrong captions": Regime(derived.Derivation(wrong_captions=0.3)),
    "captions missing for half": Regime(derived.Derivation(missing_captions=0.5)),
}
