"""From words to a typed configuration, in Hydra's override grammar.

`data=cifar10` chooses a file of `conf/data`, `+ablation=ratio` one of `sweeps/ablation`, `se.reduction=8` sets a field.
Studies are looked for in `sweeps/` of the working directory, then in the lab's own. A word that is wrong is answered
with one line that names it and the choices.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from senet_lab import config as fields
from senet_lab.config import Config, UserError

PACKAGE = Path(__file__).parent
GROUPS = ("data", "recipe")  # chosen by name from conf/
STUDIES = ("ablation",)  # chosen by name from sweeps/

# Fields that change no result, so that tables are not filed apart by them.
IDLE = re.compile(
    r"backbone|seeds|plan|retry|tracking|results|storage|executor\..*|training\.(device|keep)"
    r"|data\.(name|root|download|workers|train|test)|recipe\.name"
)

EXAMPLES = """\
python -m senet_lab.run                              train one network: SE-ResNet-8 on the digits
python -m senet_lab.run +ablation=ratio              a study: Table 10 of the paper
python -m senet_lab.run +ablation=ratio plan=true    what it would train, what it costs, how long it takes
python -m senet_lab.run +ablation=ratio data=cifar10 data.root=DIR backbone=resnet56 recipe=cifar seeds=5
python -m senet_lab.run se.reduction=8 se.position=pre 'se.stages=[3,4]'     another design
python -m senet_lab.run se=null                      the plain network
"""


@dataclass(frozen=True)
class Composed:
    """A configuration, and what its results are filed under.

    Attributes:
        config: all of it.
        data: label of the data set, with what differs from its file: `cifar10-subset=5000`.
        recipe: label of the recipe, likewise.
        folder: `<data>/<backbone>-<recipe>/<study>`.
    """

    config: Config
    data: str
    recipe: str
    folder: str


def sweeps() -> list[Path]:
    """Where studies are looked for, the first one first."""
    places = [Path.cwd() / "sweeps", PACKAGE.parent / "sweeps", PACKAGE / "sweeps"]
    return [place for position, place in enumerate(places) if place.is_dir() and place not in places[:position]]


def choices(group: str) -> list[str]:
    """Names that a group can be given."""
    places = [PACKAGE / "conf"] if group in GROUPS else sweeps()
    return sorted({path.stem for place in places for path in (place / group).glob("*.yaml")})


def compose(words: Iterable[str]) -> Composed:
    """The configuration that the words ask for.

    Raises:
        UserError: for the first word that is wrong.
    """
    words = [f"+{word}" if word.split("=")[0] in STUDIES else word for word in words]
    check_words(words)
    made = composed(words)
    chosen = [word for word in words if word.lstrip("+").split("=")[0] in (*GROUPS, *STUDIES)]
    return label(made, composed(chosen))


def composed(words: list[str]) -> Config:
    store = ConfigStore.instance()
    store.store("schema", node=Config)
    for group, node in (("data", fields.Data), ("recipe", fields.Recipe)):
        store.store(f"{group}_schema", node=node, group=group)
    places = ",".join(f"file://{place}" for place in sweeps())
    try:
        with initialize_config_dir(str(PACKAGE / "conf"), version_base="1.3"):
            made = OmegaConf.to_object(hydra_compose("config", [*words, f"hydra.searchpath=[{places}]"]))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(plainly(error)) from error
    assert isinstance(made, Config)
    check_values(made)
    return made


def check_words(words: list[str]) -> None:
    """A UserError for the first word that is no override, names no key, or names no choice of its group."""
    seen: list[str] = []
    for word in words:
        if word in ("-m", "--multirun"):
            raise UserError("--multirun is not for this lab: a study runs rows × seeds by itself, see +ablation=…")
        if word.startswith("-"):
            raise UserError(f"there is no option '{word}'; there are --help, --cfg job, and words such as seeds=5")
        if "=" not in word and not word.startswith("~"):
            raise UserError(f"'{word}' is not of the form key=value; for a study write +ablation=NAME")
        try:
            (override,) = OverridesParser.create().parse_overrides([word])
        except HydraException as error:
            raise UserError(f"'{word}' cannot be read: {plainly(error)}") from error
        key = override.key_or_group
        if key in (*GROUPS, *STUDIES):
            check_choice(key, override)
            if key in STUDIES:
                seen.append(str(override.value()))
        else:
            check_key(key)
    if len(seen) > 1:
        raise UserError(f"one study at a time: {' and '.join(seen)} were asked for")


def check_choice(group: str, override: Override) -> None:
    value = override.value()
    if isinstance(value, list):
        raise UserError(f"{group}: one at a time: {' and '.join(map(str, value))} were asked for")
    if value not in choices(group):
        kind = "study" if group in STUDIES else group
        raise UserError(f"{group}: there is no {kind} '{value}'; there are {', '.join(choices(group))}")


def check_key(key: str) -> None:
    """A UserError if no field is called so; below a mapping (study.rows) anything goes."""
    node: Any = Config
    for depth, part in enumerate(key.split(".")):
        names = [field.name for field in dataclasses.fields(node)]
        if part not in names:
            where = ".".join(key.split(".")[:depth])
            near = difflib.get_close_matches(part, names, n=1)
            guess = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(
                f"there is no key '{key}'{guess}; {where or 'there'} has {', '.join(names)}".replace(
                    "there has", "there are"
                )
            )
        node = inner_dataclass(typing.get_type_hints(node)[part])
        if node is None:
            return


def inner_dataclass(annotation: Any) -> Any:
    """The dataclass in `X` or `X | None`; None if there is none."""
    candidates = [annotation, *typing.get_args(annotation)]
    return next((kind for kind in candidates if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)


def check_values(config: Config) -> None:
    """A UserError for a value that no study can have. What needs torch to be judged is judged where it is used."""
    words = {
        "tracking": (config.tracking, ("offline", "online", "off")),
        "training.keep": (config.training.keep, ("none", "last")),
        "training.precision": (config.training.precision, ("32-true", "bf16-mixed", "16-mixed")),
        "recipe.schedule": (config.recipe.schedule, ("constant", "cosine", "step")),
        "stride": (config.stride, ("paper", "torchvision")),
    }
    for key, (word, known) in words.items():
        if word not in known:
            raise UserError(f"{key}: there is no '{word}'; there are {', '.join(known)}")
    least: dict[str, tuple[float, float]] = {
        "seeds": (1 if config.seeds is None else config.seeds, 1),
        "recipe.epochs": (config.recipe.epochs, 1),
        "recipe.batch_size": (config.recipe.batch_size, 1),
        "data.size": (config.data.size, 1),
        "executor.threads": (config.executor.threads, 1),
        "executor.workers": (config.executor.workers, 0),
        "recipe.weight_decay": (config.recipe.weight_decay, 0),
        "recipe.warmup_steps": (config.recipe.warmup_steps, 0),
    }
    for key, (value, bound) in least.items():
        if value < bound:
            raise UserError(f"{key}={value:g} is less than {bound:g}")
    if config.recipe.lr <= 0:
        raise UserError(f"recipe.lr={config.recipe.lr:g} is not above 0")


def plainly(error: Exception) -> str:
    """The first line of one of Hydra's or OmegaConf's errors, with the key that it is about."""
    if isinstance(error.__cause__, OmegaConfBaseException):
        error = error.__cause__  # Hydra says "error merging"; the cause says what is wrong
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), "")
    return f"{key}: {lines[0]}" if key and key not in lines[0] else lines[0]


# --------------------------------------------------------------------------------------------------------------------
# Labels


def label(config: Config, base: Config) -> Composed:
    """File the configuration under its choices and whatever differs from them."""
    was, now = flat(base), flat(config)
    different = {key: value for key, value in now.items() if was.get(key) != value and not IDLE.fullmatch(key)}
    if base.se is not None and config.se is None:
        different = {"se": "null"} | {key: value for key, value in different.items() if not key.startswith("se")}
    extra = {True: "", False: ""}
    for key, value in different.items():
        if not key.startswith("study."):
            extra[key.startswith("data.")] += f"-{key.rpartition('.')[2]}={value}"
    data = plain_name(config.data.name + extra[True])
    recipe = plain_name(config.recipe.name + extra[False])
    study = config.study.name if config.study else "network"
    return Composed(config, data, recipe, f"{data}/{plain_name(config.backbone)}-{recipe}/{plain_name(study)}")


def flat(config: Config) -> dict[str, Any]:
    """The configuration as dotted key → value."""
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            if dataclasses.is_dataclass(inner):
                walk(f"{prefix}{field.name}.", inner)
            else:
                found[f"{prefix}{field.name}"] = inner

    walk("", config)
    return found


def plain_name(text: str) -> str:
    """Text as the name of a folder."""
    return re.sub(r"[^\w.=+-]+", "_", text)


# --------------------------------------------------------------------------------------------------------------------
# Help


def help_text() -> str:
    """What `--help` prints."""
    listed = "\n".join(f"  {group}={'|'.join(choices(group))}" for group in (*GROUPS, *STUDIES)).replace(
        "  ablation", "  +ablation"
    )
    defaults = OmegaConf.to_yaml(OmegaConf.structured(compose([]).config))
    return (
        "Train a squeeze-and-excitation network, or run a whole study of them.\n\n"
        "usage: python -m senet_lab.run [key=value …]\n\n"
        f"{EXAMPLES}\nchoices:\n{listed}\n\n"
        "every key and its default (what they mean: senet_lab/config.py):\n"
        + "\n".join(f"  {line}" for line in defaults.splitlines())
    )
