# SPDX-License-Identifier: Apache-2.0
"""Each platform runs its own attention; asking for what a platform lacks is an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_loop import inputs, pack, plain
from tiny import tiny_config

from mrd_jax import models
from mrd_jax.checkpoints import model_card, restore
from mrd_jax.kernels import attention, attention_cudnn, platforms
from mrd_jax.models import transformer
from mrd_jax.training import train, validation


class Cudnn:
    """Stands for the package in which JAX looks up the version of cuDNN."""

    @staticmethod
    def cudnn_get_version():
        return 91000


@pytest.fixture
def cudnn(monkeypatch):
    """Lowers for CUDA without the packages of JAX that compile for it."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.cuda_versions", Cudnn)
    monkeypatch.setattr(platforms, "compiles_cuda", lambda: True)


def lowered(platform, implementation="auto", *, dtype="bfloat16", heads=2, width=64, tokens=9):
    """Returns the program of value and gradient."""
    packed = jax.ShapeDtypeStruct((2, tokens, 3 * heads * width), dtype)

    def total(packed):
        return jnp.sum(attention.self_attention(packed, heads, implementation).astype("float32"))

    traced = jax.jit(jax.value_and_grad(total)).trace(packed)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def implementation_of(program):
    """Names the implementation that a program holds."""
    signs = {"cudnn": "__cudnn$fmha", "pallas": "@tpu_custom_call", "loop": "stablehlo.while"}
    return [name for name, sign in signs.items() if sign in program] or ["xla"]


@pytest.mark.parametrize("tokens", [7, 8])
def test_padding_to_an_even_number_of_tokens_changes_neither_values_nor_gradients(tokens):
    sizes = dict(queries=tokens, tokens=tokens)
    *parts, gradient = inputs(**sizes)

    def attend(packed):
        return attention_cudnn.attend(packed, heads=3, implementation="xla")

    mixed, vjp = jax.vjp(jax.jit(attend), pack(*parts))
    want, *to_parts = plain(*inputs(**sizes))
    np.testing.assert_allclose(mixed, pack(want), rtol=0, atol=2e-6)
    np.testing.assert_allclose(*vjp(pack(gradient)), pack(*to_parts), rtol=0, atol=2e-6)


@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize(
    ("platform", "expected"),
    [("cpu", "loop"), ("tpu", "pallas"), ("cuda", "cudnn"), ("rocm", "xla")],
)
def test_auto_selects_the_implementation_of_the_platform(platform, expected):
    assert implementation_of(lowered(platform)) == [expected]


@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_cudnn_computes_both_passes_on_an_even_number_of_tokens(dtype):
    program = lowered("cuda", dtype=dtype)
    short = {"bfloat16": "bf16", "float16": "f16"}[dtype]
    assert "@__cudnn$fmhaSoftmax(" in program and "@__cudnn$fmhaSoftmaxBackward(" in program
    calls = [line for line in program.splitlines() if "@__cudnn$fmha" in line]
    assert all(f"tensor<2x10x2x64x{short}>" in line for line in calls)
    assert all("PADDING" in line for line in calls)
    # No scores of all heads outside of the calls.
    assert "2x2x10x10x" not in program and "2x2x9x9x" not in program


@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize(
    "sizes", [{"dtype": "float32"}, {"width": 136}, {"width": 12}], ids=["float32", "wide", "12"]
)
def test_what_cudnn_does_not_support_runs_the_librarys_attention(sizes):
    assert implementation_of(lowered("cuda", **sizes)) == ["xla"]
    with pytest.raises(ValueError, match="'cudnn', but cuDNN does not support .*Use 'auto'"):
        lowered("cuda", "cudnn", **sizes)


def test_without_the_cuda_packages_auto_is_the_librarys_attention(monkeypatch):
    monkeypatch.setattr(platforms, "compiles_cuda", lambda: False)
    assert implementation_of(lowered("cuda")) == ["xla"]


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda", "rocm"])
def test_xla_is_the_librarys_attention_on_every_platform(platform):
    assert implementation_of(lowered(platform, "xla")) == ["xla"]


@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize(("name", "platform"), [("pallas", "cuda"), ("cudnn", "cpu")])
def test_a_program_with_anothers_kernels_cannot_be_lowered(name, platform):
    with pytest.raises((ValueError, NotImplementedError)):
        lowered(platform, name)


@pytest.mark.parametrize(
    ("name", "platform", "message"),
    [
        ("pallas", "cpu", "'pallas', but the platform is cpu, which has auto, xla"),
        ("pallas", "cuda", "'pallas', but the platform is cuda, which has auto, xla, cudnn"),
        ("cudnn", "tpu", "'cudnn', but the platform is tpu, which has auto, xla, pallas"),
        ("cudnn", "rocm", "'cudnn', but the platform is rocm, which has auto, xla"),
    ],
)
def test_what_a_platform_lacks_is_an_error_that_says_what_it_has(name, platform, message):
    config = tiny_config(model__attention=name, model__dtype="bfloat16")
    config.model.update(dim=128, heads=2)
    with pytest.raises(validation.ConfigError, match=f"^config.model.attention is {message}$"):
        validation.validate_platform(config, platform=platform)


@pytest.mark.parametrize(
    ("name", "platform"), [("auto", "rocm"), ("pallas", "tpu"), ("cudnn", "cuda"), ("xla", "cpu")]
)
def test_what_a_platform_has_is_no_error(name, platform):
    config = tiny_config(model__attention=name, model__dtype="bfloat16")
    config.model.update(dim=128, heads=2)
    validation.validate_platform(config, platform=platform)


def test_a_run_that_asks_for_what_this_machine_lacks_ends_before_data_is_read(tmp_path):
    config = tiny_config(model__attention="pallas", data__directory=str(tmp_path / "missing"))
    config.model.update(dim=128, heads=2)
    with pytest.raises(validation.ConfigError, match="platform is cpu, which has auto, xla"):
        train.train_and_evaluate(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": "cudnn"}, "cuDNN does not support .* in float32; expected a dtype of bfl"),
        ({"attention": "pallas"}, "'pallas', but the kernels do not support .*'heads': 1"),
    ],
)
def test_sizes_and_dtypes_are_validated_with_the_config(fields, message):
    (fault,) = models.find_faults(tiny_config().model.to_dict() | fields)
    with pytest.raises(validation.ConfigError, match=message):
        raise validation.ConfigError(fault)


def test_an_encoder_that_was_trained_with_another_platforms_kernels_loads_here():
    card = model_card.ModelCard(
        student=tiny_config().model.to_dict() | {"attention": "cudnn", "dtype": "bfloat16"},
        size="", parameters=1, teacher="t", teacher_dim=24, up_axis="z", from_y_up="rotate",
        normalisation="unit_sphere", colour_fill=0.4, points=64, source="mrd_jax",
        source_file="", source_sha256="", licence="",
    )  # fmt: skip
    assert restore.build(card).attention == "auto"


class Device:
    """Has the attributes of a device that name its platform."""

    device_kind = "NVIDIA GPU"

    def __init__(self, platform, version="", compute_capability="8.0"):
        self.platform, self.client = platform, self
        self.platform_version, self.compute_capability = version, compute_capability


@pytest.mark.parametrize(
    ("platform", "version", "expected"),
    [("gpu", "PJRT C API\ncuda 12090", "cuda"), ("gpu", "PJRT C API\nrocm 60300", "rocm"),
     ("tpu", "PJRT C API\nTFRT TPU v5", "tpu")],
)  # fmt: skip
def test_devices_are_named_as_programs_are_lowered_for_them(platform, version, expected):
    assert platforms.of_device(Device(platform, version)) == expected
    assert platforms.of_device(jax.devices()[0]) == "cpu"


def test_a_gpu_that_the_kernels_do_not_support_is_named():
    old = Device("gpu", "cuda 12090", compute_capability="7.5")
    with pytest.raises(ValueError, match="NVIDIA GPU has compute capability 7.5; expected 8.0"):
        platforms.of_device(old)


def test_run_on_a_gpu_does_not_save_what_cudnn_computes_again(cudnn):
    model = {"dim": 64, "heads": 1, "groups": 8, "dtype": "bfloat16"}
    for attention_of, platform, dtype, wanted in [
        ("auto", "cpu", "bfloat16", False),
        ("auto", "tpu", "bfloat16", False),
        ("xla", "cuda", "bfloat16", False),
        ("cudnn", "cuda", "bfloat16", True),
        ("auto", "cuda", "bfloat16", True),
        ("auto", "cuda", "float32", False),
    ]:
        fields = model | {"attention": attention_of, "dtype": dtype}
        assert models.uses_cudnn(fields, platform=platform) == wanted


def test_recomputed_attention_has_the_same_gradient(fast_compile):
    rows = jax.random.normal(jax.random.key(0), (2, 3, 16))
    options = transformer.BlockOptions(heads=2, mlp_dim=8, attention="xla")
    layer = transformer.Transformer(options, depth=2, remat=True)
    variables = jax.jit(layer.init)(jax.random.key(1), rows)

    def trace(save_attention):
        own = layer.clone(save_attention=save_attention)
        return jax.jit(jax.grad(lambda rows: own.apply(variables, rows).sum())).trace(rows)

    saved, again = trace(True), trace(False)
    # Softmaxes of the two passes, and one more.
    assert str(again.jaxpr).count(" exp ") > str(saved.jaxpr).count(" exp ")
    gradients = [traced.lower().compile()(rows) for traced in (saved, again)]
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)
