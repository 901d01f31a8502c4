"""What moves the weights: AdamW, or LAMB for large batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nuclr_cli.workflows.pair_model import parameter_groups
from nuclr_cli.workflows.presets import TrainConfig


class Lamb(torch.optim.Optimizer):
    """LAMB (arXiv 1904.00962, algorithm 2): Adam's direction, its length set tensor by tensor.

    A tensor x whose Adam direction with decay is u moves by ``lr * |x| / |u| * u``: by the same share of its
    own length, whatever the size of its gradient. phi of the paper is the identity, as in its experiments;
    moments are corrected for their start, as in the paper and unlike some implementations.

    A tensor of length 0, or whose direction has none, moves as Adam has it, and so do the tensors of groups
    that are not ``scaled``.

    Moments have the dtype of their parameters. The names of the state are those of AdamW.

    Args:
        params: Parameters or groups.
        lr: Rate.
        betas: Of the moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled, part of the direction: it is scaled with it.
        scaled: Whether the length is set as above.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        scaled: bool = True,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "scaled": scaled}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            # On the host, as AdamW's: reading it waits for no device.
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        steps, (beta1, beta2) = int(state["step"]), group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (square / (1 - beta2**steps)).sqrt_().add_(group["eps"])
        direction = (mean / (1 - beta1**steps)).div_(root)
        if group["weight_decay"]:
            direction.add_(parameter, alpha=group["weight_decay"])
        if group["scaled"]:
            own, length = parameter.norm(), direction.norm()
            # Not with `if`, which would wait for the device.
            direction.mul_(torch.where((own > 0) & (length > 0), own / length, 1.0))
        parameter.sub_(direction, alpha=group["lr"])


def build_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that `train.optimizer` names, over all parameters of `model`.

    As in the code of LAMB's authors, its tensors without weight decay, norms and biases, are not scaled: a
    bias starts at 0, where a share of its own length is nothing.
    """
    groups = parameter_groups(model, train.weight_decay)
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train.learning_rate)
    matrices, vectors = groups
    return Lamb([matrices, {**vectors, "scaled": False}], lr=train.learning_rate)
