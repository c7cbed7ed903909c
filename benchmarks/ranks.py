"""What several ranks cost a step: ``OMP_NUM_THREADS=1 torchrun --nproc-per-node=2 benchmarks/ranks.py`` (a minute).

CPU and wall time that the comparison of the ranks adds to a step, on rank 0 and on the others, by the interval. Nothing
is kept, so that nothing else is in the figures. Blocks with and without it alternate; the ranks begin each together.
"""

import statistics
import time

import torch
from torch import distributed

from lrtape.agreement import COMPARE_EVERY_N_STEPS
from lrtape.attaching import attach

N_PAIRS = 30
N_STEPS = 1000
N_GROUPS = 4
US = 1e6


def cost(every_n_steps: int | None) -> tuple[float, float]:
    """CPU and wall seconds of a step, which moves nothing."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "name": f"group{i}"} for i in range(N_GROUPS)]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    session = attach(optimizer, run=None, compare_ranks_every_n_steps=every_n_steps)
    distributed.barrier()
    cpu, wall = time.thread_time(), time.perf_counter()
    for _ in range(N_STEPS):
        optimizer.step()
    cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
    distributed.barrier()
    session.close()
    return cpu / N_STEPS * US, wall / N_STEPS * US


def main() -> None:
    """Measure, and print a table of medians on every rank."""
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    rows = []
    for every_n_steps in (COMPARE_EVERY_N_STEPS, 10, 1):
        pairs = [(cost(None), cost(every_n_steps)) for _ in range(N_PAIRS)]
        cpu = statistics.median(on[0] - off[0] for off, on in pairs)
        wall = statistics.median(on[1] - off[1] for off, on in pairs)
        rows.append(f"| {rank} | {every_n_steps} | {cpu:.2f} us | {wall:.2f} us |")
    for turn in range(distributed.get_world_size()):
        distributed.barrier()
        if turn == rank:
            if rank == 0:
                print("| rank | compared every n-th step | CPU added to a step | wall time added to a step |")
                print("|---|---|---|---|")
            print("\n".join(rows), flush=True)
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
