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
from senet_lab.compose import check_key, check_values, flat, plainly
from senet_lab.config import SE, Config, Study, UserError
from senet_lab.models.cost import Cost
from senet_lab.reports.trials import clean_text
from senet_lab.studies.store import first_line
from senet_lab.training.data import DataFacts
from senet_lab.training.spec import Spec

PAPER_NETWORK = "resnet50"  # the trunk of the paper's ablations (section 6)
PAPER_INPUT = (3, 224, 224)

# What a study may vary. All rows of a table share the data, the backbone and the epochs.
FACTORS = ("se.", "recipe.", "stride")
SHARED = ("recipe.name", "recipe.epochs")
ROW_WORDS = ("paper", "if_present")  # what a row says of itself, beside its overrides


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
    check_study(study)
    configs = {label: overridden(config, study, label) for label in study.rows}
    check_one_factor(study, configs)
    missing = left_out(config, facts)
    rows = [
        row(label, str(study.rows[label].get("paper", "")), changed, facts)
        for label, changed in configs.items()
        if label not in missing
    ]
    check_same_backbone(study, rows)
    return rows


def left_out(config: Config, facts: DataFacts) -> list[str]:
    """Labels of the rows that are there only where the network has their stages (`if_present`), and here are not."""
    study = config.study
    if study is None or not any(isinstance(row, dict) and row.get("if_present") for row in study.rows.values()):
        return []
    available = models.stages_of(plain(config, facts))
    configs = {label: overridden(config, study, label) for label, row in study.rows.items() if row.get("if_present")}
    return [
        label
        for label, changed in configs.items()
        if changed.se is not None and isinstance(changed.se.stages, list) and set(changed.se.stages) - set(available)
    ]


def check_study(study: Study) -> None:
    """A UserError for a study that says nothing, or varies what its one table could not hold."""
    if not study.rows:
        raise UserError(f"the study {study.name or '(without a name)'} is empty: study.rows has no row")
    for label in study.rows:
        if not label or clean_text(label) != label:
            raise UserError(f"study.rows: {label!r} cannot be the label of a row; it is one line of printable text")
    if study.baseline not in study.rows:
        raise UserError(
            f"study.baseline: there is no row '{study.baseline}' in {study.name}; there are {', '.join(study.rows)}"
        )
    factors = [key for key in flat(Config()) if key.startswith(FACTORS) and key not in SHARED]
    if study.factor not in factors:
        raise UserError(f"study.factor: '{study.factor}' cannot be varied; what can: {', '.join(factors)}")


def overridden(config: Config, study: Study, label: str) -> Config:
    """The configuration with a row's overrides."""
    where, overrides = f"study.rows.{label}", study.rows[label]
    if not isinstance(overrides, dict):
        raise UserError(f"{where}: {overrides!r} is not a mapping such as {{se.reduction: 8}}")
    changed = OmegaConf.structured(copy.deepcopy(config))
    try:
        for key, value in overrides.items():
            if key not in ROW_WORDS:
                check_key(str(key))
                if str(key).startswith("se.") and changed.se is None:
                    raise UserError(f"{key} cannot be set, because se is null")
                OmegaConf.update(changed, str(key), value, merge=False)
        made = OmegaConf.to_object(changed)
        assert isinstance(made, Config)
        check_values(made)
    except (OmegaConfBaseException, UserError) as error:
        raise UserError(f"{where}: {plainly(error)}") from error
    return made


def check_one_factor(study: Study, configs: dict[str, Config]) -> None:
    """Any two rows differ in the study's factor, or in whether there is SE at all; in nothing else."""
    with_se = [label for label in (study.baseline, *configs) if configs[label].se is not None]
    reference = with_se[0] if with_se else study.baseline
    was = flat(configs[reference])
    for label, config in configs.items():
        now = flat(config)
        changed = [key for key in {**was, **now} if was.get(key) != now.get(key) and key != study.factor]
        if config.se is None:
            changed = [key for key in changed if key.split(".")[0] != "se"]
        if changed:
            shown = "; ".join(f"{key}: {was.get(key)} → {now.get(key)}" for key in changed)
            raise UserError(f"row '{label}' changes more than {study.factor}, compared with '{reference}': {shown}")


def check_same_backbone(study: Study, rows: list[Row]) -> None:
    """Where SE is what is varied, all rows are the same network but for SE: in parameters, multiply-adds and operators,
    stage by stage. A network of the user's own might be another one each time that it is built."""
    if not study.factor.startswith("se."):
        return
    reference = next(row for row in rows if row.label == study.baseline)
    for row in rows:
        parts = {
            f" in stage {n}": (part, row.cost.stages[n])
            for n, part in reference.cost.stages.items()
            if n in row.cost.stages
        }
        parts[""] = (reference.cost, row.cost)  # after the stages, which say where the difference is
        for where, (was, now) in parts.items():
            plain_was = (was.params - was.se_params, was.backbone_macs)
            plain_now = (now.params - now.se_params, now.backbone_macs)
            if plain_was != plain_now:
                raise UserError(
                    f"row '{row.label}' changes more than {study.factor}: without SE its network has {plain_now[0]:,} "
                    f"parameters and {plain_now[1]:,} multiply-adds{where}, that of '{study.baseline}' has "
                    f"{plain_was[0]:,} and {plain_was[1]:,}"
                )
            for operator in sorted({*was.operations, *now.operations}):
                often_was, often_now = was.operations.get(operator, 0), now.operations.get(operator, 0)
                if often_was != often_now:
                    raise UserError(
                        f"row '{row.label}' changes more than {study.factor}: without SE its network runs {operator} "
                        f"{often_now} times{where}, that of '{study.baseline}' {often_was} times"
                    )


def plain(config: Config, facts: DataFacts) -> torch.nn.Module:
    """The network without SE, on the meta device: no weights."""
    with torch.device("meta"):
        return models.create(
            config.backbone, None, len(facts.classes), in_channels=facts.channels, stride=config.stride, seed=0
        )


def row(label: str, paper_row: str, config: Config, facts: DataFacts, in_paper: bool = True) -> Row:
    """Build the row's network on the meta device (no weights), cost it, and bring its design to one form; `in_paper`
    says whether to cost it in the paper's network, too."""
    input_size = (facts.channels, config.data.size, config.data.size)
    try:
        net = plain(config, facts)
        ratios = {} if config.se is None else config.se.by_stage(models.stages_of(net))
        models.add_se(net, config.se)
        cost = models.cost(net, input_size)
        hidden = models.hidden_widths(net)
        network = models.fingerprint(net, input_size)
    except AssertionError:
        raise  # of the lab's own
    except Exception as error:  # whatever a network of the user's own, or one too deep for its images, makes of it
        where = f"row '{label}': " if config.study else ""
        if isinstance(error, ValueError):
            raise UserError(f"{where}{first_line(error)}") from error
        what = f"{config.backbone} on images of {' × '.join(map(str, input_size))}"
        raise UserError(f"{where}{what}: {type(error).__name__}: {first_line(error)}") from error
    se = None
    if ratios:
        assert config.se is not None
        se = dataclasses.replace(config.se, reduction=ratios, stages="all")
    in_theirs = paper_cost(config.se) if in_paper else None
    return Row(label, paper_row, config, se, cost, in_theirs, hidden, network)


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
