"""What can be set for a sweep on Ray. Imports nothing heavy: Hydra loads this for every command."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RaySettings:
    """The fields of ``hydra/launcher=lrtape_ray``. Each trial is one task of Ray.

    Attributes:
        address: of a cluster, ``auto`` or ``ray://HOST:10001``; null: ``$RAY_ADDRESS``, else a new one on this machine.
        num_cpus: for each trial, which makes as many threads of torch.
        num_gpus: for each trial; Ray shows it no other ones.
        init: more arguments of ``ray.init``.
        remote: more arguments of ``ray.remote``.
    """

    address: str | None = None
    num_cpus: int = 1
    num_gpus: float = 0
    init: dict[str, Any] = field(default_factory=dict)
    remote: dict[str, Any] = field(default_factory=dict)
