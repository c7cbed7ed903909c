"""What recording costs beside a GPU: ``python benchmarks/cuda.py > benchmarks/cuda-$(date +%F).md`` (two minutes).

A model whose step takes about 10 ms, with an AdamW of four param groups: recorded and not, in alternating blocks. Once
with the lr as a number, and once as a tensor on the GPU, as ``capturable`` optimizers have it.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from lrtape.keys import Keys
from lrtape.recorder import Recorder
from lrtape.spool import Header, SpoolWriter

STEP_S = 10e-3
N_BLOCKS = 20
N_STEPS = 100


def training(lr: float | torch.Tensor, width: int, depth: int) -> tuple[torch.optim.Optimizer, nn.Module, torch.Tensor]:
    """An optimizer of four groups, its model and a batch, on the GPU."""
    layers = [nn.Linear(width, width, bias=False) for _ in range(depth)]
    model = nn.Sequential(*layers).cuda()
    parts = [[layer] for layer in layers[:3]] + [layers[3:]]
    groups = [
        {"params": [param for layer in part for param in layer.parameters()], "name": f"part{index}"}
        for index, part in enumerate(parts)
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, capturable=isinstance(lr, torch.Tensor))
    return optimizer, model, torch.randn(256, width, device="cuda")


def block(optimizer: torch.optim.Optimizer, model: nn.Module, batch: torch.Tensor) -> float:
    """Milliseconds a step."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / N_STEPS * 1e3


def main() -> None:
    """Measure, and print."""
    if not torch.cuda.is_available():
        sys.exit("not run: torch finds no CUDA")
    print(f"# Recording beside a GPU, {time.strftime('%Y-%m-%d')}\n")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; median of {N_BLOCKS} pairs of {N_STEPS} steps\n")
    print("| lr | ms a step | with lrtape | ratio, quartiles |\n|---|---|---|---|")
    width, depth = 2048, 4
    optimizer, model, batch = training(1e-4, width, depth)
    block(optimizer, model, batch)
    depth = max(4, round(depth * STEP_S * 1e3 / block(optimizer, model, batch)))
    for name, lr in (("a number", 1e-4), ("a tensor on the GPU", torch.tensor(1e-4, device="cuda"))):
        optimizer, model, batch = training(lr, width, depth)
        block(optimizer, model, batch)
        with tempfile.TemporaryDirectory() as folder:
            recorder = Recorder(optimizer, 0, Keys())
            writer = SpoolWriter(Path(folder) / "spool", Header("run", False, "uri", 1))
            bare, recorded, ratios = [], [], []
            for _ in range(N_BLOCKS):
                bare.append(block(optimizer, model, batch))
                recorder.start(writer)
                recorded.append(block(optimizer, model, batch))
                recorder.stop()
                ratios.append(recorded[-1] / bare[-1])
        lower, middle, upper = statistics.quantiles(ratios, n=4)
        print(
            f"| {name} | {statistics.median(bare):.3f} | {statistics.median(recorded):.3f} "
            f"| {middle:.4f} ({lower:.4f} to {upper:.4f}) |"
        )


if __name__ == "__main__":
    main()
