"""What a whole study compares, also the rows that were not asked for (`study.only`): the tests that p is corrected for.

Rows that are picked after a look at all of them would otherwise pass as if they had been the only ones.
"""

from __future__ import annotations

from dataclasses import replace

from senet_lab.config import UserError
from senet_lab.naming import Composed
from senet_lab.studies import rows as study_rows
from senet_lab.studies.rows import Row
from senet_lab.studies.variants import variant
from senet_lab.training.data import DataFacts


def family_size(
    composed: Composed, built: list[Row], left_out: list[str], facts: DataFacts, device: str
) -> tuple[int, int]:
    """How many rows the whole study has here, and how many of its comparisons are of different trainings.

    Args:
        composed: the configuration, with a study.
        built: the rows that were asked for.
        left_out: labels of those that this network cannot have.
    """
    study = composed.study
    assert study is not None
    trained = {row.label: row.spec(facts, 0, device).trial_id for row in built}
    if len(study.varied) > 1:  # a grid is asked for as a whole
        return len(built), len(study_rows.contrasts(built, trained))
    backbones = {row.config.backbone for row in built}  # a row of another network is the twin of none of these
    baselines = study.baselines()
    every = replace(composed, config=replace(composed.config, study=study))
    for label in baselines.keys() - trained.keys() - set(left_out):
        try:
            each = variant(every, study, label, baselines[label])
            if each.if_present and study_rows.lacks_stages(each, facts):
                continue
            other = each.config.backbone not in backbones
            row = None if other else study_rows.build_row(each, study, facts, in_paper=False)
        except (UserError, KeyError):  # KeyError: a recipe that no row has which was asked for
            row = None
        trained[label] = row.spec(facts, 0, device).trial_id if row else label
    pairs = {(trained[label], trained[baselines[label]]) for label in trained if baselines[label] in trained}
    return len(trained), sum(row != baseline for row, baseline in pairs)
