"""Choose a recipe by the validation losses of the baseline: SE-ResNet-8, or whichever network the words ask for.

    python -m benchmarks.recipe                `quick` and the augmentation of the digits: ten minutes on two cores
    python -m benchmarks.recipe data=cifar10 data.root=DIR recipe.epochs=15 \\
        --vary recipe.lr=0.05,0.1,0.2 recipe.weight_decay=1e-4,5e-4 --vary recipe.batch_size=64,128

The words are those of `python -m senet_lab.run`. Every `--vary` crosses its keys, and starts from the best that those
before it have found. Each candidate is trained with the same seeds (`seeds=3`), validated on the images that a study
holds out, and recorded in the store of the words, so that a study by the chosen recipe finds its trials there.

Candidates are compared by their mean validation loss: a counted error of a few hundred images is too coarse. Among
those within a standard error of the lowest, the fewest epochs are chosen, then the lowest loss. The test images, which
every trial of the lab is tested on in the end, have no part in it: their errors are neither read nor shown.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import shlex
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import Line
from senet_lab.compose import check_words, compose, words_of
from senet_lab.config import RunError, UserError, flat

VARY = [
    ["recipe.lr=0.02,0.05,0.1", "recipe.weight_decay=1e-4,5e-4,1e-3"],
    ["data.augment=none,crop", "recipe.epochs=15,30"],
    ["recipe.lr=0.05,0.1,0.2", "recipe.batch_size=32,64"],
]
SHOWN = 10  # candidates in the table, beside the chosen one and the words as they are
Values = tuple[str, ...]  # of the keys that are varied


@dataclass
class Candidate:
    """A recipe that has been tried.

    Attributes:
        values: of the keys that are varied.
        epochs: of its training.
        losses, errors: of the validation images after the last epoch, one a seed; errors in percent.
        failed: why a training of it failed; empty if none did.
    """

    values: Values
    epochs: int
    losses: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    failed: str = ""

    @property
    def loss(self) -> float:
        return statistics.fmean(self.losses)

    @property
    def standard_error(self) -> float:
        return statistics.stdev(self.losses) / len(self.losses) ** 0.5


def choose(candidates: Iterable[Candidate]) -> tuple[Candidate, Candidate, float]:
    """The candidate to take, the one of the lowest mean loss, and the standard error by which they may differ: the
    median of all candidates' own, because that of a few seeds is itself a guess. One that failed with any seed is out.

    Raises:
        RunError: if all have failed.
    """
    whole = [each for each in candidates if not each.failed]
    if not whole:
        raise RunError("every candidate failed with some seed")
    best = min(whole, key=lambda each: each.loss)
    error = statistics.median(each.standard_error for each in whole)
    near = [each for each in whole if each.loss <= best.loss + error]
    return min(near, key=lambda each: (each.epochs, each.loss)), best, error


def at_edge(tried: Iterable[Candidate], keys: Sequence[str], chosen: Candidate) -> list[str]:
    """Keys of which three or more numbers were tried, and the least or the greatest is chosen: a better one may lie
    beyond."""
    found = []
    for key, value, *others in zip(keys, chosen.values, *(each.values for each in tried), strict=True):
        with contextlib.suppress(ValueError):  # a word
            numbers = {float(other) for other in others}
            found += [key] * (len(numbers) > 2 and float(value) in (min(numbers), max(numbers)))
    return found


def levels(words: Sequence[str]) -> dict[str, list[str]]:
    """`recipe.lr=0.05,0.1` … → key → its words, one a value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    found = {}
    for word in words:
        try:
            (override,) = OverridesParser.create().parse_overrides([word])
        except HydraException as error:
            raise UserError(f"--vary: '{word}' is not of the form key=value,value") from error
        key = override.key_or_group
        several = override.is_choice_sweep()
        found[key] = [f"{key}={value}" for value in override.sweep_string_iterator()] if several else [word]
        check_words(found[key])
        if "." not in key:
            raise UserError(f"--vary: '{key}' is no key of a recipe or a data set, such as recipe.lr or data.augment")
    return found


def search(words: list[str], groups: Sequence[dict[str, list[str]]], lines: list[Line]) -> dict[Values, Candidate]:
    """Train the candidates of each group in turn: all of them, by their values. A training adds a line to `lines`."""
    tried: dict[Values, Candidate] = {}
    by_values: dict[Values, dict[str, str]] = {}  # key → word
    keys = keys_of(groups)
    best: dict[str, str] = {}
    for group in groups:
        for combined in itertools.product(*group.values()):
            said = {**best, **dict(zip(group, combined, strict=True))}
            by_values.setdefault(values_of([*words, *said.values()], keys), said)
        new = {values: [*words, *said.values()] for values, said in by_values.items() if values not in tried}
        tried |= train(new, keys, lines)
        best = by_values[choose(tried.values())[1].values]
    return tried


def keys_of(groups: Sequence[dict[str, list[str]]]) -> list[str]:
    return list(dict.fromkeys(key for group in groups for key in group))


def values_of(words: list[str], keys: Sequence[str]) -> Values:
    whole = flat(compose(words).config)
    return tuple(str(whole[key]) for key in keys)


def named(keys: Sequence[str], values: Values) -> str:
    return " ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))


def train(asked: dict[Values, list[str]], keys: Sequence[str], lines: list[Line]) -> dict[Values, Candidate]:
    """Train what these candidates lack in their store, as one plan; what became of each."""
    from rich.console import Console

    from senet_lab.studies import driver, forecast, plan, plan_text, study
    from senet_lab.studies.executors import open_executor
    from senet_lab.studies.progress import Progress
    from senet_lab.studies.store import DONE, Store

    class Unseen(Progress):
        """As a study tells it, with the validation loss in place of the test error."""

        def end(self, cell: plan.Cell, record: dict[str, Any]) -> None:
            done = record["state"] == DONE
            outcome = f"validation loss {record['metrics']['val_loss']:.4f}" if done else f"failed: {record['reason']}"
            self.ended(f"{owners[cell.trial_id]}, seed {cell.seed}", cell, record, outcome)

    if not asked:
        return {}
    plans = {values: plan.make_plan(compose(words)) for values, words in asked.items()}
    owners = {trial_id: named(keys, values) for values, each in plans.items() for trial_id in each.trials}
    config = next(iter(plans.values())).config
    for each in plans.values():
        if len(each.rows) > 1 or each.config.search:
            raise UserError("a recipe is chosen for one network: +ablation and +search are not for this command")
        if not each.facts.validation:
            raise UserError("data.validation=0 leaves no image to choose a recipe by")
        if len({cell.seed for cell in each.cells}) < 2:
            raise UserError("seeds=1: a standard error takes two seeds at least")
    if missing := study.missing_data(config):
        raise missing
    study.check_writable(Path(config.results))
    store = Store(config.storage)
    whole = plan.merge_plans([plan.look_up(each, store) for each in plans.values()])
    console = Console(file=sys.stderr, markup=False, highlight=False, emoji=False)
    with open_executor(config, whole.device, idle=not whole.todo) as executor:
        workers = min(executor.room, max(1, len(whole.todo)))
        processes = workers * config.training.devices
        plan_text.check_memory([cell.spec for cell in whole.todo], executor.sharing(processes))
        with Unseen(whole, forecast.expect(whole, store, workers), workers, console) as progress:
            records = driver.Driver(
                whole,
                store,
                executor.pool(workers),
                progress,
                Path(config.results) / "checkpoints",
            ).train()
    found = {}
    for values, each in plans.items():
        found[values] = candidate = Candidate(values, each.config.recipe.epochs)
        for cell in each.cells:
            record = records[cell.trial_id]
            line = {**dict(zip(keys, values, strict=True)), "seed": cell.seed, "trial_id": cell.trial_id}
            if record["state"] == DONE:
                error, loss = (record["metrics"][name] for name in ("val_error", "val_loss"))
                candidate.errors.append(error)
                candidate.losses.append(loss)
                lines.append({**line, "val_error": error, "val_loss": loss})
            else:
                candidate.failed = record["reason"]
                lines.append({**line, "failed": record["reason"]})
    return found


def table(tried: dict[Values, Candidate], keys: Sequence[str], now: Values, chosen: Candidate) -> list[Line]:
    """The candidates of the lowest losses, the chosen one and the words as they are."""
    ranked = sorted(tried.values(), key=lambda each: (bool(each.failed), each.loss if each.losses else 0.0))
    lines = []
    for rank, each in enumerate(ranked, start=1):
        if rank > SHOWN and each is not chosen and each.values != now:
            continue
        marks = ["chosen"] * (each is chosen) + ["as the words are"] * (each.values == now)
        numbers = (
            {"validation loss": f"failed: {each.failed}"}
            if each.failed
            else {
                "validation loss": f"{each.loss:.4f}",
                "standard error": f"{each.standard_error:.4f}",
                "validation error, %": f"{statistics.fmean(each.errors):.2f}",
            }
        )
        lines.append({"rank": rank, **dict(zip(keys, each.values, strict=True)), **numbers, "": ", ".join(marks)})
    return lines


def main(words: list[str] | None = None) -> int:
    made = measuring.arguments(__doc__)
    made.add_argument("words", nargs="*", help="of python -m senet_lab.run, such as data=cifar10 seeds=5")
    made.add_argument(
        "--vary", nargs="+", action="append", metavar="KEY=A,B", help="what is tried; several at once are crossed"
    )
    given = made.parse_args(words)
    given.vary = given.vary or VARY
    try:
        with tempfile.TemporaryDirectory() as place:
            if given.short:
                few = ["recipe.epochs=2", "data.subset=64", "data.test_subset=64", "seeds=2"]
                given.words = [*given.words, *few, f"results={place}"]
                given.vary = [["recipe.lr=0.05,0.1"], ["recipe.lr=0.05,0.1", "recipe.epochs=1,2"]]
            write(given)
    except KeyboardInterrupt:
        print("interrupted: what has ended is recorded; the same command goes on", file=sys.stderr)
        return 130
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


def write(given: argparse.Namespace) -> None:
    """Search, and write what was found and chosen."""
    from senet_lab.studies import plan

    base = [*given.words, *["seeds=3"] * (not any(word.startswith("seeds=") for word in given.words))]
    groups = [levels(group) for group in given.vary]
    keys, lines = keys_of(groups), list[Line]()
    tried = search(base, groups, lines)
    chosen, best, error = choose(tried.values())
    config, facts = (there := plan.make_plan(compose(base))).config, there.facts
    near = sum(not each.failed and each.loss <= best.loss + error for each in tried.values())
    edges = at_edge(tried.values(), keys, chosen)
    varied = " ".join(f"--vary {shlex.join(group)}" for group in given.vary)
    notes = [
        f"`python -m benchmarks.recipe {words_of(config)} {varied}`: {config.backbone} "
        f"{'without' if config.se is None else 'with'} SE, {config.seeds} seeds a candidate, {len(tried)} candidates.",
        f"Chosen: `{named(keys, chosen.values)}`. {near} of the candidates are within a standard error ({error:.4f}, "
        f"the median of all candidates' own) of the lowest mean loss ({best.loss:.4f}: `{named(keys, best.values)}`); "
        "of those it has the fewest epochs, then the lowest loss.",
        f"Losses and errors are those of the {facts.validation:,} validation images after the last epoch. Candidates "
        "are compared by the loss, because counted errors of so few images are coarse. No test error was read.",
        *[f"It is at the edge of what was tried in {' and '.join(edges)}."] * bool(edges),
        "The lowest of many means is lower than that recipe would have with fresh seeds.",
    ]
    measuring.write(
        "recipe",
        "The recipe by the baseline's validation losses",
        {"": table(tried, keys, values_of(base, keys), chosen)},
        lines,
        notes,
        given,
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
