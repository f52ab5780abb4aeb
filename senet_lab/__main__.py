"""`python -m senet_lab <command>`: what is done with a study's records once it has run.

Training is `python -m senet_lab.run`; nothing here trains, and tables are regenerated without torch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from senet_lab.config import RunError, UserError, at_home, without_passwords

STORAGE = "sqlite:///results/local/lab.db"


class Parser(argparse.ArgumentParser):
    """Bad words are answered with one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (python -m senet_lab --help shows the commands)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Words may also stand behind options, where argparse leaves them over."""
        found, rest = super().parse_known_args(args, namespace)
        if hasattr(found, "words"):
            found.words = [*found.words, *(word for word in rest if not word.startswith("-"))]
            rest = [word for word in rest if word.startswith("-")]
        return found, rest


def path(text: str) -> Path:
    """A path as it is typed."""
    return Path(at_home(text))


def parser() -> Parser:
    made = Parser(
        prog="python -m senet_lab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m senet_lab report                           all studies below results/ as one HTML page\n"
        "  python -m senet_lab table ratio                      from the store, as the study was run by default\n"
        "  python -m senet_lab table ratio data=cifar10 seeds=5 from the store, for these settings\n"
        "  python -m senet_lab table results/digits/resnet8-quick/ratio/trials.csv\n"
        "  python -m senet_lab table FILE failures=chance           what failed counts as guessing\n"
        "  python -m senet_lab cost                             the paper's costs, printed and recomputed\n"
        "  python -m senet_lab cost backbone=resnet50 se.reduction=8\n"
        "  python -m senet_lab publish digits/resnet8-quick/ratio\n"
        "  python -m senet_lab dashboard ratio                  W&B workspace and report, to compare its rows in\n"
        "  python -m senet_lab excitation 0123456789abcdef      the gates of a trial trained with training.keep=last\n"
        "  python -m senet_lab excitation NET.ckpt data=cifar10 data.root=DIR --classes cat dog ship truck\n"
        "  python -m senet_lab predict NET.ckpt photo.jpg FOLDER --json\n"
        "  python -m senet_lab export NET.ckpt --to net.onnx\n"
        "  python -m senet_lab images cifar10 --root DIR --to cifar10-png\n"
        "  python -m senet_lab store import results/digits/resnet8-quick/*/trials.csv   to train them no more\n"
        "  python -m senet_lab store copy sqlite:///results/local/lab.db postgresql+psycopg://user@host/lab\n",
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)
    report = commands.add_parser("report", help="every study on one HTML page: tables, interactive plots, filters")
    report.add_argument("folders", nargs="*", default=[Path("results")], type=path, help="of studies (results)")
    report.add_argument("--to", default=Path("results/local/report.html"), type=path, help="the page (%(default)s)")
    report.add_argument(
        "--storage", default=STORAGE, help="database URL of the learning curves that have no file (%(default)s)"
    )
    report.set_defaults(run=write_report)
    table = commands.add_parser("table", help="write and show a study's table again, without training")
    table.add_argument("what", help="a study's name, or the path of a trials.csv")
    table.add_argument("--partial", action="store_true", help="of a study that was stopped: what there is, marked so")
    table.add_argument("words", nargs="*", help="further trials.csv files, or the study's overrides (key=value)")
    table.set_defaults(run=make_tables)
    publish = commands.add_parser("publish", help="copy finished tables from results/local to where they are committed")
    publish.add_argument("studies", nargs="*", help="folders below results/local; all finished tables if none is named")
    publish.add_argument("--results", default="results/local", type=path, help="where studies were run (%(default)s)")
    publish.add_argument("--to", default="results", type=path, help="where tables are committed (%(default)s)")
    publish.set_defaults(run=publish_tables)
    cost = commands.add_parser("cost", help="parameters and multiply-adds of a network by stage, without training")
    cost.add_argument(
        "words",
        nargs="*",
        help="the network (backbone=… se.reduction=… data.size=…); without any, all that the paper prints of cost "
        "(tables 2, 3, 10, 13, 15 and 16) beside what is counted here",
    )
    cost.set_defaults(run=show_cost)
    excitation = commands.add_parser("excitation", help="the gates of a trained network, class by class")
    excitation.add_argument("what", help="a checkpoint, or the id of a trial that was trained with training.keep=last")
    excitation.add_argument("words", nargs="*", help="its data set, where no record tells (data=NAME data.root=DIR …)")
    excitation.add_argument("--classes", nargs="+", help="names or labels (the paper's four, else four spread evenly)")
    excitation.add_argument("--images", default=50, type=int, help="test images of each of them (%(default)s)")
    excitation.add_argument("--every-block", action="store_true", help="not only the last SE block of each stage")
    excitation.add_argument("--data-root", type=path, help="where the data set lies now")
    excitation.add_argument("--results", type=path, help="where it was trained (results/local)")
    excitation.add_argument("--storage", help="database URL of the records (that of --results)")
    excitation.add_argument("--to", type=path, help="where to write to (results/local/excitation/<name>)")
    excitation.set_defaults(run=draw_excitation)
    add_networks(commands)
    dashboard = commands.add_parser(
        "dashboard", help="a study's W&B workspace and report, as JSON and, with a key, saved"
    )
    dashboard.add_argument("what", help="a study's name, or the path of a trials.csv or of its folder")
    dashboard.add_argument("words", nargs="*", help="the study's overrides (key=value)")
    dashboard.add_argument("--to", type=path, help="where the JSON is written to (the study's folder in results/local)")
    dashboard.set_defaults(run=make_dashboard)
    browse = commands.add_parser("optuna-dashboard", help="the store's studies in a browser, by Optuna's dashboard")
    browse.add_argument("--port", default=8080, type=int, help="of this machine (%(default)s; 0 takes a free one)")
    browse.add_argument("--storage", default=STORAGE, help="database URL (%(default)s)")
    browse.set_defaults(run=browse_studies)
    add_store(commands)
    return made


def add_networks(commands: Any) -> None:
    """What is done with a trained network, and with the images of a data set."""
    predict = commands.add_parser(
        "predict",
        help="what a trained network takes images for",
        description="Prints the likeliest classes of each image with their probabilities. Images are resized, cut and "
        "normalised as in the test of the network's training.",
    )
    export = commands.add_parser(
        "export",
        help="a trained network as ONNX",
        description="Writes a trained network as ONNX, compared with the original by onnxruntime on random images. It "
        "takes normalised images and answers with logits; how to normalise, and the classes' names, are in its "
        "metadata.",
    )
    for command in (predict, export):
        command.add_argument("what", metavar="checkpoint", help="a file, or the id of a trial of training.keep=last")
        command.add_argument("--results", type=path, help="where it was trained (results/local)")
        command.add_argument("--storage", help="database URL of the records (that of --results)")
    about = "words (data=NAME data.root=DIR …) for checkpoints that do not say what they were trained on"
    predict.add_argument(
        "words", nargs="*", metavar="image", help=f"files; of a folder all images in it, at any depth; {about}"
    )
    predict.add_argument("--top", default=5, type=int, help="classes to show of each image (%(default)s)")
    predict.add_argument("--json", action="store_true", help="print a list of objects: image, top (class, label, …)")
    predict.set_defaults(run=predict_images)
    export.add_argument("words", nargs="*", metavar="word", help=about)
    export.add_argument("--to", type=path, help="file to write to (results/local/export/<name>.onnx)")
    export.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    export.set_defaults(run=export_network)
    images = commands.add_parser(
        "images",
        help="a data set as a tree of PNGs, which data=folder reads",
        description="Writes <DIR>/train/<class>/*.png and <DIR>/val/<class>/*.png, and says by which words data=folder "
        "reads them to the same tensors: data.size and data.resize of the images' own size, so that nothing is "
        "resized, their data.mean and data.std (one number each reads grey images), and data.augment=cifar or crop.",
    )
    images.add_argument("what", metavar="name", help="of the data set: digits, cifar10, cifar100, folder")
    images.add_argument("words", nargs="*", metavar="word", help="data.root=DIR, data.download=true, data.subset=… …")
    images.add_argument("--to", required=True, help="a new or empty folder", metavar="DIR")
    images.add_argument("--root", help="the folder that holds the data set (as data.root=…)", metavar="DIR")
    images.set_defaults(run=write_images)


def add_store(commands: Any) -> None:
    """What is done with the store itself."""
    store = commands.add_parser("store", help="whether the store is whole; its records elsewhere, or no more")
    actions = store.add_subparsers(dest="action", required=True, metavar="action", parser_class=Parser)
    check = actions.add_parser("check", help="read every record, and say what is wrong")
    copy = actions.add_parser("copy", help="add the records of one store to another one")
    copy.add_argument("source", metavar="from", help="database URL")
    copy.add_argument("target", metavar="to", help="database URL")
    export = actions.add_parser("export", help="every record as a line of a CSV file, compressed where it ends in .xz")
    export.add_argument("path", metavar="FILE.csv", type=path)
    take = actions.add_parser("import", help="add the records of CSV files: exports, or the trials.csv of studies")
    take.add_argument("paths", metavar="FILE.csv", nargs="+", type=path)
    forget = actions.add_parser("forget", help="delete single records, so that their trials are trained again")
    forget.add_argument("trial_ids", nargs="+", metavar="trial_id")
    for action in (check, export, take, forget):
        action.add_argument("--storage", default=STORAGE, help="database URL (%(default)s)")
    for action in (check, copy, export, take):
        action.set_defaults(run=keep_store)
    forget.set_defaults(run=forget_records)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0, 1 where it failed, 2 for bad input."""
    try:
        arguments = parser().parse_args(argv)
        arguments.run(arguments)
        return 0
    except UserError as error:
        print(f"error: {without_passwords(error)}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"error: {without_passwords(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells have it


def make_tables(arguments: argparse.Namespace) -> None:
    """Tables from files of trials, or one from the store."""
    if not arguments.what.endswith(".csv"):
        from senet_lab.studies.study import table_from_store  # torch comes with it

        table_from_store([f"+ablation={arguments.what}", *arguments.words], arguments.partial)
        return
    key = "failures="
    said = [word.removeprefix(key) for word in arguments.words if word.startswith(key)]
    for path in (arguments.what, *(word for word in arguments.words if not word.startswith(key))):
        regenerate(Path(path), Path(path).parent, said[-1] if said else None)


def regenerate(source: Path, folder: Path, failures: str | None = None) -> None:
    """Write the table of a trials.csv, or a search's front, into a folder, and show it; `failures` says anew what its
    failed trials are."""
    from rich.console import Console

    from senet_lab.reports import fronts, tables

    try:
        trials, known = tables.read_study(source)
        if failures is not None:
            trials["failures"] = failures
        if fronts.is_search(trials):
            fronts.write(folder, trials)
            fronts.show(tables.canonical(trials), Console())
        else:
            tables.write(folder, trials, known=known)
            tables.show(tables.canonical(trials), Console(), known)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"written: {folder}/\n")


def write_report(arguments: argparse.Namespace) -> None:
    """All studies below some folders on one page."""
    from senet_lab.reports import files, page, sources
    from senet_lab.studies.store import Store

    try:
        studies = sources.studies(arguments.folders)
        if not studies:
            below = ", ".join(map(str, arguments.folders))
            raise UserError(f"there is no study below {below}; python -m senet_lab.run +ablation=NAME trains one")
        lacking = sources.without_curves(studies)
        if lacking:
            store = Store(arguments.storage, create=False)
            epochs = {trial_id: record.get("epochs", []) for trial_id, record in store.read(lacking).items()}
            studies = sources.with_curves(studies, epochs)
        gates = sources.gates(arguments.folders)
        content = page.render(studies, gates)
    except ValueError as error:
        raise UserError(str(error)) from error
    if arguments.to.is_dir():
        raise UserError(f"--to: {arguments.to} is a folder, not the name of a page")
    (written,) = files.replace_all(arguments.to.parent, {arguments.to.name: content})
    print(f"written: {written} ({page.counted(studies)}; {len(content) / 1e6:.1f} MB)")


def publish_tables(arguments: argparse.Namespace) -> None:
    """Copy finished tables: their trials.csv and what was measured once; everything else is made anew from them."""
    from senet_lab.reports import aside
    from senet_lab.reports.trials import read_cells

    root: Path = arguments.results
    tables = [path for path in root.rglob("trials.csv") if not aside.is_partial(path)]
    finished = sorted(str(path.parent.relative_to(root)) for path in tables)
    names = arguments.studies or finished
    if not names:
        raise UserError(f"there is no finished table below {root}")
    for name in names:
        if str(Path(name)) not in finished:
            raise UserError(f"there is no finished table in {root / name}; there are {', '.join(finished) or 'none'}")
    for name in names:
        kept = aside.make_room(arguments.to / name, read_cells(root / name / "trials.csv")["trial_id"])
        if kept:
            print(f"the table of other trials that was there is kept: {kept}/")
        regenerate(root / name / "trials.csv", arguments.to / name)
        for measured in ("runs.csv", "curves.csv", "rungs.csv", "outputs.npz"):
            if (root / name / measured).is_file():
                (arguments.to / name / measured).write_bytes((root / name / measured).read_bytes())


def draw_excitation(arguments: argparse.Namespace) -> None:
    from senet_lab.studies.excitation import draw  # torch comes with it

    draw(arguments)


def predict_images(arguments: argparse.Namespace) -> None:
    from senet_lab.studies.predict import show

    show(arguments)


def export_network(arguments: argparse.Namespace) -> None:
    from senet_lab.studies.export import write

    write(arguments)


def write_images(arguments: argparse.Namespace) -> None:
    from senet_lab.studies.pictures import write

    write(arguments)


def make_dashboard(arguments: argparse.Namespace) -> None:
    from senet_lab.studies import dashboard  # W&B's client comes with it

    dashboard.make(arguments)


def browse_studies(arguments: argparse.Namespace) -> None:
    from senet_lab.studies import browse  # SQLAlchemy comes with it

    browse.serve(arguments.storage, arguments.port)


def show_cost(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    if not arguments.words:
        from senet_lab.studies import printed  # torch comes with it

        printed.show(Console())
        return
    from senet_lab.compose import compose
    from senet_lab.studies import costing  # torch comes with it

    costing.show(compose(arguments.words), arguments.words, Console())


def keep_store(arguments: argparse.Namespace) -> None:
    from senet_lab.studies import upkeep  # SQLAlchemy and Optuna come with it

    match arguments.action:
        case "check":
            upkeep.check(arguments.storage)
        case "copy":
            upkeep.copy(arguments.source, arguments.target)
        case "export":
            upkeep.export(arguments.storage, arguments.path)
        case "import":
            upkeep.read_in(arguments.storage, arguments.paths)


def forget_records(arguments: argparse.Namespace) -> None:
    from senet_lab.studies.store import DONE, FAILED, Store

    gone = Store(arguments.storage, create=False).forget(arguments.trial_ids, (DONE, FAILED))
    if gone == 0:
        raise UserError(f"{arguments.storage} has no record of {', '.join(arguments.trial_ids)}")
    print(f"{gone} record{'s' * (gone > 1)} deleted; the studies that need them will train them again")


if __name__ == "__main__":
    sys.exit(main())
