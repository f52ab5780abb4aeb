"""The rows of a study: each changes one factor of the base, and is checked before anything trains.

The rules that make a comparison fair (and refuse one that is not) stand here: a row that changes more than the study's
factor is an error that shows the difference; rows that build the same network are pointed out.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict
from dataclasses import dataclass

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from senet_lab import models
from senet_lab.compose import flat
from senet_lab.config import SE, Config, Study, UserError
from senet_lab.models.cost import Cost
from senet_lab.training.data import DataFacts
from senet_lab.training.spec import Spec

PAPER_NETWORK = "resnet50"  # the trunk of the paper's ablations (section 6)
PAPER_INPUT = (3, 224, 224)


@dataclass(frozen=True)
class Row:
    """One line of a study, ready to be trained with any seed.

    Attributes:
        label: what the row is called.
        paper_row: the paper's row that it repeats; empty if the paper has none.
        config: the whole configuration of the row.
        se: the design as this network realises it, reductions by stage; None is the plain network.
        cost: of the network that is trained, at its input size.
        paper_cost: of the same design in the paper's network at 224 × 224; None where it does not fit.
        hidden: realised hidden widths of the SE blocks by stage.
        network: structural fingerprint; rows that share one build the same network.
    """

    label: str
    paper_row: str
    config: Config
    se: SE | None
    cost: Cost
    paper_cost: Cost | None
    hidden: dict[int, tuple[int, ...]]
    network: str

    def spec(self, facts: DataFacts, seed: int, device: str) -> Spec:
        """The training of this row with a seed."""
        return Spec(
            backbone=self.config.backbone,
            network=self.network,
            stride=self.config.stride,
            se=self.se,
            hidden=self.hidden,
            data=self.config.data,
            identity=facts.identity,
            classes=len(facts.classes),
            channels=facts.channels,
            recipe=self.config.recipe,
            seed=seed,
            device=device,
            precision=self.config.training.precision,
        )


def build(config: Config, facts: DataFacts) -> list[Row]:
    """The rows of the study in `config`, or one row for a single network; checked.

    Raises:
        UserError: a row that does not build, or that is not fair.
    """
    if config.study is None:
        return [row("network", "", config, facts)]
    study = config.study
    if not study.rows:
        raise UserError(f"the study {study.name or '(without a name)'} is empty: study.rows has no row")
    if study.baseline not in study.rows:
        raise UserError(
            f"study.baseline: there is no row '{study.baseline}' in {study.name}; there are {', '.join(study.rows)}"
        )
    configs = {label: overridden(config, study, label) for label in study.rows}
    for label, changed in configs.items():
        check_one_factor(study, label, changed, configs[study.baseline])
    return [row(label, str(study.rows[label].get("paper", "")), changed, facts) for label, changed in configs.items()]


def overridden(config: Config, study: Study, label: str) -> Config:
    """The configuration with a row's overrides."""
    overrides = study.rows[label]
    if not isinstance(overrides, dict):
        raise UserError(f"study.rows.{label}: {overrides!r} is not a mapping such as {{se.reduction: 8}}")
    typed = OmegaConf.structured(copy.deepcopy(config))
    for key, value in overrides.items():
        if key == "paper":
            continue
        try:
            OmegaConf.update(typed, str(key), value, merge=False)
        except (OmegaConfBaseException, AttributeError) as error:
            raise UserError(f"study.rows.{label}: {key}: {value!r} cannot be: {str(error).splitlines()[0]}") from error
    made = OmegaConf.to_object(typed)
    assert isinstance(made, Config)
    return made


def check_one_factor(study: Study, label: str, config: Config, baseline: Config) -> None:
    """A row may differ from the baseline in the study's factor, or in whether there is SE at all; in nothing else."""
    was, now = flat(baseline), flat(config)
    changed = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    if config.se is None or baseline.se is None:
        changed = [key for key in changed if key.split(".")[0] != "se"]
    extra = [key for key in changed if key != study.factor and not key.startswith(f"{study.factor}.")]
    if extra:
        shown = "; ".join(f"{key}: {was.get(key)} → {now.get(key)}" for key in extra)
        raise UserError(
            f"row '{label}' of {study.name} changes more than {study.factor} against '{study.baseline}': {shown}"
        )


def row(label: str, paper_row: str, config: Config, facts: DataFacts) -> Row:
    """Build the row's network on the meta device (no weights), cost it, and bring its design to one form."""
    input_size = (facts.channels, config.data.size, config.data.size)
    try:
        with torch.device("meta"):
            net = models.create(
                config.backbone, None, len(facts.classes), in_channels=facts.channels, stride=config.stride, seed=0
            )
            ratios = {} if config.se is None else config.se.by_stage(models.stages_of(net))
            if config.se is not None:
                models.add_se(net, config.se)
        cost = models.cost(net, input_size)
        hidden = models.hidden_widths(net)
        network = models.fingerprint(net, input_size)
    except ValueError as error:
        where = f"row '{label}': " if config.study else ""
        raise UserError(f"{where}{error}") from error
    se = None
    if ratios:
        assert config.se is not None
        se = dataclasses.replace(config.se, reduction=ratios, stages="all")
    return Row(label, paper_row, config, se, cost, paper_cost(config.se), hidden, network)


def paper_cost(se: SE | None) -> Cost | None:
    """Cost of a design in the paper's network; None where that has no such stage."""
    try:
        with torch.device("meta"):
            net = models.create(PAPER_NETWORK, se, seed=0)
        return models.cost(net, PAPER_INPUT)
    except ValueError:
        return None


def same_networks(rows: list[Row]) -> list[list[str]]:
    """Groups of labels whose rows build the same network, so that no difference between them can mean anything."""
    groups = defaultdict(list)
    for each in rows:
        groups[each.network].append(each.label)
    return [labels for labels in groups.values() if len(labels) > 1]
