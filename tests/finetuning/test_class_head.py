# SPDX-License-Identifier: Apache-2.0
"""Class head: loss and gradients, what is frozen, and its file."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrd_jax import storage
from mrd_jax.checkpoints import manifest
from mrd_jax.encoder import ClassHead, class_head
from mrd_jax.finetuning import classification
from mrd_jax.training import optimizer

BATCH, DIM, CLASSES, SCALE, SMOOTHING = 5, 4, 3, 7.0, 0.2
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(BATCH, DIM))
KERNEL = RNG.normal(size=(DIM, CLASSES))
BIAS = RNG.normal(size=CLASSES)
LABELS = np.array([0, 2, 1, 1, 0])
PARAMS = {"kernel": KERNEL.astype(np.float32), "bias": BIAS.astype(np.float32)}


def objective(**changes):
    fields = {"scale": SCALE, "label_smoothing": SMOOTHING, "trainable_blocks": 0}
    return classification.Classification(
        KERNEL.astype(np.float32), **(fields | {"batch_size": BATCH} | changes)
    )


def loss(rows, params, labels):
    return objective().loss(
        rows, params, {"label": jnp.asarray(labels)}, step=jnp.zeros((), jnp.int32), axis_name=None
    )


def expected():
    """Loss and its gradients in float64, by hand: (softmax - target) / batch at the logits."""
    unit = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    logits = SCALE * unit @ KERNEL + BIAS
    log_chances = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = np.full((BATCH, CLASSES), SMOOTHING / CLASSES)
    targets[np.arange(BATCH), LABELS] += 1 - SMOOTHING
    at_logits = (np.exp(log_chances) - targets) / BATCH
    at_unit = SCALE * at_logits @ KERNEL.T
    radial = (at_unit * unit).sum(axis=1, keepdims=True) * unit
    gradients = {
        "rows": (at_unit - radial) / np.linalg.norm(ROWS, axis=1, keepdims=True),
        "kernel": SCALE * unit.T @ at_logits,
        "bias": at_logits.sum(axis=0),
    }
    accuracy = np.mean(logits.argmax(axis=1) == LABELS)
    return -np.sum(targets * log_chances) / BATCH, accuracy, gradients


def test_loss_and_gradients_are_those_of_smoothed_cross_entropy():
    rows = ROWS.astype(np.float32)
    compute = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, parts), found = compute(rows, PARAMS, LABELS)
    total, accuracy, gradients = expected()
    np.testing.assert_allclose(value, total, rtol=1e-6)
    np.testing.assert_allclose(parts["total"], total, rtol=1e-6)
    np.testing.assert_allclose(parts["accuracy"], accuracy, rtol=1e-6)
    for name, gradient in {"rows": found[0], **found[1]}.items():
        np.testing.assert_allclose(gradient, gradients[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_losses_of_the_devices_sum_to_that_of_the_global_batch():
    rows = ROWS.astype(np.float32)
    halves = (slice(2), slice(2, None))
    parts = jax.jit(
        lambda rows, params: [loss(rows[half], params, LABELS[half])[1] for half in halves]
    )(rows, PARAMS)
    total, accuracy, _ = expected()
    np.testing.assert_allclose(parts[0]["total"] + parts[1]["total"], total, rtol=1e-6)
    np.testing.assert_allclose(parts[0]["accuracy"] + parts[1]["accuracy"], accuracy, rtol=1e-6)


def ones(shape):
    return np.ones(shape, np.float32)


def parameters():
    """Returns parameters of a student of four blocks, three of them stacked, all ones."""
    return {
        "student": {
            "tokenizer": {"kernel": ones((2, 2))},
            "cls_token": ones(2),
            "transformer": {
                "blocks": {"qkv": ones((3, 2)), "bias": ones((3, 2, 1))},
                "last_block": {"qkv": ones(2)},
            },
            "projection": {"kernel": ones((2, 2))},
        },
        "loss": {"kernel": ones((2, 3)), "bias": ones(3)},
    }


def of_two_blocks():
    """1 where training the last two of four blocks changes a parameter, otherwise 0."""
    scales = parameters()
    scales["student"]["tokenizer"]["kernel"][:] = 0
    scales["student"]["cls_token"][:] = 0
    for leaf in scales["student"]["transformer"]["blocks"].values():
        leaf[:2] = 0
    return scales


def test_frozen_blocks_have_no_gradient():
    def total(params):
        params = objective(trainable_blocks=2).trainable(params)
        return sum(jnp.sum(3 * leaf) for leaf in jax.tree.leaves(params))

    value, gradients = jax.jit(jax.value_and_grad(total))(parameters())
    assert value == 3 * sum(leaf.size for leaf in jax.tree.leaves(parameters()))
    jax.tree.map(
        lambda found, scale: np.testing.assert_array_equal(found, 3 * scale),
        gradients,
        of_two_blocks(),
    )


def test_frozen_blocks_do_not_decay():
    chain = optax.chain(optax.adamw(0.1, weight_decay=0.5), optimizer.freeze(2))
    updates = jax.jit(lambda params: chain.update(params, chain.init(params), params)[0])(
        parameters()
    )
    jax.tree.map(
        lambda update, scale: np.testing.assert_array_equal(update != 0, scale != 0),
        updates,
        of_two_blocks(),
    )


def test_without_frozen_blocks_everything_is_trained():
    assert set(jax.tree.leaves(optimizer.trainable_scales(parameters(), 0))) == {1.0}


@pytest.fixture
def head():
    return objective().class_head(PARAMS, ("chair", "lämp", "table"))


def test_head_on_the_host_gives_the_logits_of_the_loss(head):
    unit = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    logits = SCALE * unit @ KERNEL + BIAS
    np.testing.assert_allclose(head.logits(unit), logits, rtol=1e-5, atol=1e-5)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for (name, chance), row in zip(head.classify(unit), chances, strict=True):
        assert name == head.names[row.argmax()]
        assert chance == pytest.approx(row.max(), rel=1e-4)


def test_file_of_a_head_gives_the_same_head(head, tmp_path):
    folder = storage.path(tmp_path)
    assert class_head.read(folder) is None
    class_head.write(folder, head)
    found = class_head.read(folder)
    assert found.names == head.names
    np.testing.assert_array_equal(found.kernel, head.kernel)
    np.testing.assert_array_equal(found.bias, head.bias)


@pytest.mark.parametrize("damage", ["last byte", "half"])
def test_corrupt_file_of_a_head_is_an_error(head, tmp_path, damage):
    class_head.write(storage.path(tmp_path), head)
    path = tmp_path / class_head.FILE
    content = bytearray(path.read_bytes())
    if damage == "half":
        content = content[: len(content) // 2]
    else:
        content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(manifest.CorruptCheckpointError, match=class_head.FILE):
        class_head.read(storage.path(tmp_path))


def test_head_with_fewer_names_than_columns_is_an_error():
    with pytest.raises(ValueError, match="2 names"):
        ClassHead(("a", "b"), np.zeros((4, 3), np.float32), np.zeros(3, np.float32))
