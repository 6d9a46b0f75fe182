# SPDX-License-Identifier: Apache-2.0
"""A run with all options of the relations and positives, see `OPTIONS`."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_losses
from fake_data import DIM, run_build
from tiny import assert_trees_close, tiny_config

from mrd_jax import encoder, models
from mrd_jax.checkpoints import run_identity
from mrd_jax.data import batch_spec, loader, source
from mrd_jax.distributed import backends
from mrd_jax.report import final
from mrd_jax.training import initial_state, objectives, step, train

pytestmark = pytest.mark.usefixtures("fast_compile")

OPTIONS = {
    "model__relation_head": "linear",
    "loss__term_weights": "dynamic",
    "loss__lambda_warmup": 0.5,
    "loss__lambda_anneal": 0.4,
    "loss__relation_features": "mean",
    "data__image_positives": 3,
    "data__text_positives": 2,
}
CONFIG = tiny_config(**OPTIONS)
TERM_LOGITS = np.float32([0.5, -0.7, 0.9])
MODEL = models.build_model(CONFIG.model)
# Plain SGD whose state is the gradient, so that the result of a step holds both.
SGD = optax.GradientTransformation(
    init=lambda params: jax.tree.map(jnp.zeros_like, params),
    update=lambda gradients, _, params=None: (
        jax.tree.map(lambda g: -0.1 * g, gradients),
        gradients,
    ),
)
BODY = functools.partial(step.train_step, model=MODEL, optimizer=SGD, config=CONFIG)


@pytest.fixture(scope="module")
def start():
    """State before the third of six updates, when two thirds of the warm-up are over."""
    state = jax.device_get(initial_state.create_state(CONFIG, model=MODEL, optimizer=SGD))
    loss = state.params["loss"] | {"term_mixing": TERM_LOGITS}
    return state.replace(step=np.int32(2), params=state.params | {"loss": loss})


@pytest.fixture(scope="module")
def batch():
    return batch_spec.fake_batch(CONFIG, seed=1)


@pytest.fixture(scope="module")
def reference(start, batch):
    """State and metrics of one step on one device, without a mesh axis."""
    return jax.device_get(jax.jit(functools.partial(BODY, axis_name=None))(start, batch))


def test_traced_step_logs_factor_and_weights():
    create = functools.partial(initial_state.create_state, CONFIG, model=MODEL, optimizer=SGD)
    state = jax.eval_shape(create)
    new, metrics = jax.eval_shape(BODY, state, batch_spec.batch_spec(CONFIG))
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
    assert {"projection", "relation_projection"} < state.params["student"].keys()
    names = {"lambda_factor", "weight/intra", "weight/image", "weight/text", "weight/text/VT"}
    assert names < metrics.keys()


def test_objective_equals_the_loops_over_the_features_of_the_batch(batch):
    outputs = np.float32(np.random.default_rng(2).normal(size=(16, 2, CONFIG.teacher.dim)))
    objective = objectives.Distillation(CONFIG)
    params = objective.init_params() | {"term_mixing": TERM_LOGITS}
    run = jax.jit(functools.partial(objective.loss, axis_name=None))
    _, parts = run(outputs, params, batch, step=np.int32(2))
    embeddings = {"points": outputs[:, 0], "relation_points": outputs[:, 1]}
    embeddings["log_scale"] = params["log_scale"]
    for name in ("image", "text"):
        has = embeddings[f"has_{name}"] = batch[f"has_{name}"]
        # A slot is empty where it is nan.
        embeddings[name] = np.where(has[..., None], batch[name], np.nan)
        embeddings[f"{name}_mean"] = np.where(has[:, :1], batch[f"{name}_mean"], np.nan)
    wanted = reference_losses.mrd_loss(embeddings, params, CONFIG.loss, lambda_factor=2 / 3)
    assert parts.keys() == wanted.keys()
    jax.tree.map(reference_losses.assert_close, parts, wanted)


@pytest.mark.slow
def test_step_trains_both_heads_and_logs_factor_and_weights(start, reference):
    state, metrics = reference
    assert metrics["lambda_factor"] == pytest.approx(2 / 3)
    softmax = np.exp(start.params["loss"]["term_mixing"])
    shares = 0.25 / 3 + 0.75 * softmax / softmax.sum()
    terms = ("intra", "image", "text")
    np.testing.assert_allclose([metrics[f"weight/{t}"] for t in terms], shares, rtol=1e-5)
    # All lambdas are 1.
    distilled = sum(3 * w * metrics[t] for w, t in zip(shares, terms, strict=True)) * 2 / 3
    total = metrics["contrastive"] + distilled + metrics["entropy"]
    assert metrics["loss"] == pytest.approx(total, rel=1e-5)
    gradients = state.opt_state
    for name in ("projection", "relation_projection"):
        assert np.abs(gradients["student"][name]["kernel"]).max() > 1e-4
    assert np.abs(gradients["loss"]["term_mixing"]).min() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("shard_state", [False, True])
@pytest.mark.parametrize("spmd", ["pmap", "shard_map"])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_step_does_not_depend_on_devices(start, batch, reference, spmd, devices, shard_state):
    if shard_state and spmd == "pmap":
        pytest.skip("FSDP needs shard_map")
    backend = backends.make_backend(spmd, shard_state=shard_state, devices=jax.devices()[:devices])
    compiled = backend.train(functools.partial(BODY, axis_name=backends.AXIS))
    found = compiled(backend.place_state(start), backend.place_batch(batch))
    assert_trees_close(found, reference, rtol=1e-5, atol=1e-7)


def test_continued_run_without_the_field_of_a_student_is_the_same_run(tmp_path):
    """A student of the user's own has no relation_head, nor had runs of earlier versions."""
    config = tiny_config()
    old = tiny_config()
    with old.unlocked():
        del old.model["relation_head"]
        del old.loss["term_weights"]
    run_identity.claim(tmp_path / "old", run_identity.of_run(old, fingerprint="data"))
    run_identity.claim(tmp_path / "old", run_identity.of_run(config, fingerprint="data"))
    run_identity.claim(tmp_path / "new", run_identity.of_run(config, fingerprint="data"))
    run_identity.claim(tmp_path / "new", run_identity.of_run(old, fingerprint="data"))
    other = run_identity.of_run(CONFIG, fingerprint="data")
    with pytest.raises(run_identity.WorkdirMismatchError, match="relation_head: 'none' there"):
        run_identity.claim(tmp_path / "old", other)


@pytest.mark.slow
def test_run_is_resumed_bit_for_bit_and_evaluated_by_any_head(tmp_path, monkeypatch):
    folder, _ = run_build(tmp_path / "built", monkeypatch, points=96)
    config = tiny_config(
        data__directory=str(folder), teacher__dim=DIM, model__out_dim=DIM, **OPTIONS
    )
    devices = jax.devices()[:1]
    for name in ("straight", "interrupted"):
        train.train_and_evaluate(config, str(tmp_path / name), devices=devices)
        if name == "straight":
            stream = loader.train_stream
            interrupt_after(monkeypatch, stream, batches=4)
            with pytest.raises(KeyboardInterrupt):
                train.train_and_evaluate(config, str(tmp_path / "interrupted"), devices=devices)
            monkeypatch.setattr(loader, "train_stream", stream)
    straight, interrupted = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("straight", "interrupted")
    )
    factors = [row["train/lambda_factor"] for row in straight if "train/loss" in row]
    np.testing.assert_allclose(factors, [0, 1 / 3, 2 / 3, 1, 5 / 6, 5 / 12], rtol=1e-5)
    for one, other in zip(straight, interrupted, strict=True):
        assert {k: v for k, v in one.items() if "second" not in k and "wait" not in k} == {
            k: v for k, v in other.items() if "second" not in k and "wait" not in k
        }
    run = tmp_path / "straight"
    records = source.open_split(folder, "test")
    clouds = [(r["xyz"][:64].astype(np.float32), r["rgb"][:64] / np.float32(255)) for r in records]
    rows = {}
    for head in ("contrastive", "relation", "mean"):
        config.eval_head = head
        train.evaluate(config, str(run), devices=devices)
        rows[head] = final.load_embeddings(run)["test"]
        loaded = encoder.load(run, head=head, devices=devices)
        np.testing.assert_allclose(loaded.embed(clouds), rows[head], atol=2e-3)
    assert np.abs(rows["contrastive"] - rows["relation"]).max() > 0.1
    total = rows["contrastive"] + rows["relation"]
    wanted = total / np.linalg.norm(total, axis=1, keepdims=True)
    np.testing.assert_allclose(rows["mean"], wanted, atol=1e-5)


def interrupt_after(monkeypatch, stream, *, batches):
    """Makes the stream of a run end with KeyboardInterrupt after some batches."""

    def interrupted(*args, **kwargs):
        source = stream(*args, **kwargs)
        for _ in range(batches):
            yield next(source)
        raise KeyboardInterrupt

    monkeypatch.setattr(loader, "train_stream", interrupted)
