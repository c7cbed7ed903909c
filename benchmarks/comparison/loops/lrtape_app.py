"""lrtape's reference trainer, by its own command line."""

import sys
from pathlib import Path
from typing import Any
from unittest import mock

from hydra.core.global_hydra import GlobalHydra
from torch.nn import functional

from loops.workload import BATCH_SIZE, LRS, Net, NotingSGD, Samples, Workload
from lrtape.app.data import Data
from lrtape.app.main import main

CONF = Path(__file__).parent / "conf"

_under_way: list[Workload] = []
"""The training that Hydra builds the parts of."""


def data() -> Data:
    """For ``conf/data/peers.yaml``."""
    samples = Samples(_under_way[-1].n_steps, by_batch=False)
    return Data(train=samples, val=None, loss=functional.cross_entropy)


def model() -> Net:
    """For ``conf/model/peers.yaml``."""
    return _under_way[-1].net()


def optimizer(params: Any, lr: float) -> NotingSGD:
    """For ``conf/optimizer/peers.yaml``."""
    return NotingSGD(params, _under_way[-1].notes, lr)


class AppLoop:
    """See `Loop`."""

    def train(self, workload: Workload, recorded: bool) -> None:
        """See `Loop.train`."""
        _under_way.append(workload)
        command = ["lrtape", "--config-dir", str(CONF), "data=peers", "model=peers", "optimizer=peers"]
        command += ["param_groups=layerwise", f"param_groups.factors={_factors()}", "scheduler=cosineannealinglr"]
        command += [f"trainer.batch_size={BATCH_SIZE}", "trainer.epochs=1", "trainer.device=cpu"]
        command += [f"tracking={'mlflow' if recorded else 'off'}", "tracking.log_model=off"]
        command += [f"tracking.experiment={workload.experiment}"]
        GlobalHydra.instance().clear()
        with mock.patch.object(sys, "argv", command):
            main()


def _factors() -> list[float]:
    smallest = min(LRS.values())
    return [round(lr / smallest) for lr in LRS.values()]
