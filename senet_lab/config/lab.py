"""What a study and a search are, and everything that `python -m senet_lab.run` can be told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from senet_lab.config.determinants import SE, Data
from senet_lab.config.keys import ENDLESS, RUN, STUDY, TINY, key
from senet_lab.config.recipe import Recipe
from senet_lab.config.runs import Executor, Training

FAILURES = {  # what a failed trial is in a table
    "untested": "its row is not tested, and its design not on the front",
    "chance": "it errs as often as guessing does",
}
METRICS = {  # what verdicts are about
    "error": "of the test images, percent",
    "loss": "their mean −log p of the right class, nats, which is finer than counted errors and often settles sooner",
}


@dataclass
class Study:
    """An ablation: rows that each change one factor.

    A row may name a `baseline` of its own. Rows with the same baseline are one comparison: they differ in the factor
    and in nothing else, while another comparison of the same table may be of another network (`backbone`), trained by
    another recipe (`recipe: wrn`, a file of `conf/recipe`), at another `data.size`.
    """

    name: str = key("", "word by which the study is called; the YAML file's name")
    title: str = key("", "heading of its table")
    paper: str = key("", "the paper's table that it regenerates (`table10` …); empty if there is none")
    factor: str = key(
        "",
        "the one key that compared rows may differ in (`se.reduction`), or `se`: with SE or without, or `recipe`: a "
        "recipe by its name. A row may also switch SE off (`se: null`)",
    )
    baseline: str = key("", "label of the row that rows are compared with that name none themselves")
    only: list[str] = key(
        list,
        "the rows to train, by label or backbone, with the rows that they are compared with; a baseline alone stands "
        "for all that is compared with it; empty takes all. p values are corrected for all rows of the study in any "
        "case",
    )
    rows: dict[str, Any] = key(dict, "label → the row's overrides and, as `paper`, the name of the paper's row")
    levels: list[Any] = key(list, "of the factor, in place of rows: each is a row")
    factors: dict[str, Any] = key(dict, "key → its levels, in place of a factor and rows; several of them are a grid")
    design: str = key(
        "rows",
        "which rows `factors` come to",
        choices={"rows": "as they are listed, or one a level", "grid": "every combination of their levels"},
    )

    @property
    def varied(self) -> list[str]:
        """The keys that compared rows may differ in."""
        return [str(key) for key in self.factors] or [self.factor]

    def baselines(self) -> dict[str, str]:
        """Row → the row that it is compared with: the one that it names, itself if others name it, else the study's."""
        own = {
            label: str(row["baseline"])
            for label, row in self.rows.items()
            if isinstance(row, dict) and "baseline" in row
        }
        named = set(own.values())
        return {label: own.get(label, label if label in named else self.baseline) for label in self.rows}


@dataclass
class Search:
    """A search: which SE design buys the most accuracy for what it costs."""

    name: str = key("", "word by which the search is called; the YAML file's name", decides=RUN)
    title: str = key("", "heading of its front", decides=RUN)
    space: dict[str, Any] = key(
        dict,
        "what may vary, each with its levels: `se.reduction` (`off` or r; one list for every stage, or a mapping from "
        "stage to list, in which a stage left out has no SE), `se.squeeze`, `se.excitation`, `se.position`, and what "
        "else bears on a training of the same images (`recipe.lr`, `data.size`, `backbone` …). What is not there stays "
        "as the words say",
    )
    objectives: list[str] = key(
        lambda: ["val_error", "params"],
        "what is to be small (or, of accuracy, large): `val_error` or `val_accuracy`, `val_loss`, `params`, `macs`, "
        "`latency`",
    )
    sampler: str = key(
        "nsga2",
        "how designs are proposed: `nsga2`, `tpe`, `gp`, `random`; `local` for neighbours of the front, which differ "
        "from it in one level; or `enumerate` for every one. A known proposal is replaced by such a neighbour, too",
    )
    trials: int = key(
        100,
        "how many designs are trained at most, whatever is asked for twice or is over the budget. A space with fewer "
        "is enumerated",
        decides=RUN,
    )
    seed: int = key(0, "of the sampler")
    pending: int = key(
        4,
        "how many designs may be in training before the sampler is told the result of the first. What a search "
        "proposes depends on this number and not on that of the workers, so that it repeats itself on any number of "
        "workers",
    )
    rungs: list[int] = key(
        list,
        "epochs at which trainings stop, to go on only if their design is among the best (successive halving); none "
        "trains every design to its end",
    )
    keep: float = key(1 / 3, "share of the designs at a rung that goes on")
    strata: int = key(3, "how many classes of cost are compared apart, so that cheap designs are not starved")
    confirm: int = key(
        0,
        "fresh seeds that the designs on and near the front, no SE and the paper's default are trained with once the "
        "search has ended; their test errors are the front's intervals",
        decides=RUN,
    )


@dataclass
class Settle:
    """How many seeds `seeds=settle` may spend on a row."""

    min: int = key(3, "seeds at the first look, at least 3")
    max: int = key(20, "seeds at the last look")
    name: str = key(
        "",
        "of this plan. The words of a plan are kept with the records, and go on with it; other words on the same rows "
        "are a plan of another name, which begins with the first seed that has no result yet",
    )


@dataclass
class Budget:
    """What a design of a search may cost at most: a number, or `1.05x` the plain network's; null is without limit."""

    params: Any = key(None, "trainable weights")
    macs: Any = key(None, "multiply-adds of one image")
    latency: Any = key(None, "milliseconds of one image, measured on the device at hand")


@dataclass
class Config:
    """Everything that `python -m senet_lab.run` can be told."""

    backbone: str = key(
        "resnet8",
        "the plain network, by name; `timm:NAME` or `torchvision:NAME` for one of theirs (docs/networks.md); "
        "`package.module:function` for one of your own",
    )
    stride: str = key(
        "paper",
        "where an ImageNet ResNet's stages halve the resolution",
        choices={"paper": "first 1×1", "torchvision": "3×3"},
    )
    init: str | None = key(
        None,
        "weights that a training starts from: a file (a state dict, or a checkpoint that holds one, also one of the "
        "lab's own), `timm:NAME.TAG` or `torchvision:NAME.TAG` (docs/finetuning.md). Gates that they lack, and the "
        "classifier where the number of classes differs, begin anew; null draws all of them",
    )
    init_download: bool = key(
        False, "have timm or torchvision fetch weights of `init` that are not in their caches", decides=RUN
    )
    se: SE | None = key(SE, "the SE design; null is the plain network")
    data: Data = key(Data, "the images")
    recipe: Recipe = key(Recipe, "how they are trained on")
    training: Training = key(Training, "where and how a training runs")
    executor: Executor = key(Executor, "where trials are trained", decides=RUN)
    study: Study | None = key(None, "an ablation", decides=RUN)
    search: Search | None = key(None, "a search", decides=STUDY)
    budget: Budget = key(Budget, "what a design of a search may cost", decides=STUDY)
    seeds: Any = key(
        None,
        "how many seeds (0, 1, …), or a list that names them, [3,4]; null takes 3 in an ablation, and 1 in a search or "
        "for a single network. `settle` adds seeds to each row of an ablation until its verdict is in, and looks after "
        "each of them",
        decides=RUN,
    )
    settle: Settle = key(Settle, "how many seeds that may take", decides=RUN)
    metric: str = key("error", "what verdicts are about. Changes no training", choices=METRICS, decides=RUN)
    margin: float | None = key(
        None,
        "the smallest difference that matters, in points (of the loss: nats). A row that is shown to differ by less is "
        "*equivalent*; null has no such verdict. To be decided before training, which it does not change",
        bounds=(TINY, 100),
        decides=RUN,
    )
    plan: bool = key(False, "print what would be trained, and stop", decides=RUN)
    retry: bool = key(False, "train trials again that are recorded as failed", decides=RUN)
    max_failures: int | None = key(
        10,
        "a study, or a search, of which so many trials have failed and none has ended well is stopped, with the first "
        "reason: it cannot work. Counted is every trial of it, whenever and by whichever driver it was trained; those "
        "that are in training may end. null goes on in any case",
        bounds=(1, ENDLESS),
        decides=RUN,
    )
    failures: str = key(
        "untested",
        "what a failed trial (a loss that is no number, a limit exceeded) is in a table or front. Changes no training; "
        "with a fixed number of seeds `python -m senet_lab table … failures=chance` changes it afterwards",
        choices=FAILURES,
        decides=RUN,
    )
    tracking: str = key(
        "auto",
        "W&B. WANDB_MODE=disabled switches it off whatever is said here",
        choices={"offline": "", "online": "", "off": "", "auto": "what WANDB_MODE says, or `offline`"},
        decides=RUN,
    )
    results: str = key(
        "results/local",
        "the folder that everything is written to; `~` is the home, here and in `storage` and `data.root`",
        decides=RUN,
    )
    storage: str = key("sqlite:///${results}/lab.db", "database of records (SQLAlchemy's URL)", decides=RUN)

    def seed_numbers(self, default: int) -> list[int]:
        """The seeds of every row, where their number is fixed; so many where nothing is said."""
        return list(self.seeds) if isinstance(self.seeds, list) else list(range(self.seeds or default))


def storage_in(results: object) -> str:
    """URL of the database that a results folder has where nothing else is said: in that folder, whatever it is called,
    because what means something in a URL is quoted."""
    return "sqlite:///" + re.sub("[%?#]", lambda found: f"%{ord(found[0]):02X}", f"{results}/lab.db")
