"""The notes under a table: the trials, warnings about them, and the meaning of the columns.

Plain text; each form escapes it as it needs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from senet_lab.reports import statistics
from senet_lab.reports.cell_text import and_list
from senet_lab.reports.paper_notes import paper_notes
from senet_lab.reports.table import IDENTICAL, Table, TableRow

FAILURES_SHOWN = 20  # in full; the others are counted


def facts_line(table: Table) -> str:
    """One line: data, network, recipe, seeds, device and version behind our numbers. What the whole table shares comes
    first, then what is each comparison's own, those that have the same together."""
    f = table.facts
    version = f", torch {f['torch']}" if f["torch"] else ""
    device = f"; {f['device']}" if f["device"] else ""
    settings = {
        baseline: {name: ", ".join(dict.fromkeys(row.setting[name] for row in rows)) for name in rows[0].setting}
        for baseline, rows in table.comparisons.items()
    }
    first = next(iter(settings.values()))
    own = [name for name in first if len({each[name] for each in settings.values()}) > 1]
    parts = [setting(first, [name for name in first if name not in own], table.test_images)]
    if "backbone" in own:
        own.remove("backbone")
        parts.append(f"backbones {', '.join(each['backbone'] for each in settings.values())} in the order of the pairs")
    alike: dict[str, list[str]] = {}
    for baseline, each in settings.items():
        alike.setdefault(setting(each, own), []).append(baseline)
    parts += [f"{and_list(baselines)}: {line}" for line, baselines in alike.items() if own]
    line = "; ".join(part for part in [*parts, seeds(table)] if part)
    return f"{line[0].upper()}{line[1:]}{device}{version}."


def setting(values: dict[str, str], names: Collection[str], test_images: int | None = None) -> str:
    """ "data digits (899 test images), backbone resnet8, recipe quick, 30 epochs", as far as these are among the names
    and there are values."""
    images = f"{test_images:,} test images" if test_images else ""
    data = f"data {values['data']}" + (f" ({images})" if images else "") if "data" in names else images
    parts = [data, *(f"{name} {values[name]}" for name in ("backbone", "recipe") if name in names)]
    if "epochs" in names and values["epochs"]:
        parts.append(f"{values['epochs']} epoch{'s' * (values['epochs'] != '1')}")
    return ", ".join(text for text in parts if text)


def seeds(table: Table) -> str:
    """How many seeds the rows have, and which."""
    few, many = table.seeds
    every = sorted({seed for row in table.trained for seed in row.seeds})
    number = f"{few}" if few == many else f"{few} to {many}"
    gapless = len(every) > 2 and every == list(range(every[0], every[-1] + 1))
    which = f"{every[0]} to {every[-1]}" if gapless else ", ".join(map(str, every[:12])) + (", …" * (len(every) > 12))
    return f"n = {number} seed{'s' * (number != '1')} a row" + (f" ({which})" if every else "")


def table_warnings(table: Table) -> list[str]:
    """Warnings about these trials; empty if there are none."""
    out = []
    if len(table.trained) < table.study_rows:
        out.append(
            f"{len(table.trained)} of {table.study_rows} rows of the study are here; p is corrected for all "
            f"that it compares ({table.tests})."
        )
    failed = [(row.label, failure) for row in table.rows for failure in row.failures]
    if failed:
        many = len(failed) > 1
        count = f"{'are' if many else 'is'} not in the means"
        if table.guessing is not None:
            count = f"count{'s' * (not many)} as guessing, an error of {table.guessing:.4g}%"
        out.append(
            f"{len(failed)} trial{'s' * (len(failed) > 1)} failed and {count}: "
            + "; ".join(
                f"{label}, seed {f.seed}: {f.reason or 'no reason given'}" for label, f in failed[:FAILURES_SHOWN]
            )
            + (f"; and {len(failed) - FAILURES_SHOWN} more" if len(failed) > FAILURES_SHOWN else "")
            + "."
        )
    bare = [row.label for row in table.rows if row.untested and not row.baseline]
    chosen = [row.label for row in table.rows if row.untested and row.baseline and row.failures]
    if bare:
        out.append(f"What is compared with {and_list(bare)} is not tested, because trainings of the baseline failed.")
    if chosen:
        out.append(
            f"Not tested, because trainings failed: {and_list(chosen)}. The seeds that are left are no fair sample of "
            "a design; failures=chance counts the others as guessing."
        )
    same: dict[object, list[str]] = {}
    for row in table.rows:
        if row.trainings:
            same.setdefault(row.trainings, []).append(row.label)
    for labels in same.values():
        if len(labels) > 1:
            out.append(f"{and_list(labels)} are the same network here: between them there is nothing to compare.")
    identical = [row.label for row in table.rows if row.untested == IDENTICAL]
    if identical:
        baselines = and_list(dict.fromkeys(row.baseline for row in table.rows if row.label in identical))
        out.append(
            f"{and_list(identical)}: the losses are those of {baselines} to the last digit, with every seed. What "
            "differs in the words had no part in the training, so that there is nothing to compare."
        )
    single = [row.label for row in table.rows if row.top1 is not None and row.top1.n == 1]
    if single:
        rows = "every row" if len(single) == len(table.trained) else and_list(single)
        out.append(f"n = 1 for {rows}: a single run has no interval and allows no verdict.")
    absent = [row.label for row in table.rows if row.starred]
    if absent:
        out.append(f"* Not in the paper: {and_list(absent)}.")
    return out


def column_notes(table: Table) -> list[str]:
    """What the columns mean, for the columns that this table has."""
    return [
        text
        for text in (facts_line(table), _images(table), _error(table), *_comparison(table), *paper_notes(table))
        if text
    ]


def _images(table: Table) -> str:
    if table.train_images is None or table.validation_images is None:  # of an earlier lab
        return ""
    held_out = f"{table.validation_images:,} more are held out for validation (data.validation=0 trains on them, too)"
    return f"Trained on {table.train_images:,} images" + (f"; {held_out}." if table.validation_images else ".")


def _error(table: Table) -> str:
    if not any(row.top1 for row in table.rows):
        return ""
    text = (
        "Error: share of the test images whose top-1 class is wrong, in percent, read once at the end of training; "
        "lower is better. Mean over the seeds ± half of its 95% t interval over the seeds (n), with these test images."
    )
    if table.aim.metric == "loss" and any(row.loss for row in table.rows):
        text += " Loss: −log of the probability of the right class, mean over the test images, in nats; likewise."
    if any(row.top1 and row.top1.half_crossed is not None for row in table.rows):
        what = "loss" if table.aim.metric == "loss" else "error"
        text += f" ± over seeds and images: half of the {what}'s interval with other test images in their place, too."
    return text


def _comparison(table: Table) -> list[str]:
    compared = [row for row in table.rows if row.delta is not None and row.delta.sd is not None]
    if not compared:
        return []
    judged = [row for row in compared if row.verdict is not None]
    out = [_difference(table, compared)]
    if judged:
        out += _settled(table) if table.aim.settles else [_tests(table, judged)]
        out += _verdicts(table, judged)
    out += _crossed(table, compared, judged)
    if any(row.verdict is not None and row.verdict.p_flips is not None for row in judged):
        out.append("p, sign flips: the exact permutation test of the same differences, Holm-corrected; from n = 8.")
    elif any(row.delta is not None and row.delta.n > statistics.FLIPS_TO for row in judged) and not table.aim.settles:
        out.append(f"The exact sign-flip test is run for n = {statistics.FLIPS_FROM} to {statistics.FLIPS_TO} only.")
    floored = [row.label for row in compared if row.delta is not None and row.delta.floored]
    if floored and table.test_images:
        step = statistics.step_percent(table.test_images)
        out.append(
            f"All seeds give the same difference for {and_list(floored)}. One test image weighs {step:.3g} points, and "
            "no variance is taken to be below the smallest that n such counts can show, (one image)² / n."
        )
    return out


def _difference(table: Table, compared: Sequence[TableRow]) -> str:
    named = list(dict.fromkeys(row.baseline for row in compared))
    baselines = and_list(named) if len(named) == 1 else f"the row's own baseline ({and_list(named)})"
    unit = {"points": "percentage points"}.get(table.aim.unit, table.aim.unit)
    interval = "repeated" if table.aim.settles else "t"
    if table.factors:
        levels = and_list(dict.fromkeys(row.baseline for row in compared if row.effect == 1))
        return (
            f"Δ of a level: {table.aim.metric} minus that of the baseline's level ({levels}), both in means over the "
            "levels of the other factors; of two levels (×): what both together have beyond the sum of what each has "
            f"where the other factor is at the baseline's. In {unit}, paired by seed, with its 95% {interval} interval "
            "over the seeds, with these test images."
        )
    return (
        f"Δ: {table.aim.metric} minus that of {baselines} in {unit}, paired by seed, with its 95% {interval} interval "
        "over the seeds, with these test images."
    )


def _tests(table: Table, judged: Sequence[TableRow]) -> str:
    """How a fixed number of seeds is tested."""
    count = f"{table.tests} rows" if table.tests > 1 else "one row"
    crossed = any(row.verdict and row.verdict.p_crossed is not None for row in judged)
    rounding = " (with the variance of rounding to whole images)" * (table.aim.metric == "error")
    more = "; better or worse, that a test over seeds and images, corrected likewise, says so, too" * crossed
    return (
        f"p: two-sided paired t-test over the seeds{rounding}, corrected by Holm's method for {count}. Better or "
        f"worse on these images means p ≤ 0.05{more}. “Could show” is the true difference that this n shows with 80% "
        f"power at the strictest level of the correction (0.05 / {table.tests}), on average over what its "
        "seeds may tell of their spread."
    )


def _settled(table: Table) -> list[str]:
    """How seeds were added until a verdict was in."""
    a = table.aim
    plan = (
        f"Seeds were added to each row until its verdict was in (seeds=settle): looked at after {a.least} and each "
        f"further one up to {a.most}, the first of them being seed {a.first}. A row is better or worse on these images "
        "where |t| of its differences exceeds the boundary of its look, by which all looks at all rows together have "
        f"at most 5% of false alarms (5% / {table.tests} a row, spent in proportion to the seeds; equivalence has as "
        "much to spend again); better or worse, where the interval over seeds and images, taken once at the stop with "
        "what was left to that look, excludes 0, too. A row also stops, open, when the seeds that are left have less "
        "than 10% of a chance to settle it. The intervals of Δ are the repeated ones, which hold at 95% or more for "
        "all rows and looks together; those of single rows' errors are plain ones. Differences at a stop run high: a "
        "row stops where chance has helped."
    )
    earlier = f"Earlier plans on these rows: {a.earlier}. Their looks are not paid for here." if a.earlier else ""
    return [plan, *([earlier] if earlier else [])]


def _verdicts(table: Table, judged: Sequence[TableRow]) -> list[str]:
    """What the verdicts say, of those that this table has."""
    kinds = {row.verdict.kind for row in judged if row.verdict}
    sentences = [
        "Within: the smallest margin that these seeds show the row to be equivalent within, by two one-sided t-tests "
        f"at 0.05 / {table.tests} each{' over all looks' * table.aim.settles}."
    ]
    if table.aim.margin is not None:
        sentences.append(
            f"Equivalent: within the margin of ±{table.aim.margin:g} {table.aim.unit}, on these test images; said "
            "before better or worse, since such a difference is known to be too small to matter."
        )
    if "open" in kinds and any(row.verdict and row.verdict.more_seeds is not None for row in judged):
        sentences.append(
            "Open, more seeds: about how many fresh ones would settle it with 80% power, should the observed "
            "difference and spread be the true ones, which a noisy difference seldom is: a rough guide. They are to be "
            "tested without the old ones, or with seeds=settle from the next seed on: adding seeds and testing again "
            "until a test passes raises false alarms from 5% to 9–19%."
        )
    if any(row.verdict and row.verdict.more_images is not None for row in judged):
        sentences.append(
            "Open, more test images: no number of seeds would do, because the difference is not above the floor; of so "
            "many images the difference would be shown by enough seeds with 80% power, should it be the true one."
        )
    return [" ".join(sentences)]


def _crossed(table: Table, compared: Sequence[TableRow], judged: Sequence[TableRow]) -> list[str]:
    """What is said of other test images, and where nothing is."""
    known = [row for row in compared if row.delta is not None and row.delta.crossed is not None]
    lacking = [row.label for row in judged if row not in known]
    out = []
    if known:
        out.append(
            "Over seeds and images: both are taken as samples, with variance components of seeds, images and the rest "
            "(two-way crossed; the bounds of t and of the normal distribution, weighted by them); from seeds / images "
            "/ rest: their shares of the variance of Δ. Floor: the smallest difference that any number of seeds could "
            f"show on {table.test_images:,} test images, at 0.05 / {table.tests}."
        )
    if lacking:
        rows = "these rows" if len(lacking) == len(judged) else and_list(lacking)
        out.append(
            f"What the networks made of each test image is not known for {rows} (outputs.npz): nothing is said of "
            "other test images there, and better or worse is meant of these images only."
        )
    return out
