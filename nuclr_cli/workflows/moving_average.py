"""A moving average of the weights: what a run that keeps one embeds with."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import nn

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.checkpoints import Checkpoint
from nuclr_cli.workflows.runs import Run

Weights = Literal["raw", "ema"]


class MovingAverage:
    """Exponential moving average of a model's parameters and buffers, on their device and in their dtype.

    After step t, counted from 1, it is ``d * before + (1 - d) * weights`` with the smaller of `decay` and
    ``(1 + t) / (10 + t)`` as d; at step 0 it is the first weights. Those are random, and the lower decay of
    the first steps forgets them.

    Args:
        model: Its weights are the first.
        decay: Largest share that stays.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after `step` steps."""
        share = 1.0 - min(self._decay, (1 + step) / (10 + step))
        for name, tensor in self._model.state_dict().items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, share)
            else:
                self.tensors[name].copy_(tensor)

    def restore(self, checkpoint: Checkpoint, run: Run) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: It has no average, or one of another model.
        """
        found = checkpoint.average
        if found is None:
            raise InputError(
                f"The run {run.folder} keeps a moving average (train.ema = {self._decay}), but its "
                f"checkpoint at step {checkpoint.step} has none.",
                "Restore the run from a copy, or train again with nuclr pretrain",
            )
        shapes = {name: tensor.shape for name, tensor in found.items()}
        if shapes != {name: tensor.shape for name, tensor in self.tensors.items()}:
            raise InputError(
                f"The moving average in the checkpoint of {run.folder} at step {checkpoint.step} is not one "
                "of its weights.",
                "Restore the run from a copy, or train again with nuclr pretrain",
            )
        for name, tensor in self.tensors.items():
            tensor.copy_(found[name])


def check_weights(which: str | None) -> None:
    """Raise InputError for a choice that there is not."""
    if which is not None and which not in get_args(Weights):
        raise InputError(f"Unknown --weights {which!r}.", f"Choose {' or '.join(get_args(Weights))}")


def chosen_weights(checkpoint: Checkpoint, asked: Weights | None, run: Run) -> tuple[Weights, Checkpoint]:
    """Which weights of a checkpoint to use: the average where it has one, unless something else is asked for.

    Returns:
        Which, and the checkpoint with these as its model, and with their digest.

    Raises:
        InputError: The average is asked for, and there is none.
    """
    if checkpoint.average is None:
        if asked == "ema":
            raise InputError(
                f"--weights ema: the checkpoint of {run.folder} at step {checkpoint.step} has no moving "
                "average: the run was not trained with train.ema.",
                "Use --weights raw, or train with --set train.ema=0.999",
            )
        return "raw", checkpoint
    if asked == "raw":
        return "raw", checkpoint
    return "ema", replace(checkpoint, model=checkpoint.average, digest=checkpoint.average_digest)
