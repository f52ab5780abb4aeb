"""What is trained on, by name (`recipe.loss`): a function of logits (B, K) and targets (B, K), whose rows sum to 1."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from senet_lab.config import Recipe, UserError, first_line, near
from senet_lab.models.importing import imported

Loss = Callable[[Tensor, Tensor], Tensor]


def bce_any(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Binary cross-entropy where every class that a target has part of is wholly there (Wightman et al. 2021, arXiv
    2110.00476, section 3.1)."""
    return F.binary_cross_entropy_with_logits(logits_BK, targets_BK.gt(0).to(logits_BK.dtype))


LOSSES: dict[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "bce": F.binary_cross_entropy_with_logits,
    "bce_any": bce_any,
}


def loss_of(name: str) -> Loss:
    """The loss of a name.

    Raises:
        UserError: there is none.
    """
    if ":" not in name:
        if name not in LOSSES:
            choices = [*LOSSES, "package.module:function"]
            raise UserError(f"recipe.loss: there is no '{name}'{near(name, choices)}; there are {', '.join(choices)}")
        return LOSSES[name]
    try:
        return imported("recipe.loss", name, "function")
    except ValueError as error:
        raise UserError(str(error)) from error


def check_loss(recipe: Recipe) -> None:
    """A UserError for a loss that is not there, or gives something else than a number that can be minimised."""
    loss = loss_of(recipe.loss)
    if ":" not in recipe.loss:
        return
    logits_BK = torch.zeros(2, 3, requires_grad=True)
    try:
        value = loss(logits_BK, torch.eye(3)[:2])
        value.backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise UserError(f"recipe.loss={recipe.loss}: it raised {type(error).__name__}: {first_line(error)}") from error
    if logits_BK.grad is None or value.ndim or not value.isfinite():
        raise UserError(f"recipe.loss={recipe.loss}: it gave {value} of logits (2, 3), no number that depends on them")


def smoothed(targets_BK: Tensor, smoothing: float) -> Tensor:
    """Targets of which a share is spread over all classes."""
    return targets_BK * (1 - smoothing) + smoothing / targets_BK.shape[1]
