"""From words to a typed configuration, in Hydra's override grammar.

`data=cifar10` chooses a file of `conf/data`, `+ablation=ratio` one of `sweeps/ablation`, `se.reduction=8` sets a field.
Studies are looked for in `sweeps/` of the working directory, then in the lab's own. A word that is wrong is answered
with one line that names it and the choices.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import shlex
import typing
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from senet_lab.config import Config, Data, Executor, Recipe, UserError, check_values, near, path_fault, storage_in
from senet_lab.config_errors import error_line
from senet_lab.factors import LEVELS, VARY, as_study, check_baseline, expand_levels
from senet_lab.files import expand_home
from senet_lab.naming import Composed, config_differences, quote_word, with_labels, word_text
from senet_lab.notebook import findable
from senet_lab.selection import STUDIES, as_asked, named_data, named_recipes, networks, set_by_rows

PACKAGE = Path(__file__).parent
GROUPS = ("data", "recipe", "executor")  # chosen by name from conf/
EVERY_STUDY = "ablation=all"
# Parts of Hydra itself that only its own launcher needs, and that take time to compose.
UNUSED = tuple(f"~hydra/{part}" for part in ("output", "launcher", "sweeper", "help", "hydra_help", "hydra_logging"))
UNUSED += ("~hydra/job_logging", "~hydra/env")


def sweep_folders() -> list[Path]:
    """The folders in which studies are looked for, in order."""
    places = [Path.cwd() / "sweeps", PACKAGE.parent / "sweeps", PACKAGE / "sweeps"]
    return [place for position, place in enumerate(places) if place.is_dir() and place not in places[:position]]


def choices(group: str) -> list[str]:
    """Names that a group can be given; recipes may be the user's own, beside his studies."""
    places = [PACKAGE / "conf"] if group in GROUPS else []
    places += sweep_folders() if group not in ("data", "executor") else []
    files = [path for place in places for path in (place / group).glob("*.yaml") if is_file_or_link(path)]
    return sorted({path.stem for path in files if not path.name.startswith(".")})  # `._mine.yaml` is a tool's


def is_file_or_link(path: Path) -> bool:
    """Whether a path is that of a file, or of a link that should lead to one."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def compose(words: Iterable[str]) -> Composed:
    """The configuration that the words ask for.

    Raises:
        UserError: for the first word that is wrong.
    """
    # Hydra takes keys that are not there yet behind a +: a study, one argument (`se.args.value=0.3`), parts.
    adds = re.compile(rf"({'|'.join((*STUDIES, VARY))})=|[\w.]+args\.\w+=|recipe\.lr_parts[.=]")
    given = [f"+{word}" if adds.match(word) else word for word in words]
    check_words(given)
    words = as_study(given)
    made = compose_config(words)
    findable(Path(made.results))
    asked = next((word.lstrip("+") for word in words if word.split("=")[0].lstrip("+") in STUDIES), "")
    if asked and getattr(made, STUDIES[asked.split("=")[0]]) is None:
        kind = STUDIES[asked.split("=")[0]]
        raise UserError(f"{asked}: it says nothing of a {kind}")
    chosen = [word for word in words if word.lstrip("+").split("=")[0] in (*GROUPS, *STUDIES, VARY)]
    alone = compose_config(chosen)
    if asked:
        check_name(asked, alone)
    recipe = next((word.partition("=")[2] for word in chosen if word.startswith("recipe=")), made.recipe.name)
    if alone.recipe.name != recipe:
        raise UserError(f"recipe={recipe}: its file says name: {alone.recipe.name}; it is to be the file's, {recipe}")
    recipes: dict[str, tuple[Recipe, Recipe]] = {}
    whole = None
    if made.study is not None:
        keys = {word.lstrip("+").split("=")[0] for word in words}
        whole = as_asked(dataclasses.replace(made.study, only=[]), keys)
        made.study = as_asked(made.study, keys)
        check_baseline(made.study, made, keys)
        for name in named_recipes(made.study, choices("recipe")):
            recipes[name] = (
                compose_config([*words, f"recipe={name}"]).recipe,
                compose_config([f"recipe={name}"]).recipe,
            )
    return dataclasses.replace(with_labels(made, alone, recipes), study=whole)


def check_name(asked: str, alone: Config) -> None:
    """A UserError if a file's study has another name than the file, as in an edited copy: its results would be filed
    under the other name."""
    group, name = asked.split("=")
    name_in_file = getattr(alone, STUDIES[group]).name
    if name_in_file != name:
        path = next(path for place in sweep_folders() if (path := place / group / f"{name}.yaml").is_file())
        raise UserError(f"{path}: its {STUDIES[group]}.name is '{name_in_file}'; it is to be the file's, '{name}'")


def compose_all(words: Iterable[str]) -> list[Composed]:
    """As `compose`; `+ablation=all` is the paper's studies of SE in one network, in the order of its tables."""
    words = list(words)
    if not any(word.removeprefix("+") == EVERY_STUDY for word in words):
        return [compose(words)]
    others = [word for word in words if word.removeprefix("+") != EVERY_STUDY]
    check_words([*others, "+ablation=ratio"])  # so that an error in a word does not name one of the studies
    made = [compose_config([f"+ablation={name}"]).study for name in choices("ablation")]
    studies = [study for study in made if study and study.paper and not networks(study)]
    return [
        compose([f"+ablation={study.name}", *(word for word in others if word.split("=")[0] not in set_by_rows(study))])
        for study in sorted(studies, key=lambda study: study.paper)
    ]


def words_of(config: Config) -> str:
    """The words, quoted for a shell, by which one training is repeated: data set, recipe and whatever else bears on it,
    without its study or search, and without the place of the images, which differs by machine."""
    names = {"data": config.data.name, "recipe": config.recipe.name}
    words = [f"{group}={name}" for group, name in names.items() if name in choices(group) or ":" in name]
    for key, value in config_differences(config, compose_config(words)).items():
        if key.partition(".")[0] not in ("study", "search", "budget"):
            words.append(f"{key}={word_text(value)}")
    return shlex.join(words)


@functools.cache
def register_schemas() -> None:
    """Register the types of the fields with Hydra, once."""
    store = ConfigStore.instance()
    store.store("schema", node=Config)
    for group, node in (("data", Data), ("recipe", Recipe), ("executor", Executor)):
        store.store(f"{group}_schema", node=node, group=group)


def compose_config(words: list[str]) -> Config:
    """The configuration of the words, without labels. It is cached until a file changes, because one command composes
    the same words several times."""
    words = named_data(words)
    folders = tuple(sweep_folders())
    state = tuple(state_of(path) for place in (PACKAGE / "conf", *folders) for path in sorted(place.rglob("*.yaml")))
    return copy.deepcopy(from_files(tuple(words), folders, state))


def state_of(path: Path) -> tuple[str, int, int]:
    """A file's path, time of writing (ns) and size (bytes); of a link that leads nowhere, only the path."""
    try:
        stat = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), stat.st_mtime_ns, stat.st_size


@functools.lru_cache(maxsize=256)
def from_files(words: tuple[str, ...], folders: tuple[Path, ...], _state: tuple[tuple[str, int, int], ...]) -> Config:
    """Compose and check. `_state` stands for the files: another state is another entry of the cache."""
    register_schemas()
    for key, _, name in (word.lstrip("+").partition("=") for word in words):
        if key in STUDIES or (key == "recipe" and not (PACKAGE / "conf" / key / f"{name}.yaml").is_file()):
            check_file(next(file for place in folders if is_file_or_link(file := place / key / f"{name}.yaml")))
    places = ",".join(QuotedString(f"file://{place}", Quote.single).with_quotes() for place in folders)
    try:
        with initialize_config_dir(str(PACKAGE / "conf"), version_base="1.3"):
            made = OmegaConf.to_object(hydra_compose("config", [*words, f"hydra.searchpath=[{places}]", *UNUSED]))
    except (
        HydraException,
        OmegaConfBaseException,
        yaml.YAMLError,
        ValueError,
    ) as error:  # ValueError: `# @package x y`
        raise UserError(error_line(error)) from error
    assert isinstance(made, Config)
    by_default = made.storage == f"sqlite:///{made.results}/lab.db"
    made.results, made.data.root = expand_home(made.results), expand_home(made.data.root)
    if by_default:
        made.storage = storage_in(made.results)
    if made.study is not None:
        made.study = expand_levels(made.study, made)
    check_values(made)
    return made


def check_file(path: Path) -> None:
    """A UserError for a file that cannot be read, is not UTF-8 or has a byte order mark. Hydra would not name the file,
    or complain about its content."""
    try:
        content = path.read_bytes()
        text = content.decode()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {path_fault(path, error)}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: this is no UTF-8 ({error})") from error
    if text.startswith("\ufeff"):
        raise UserError(f"{path} begins with a byte order mark; save it as UTF-8 without one")


def check_words(words: list[str]) -> None:
    """A UserError for the first word that is no override, names no key, or names no choice of its group."""
    seen: list[str] = []
    keys: list[str] = []
    kinds: list[str] = []
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
            raise UserError(f"'{word}' cannot be read{spelling_advice(word)}") from error
        key = override.key_or_group
        if override.is_sweep_override():
            raise UserError(f"'{word}': one value at a time; a list stands in brackets")
        if key in (VARY, LEVELS):
            seen += [word] if key == VARY else []
            kinds += ["ablation"] if key == VARY else []
        elif key in (*GROUPS, *STUDIES):
            check_choice(key, override)
            if key in STUDIES:
                seen.append(str(override.value()))
                kinds.append(key)
        else:
            check_key(key)
        keys.append(key)
    if len(seen) > 1:
        raise UserError(f"one study at a time: {' and '.join(seen)} were asked for")
    for kind, (study, parts) in {"ablation": ("study", ("study",)), "search": ("search", ("search", "budget"))}.items():
        alone = [key for key in keys if key.split(".")[0] in parts and key not in (*STUDIES, VARY)]
        if alone and kind not in kinds:
            raise UserError(f"{alone[0]}: there is no {study} to change; +{kind}=NAME chooses one")


def spelling_advice(word: str) -> str:
    """Advice on how to write a word that cannot be read; empty if there is none."""
    key, value = (part.strip(" \ufeff") for part in word.partition("=")[::2])
    several = re.search(r"\s[+~]*[\w.]+=", value)
    if several:
        return f"; '{several[0].strip()}' looks like another word: each is an argument of its own"
    hints = {f"{key}={value}": "nothing stands around its ="}
    hints[f"{key}={quote_word(value)}"] = "special characters want quotes"
    for meant, why in hints.items():
        with suppress(HydraException):
            OverridesParser.create().parse_overrides([meant])
            return f'; {why}: "{meant}"'
    return ""


def check_choice(group: str, override: Override) -> None:
    value = override.value()
    if value not in choices(group) and not (group == "data" and ":" in str(value)):
        kind = STUDIES.get(group, group)
        there = [*choices(group), *(["torchvision:CLASS", "package.module:function"] if group == "data" else [])]
        raise UserError(f"{group}: there is no {kind} '{value}'{near(value, there)}; there are {', '.join(there)}")


def check_key(key: str) -> None:
    """A UserError if there is no field of this name; below a mapping (study.rows) any name is accepted."""
    node: Any = Config
    for depth, part in enumerate(key.split(".")):
        names = [field.name for field in dataclasses.fields(node)]
        if part not in names:
            where = ".".join(key.split(".")[:depth])
            raise UserError(
                f"there is no key '{key}'{near(part, names)}; {where or 'there'} has {', '.join(names)}".replace(
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
