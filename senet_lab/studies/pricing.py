"""Counts the cost of the designs of a space: a network is built for each level, and stages are added up (paper, section
4).

SE in one stage costs the same whatever the other stages have, so that one network with a level in every stage prices it
for all of them. Where other factors than SE's change the network, that is done for each of their levels. Nothing is
trained and no weights are allocated.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from torch import nn

from senet_lab import models
from senet_lab.config import RESULT, SE, Config, UserError, flat, walk
from senet_lab.factors import idle_factors
from senet_lab.models.cost import Cost
from senet_lab.naming import Composed
from senet_lab.studies import rows as study_rows
from senet_lab.studies.rows import Row
from senet_lab.studies.search_objectives import costs_of
from senet_lab.studies.space import OFF, WORDS, Candidate, Level, Space, StageCost, design_text, read_levels, stage_key
from senet_lab.studies.variants import Variant, with_values
from senet_lab.training.data import DataFacts
from senet_lab.training.parts import check_parts

NO_SE = "no SE"  # label of the plain network
PAPER = SE()  # r = 16, average pool, sigmoid, standard, all stages: the design that others are measured by


# Factors of a search beside SE's: what else determines a training, but for the images, which designs share.
OTHERS = ("recipe.", "data.augment", "data.cutout", "data.size", "data.test_size", "stride", "backbone", "training.")
Key = tuple[int, Candidate, Level]  # of a part: stage, words of SE, reduction


@dataclasses.dataclass(frozen=True)
class BaseNetwork:
    """A plain network, and how it is trained: what the gates of a design are put into.

    Attributes:
        config: without SE.
        net: the network, on the meta device.
        row: of it.
        parts: (stage, words of SE, reduction) → cost of the stage, and its hidden widths.
    """

    config: Config
    net: nn.Module
    row: Row
    parts: dict[Key, tuple[Cost, tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class PricedSpace:
    """A space and the costs of its stages.

    Attributes:
        space: the designs.
        composed: the search; `se` of its configuration is what the designs vary.
        facts: of its data set.
        plain: as the configuration has it, without SE.
        bases: levels of the factors that are none of SE's → what they make of it.
        rows: of the designs that were asked for so far.
    """

    space: Space
    composed: Composed
    facts: DataFacts
    plain: BaseNetwork
    bases: dict[Candidate, BaseNetwork]
    rows: dict[Candidate, Row] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> Config:
        return self.composed.config

    def se(self, design: Candidate) -> SE | None:
        """The design's gates as the lab writes them; None for the plain network."""
        if self.space.is_plain(design):
            return None
        params = self.space.params(design)
        ratios = {int(stage.rpartition(".")[2]): params[stage] for stage in self.space.stages}
        assert self.config.se is not None
        return dataclasses.replace(
            self.config.se,
            reduction={stage: level for stage, level in ratios.items() if level != OFF},
            stages="all",
            **{word.removeprefix("se."): str(params[word]) for word in WORDS},  # type: ignore[arg-type]
        )

    def row(self, design: Candidate) -> Row:
        """The design, ready to be trained with any seed."""
        if design not in self.rows:
            base = self.bases[self.space.setting(design)]
            self.rows[design] = priced_row(base, design_text(self.space, design), self.se(design), self.facts)
        return self.rows[design]


def price(composed: Composed, facts: DataFacts) -> PricedSpace:
    """Read the space of a search, and price its levels.

    Raises:
        UserError: for a space that is empty, or has a level that the network or the lab does not have.
    """
    config = composed.config
    assert config.search is not None
    if config.se is None:
        raise UserError("se=null: a search varies se; SE is switched off by the level off of search.space.se.reduction")
    bare = dataclasses.replace(config, se=None, study=None, search=None)
    plain = base_network(composed, bare, facts)
    try:
        stages = models.stages_of(plain.net)
        ratios = config.se.by_stage(stages)
    except ValueError as error:
        raise UserError(str(error)) from error
    fixed: dict[str, Level] = {stage_key(stage): ratios.get(stage, OFF) for stage in stages}
    fixed |= {word: getattr(config.se, word.removeprefix("se.")) for word in WORDS}
    deciding = [key for key, declared, _ in walk(bare) if declared.decides == RESULT]
    others = [key for key in deciding if key.startswith(OTHERS) and key != "recipe.name"]
    levels = read_levels(config.search.space, stages, fixed, others)
    space = Space(levels, {}, {})
    bases: dict[Candidate, BaseNetwork] = {}
    costs: dict[Candidate, dict[str, float]] = {}
    parts: dict[tuple[str, Candidate, Level], StageCost] = {}
    for setting in space.settings():
        words = dict(zip(space.others, setting, strict=True))
        made = plain if not words else base_network(composed, with_values(bare, words, "search.space"), facts)
        if models.stages_of(made.net) != stages:
            raise UserError(f"search.space: {words} has other stages than {config.backbone}")
        same = next((each for each in bases.values() if same_network(each.config, made.config)), None)
        made.parts.update(same.parts if same else stage_costs(made, config.se, levels, stages, facts))
        bases[setting], costs[setting] = made, costs_of(made.row.cost)
        without = {stage: costs_of(cost) for stage, cost in made.row.cost.stages.items()}
        for (stage, gates, level), (cost, hidden) in made.parts.items():
            added = {name: value - without[stage][name] for name, value in costs_of(cost).items()}
            parts[stage_key(stage), gates + setting, level] = StageCost(hidden, added)
    for sentence in idle_factors({*space.others} & {*space.varied}, [base.config for base in bases.values()]):
        raise UserError(f"search.space: {sentence}")
    return PricedSpace(dataclasses.replace(space, plain=costs, parts=parts), composed, facts, plain, bases)


def base_network(composed: Composed, config: Config, facts: DataFacts) -> BaseNetwork:
    """The plain network of a configuration; nothing is known of its parts yet."""
    variant = Variant(NO_SE, NO_SE, "", False, config, composed.data, composed.recipe)
    made = study_rows.build_row(variant, None, facts, in_paper=False)
    return BaseNetwork(config, study_rows.plain_network(config, facts), made, {})


def same_network(one: Config, other: Config) -> bool:
    """Whether two configurations build the same plain network for images of the same size."""
    return all(flat(one)[key] == flat(other)[key] for key in ("backbone", "stride", "data.size"))


def stage_costs(
    plain: BaseNetwork, se: SE, levels: Mapping[str, Candidate], stages: Sequence[int], facts: DataFacts
) -> dict[Key, tuple[Cost, tuple[int, ...]]]:
    """What each stage costs with each reduction and with all words of SE, and its hidden widths; a network a level."""
    costs: dict[Key, tuple[Cost, tuple[int, ...]]] = {}
    reductions = dict.fromkeys(level for stage in stages for level in levels[stage_key(stage)] if level != OFF)
    for words in itertools.product(*(levels[word] for word in WORDS)):
        design = dict(zip((word.removeprefix("se.") for word in WORDS), words, strict=True))
        for level in reductions:
            try:
                built = copy.deepcopy(plain.net)
                gates = dataclasses.replace(se, reduction=level, stages="all", **design)  # type: ignore[arg-type]
                models.with_se(built, plain.config.backbone, gates)
                cost, widths = models.cost(built, input_size(plain.config, facts)), models.hidden_widths(built)
            except ValueError as error:
                raise UserError(f"search.space: {error}") from error
            costs |= {(stage, words, level): (cost.stages[stage], widths[stage]) for stage in stages}
    return costs


def input_size(config: Config, facts: DataFacts) -> tuple[int, int, int]:
    return (facts.channels, config.data.size, config.data.size)


def priced_row(base: BaseNetwork, name: str, se: SE | None, facts: DataFacts) -> Row:
    """A row of any design, in the space or not, with its cost added up from its stages where they are known."""
    if se is None:
        return dataclasses.replace(base.row, label=name, baseline=name)
    config = dataclasses.replace(base.config, se=se)
    try:
        net = copy.deepcopy(base.net)
        ratios = se.by_stage(models.stages_of(net))
        gates = models.with_se(net, config.backbone, se)
        check_parts(net, config.training.freeze, config.recipe.lr_parts)
        words = tuple(getattr(se, word.removeprefix("se.")) for word in WORDS)
        known = all((stage, words, ratio) in base.parts for stage, ratio in ratios.items())
        stages = {stage: base.parts[stage, words, ratio][0] for stage, ratio in ratios.items()} if known else {}
        size = input_size(config, facts)
        cost = add_up(base.row.cost, stages) if known else models.cost(net, size)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    widths, network = models.hidden_widths(net), models.fingerprint(net, size)
    return dataclasses.replace(
        base.row,
        label=name,
        baseline=name,
        config=config,
        se=study_rows.as_built(se, ratios),
        cost=cost,
        hidden=widths,
        network=network,
        code=models.code(config.backbone, se, len(facts.classes), facts.channels, config.data.size),
        places=study_rows.places_of(se, gates),
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


def well_known(priced: PricedSpace) -> tuple[dict[str, str], list[Row], list[Candidate]]:
    """The plain network and the paper's default design: name → fingerprint, if the network has them; their rows if they
    are outside the space; their designs if they are in it."""
    assert priced.config.se is not None
    named = {NO_SE: None, "the paper's default": dataclasses.replace(PAPER, bias=priced.config.se.bias)}
    inside = {name: find_design(priced, se) for name, se in named.items()}
    built: dict[str, Row] = {}
    for name, se in named.items():
        with contextlib.suppress(UserError):  # the network has no place for it
            built[name] = priced_row(priced.plain, name, se, priced.facts)
    references = [each for name, each in built.items() if inside[name] is None]
    return (
        {name: each.network for name, each in built.items()},
        references,
        [d for d in inside.values() if d is not None],
    )


def find_design(priced: PricedSpace, se: SE | None) -> Candidate | None:
    """The design of the space that builds this network, by its levels; None if it is not in the space."""
    space, params = priced.space, {}
    ratios = {} if se is None else dict.fromkeys(space.stages, se.reduction)
    now = flat(priced.plain.config)
    for key, levels in space.levels.items():
        if key in space.others:
            level: Level = now[key]
        else:
            level = ratios.get(key, OFF) if key in space.stages else getattr(se or priced.config.se, key[3:])
        if key in WORDS and se is None:
            level = levels[0]
        if level not in levels:
            return None
        params[key] = level
    return space.design(params)
