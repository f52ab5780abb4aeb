"""Builds the rows of a study on the meta device and counts their costs, before anything trains.

Two rules of a fair comparison need the networks themselves and stand here: but for SE the networks are the same in
parameters, multiply-adds and operators; and rows that build the same network are pointed out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from senet_lab import models
from senet_lab.config import SE, Config, Study, UserError, first_line
from senet_lab.factors import NO_SE
from senet_lab.models import identity
from senet_lab.models.cost import Cost
from senet_lab.models.gated import Inserted
from senet_lab.models.kinds import kind_of
from senet_lab.naming import Composed, word_text
from senet_lab.reports import contrasts as compared
from senet_lab.reports.contrasts import Contrast
from senet_lab.studies.cost_in_paper import PaperCost, paper_cost
from senet_lab.studies.variants import Variant, variants
from senet_lab.training import data as images
from senet_lab.training import losses, optimizers, step
from senet_lab.training.data import DataFacts
from senet_lab.training.mixing import set_stochastic_depth
from senet_lab.training.parts import check_parts
from senet_lab.training.spec import Spec
from senet_lab.training.starting import check_start, located


@dataclass(frozen=True)
class Row:
    """One line of a study, ready to be trained with any seed.

    Attributes:
        label: what the row is called.
        baseline: label of the row that it is compared with; its own for a baseline.
        paper_row: the paper's row that it repeats; empty if the paper has none.
        config: the whole configuration of the row.
        data, recipe: what its data set and its recipe are called.
        se: the design as this network realises it, reductions by stage; None is the plain network.
        cost: of the network that is trained, at its input size.
        paper_cost: of the same design in the paper's network at the size of its images; None where it does not fit.
        hidden: realised hidden widths of the SE blocks by stage.
        network: structural fingerprint; rows that share one build the same network.
        levels: factor → the row's level of it.
        code: what tells its code from what was released; empty where it is that (`models.code`).
        places: of its gates; empty for SE (`Spec.places`).
        weights: digest of those that it starts from; empty where they are drawn.
        start: a line that says so; empty likewise.
    """

    label: str
    baseline: str
    paper_row: str
    config: Config
    data: str
    recipe: str
    se: SE | None
    cost: Cost
    paper_cost: PaperCost | None
    hidden: dict[int, tuple[int, ...]]
    network: str
    code: str
    levels: dict[str, Any] = field(default_factory=dict)
    places: str = ""
    weights: str = ""
    start: str = ""

    @property
    def level_texts(self) -> dict[str, str]:
        """The levels as they are typed, by factor."""
        return {factor: NO_SE if level is None else word_text(level) for factor, level in self.levels.items()}

    def spec(self, facts: DataFacts, seed: int, device: str) -> Spec:
        """The training of this row with a seed."""
        return Spec(
            backbone=self.config.backbone,
            network=self.network,
            code=self.code,
            places=self.places,
            loss_code=identity.own_code(self.config.recipe.loss),
            optimizer_code=identity.own_code(self.config.recipe.optimizer),
            stride=self.config.stride,
            init=located(self.config),
            weights=self.weights,
            se=self.se,
            hidden=self.hidden,
            data=self.config.data if self.config.data.test_size != self.config.data.size else self.config.data.tested,
            identity=facts.identity,
            classes=len(facts.classes),
            channels=facts.channels,
            recipe=self.config.recipe,
            seed=seed,
            device=device,
            precision=step.precision_of(self.config.training.precision, device),
            threads=self.config.executor.threads_of_a_trial if device == "cpu" else 1,
            **vars(step.choose_step(self.config.training, self.config.data, device, self.config.backbone)),
        )


def build_rows(composed: Composed, facts: DataFacts) -> tuple[list[Row], list[str]]:
    """The rows of the study, or one row for a single network; checked.

    Returns:
        The rows, and the labels of those that are there only where the network has their stages (`if_present`), and
        here are not.

    Raises:
        UserError: a row that does not build, or that is not fair.
    """
    identity.network_measurement.cache_clear()
    study = composed.config.study
    configs = variants(composed)
    for each in configs:  # all of them, before the first network is built
        check_words(each, study)
    absent = [each.label for each in configs if each.if_present and lacks_stages(each, facts)]
    bare = [each.baseline for each in configs if each.baseline in absent]
    if study is not None and bare:
        raise UserError(f"row '{bare[0]}': a baseline cannot be left out, and {study.name} has no such stage here")
    rows = [build_row(each, study, facts) for each in configs if each.label not in absent]
    if study is not None:
        check_same_backbone(study, rows)
    return rows, absent


def check_words(variant: Variant, study: Study | None) -> None:
    """A UserError where the data set has no such images as a row wants, or there is no such optimiser or loss."""
    try:
        losses.check_loss(variant.config.recipe)
        optimizers.check_optimizer(variant.config.recipe)
        images.check_data(variant.config.data)
    except UserError as error:
        raise UserError(f"row '{variant.label}': {error}" if study else str(error)) from error


def lacks_stages(variant: Variant, facts: DataFacts) -> bool:
    """Whether a row wants SE in a stage that its network does not have."""
    se = variant.config.se
    if se is None or not isinstance(se.stages, list):
        return False
    try:
        return bool(set(se.stages) - set(models.stages_of(plain_network(variant.config, facts))))
    except Exception:  # a network that cannot be built: `row` says why, and of which row
        return False


def check_same_backbone(study: Study, rows: list[Row]) -> None:
    """If SE is varied, a UserError unless compared rows are the same network but for SE: in parameters, multiply-adds
    and operators of each stage. A network of the user's own might differ each time that it is built."""
    if {"backbone", "stride", "data.size"} & {*study.varied} or not any(
        key.split(".")[0] == "se" for key in study.varied
    ):
        return
    what = " and ".join(study.varied)
    by_label = {row.label: row for row in rows}
    for row in rows:
        reference = by_label[row.baseline]
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
                    f"row '{row.label}' changes more than {what}: without SE its network has {plain_now[0]:,} "
                    f"parameters and {plain_now[1]:,} multiply-adds{where}, that of '{row.baseline}' has "
                    f"{plain_was[0]:,} and {plain_was[1]:,}"
                )
            for operator in sorted({*was.operations, *now.operations}):
                often_was, often_now = was.operations.get(operator, 0), now.operations.get(operator, 0)
                if often_was != often_now:
                    raise UserError(
                        f"row '{row.label}' changes more than {what}: without SE its network runs {operator} "
                        f"{often_now} times{where}, that of '{row.baseline}' {often_was} times"
                    )


def plain_network(config: Config, facts: DataFacts) -> torch.nn.Module:
    """The network without SE, on the meta device: no weights."""
    check_not_main("backbone", config.backbone)
    with torch.device("meta"):
        return models.create(
            config.backbone, None, len(facts.classes), in_channels=facts.channels, stride=config.stride, seed=0
        )


def check_not_main(key: str, name: str) -> None:
    """A ValueError for code of the user's own where only the script itself has it."""
    module, _, attribute = name.partition(":")
    if module == "__main__":
        raise ValueError(
            f"{key}: workers do not run the script that calls the lab; put {attribute} into a module beside it, "
            f"nets.py say, and write nets:{attribute}"
        )


def as_built(se: SE, ratios: dict[int, int]) -> SE:
    """A design in its one form, with reductions by stage; with the default one where its kind does not look at it."""
    if not kind_of(se.kind).reduces:
        ratios = dict.fromkeys(ratios, SE().reduction)
    return dataclasses.replace(se, reduction=ratios, stages="all")


def places_of(se: SE | None, gates: Sequence[Inserted]) -> str:
    """Where gates are, for the trial's name (`Spec.places`)."""
    return "" if se is None or se.kind == SE().kind else ", ".join(f"{gate.side} {gate.name}" for gate in gates)


def build_row(variant: Variant, study: Study | None, facts: DataFacts, in_paper: bool = True) -> Row:
    """Build the row's network on the meta device (no weights), count its cost, and normalise its design. `in_paper`
    says whether to count the cost in the paper's network, too."""
    config = variant.config
    input_size = (facts.channels, config.data.size, config.data.size)
    try:
        net = plain_network(config, facts)
        check_not_main("se.kind", config.se.kind if config.se else "")
        ratios = {} if config.se is None else config.se.by_stage(models.stages_of(net, config.se.position))
        gates = models.with_se(net, config.backbone, config.se)
        if config.recipe.stochastic_depth:
            set_stochastic_depth(net, config.recipe.stochastic_depth)  # an error where it has no layers for it
        cost = row_cost(net, config.backbone, input_size)
        hidden = models.hidden_widths(net)
        network = models.fingerprint(net, input_size)
        weights, start = check_start(net, config)
        code = models.code(
            config.backbone, config.se if ratios else None, len(facts.classes), facts.channels, config.data.size
        )
        check_parts(net, config.training.freeze, config.recipe.lr_parts)
        if config.data.tested.size != config.data.size:
            input_size = (facts.channels, config.data.tested.size, config.data.tested.size)
            row_cost(net, config.backbone, input_size)  # an error where it does not take images of that size
    except AssertionError:
        raise  # of the lab's own
    except Exception as error:  # whatever a network of the user's own, or one too deep for its images, makes of it
        where = f"row '{variant.label}': " if study else ""
        if isinstance(error, ValueError):
            raise UserError(f"{where}{first_line(error)}") from error
        what = f"{config.backbone} on images of {' × '.join(map(str, input_size))}"
        raise UserError(f"{where}{what}: {type(error).__name__}: {first_line(error)}") from error
    se = None
    if ratios:
        assert config.se is not None
        se = as_built(config.se, ratios)
    return Row(
        variant.label,
        variant.baseline,
        variant.paper_row,
        config,
        variant.data,
        variant.recipe,
        se,
        cost,
        paper_cost(config, study, variant.paper_row, facts, cost) if in_paper else None,
        hidden,
        network,
        code,
        variant.levels,
        places_of(config.se, gates),
        weights,
        start,
    )


def row_cost(net: torch.nn.Module, backbone: str, input_size: tuple[int, int, int]) -> Cost:
    """Cost of a row's network; errors about a user's network name it."""
    try:
        return models.cost(net, input_size)
    except ValueError as error:
        if ":" not in backbone:
            raise
        raise ValueError(f"{backbone}: {error}") from error


def contrasts(rows: Sequence[Row], trained: Mapping[str, str]) -> dict[str, Contrast]:
    """The contrasts of a study: its rows against their baselines or, in a grid, its effects.

    Args:
        rows: in the study's order.
        trained: label → the id of the row's training with some seed, the same for all.
    """
    factors = tuple(rows[0].levels)
    if len(factors) > 1:
        cells = {row.label: tuple(row.level_texts.values()) for row in rows}
        return compared.effects(cells, factors, rows[0].baseline)
    return compared.of_rows(
        trained,
        {build_row.label: "" if build_row.baseline == build_row.label else build_row.baseline for build_row in rows},
    )
