"""How fast a GPU does the work of a round, as shares of the matrix product that it reaches.

    PYTHONPATH=. python benchmarks/gpu.py [--device cuda] [--quick] [--out gpu.json]

Needs torch alone: views are random tensors that lie on the device. Video encoder at 8, 16 and 32 frames of 112 and 224
pixels and audio encoder, forward and training step, in float32 (with TF32) and bfloat16, channels last, compiled, and
forward with folded batch norm; then k-means (assignment and update) over 10 M features of 512 numbers, log-mel
spectrograms if torchaudio is there, and the check of bfloat16 convolutions against float32.
--flops only counts: GFLOP of a forward pass of one view. --device cpu --quick --no-compile tries the script itself.
"""

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from xdc_core.compute.device import tune_gpu
from xdc_core.encoders.build import build_encoder
from xdc_core.encoders.precision_check import CHECKED, TOLERANCE, check_encoders
from xdc_core.encoders.registry import encoder_spec

CLASSES = 256
WAYS = ("float32", "bfloat16", "bfloat16 last", "bfloat16 last compiled")


def seconds(work: Callable[[], object], device: torch.device, times: int) -> float:
    """Median of `times` calls, after three to warm up."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(3):
        work()
    found = []
    for _ in range(times):
        wait()
        began = time.perf_counter()
        work()
        wait()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def matrix_rates(device: torch.device, side: int, times: int) -> dict[str, float]:
    """TFLOP/s of a product of two square matrices."""
    rates = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        rates[name] = 2 * side**3 / seconds(lambda a=a, b=b: a @ b, device, times) / 1e12
    return rates


def last_convolution(parent: nn.Module, name: str) -> tuple[nn.Module, str] | None:
    """Where the convolution is with which a child ends: its parent and name; None where it ends with something else."""
    child = parent._modules[name]
    if isinstance(child, nn.Sequential):
        return last_convolution(child, list(child._modules)[-1])
    return (parent, name) if isinstance(child, nn.Conv2d | nn.Conv3d) else None


def folded(encoder: nn.Module) -> nn.Module:
    """The same function in evaluation mode, with every batch norm put into the convolution before it."""
    encoder.eval()
    for parent in encoder.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        for name, following in itertools.pairwise(list(parent._modules)):
            norm, place = parent._modules[following], last_convolution(parent, name)
            if place and isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                holder, convolution = place
                holder._modules[convolution] = fuse_conv_bn_eval(holder._modules[convolution], norm)
                parent._modules[following] = nn.Identity()
    return encoder


def gflop(name: str, shape: tuple[int, ...]) -> float:
    """Of a forward pass of one view, two operations a multiplication and addition."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        encoder_spec(name).build().eval()(torch.empty(1, *shape[1:]))
    return counter.get_total_flops() / 1e9


def works(
    name: str, shape: tuple[int, ...], device: torch.device, times: int, compiling: bool
) -> Iterator[dict[str, Any]]:
    """Forward and training step of an encoder, in every way: clips/s and TFLOP/s."""
    layout = torch.channels_last_3d if len(shape) == 5 else torch.channels_last
    labels = torch.randint(CLASSES, shape[:1], device=device)
    for way in (*WAYS, "bfloat16 last folded"):
        if "compiled" in way and not compiling:
            continue
        encoder = build_encoder(name, 0).to(device)
        views = torch.randn(shape, device=device)
        if "last" in way:
            encoder, views = encoder.to(memory_format=layout), views.to(memory_format=layout)
        if "folded" in way:
            encoder = folded(encoder)
        model = nn.Sequential(encoder, nn.Linear(int(encoder.width), CLASSES, device=device))  # type: ignore[arg-type]
        half = torch.autocast(device.type, torch.bfloat16) if "bfloat16" in way else nullcontext()
        optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)

        def forward(model: nn.Module = model, views: Tensor = views, half: Any = half) -> None:
            with torch.inference_mode(), half:
                model(views)

        def step(model: nn.Module = model, views: Tensor = views, half: Any = half, optimiser: Any = optimiser) -> None:
            with half:
                loss = cross_entropy(model(views).float(), labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

        for what, work, training in (("forward", forward, False), ("step", step, True)):
            if training and "folded" in way:
                continue
            model.train(training)
            with FlopCounterMode(display=False) as counter:
                work()
            flops = counter.get_total_flops()
            compiled = torch.compile(model) if "compiled" in way else model
            row: dict[str, Any] = {"encoder": name, "shape": list(shape), "what": what, "way": way}
            try:
                took = seconds(lambda work=work, compiled=compiled: work(model=compiled), device, times)
            except torch.OutOfMemoryError:
                yield row | {"seconds": None, "clips_per_s": None, "tflops": None}
                continue
            yield row | {"seconds": took, "clips_per_s": shape[0] / took, "tflops": flops / took / 1e12}
        del model, encoder, optimiser


def kmeans(device: torch.device, rows: int, width: int, k: int) -> dict[str, Any]:
    """One pass of Lloyd's iteration in float32 (with TF32): nearest centroid, then new centroids. Made part by part."""
    part = min(rows, 1_000_000)
    points = torch.randn(part, width, device=device)
    centroids = torch.randn(k, width, device=device)

    def pass_once() -> None:
        sums, counts = torch.zeros(k, width, device=device), torch.zeros(k, device=device)
        for _ in range(rows // part):
            nearest = (centroids.square().sum(1) - 2 * points @ centroids.T).argmin(1)
            sums.index_add_(0, nearest, points)
            counts += torch.bincount(nearest, minlength=k)
        centroids.copy_(sums / counts.clamp_min(1)[:, None])

    took = seconds(pass_once, device, 3)
    return {"rows": rows, "width": width, "k": k, "seconds": took, "tflops": 2 * rows * width * k / took / 1e12}


def log_mels(device: torch.device, clips: int) -> dict[str, Any]:
    """Spectrograms of 2 s at 16 kHz."""
    try:
        from xdc_core.modalities.logmel import LogMel, log_mel
    except ImportError as error:
        return {"left out": str(error)}
    sound, recipe = torch.randn(clips, 32000, device=device) * 0.1, LogMel()
    took = seconds(lambda: log_mel(sound, recipe), device, 5)
    return {"clips": clips, "seconds": took, "clips_per_s": clips / took}


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures are of."""
    found: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    if device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def main() -> None:
    """Print tables; --out writes all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--flops", action="store_true", help="count, without a device")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    device, quick = torch.device(given.device), given.quick
    tune_gpu()
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("r2plus1d_18", (max(1, 64 * 8 * 112**2 // (frames * side**2)), 3, frames, side, side))
        for side in (112, 224)
        for frames in (8, 16, 32)
    ]
    shapes.append(("audio_resnet_18", (256, 1, 100, 40)))
    if quick:
        shapes = [("r2plus1d_tiny", (2, 3, 8, 32, 32)), ("audio_resnet_tiny", (2, 1, 100, 40))]
    if given.flops:
        for name, shape in shapes:
            print(f"{name:<18}{'x'.join(map(str, shape[1:])):<18}{gflop(name, shape):>9.2f} GFLOP a view, forward")
        return
    times = 2 if quick else 10
    found: dict[str, Any] = {"machine": machine(device)}

    def keep() -> None:
        """Write what there is so far: whoever ends this script loses nothing."""
        if given.out:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(found, indent=2))

    print(json.dumps(found["machine"]))
    found["matrix_tflops"] = rates = matrix_rates(device, 256 if quick else 8192, times)
    print(f"matrix product: float32 {rates['float32']:.2f}, bfloat16 {rates['bfloat16']:.2f} TFLOP/s")
    found["encoders"] = []
    print(f"{'encoder':<18}{'views':<24}{'what':<9}{'way':<24}{'ms':>9}{'clips/s':>10}{'TFLOP/s':>9}{'share':>7}")
    for name, shape in shapes:
        for row in works(name, shape, device, times, not given.no_compile):
            rate = rates["float32" if row["way"] == "float32" else "bfloat16"]
            row["share"] = None if row["tflops"] is None else row["tflops"] / rate
            found["encoders"].append(row)
            keep()
            numbers = (
                "  out of memory"
                if row["seconds"] is None
                else f"{1000 * row['seconds']:>9.1f}{row['clips_per_s']:>10.1f}{row['tflops']:>9.2f}"
            )
            share = "" if row["share"] is None else f"{row['share']:>7.0%}"
            print(
                f"{name:<18}{'x'.join(map(str, shape)):<24}{row['what']:<9}{row['way']:<24}{numbers}{share}", flush=True
            )
    found["kmeans"] = kmeans(device, *((20_000, 64, 16) if quick else (10_000_000, 512, 256)))
    print(f"k-means, one iteration: {json.dumps(found['kmeans'])}")
    keep()
    found["log_mel"] = log_mels(device, 8 if quick else 1024)
    print(f"log-mel: {json.dumps(found['log_mel'])}")
    keep()
    checked = dict(shapes) if quick else CHECKED
    found["convolutions"] = [
        vars(error) | {"encoder": name, "worst": error.worst} for name, error in check_encoders(device, checked)
    ]
    worst = max(found["convolutions"], key=lambda row: row["worst"])
    print(f"bfloat16 against float32, the worst layer (more than {TOLERANCE:g} is wrong): {json.dumps(worst)}")
    keep()


if __name__ == "__main__":
    main()
