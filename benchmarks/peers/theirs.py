# SPDX-License-Identifier: Apache-2.0
"""Times the training step of a peer's PyTorch student; runs in the peer's own environment.

Needs torch and what the peer's code imports, but not this project; `benchmarks.peers` calls it. The
step is that of the peers' training scripts: forward pass, symmetric contrastive losses against
image and text features, backward pass, AdamW. Prints one JSON line with every mode of PyTorch.
"""

import argparse
import importlib
import json
import pathlib
import statistics
import sys
import time
import types

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import sizes  # noqa: E402 - this file runs without the project
import torch  # noqa: E402 - of the peer's environment

MODES = ("eager", "compiled")


def load_module(root: pathlib.Path, file: str) -> types.ModuleType:
    """Imports a file of a package without the package's `__init__`, which may need more."""
    path = root / file
    package = types.ModuleType("models")
    package.__path__ = [str(path.parent)]
    sys.modules["models"] = package
    return importlib.import_module(f"models.{path.stem}")


def build(peer: str, root: pathlib.Path) -> torch.nn.Module:
    """Builds a peer's student with its published sizes; takes xyz and rgb, [batch, points, 3]."""
    module = load_module(root, sizes.PEERS[peer].file)
    dim = sizes.PEERS[peer].dim
    if peer == "openshape-4":
        model = types.SimpleNamespace(scaling=4, in_channel=6, out_channel=dim)
        student = module.make(types.SimpleNamespace(model=model))

        def embed(xyz: torch.Tensor, rgb: torch.Tensor) -> torch.Tensor:
            return student(xyz, torch.cat([xyz, rgb], dim=-1))
    else:
        import timm

        transformer = timm.create_model("eva02_base_patch14_448", drop_path_rate=0.2)
        fields = dict(
            pc_feat_dim=768, embed_dim=dim, group_size=64, num_group=512, pc_encoder_dim=512,
            patch_dropout=0.5,
        )  # fmt: skip
        student = module.PointcloudEncoder(transformer, types.SimpleNamespace(**fields))
        embed = student
    return Step(student, embed)


class Step(torch.nn.Module):
    """Loss of a student on a batch."""

    def __init__(self, student: torch.nn.Module, embed):
        super().__init__()
        self.student, self.embed = student, embed
        self.log_scale = torch.nn.Parameter(torch.tensor(2.659))  # ln(1 / 0.07)

    def forward(self, xyz, rgb, image, text):
        """Returns the mean of the contrastive losses with images and with texts."""
        points = torch.nn.functional.normalize(self.embed(xyz, rgb).float(), dim=-1)
        labels = torch.arange(len(points), device=points.device)
        loss = 0.0
        for features in (image, text):
            logits = self.log_scale.exp() * points @ features.T
            for rows in (logits, logits.T):
                loss = loss + torch.nn.functional.cross_entropy(rows, labels) / 4
        return loss


def measure(model: torch.nn.Module, options: argparse.Namespace, mode: str) -> dict:
    """Times the step in one mode of PyTorch."""
    device, dim = torch.device(options.device), sizes.PEERS[options.peer].dim
    model = model.to(device).train()
    function = torch.compile(model) if mode == "compiled" else model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=device.type == "cuda")
    xyz = torch.nn.functional.normalize(
        torch.randn(options.batch, options.points, 3, device=device), dim=-1
    )
    rgb = torch.rand_like(xyz)
    features = [
        torch.nn.functional.normalize(torch.randn(options.batch, dim, device=device), dim=-1)
        for _ in range(2)
    ]
    seconds = []
    for _ in range(options.warm_up + options.steps):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            loss = function(xyz, rgb, *features)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[options.warm_up :])
    cuda = device.type == "cuda"
    return {
        "step_s": median,
        "samples_per_s": options.batch / median,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
        "device": torch.cuda.get_device_name() if cuda else device.type,
        "version": f"torch {torch.__version__}",
    }


def main() -> int:
    """Times both modes and prints one JSON line; a mode that fails is reported with its error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=sizes.PEERS, required=True)
    parser.add_argument("--code", type=pathlib.Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--points", type=int, required=True)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--warm_up", type=int, required=True)
    parser.add_argument("--device", required=True)
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")  # TF32
    torch.backends.cudnn.allow_tf32 = True
    found = {}
    for mode in MODES:
        torch.manual_seed(0)
        try:
            found[mode] = measure(build(options.peer, options.code), options, mode)
        except RuntimeError as error:  # torch._dynamo's and out of memory are RuntimeErrors
            found[mode] = {"error": str(error).strip().splitlines()[0][:300]}
        if options.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
