"""How a network is trained: the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from senet_lab.config.keys import ENDLESS, RUN, TINY, key

STEP = "recipe.schedule=step"


@dataclass
class Recipe:
    """How every network of a study is trained: fixed across rows that do not vary it."""

    name: str = key("custom", "what the recipe is called in tables and folders", decides=RUN)
    epochs: int = key(30, "passes over the training images", bounds=(1, ENDLESS))
    batch_size: int = key(128, "images a step", bounds=(1, ENDLESS))
    lr: float = key(0.1, "learning rate at the start (after warm-up)", bounds=(TINY, ENDLESS))
    lr_parts: dict[str, float] = key(
        dict,
        "what the learning rate of a part of the network is multiplied by, warm-up included, by patterns of names: "
        "`{fc: 10}`, `{features.*: 0.1}` (docs/recipes.md)",
        bounds=(TINY, ENDLESS),
    )
    momentum: float = key(0.9, "of SGD", bounds=(0, 1), only="recipe.optimizer=sgd")
    nesterov: bool = key(False, "whether the momentum is Nesterov's")
    weight_decay: float = key(1e-4, "L2, on all weights unless `decay_norm` is off", bounds=(0, ENDLESS))
    decay_norm: bool = key(True, "whether normalisation parameters and biases are decayed, too")
    schedule: str = key(
        "cosine",
        "of the learning rate",
        choices={
            "constant": "",
            "cosine": "to zero",
            "step": "times `factor` at each of `milestones`",
            "onecycle": "from a 25th up to it at `peak`, then to next to nothing (Smith and Topin 2017)",
        },
    )
    milestones: list[int] = key(list, "epochs at which `step` cuts", bounds=(1, ENDLESS), only=STEP)
    factor: float = key(0.1, "what `step` multiplies by", bounds=(0, 1), only=STEP)
    warmup_steps: int = key(0, "optimiser steps at `warmup_lr` before the schedule begins", bounds=(0, ENDLESS))
    warmup_lr: float = key(0.01, "learning rate of the warm-up", bounds=(0, ENDLESS), only="recipe.warmup_steps")
    warmup_epochs: float = key(
        0.0,
        "epochs in which the learning rate rises linearly, step by step, from `warmup_start` of it, before a schedule "
        "for the rest of the training begins",
        bounds=(0, ENDLESS),
    )
    warmup_start: float = key(
        0.01, "share of the learning rate that this begins with", bounds=(0, 1), only="recipe.warmup_epochs"
    )
    peak: float = key(
        0.3,
        "share of the steps of `onecycle` after which its rate is highest",
        bounds=(0.01, 0.99),
        only="recipe.schedule=onecycle",
    )
    optimizer: str = key(
        "sgd",
        "by name: of torch.optim (`adamw`, `rmsprop` …), else of timm's factory (`lamb`, `lion` …); or "
        "`package.module:function`, called as PyTorch's are, with groups of weights and `lr`. `momentum` and "
        "`nesterov` are SGD's alone",
    )
    optimizer_args: Any = key(None, "arguments of another optimiser than SGD, such as `{betas: [0.9, 0.95]}`")
    clip: float = key(0.0, "norm that the gradient of a step is clipped to; 0 leaves it", bounds=(0, ENDLESS))
    loss: str = key(
        "cross_entropy",
        "that is trained on: `cross_entropy`; `bce`, binary cross-entropy of each class by itself; `bce_any`, "
        "likewise, where a mixed image counts wholly for each class that it has part of (Wightman et al. 2021); or "
        "`package.module:function` of logits (B, K) and targets (B, K), whose rows sum to 1, that gives a mean. "
        "Validation and test say the cross-entropy in any case",
    )
    mixup: float = key(
        0.0,
        "alpha of the Beta distribution by which pairs of images of a batch, and their labels, are mixed (Zhang et al. "
        "2018), as torchvision has it; 0 is none",
        bounds=(0, ENDLESS),
    )
    cutmix: float = key(
        0.0,
        "likewise, where a rectangle of the one image is put into the other (Yun et al. 2019). With both, each batch "
        "gets one of them, as likely as the other",
        bounds=(0, ENDLESS),
    )
    stochastic_depth: float = key(
        0.0,
        "probability that the last residual branch of an image is left out in training, and for those before it in "
        "proportion to their depth (Huang et al. 2016), where the network has layers for it (torchvision's "
        "`StochasticDepth`, timm's `DropPath`)",
        bounds=(0, 0.99),
    )
    label_smoothing: float = key(0.0, "weight of the uniform distribution in the training targets", bounds=(0, 1))
    sampling: str = key(
        "uniform",
        "which images an epoch shows",
        choices={
            "uniform": "every one once",
            "balanced": "as many, but every class equally often, as the paper's first versions did (after Shen et al. "
            "2016)",
        },
    )
    ema: float = key(
        0.0,
        "decay of an exponential moving average of the weights, which is validated, tested and kept in place of the "
        "last ones; 0 is none",
        bounds=(0, 0.999999),  # 1 would never leave the initial weights
    )
