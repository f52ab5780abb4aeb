"""a trained network as ONNX; or a study's records as W&B runs or an Optuna study

Writes a trained network as ONNX, compared with the original by onnxruntime on random images. It takes normalised images
and answers with logits; how to normalise, and the classes' names, are in its metadata.

With `wandb` or `optuna` for a network, writes what the store has of a study and these lack. A study does so itself
while it trains and at its end; this is for what could not be written then.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from senet_lab.commands import ABOUT, add_checkpoint, path
from senet_lab.config import RunError, UserError

EXAMPLES = (
    "export NET.ckpt --to net.onnx",
    "export NET.ckpt --static         SE at no cost: the plain network's operators, and what error that makes",
    "export wandb +ablation=ratio     what W&B lacks of the study, which was run by these words",
    "export optuna +search=tabular    what its Optuna study lacks",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser, "checkpoint|wandb|optuna")
    parser.add_argument("words", nargs="*", metavar="word", help=f"{ABOUT}; or the words that the study was run by")
    parser.add_argument("--to", type=path, help="file to write to (results/local/export/<name>.onnx)")
    parser.add_argument(
        "--static",
        action="store_true",
        help="fold each gate, replaced by its mean over the training images, into a layer beside it, and test both",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")


def main(arguments: argparse.Namespace) -> None:
    if arguments.what in ("wandb", "optuna"):
        export_records(arguments.what, arguments.words)
        return
    from senet_lab.studies.export_onnx import write_onnx  # torch comes with it

    write_onnx(arguments)


def export_records(side: str, words: list[str]) -> None:
    """Write what W&B or Optuna lacks of the studies that were run by the words.

    Raises:
        UserError: for bad words, a study without a record, and where tracking is off.
        RunError: for what could not be written.
    """
    from rich.console import Console

    from senet_lab.compose import compose_all
    from senet_lab.studies import export_process, exporter, plan, study  # torch comes with them
    from senet_lab.studies.forecast import Expectation
    from senet_lab.studies.progress import Progress
    from senet_lab.studies.store import Store
    from senet_lab.studies.wandb_client import wandb_mode

    studies = [replace(each, config=replace(each.config, plan=True, retry=False)) for each in compose_all(words)]
    config = studies[0].config
    if side == "wandb" and wandb_mode(config.tracking) == "off":
        raise UserError("tracking=off, or WANDB_MODE=disabled: there is nothing to write for W&B")
    design = study.design_of(studies)
    store = Store(config.storage, create=False)
    design.look_up(store)
    whole = True
    if config.search:  # it is played again, as far as it is recorded
        merged = plan.merge_plans(design.plans)
        whole = not design.more(Progress(merged, Expectation({}, False), 1, Console(quiet=True)))
    lacking = plan.merge_plans(design.plans).todo
    if not design.records:
        raise UserError(
            f"{store.name} has no record of {studies[0].folder}: there is nothing to export; "
            f"{' '.join(['python -m senet_lab.run', *words])} trains it"
        )
    done = exporter.once(studies, design, side, whole and not lacking)
    if done.left != 0:
        raise RunError(f"not exported: {done.failure_text(side)}; the same command goes on")
    print(f"written: {done.written} {export_process.SIDES[side]}; all others were there")
