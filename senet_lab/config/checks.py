"""Checks of values that no study can have. What needs torch to be checked is checked where it is used."""

from __future__ import annotations

import re

from senet_lab.config.errors import UserError
from senet_lab.config.keys import check_declared
from senet_lab.config.lab import Config

MOST_SEEDS = 200  # looks at a row
MOST_TRAININGS = 10_000  # of a row
NAME = re.compile(r"[\w=+-][\w.=+-]{,99}")  # of a study: it is a folder's


def check_values(config: Config) -> None:
    """A UserError for a value, or for values together, that no study can have."""
    check_seeds(config)
    check_declared(config)
    training, recipe, executor = config.training, config.recipe, config.executor
    if training.devices > 1 and recipe.batch_size < 2 * training.devices:  # a batch norm of one image has no variance
        least = 2 * training.devices
        raise UserError(f"training.devices={training.devices} needs a recipe.batch_size of at least {least}")
    if training.devices > 1 and executor.name == "ray":
        raise UserError(f"training.devices={training.devices} is for executor=local; on Ray a trial has one device")
    if recipe.nesterov and not recipe.momentum:
        raise UserError("recipe.nesterov=true needs a recipe.momentum above 0")
    if recipe.nesterov and recipe.optimizer != "sgd":
        raise UserError(f"recipe.nesterov=true is for recipe.optimizer=sgd; {recipe.optimizer} was asked for")
    if recipe.warmup_epochs and (recipe.warmup_steps or recipe.schedule == "onecycle"):
        other = "recipe.warmup_steps" if recipe.warmup_steps else "recipe.schedule=onecycle"
        raise UserError(f"recipe.warmup_epochs={recipe.warmup_epochs:g}: {other} is a warm-up of its own; one of them")
    if recipe.label_smoothing and recipe.loss == "bce_any":
        raise UserError("recipe.label_smoothing: with recipe.loss=bce_any every class would be there")
    if recipe.warmup_epochs >= recipe.epochs:
        raise UserError(f"recipe.warmup_epochs={recipe.warmup_epochs:g} is all of recipe.epochs={recipe.epochs}")
    of_ray = {"address": executor.address, "cpus_per_trial": executor.cpus_per_trial - 1}
    of_ray["gpus_per_trial"] = executor.gpus_per_trial is not None
    for name in (name for name, given in of_ray.items() if given and executor.name != "ray"):
        raise UserError(f"executor.{name} is for executor=ray; executor={executor.name} was asked for")
    if executor.per_gpu != 1 and executor.name == "ray":
        raise UserError(
            "executor.per_gpu is for executor=local; on Ray, executor.gpus_per_trial=0.25 has four share one"
        )
    for name, text in {"results": config.results, "data.root": config.data.root, "recipe.name": recipe.name}.items():
        if not text.strip():
            raise UserError(f"{name} is empty")
    for name, made in {"study": config.study, "search": config.search}.items():
        if made is not None and not NAME.fullmatch(made.name):
            raise UserError(f"{name}.name: '{made.name}' is not a word of letters, digits and -_.=+")


def check_seeds(config: Config) -> None:
    """A UserError for seeds that no study can have."""
    seeds, settle = config.seeds, config.settle
    if seeds == "settle":
        if config.search or config.study is None:
            raise UserError("seeds=settle is for an ablation, whose rows are compared; here are none")
        if not MOST_SEEDS >= settle.max >= settle.min >= 3:
            raise UserError(
                f"settle.min={settle.min} settle.max={settle.max}: a row has at least 3 seeds at its first look, and "
                f"as many or more, up to {MOST_SEEDS}, at its last"
            )
    elif isinstance(seeds, list):
        if config.search:
            raise UserError(f"seeds={seeds}: a search has a number of seeds, from seed 0 on")
        wrong = [seed for seed in seeds if not is_whole(seed) or not 0 <= seed < MOST_TRAININGS]
        if not seeds or wrong or len(set(seeds)) < len(seeds):
            raise UserError(f"seeds={seeds}: a list names different whole numbers from 0 to {MOST_TRAININGS - 1}")
    elif seeds is not None and not is_whole(seeds):
        raise UserError(f"seeds={seeds}: there are a number of seeds, a list of seeds such as [3,4], and settle")
    elif seeds is not None and not 1 <= seeds <= MOST_TRAININGS:
        raise UserError(f"seeds={seeds} is not between 1 and {MOST_TRAININGS}")


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
