# SPDX-License-Identifier: Apache-2.0
"""Every config builds a run, and the paper-scale one trains."""

import functools

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from configs import (
    base,
    ensembles,
    furniture,
    mrd_pointbert,
    mrd_uni3d,
    openshape,
    quickstart,
    uni3d,
    uni3d_g,
)
from data_prep import sources
from mrd_jax import losses, models
from mrd_jax.checkpoints import run_identity
from mrd_jax.data import batch_spec
from mrd_jax.distributed import backends
from mrd_jax.training import initial_state, step
from mrd_jax.training import run as run_lib

pytestmark = pytest.mark.usefixtures("fast_compile")

RECIPES = (mrd_pointbert, mrd_uni3d, openshape, uni3d, uni3d_g)
experiments = pytest.mark.parametrize("experiment", [quickstart, furniture, *RECIPES])
recipes = pytest.mark.parametrize("recipe", RECIPES)


@experiments
def test_config_overrides_fields_and_adds_none(experiment):
    """Fields of the student are its own: `models.build_model` knows them."""

    def fields(config):
        return {name for name in run_identity.flatten(config) if not name.startswith("model.")}

    config = experiment.get_config()
    assert fields(config) == fields(base.get_config())
    if config.model.name == base.model().name:
        assert set(config.model) == set(base.model())


@experiments
def test_config_builds_a_run_on_eight_devices(experiment):
    run = run_lib.build_run(experiment.get_config(), devices=jax.devices())
    assert isinstance(run.backend, backends.BACKENDS[experiment.get_config().spmd])


@pytest.mark.slow
def test_paper_scale_run_takes_two_steps_on_fake_data():
    """Scaling 4, 10,000 points, 1,280 dimensions; only the batch, of two, is small."""
    config = mrd_pointbert.get_config()
    config.batch_size = 2
    run = run_lib.build_run(config, devices=jax.devices()[:1])
    now = run.initial_state()
    sizes = jax.tree.map(lambda x: x.size, now.params["student"])
    assert sum(jax.tree.leaves(sizes)) == pytest.approx(32.3e6, rel=0.01)
    before = np.asarray(jax.tree.leaves(now.params["student"])[0])
    train_step = run.train_step()
    for seed in range(2):
        batch = run.backend.place_batch(batch_spec.fake_batch(config, seed=seed))
        assert batch["xyz"].shape == (2, 10_000, 3) and batch["image"].shape == (2, 1_280)
        now, metrics = train_step(now, batch)
        assert np.isfinite(float(metrics["loss"])) and float(metrics["grad_norm"]) > 0
    assert int(now.step) == 2
    assert not np.array_equal(np.asarray(jax.tree.leaves(now.params["student"])[0]), before)


def test_step_is_traced_from_shapes_alone():
    """Ahead-of-time compilation traces the step from the batch specification."""
    config = mrd_pointbert.get_config()
    run = run_lib.build_run(config, devices=jax.devices()[:1])
    create = functools.partial(
        initial_state.create_state, run.config, model=run.model, optimizer=run.optimizer
    )
    body = functools.partial(
        step.train_step, model=run.model, optimizer=run.optimizer, config=run.config
    )
    now = jax.eval_shape(create)
    after, metrics = jax.eval_shape(body, now, batch_spec.batch_spec(config))
    assert jax.tree.structure(after) == jax.tree.structure(now)
    assert metrics["loss"].shape == ()


@recipes
@pytest.mark.parametrize("variant", ensembles.VARIANTS)
def test_every_variant_of_a_recipe_is_initialised(recipe, variant):
    config = recipe.get_config(variant)
    run = run_lib.build_run(config, devices=jax.devices()[:1])
    create = functools.partial(
        initial_state.create_state, run.config, model=run.model, optimizer=run.optimizer
    )
    params = jax.eval_shape(create).params["student"]
    assert params["projection"]["kernel"].shape[1] == config.teacher.dim == 1_280
    assert config.optimizer.warmup_steps < config.total_steps
    # 200 epochs, up to the last incomplete batch.
    assert (
        0
        <= 200 * ensembles.VARIANTS[variant][1] - config.total_steps * config.batch_size
        < (config.batch_size)
    )


# ml_collections reads the file with a function of importlib that is on its way out.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@recipes
def test_a_recipe_takes_its_variant_from_the_command_line(recipe):
    """`--config configs/x.py:shapenet` passes the variant."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    values(["main", f"--config={recipe.__file__}:shapenet"])
    assert values.config.data.directory == "data/openshape_shapenet/1.0.0"
    assert recipe.get_config().data.directory == "data/openshape/1.0.0"
    with pytest.raises(ValueError, match="no variant 'shapenets' of the data; choose from"):
        recipe.get_config("shapenets")


def test_every_variant_names_an_existing_source():
    assert {source for source, _ in ensembles.VARIANTS.values()} <= set(sources.SOURCES)


def test_student_of_uni3d_has_the_published_size():
    config = uni3d.get_config()
    released = models.RELEASED["uni3d-b"]
    assert {name: config.model[name] for name in released} == released


def test_uni3d_with_and_without_mrd_differ_only_in_the_objective():
    one, other = (run_identity.flatten(each.get_config()) for each in (uni3d, mrd_uni3d))
    different = {name for name in one if one[name] != other[name]}
    fields = ("lambda_intra", "lambda_image", "lambda_text", "image_weight", "text_weight")
    assert different == {f"loss.{field}" for field in fields}


@pytest.mark.parametrize("recipe", [openshape, uni3d])
def test_contrastive_baseline_has_no_distillation(recipe):
    assert losses.options.active_terms(recipe.get_config().loss) == ()
