"""Optimizers that torch has no class for, made of its own."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from lrtape.errors import ConfigError

MUON = "muon"
ADAMW = "adamw"


class MuonWithAdamW(Optimizer):
    """`torch.optim.Muon` for matrices, which it is made for, beside `torch.optim.AdamW` for everything else.

    It is one optimizer: one ``step()``, one state, one scheduler over all groups. Each given param group becomes up to
    two, ``muon`` and ``adamw``, or ``<name>_muon`` and ``<name>_adamw`` where there are several. A group's own lr
    counts as a multiple of `lr`, for both of its halves; its weight decay, for both as it is.

    Args:
        params: as for any optimizer: parameters, (path, parameter) pairs, or groups of them.
        lr: Muon's.
        weight_decay: Muon's.
        momentum: Muon's.
        nesterov: Muon's.
        ns_coefficients: Muon's.
        eps: Muon's.
        ns_steps: Muon's.
        adjust_lr_fn: Muon's.
        exclude: a regular expression; matrices in whose path it is found are AdamW's, such as embeddings and the head.
        adamw: the arguments of AdamW.

    Raises:
        ConfigError: no parameter is a matrix, or `exclude` cannot be used.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        exclude: str | None = None,
        adamw: Mapping[str, Any] | None = None,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError(
                f"`optimizer` must be one of this torch, but Muon needs torch >= 2.9, and this is {torch.__version__}."
            )
        known = {*inspect.signature(AdamW).parameters} - {"params"}
        if unknown := (adamw or {}).keys() - known:
            raise ConfigError(
                f"`optimizer.adamw.{min(unknown)}` is not an argument of AdamW. Valid: {', '.join(sorted(known))}."
            )
        self._lr = lr
        self._exclude = _compile(exclude)
        # Without parameters of their own until the first step; they refuse what is out of range.
        nothing = [torch.nn.Parameter(torch.zeros(1, 1))]
        self._parts: dict[str, Optimizer] = {
            MUON: torch.optim.Muon(
                nothing,
                lr=lr,
                weight_decay=weight_decay,
                momentum=momentum,
                nesterov=nesterov,
                ns_coefficients=ns_coefficients,
                eps=eps,
                ns_steps=ns_steps,
                adjust_lr_fn=adjust_lr_fn,
            ),
            ADAMW: AdamW(nothing, **(adamw or {})),
        }
        groups = [*params]
        if groups and not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        if len(groups) == 1:
            groups = [{**groups[0], "name": ""}]
        # What every group has, and no more: a scheduler shall not take the momentum of one half for that of all.
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        if not any(group["part"] == MUON for group in self.param_groups):
            raise ConfigError(
                "`optimizer` Muon must have a matrix to train, a parameter of two dimensions, but the model has none, "
                f"or `optimizer.exclude`, {exclude!r}, leaves none. Use optimizer=adamw."
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as its two halves; called by torch for those that it is built with, too."""
        params = [param_group["params"]] if isinstance(param_group["params"], Tensor) else [*param_group["params"]]
        halves: dict[str, list[Any]] = {MUON: [], ADAMW: []}
        for item in params:
            path, parameter = item if isinstance(item, tuple) else ("", item)
            excluded = self._exclude is not None and self._exclude.search(path)
            halves[MUON if parameter.ndim == 2 and not excluded else ADAMW].append(item)
        for kind, members in halves.items():
            if members:
                self._add_half(kind, {**param_group, "params": members})

    def _add_half(self, kind: str, group: dict[str, Any]) -> None:
        defaults, name = self._parts[kind].defaults, group.get("name")
        if "lr" in group and kind == ADAMW:
            group["lr"] = defaults["lr"] * (group["lr"] / self._lr if self._lr else 1.0)
        super().add_param_group({**defaults, **group, "name": f"{name}_{kind}" if name else kind, "part": kind})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for kind, part in self._parts.items():
            # Anew in each step: load_state_dict() puts other objects in their place.
            part.state = self.state
            part.param_groups = [group for group in self.param_groups if group["part"] == kind]
            # Past torch's hooks: who watches every optimizer of the process shall see one step, not three.
            inspect.unwrap(type(part).step, stop=lambda step: not hasattr(step, "hooked"))(part)
        return loss

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lr", "_exclude", "_parts")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}


def _compile(exclude: str | None) -> re.Pattern[str] | None:
    try:
        return None if exclude is None else re.compile(exclude)
    except re.error as error:
        raise ConfigError(
            f"`optimizer.exclude` must be a regular expression, but is {exclude!r} instead: {error}."
        ) from error
