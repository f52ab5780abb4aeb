"""What `--help` and `--cfg job` print."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import OmegaConf

from senet_lab.compose import GROUPS, choices, compose
from senet_lab.config import Config, UserError, walk
from senet_lab.config.lab import Search, Study
from senet_lab.naming import word_text
from senet_lab.selection import STUDIES

EXAMPLES = """\
python -m senet_lab.run                              train one network: SE-ResNet-8 on the digits
python -m senet_lab.run +ablation=ratio              a study: Table 10 of the paper
python -m senet_lab.run +ablation=ratio plan=true    what it would train, what it costs, how long it takes
python -m senet_lab.run +ablation=ratio seeds=settle margin=0.5    seeds until each verdict is in, 20 at most
python -m senet_lab.run +vary=recipe.lr 'levels=[0.05,0.1,0.2]'    any key that bears on the result, at these levels
python -m senet_lab.run +search=tabular plan=true    a search: its space, its cheapest and its dearest design
python -m senet_lab.run +ablation=ratio data=cifar10 data.root=DIR backbone=resnet56 recipe=cifar seeds=5
python -m senet_lab.run +ablation=networks_cifar10 'study.only=[wrn16_8]'    networks plain and with SE; one pair
python -m senet_lab.run se.reduction=8 se.position=pre 'se.stages=[3,4]'     another design
python -m senet_lab.run se=null                      the plain network
python -m senet_lab.run +ablation=finetune init=FILE data=folder data.root=DIR    from given weights, with gates put in
"""


def job_text(words: Iterable[str]) -> str:
    """What `--cfg job` prints: the whole configuration that the other words ask for."""
    rest = [word for word in words if word not in ("-c", "--cfg")]
    if "job" not in rest:
        raise UserError("--cfg takes the word job: it prints the configuration and runs nothing")
    rest.remove("job")
    return OmegaConf.to_yaml(OmegaConf.structured(compose(rest).config))


def help_text() -> str:
    """What `--help` prints."""
    listed = "\n".join(
        f"  {'+' * (group in STUDIES)}{group}={'|'.join(choices(group))}" for group in (*GROUPS, *STUDIES)
    )
    return (
        "Train a squeeze-and-excitation network, or run a whole study of them.\n\n"
        "usage: python -m senet_lab.run [key=value …]\n\n"
        f"{EXAMPLES}\nchoices:\n{listed}\n\nevery key, its default and its meaning:\n"
        + "\n".join(
            textwrap.fill(f"{key}={value}  {means}", 100, initial_indent="  ", subsequent_indent="      ")
            for key, value, means in list_keys()
        )
    )


def list_keys() -> Iterator[tuple[str, str, str]]:
    """Each key, its default as it is typed, and its meaning."""
    parts: dict[str, Any] = {"study": Study(), "search": Search(), "storage": Config.storage}
    for key, declared, value in walk(dataclasses.replace(compose([]).config, **parts)):
        yield key, word_text(value), declared.description
