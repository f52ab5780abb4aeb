"""Optimisers by name, and how the learning rate goes (`recipe.optimizer`, `recipe.schedule`).

SGD is PyTorch's; any other is PyTorch's of that name (`torch.optim`), else timm's. `package.module:function` is one of
the user's own, called as PyTorch's are: with groups of weights, each with its decay, `lr` and `recipe.optimizer_args`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from senet_lab.config import Recipe, UserError, first_line, near
from senet_lab.models.importing import imported

UNFIT = ("optimizer", "lbfgs", "sparseadam", "muon")  # the base; for closures; sparse gradients; matrices alone
PYTORCH: dict[str, type[Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and name.lower() not in UNFIT
}
LOW, LAST = 25.0, 1e4  # one-cycle's first rate, and how much lower than that its last one is (PyTorch's defaults)


def optimizer_of(
    recipe: Recipe,
    parameters: Iterable[nn.Parameter],
    fused: bool,
    rates: Mapping[nn.Parameter, float] | None = None,
) -> Optimizer:
    """The optimiser of a recipe, for those weights that train.

    Args:
        fused: whether it computes as one kernel, where it can.
        rates: what the learning rate of a weight is multiplied by, where that is not 1 (`parts.rates`).
    """
    rates, groups = rates or {}, list[dict[str, Any]]()
    every = [p for p in parameters if p.requires_grad]
    for rate in dict.fromkeys([1.0, *rates.values()]):
        of_rate = [p for p in every if rates.get(p, 1.0) == rate]
        decayed = [p for p in of_rate if p.ndim > 1 or recipe.decay_norm]
        spared = [p for p in of_rate if not (p.ndim > 1 or recipe.decay_norm)]
        both = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
        own_rate = {} if rate == 1 else {"lr": rate * recipe.lr}
        groups += [group | own_rate for group in both if group["params"]]
    given = {"lr": recipe.lr, **(recipe.optimizer_args or {})}
    if ":" in recipe.optimizer:
        own = imported("recipe.optimizer", recipe.optimizer, "function")(groups, **given)
        if not isinstance(own, Optimizer):
            raise TypeError(f"it gives a {type(own).__name__}, not a torch.optim.Optimizer")
        return own
    if recipe.optimizer not in PYTORCH:
        from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

        made: Optimizer = create_optimizer_v2(groups, recipe.optimizer, **given)
        return made
    kind: Any = PYTORCH[recipe.optimizer]
    ours: dict[str, Any] = {"fused": fused, "foreach": not fused}  # sooner than weight by weight, with the same bits
    words = {name: value for name, value in ours.items() if name in inspect.signature(kind).parameters}
    if recipe.optimizer == "sgd":
        words |= {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
    optimizer: Optimizer = kind(groups, **words | given)
    return optimizer


def check_optimizer(recipe: Recipe) -> None:
    """A UserError for an optimiser that is not there, or does not take its arguments: it is tried on two weights."""
    name, given = recipe.optimizer, recipe.optimizer_args
    if name == "sgd" and given is None:
        return
    if ":" in name:
        try:
            imported("recipe.optimizer", name, "function")
        except ValueError as error:
            raise UserError(str(error)) from error
    elif name not in PYTORCH:
        from timm.optim import list_optimizers  # type: ignore[attr-defined]  # timm exports it without saying so

        timms = [str(each) for each in list_optimizers()]
        if name not in timms:
            raise UserError(
                f"recipe.optimizer: there is no '{name}'{near(name, [*PYTORCH, *timms])}; there are "
                f"{', '.join(sorted(PYTORCH))}, package.module:function, and timm's, which "
                "timm.optim.list_optimizers() lists"
            )
    if name == "sgd" or not (given is None or isinstance(given, dict)):
        form = "SGD's are recipe.momentum and recipe.nesterov" if name == "sgd" else "no mapping: {betas: [0.9, 0.95]}"
        raise UserError(f"recipe.optimizer_args={given}: {form}")
    weights = [nn.Parameter(torch.ones(2, 2, 3, 3)), nn.Parameter(torch.ones(2))]
    try:
        tried = optimizer_of(recipe, weights, fused=False)
        calls: list[float] = []

        def closure() -> float:
            calls.append(0.0)
            for weight in weights:
                weight.grad = torch.ones_like(weight)
            return calls[-1]

        tried.step(closure)
        if not calls:
            raise TypeError("its step(closure) does not call the closure, which computes the gradients")
    except Exception as error:  # of any kind: what a library makes of an argument that it does not take
        hint = takes(name) if isinstance(error, TypeError) else ""
        words = f"recipe.optimizer={name}" + (f" recipe.optimizer_args={given}" if given else "")
        raise UserError(f"{words}: {type(error).__name__}: {first_line(error)}{hint}") from error


def takes(name: str) -> str:
    """Which arguments an optimiser takes, as the end of a line."""
    from timm.optim import get_optimizer_class  # type: ignore[attr-defined]

    if ":" in name:
        return ""
    kind: Any = PYTORCH[name] if name in PYTORCH else get_optimizer_class(name, bind_defaults=False)
    words = [word for word in inspect.signature(kind).parameters if word not in ("params", "lr", "weight_decay")]
    return f"; it takes {', '.join(words)}"


def lr_factor(recipe: Recipe, step: int, steps: int) -> float:
    """What the learning rate is multiplied by at an optimiser step, of `steps` in all."""
    if step < recipe.warmup_steps:
        return recipe.warmup_lr / recipe.lr
    warm = round(recipe.warmup_epochs * steps / recipe.epochs)
    if step < warm:
        return recipe.warmup_start + (1 - recipe.warmup_start) * step / warm
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
    if recipe.schedule == "step":
        epoch = step * recipe.epochs // steps
        return float(recipe.factor ** sum(epoch >= milestone for milestone in recipe.milestones))
    if recipe.schedule == "onecycle":
        top, end = recipe.peak * steps - 1, steps - 1
        rises = step <= top
        share = step / top if rises else (step - top) / (end - top)
        low = 1 / LOW if rises else 1 / (LOW * LAST)
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * (1 - share if rises else share)))
    return 1.0
