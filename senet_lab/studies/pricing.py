"""What the designs of a space cost: a network is built for each level, and the stages are added up (paper, section 4).

SE in one stage costs the same whatever the other stages have, so that one network with a level in every stage prices it
for all of them. Nothing is trained and no weights are allocated.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Mapping

from torch import nn

from senet_lab import models
from senet_lab.config import SE, Config, UserError
from senet_lab.labels import Composed
from senet_lab.models.cost import Cost
from senet_lab.studies import rows as study_rows
from senet_lab.studies.rows import Row
from senet_lab.studies.space import OFF, WORDS, Design, Level, Part, Space, label, read_levels, stage_key
from senet_lab.studies.variants import Variant
from senet_lab.studies.worth import costs_of
from senet_lab.training.data import DataFacts

NO_SE = "no SE"  # label of the plain network
PAPER = SE()  # r = 16, average pool, sigmoid, standard, all stages: the design that others are measured by


@dataclasses.dataclass(frozen=True)
class Priced:
    """A space and the costs of its stages.

    Attributes:
        space: the designs.
        composed: the search; `se` of its configuration is what the designs vary.
        facts: of its data set.
        net: the plain network, on the meta device.
        plain_row: as a row.
        parts: (stage, words, level) → cost of the stage.
        rows: of the designs that were asked for so far.
    """

    space: Space
    composed: Composed
    facts: DataFacts
    net: nn.Module
    plain_row: Row
    parts: Mapping[tuple[int, Design, Level], Cost]
    rows: dict[Design, Row] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> Config:
        return self.composed.config

    @property
    def input_size(self) -> tuple[int, int, int]:
        return (self.facts.channels, self.config.data.size, self.config.data.size)

    def se(self, design: Design) -> SE | None:
        """The design as the lab writes it; None for the plain network."""
        if self.space.is_plain(design):
            return None
        params = self.space.params(design)
        ratios = {stage: params[stage_key(stage)] for stage in models.stages_of(self.net)}
        assert self.config.se is not None
        return dataclasses.replace(
            self.config.se,
            reduction={stage: level for stage, level in ratios.items() if level != OFF},
            stages="all",
            **{word.removeprefix("se."): str(params[word]) for word in WORDS},  # type: ignore[arg-type]
        )

    def row(self, design: Design) -> Row:
        """The design, ready to be trained with any seed."""
        if design not in self.rows:
            self.rows[design] = row(self, label(self.space, design), self.se(design))
        return self.rows[design]


def price(composed: Composed, facts: DataFacts) -> Priced:
    """Read the space of a search, and price its levels.

    Raises:
        UserError: for a space that is empty, or has a level that the network or the lab does not have.
    """
    config = composed.config
    assert config.search is not None
    if config.se is None:
        raise UserError("se=null: a search varies se; SE is switched off by the level off of search.space.se.reduction")
    size = (facts.channels, config.data.size, config.data.size)
    bare = dataclasses.replace(config, se=None, study=None, search=None)
    variant = Variant(NO_SE, NO_SE, "", False, bare, composed.data, composed.recipe)
    plain_row = study_rows.row(variant, None, facts, in_paper=False)
    net = study_rows.plain(config, facts)
    try:
        stages = models.stages_of(net)
        ratios = config.se.by_stage(stages)
    except ValueError as error:
        raise UserError(str(error)) from error
    fixed: dict[str, Level] = {stage_key(stage): ratios.get(stage, OFF) for stage in stages}
    fixed |= {word: getattr(config.se, word.removeprefix("se.")) for word in WORDS}
    levels = read_levels(config.search.space, stages, fixed)
    parts: dict[tuple[int, Design, Level], Cost] = {}
    hidden: dict[tuple[int, Design, Level], tuple[int, ...]] = {}
    space = Space(levels, costs_of(plain_row.cost), {})
    for words in space.words():
        for level in dict.fromkeys(level for stage in stages for level in levels[stage_key(stage)] if level != OFF):
            design = dict(zip((word.removeprefix("se.") for word in WORDS), words, strict=True))
            try:
                built = copy.deepcopy(net)
                gates = dataclasses.replace(config.se, reduction=level, stages="all", **design)  # type: ignore[arg-type]
                models.with_se(built, config.backbone, gates)
                cost, widths = models.cost(built, size), models.hidden_widths(built)
            except ValueError as error:
                raise UserError(f"search.space: {error}") from error
            for stage in stages:
                parts[stage, words, level] = cost.stages[stage]
                hidden[stage, words, level] = widths[stage]
    plain = {stage: costs_of(cost) for stage, cost in plain_row.cost.stages.items()}
    added = {
        (stage_key(stage), words, level): Part(
            hidden[stage, words, level],
            {name: value - plain[stage][name] for name, value in costs_of(cost).items()},
        )
        for (stage, words, level), cost in parts.items()
    }
    return Priced(dataclasses.replace(space, parts=added), composed, facts, net, plain_row, parts)


def row(priced: Priced, name: str, se: SE | None) -> Row:
    """A row of any design, in the space or not, with its cost added up from its stages where they are known."""
    config = dataclasses.replace(priced.config, se=se, study=None)
    if se is None:
        return dataclasses.replace(priced.plain_row, label=name, baseline=name)
    try:
        net = copy.deepcopy(priced.net)
        ratios = se.by_stage(models.stages_of(net))
        models.with_se(net, config.backbone, se)
        words = tuple(getattr(se, word.removeprefix("se.")) for word in WORDS)
        known = all((stage, words, ratio) in priced.parts for stage, ratio in ratios.items())
        stages = {stage: priced.parts[stage, words, ratio] for stage, ratio in ratios.items()} if known else {}
        cost = add_up(priced.plain_row.cost, stages) if known else models.cost(net, priced.input_size)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    widths, network = models.hidden_widths(net), models.fingerprint(net, priced.input_size)
    return dataclasses.replace(
        priced.plain_row,
        label=name,
        baseline=name,
        config=config,
        se=dataclasses.replace(se, reduction=ratios, stages="all"),
        cost=cost,
        hidden=widths,
        network=network,
    )


def add_up(plain: Cost, stages: Mapping[int, Cost]) -> Cost:
    """The cost of a network whose stages cost what `stages` says, and the others what they cost in the plain one."""
    extra = [stages[stage] for stage in sorted(stages)]
    return dataclasses.replace(
        plain,
        params=plain.params + sum(cost.se_params for cost in extra),
        se_params=sum(cost.se_params for cost in extra),
        fc_macs=sum(cost.fc_macs for cost in extra),
        pooling_macs=sum(cost.pooling_macs for cost in extra),
        scaling_macs=sum(cost.scaling_macs for cost in extra),
        stages={**plain.stages, **stages},
    )


def well_known(priced: Priced) -> tuple[dict[str, str], list[Row], list[Design]]:
    """The two designs that everyone knows, the plain network and the paper's default: name → fingerprint of those that
    this network has; rows of those that are outside the space; designs of those that are in it."""
    assert priced.config.se is not None
    named = {NO_SE: None, "the paper's default": dataclasses.replace(PAPER, bias=priced.config.se.bias)}
    inside = {name: find(priced, se) for name, se in named.items()}
    built: dict[str, Row] = {}
    for name, se in named.items():
        with contextlib.suppress(UserError):  # the network has no place for it
            built[name] = row(priced, name, se)
    references = [each for name, each in built.items() if inside[name] is None]
    return (
        {name: each.network for name, each in built.items()},
        references,
        [d for d in inside.values() if d is not None],
    )


def find(priced: Priced, se: SE | None) -> Design | None:
    """The design of the space that builds this network, by its levels; None if it is not in the space."""
    space, params = priced.space, {}
    ratios = {} if se is None else dict.fromkeys(space.stages, se.reduction)
    for key, levels in space.levels.items():
        level: Level = ratios.get(key, OFF) if key in space.stages else getattr(se or priced.config.se, key[3:])
        if key not in space.stages and se is None:
            level = levels[0]
        if level not in levels:
            return None
        params[key] = level
    return space.design(params)
