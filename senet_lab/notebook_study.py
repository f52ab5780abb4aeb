"""A study, or a search, as an object: what it would train, and what came of it (`senet_lab.api`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from senet_lab.config import RunError, UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from senet_lab.reports.table import Table

GOES_ON = "interrupted: what has ended is recorded; the same call goes on from there"


class NotebookStudy:
    """A study: what it would train, and what came of it. Made by `study` and `ablate`.

    Attributes:
        words: what it is called by on the command line.
    """

    def __init__(self, words: Sequence[str]) -> None:
        from senet_lab.compose import compose_all

        self.words = list(words)
        studies = compose_all(self.words)
        if len(studies) > 1:
            raise UserError(
                f"one study at a time: '{self.words[0]}' are {len(studies)} (`{self.command}` runs them all)"
            )
        (self._composed,) = studies

    @property
    def command(self) -> str:
        """The command line that does the same."""
        from senet_lab.naming import shell_line

        return shell_line(["python", "-m", "senet_lab.run", *self.words])

    @property
    def folder(self) -> Path:
        """Where `run` writes the table, the figures and the trials."""
        return Path(self._composed.config.results) / self._composed.folder

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.command}>"

    def plan(self) -> pd.DataFrame:
        """What it would train: nothing is trained or written.

        Returns:
            One line a row: parameters and multiply-adds of its network for one image, how many of its trials are
            recorded and how many are to be trained, and how many seconds these take one after the other. `attrs` has
            `seconds`, until all of them have ended on so many `workers`.

        Raises:
            UserError: for whatever is wrong with the study.
        """
        import pandas as pd

        from senet_lab.studies import plan as plans
        from senet_lab.studies import study as studies
        from senet_lab.studies.executors import open_executor
        from senet_lab.studies.store import Store

        config = self._composed.config
        design = studies.design_of([self._composed])
        design.look_up(Store(config.storage, create=False))
        whole = plans.merge_plans(design.plans)
        with open_executor(config, whole.device, idle=not design.most) as executor:
            workers = min(executor.room, max(1, design.most))
            expected = design.forecast(workers)
        lines = []
        for row in whole.rows:
            cells = [cell for cell in whole.cells if cell.row is row]
            missing = [cell.trial_id for cell in cells if cell.trial_id not in whole.recorded]
            lines.append(
                {
                    "row": row.label,
                    "baseline": row.baseline,
                    "params": row.cost.params,
                    "macs": row.cost.macs,
                    "recorded": len(cells) - len(missing),
                    "to_train": len(missing),
                    "seconds": round(sum(expected.seconds.get(trial_id, 0.0) for trial_id in missing), 1),
                }
            )
        frame = pd.DataFrame(lines).set_index("row")
        frame.attrs = {"seconds": round(expected.total(workers), 1), "workers": workers}
        return frame

    def run(self) -> NotebookStudy:
        """Train what is not recorded, and write the table; progress is shown on the way.

        An interrupt (Ctrl-C, or a notebook's button) loses nothing: the same call goes on. Networks, data sets and
        everything else that a training needs must be known to worker processes, which is why a script that calls this
        does so below `if __name__ == "__main__":`.

        Raises:
            UserError: for whatever is wrong with the study, before anything is trained.
            RunError: for what stopped it; what has ended is recorded.
        """
        from senet_lab.studies.study import run_studies

        try:
            run_studies([self._composed], self.words)
        except KeyboardInterrupt:
            print(GOES_ON, file=sys.stderr)
            raise
        return self

    def table(self, partial: bool = False) -> pd.DataFrame:
        """The table with its verdicts, as `table.csv` has it (of a search its designs, as `front.csv`), from records.

        Args:
            partial: whether to take what there is of a study that is not complete.

        Raises:
            UserError: if trials are not recorded.
        """
        import io

        import pandas as pd

        from senet_lab.reports.render import csv_text

        return pd.read_csv(io.StringIO(csv_text(self._table(partial))), index_col=0)

    def figure(self, partial: bool = False) -> Figure:
        """The study's figure, to show or to change; `run` has written it as svg, png and pdf, too.

        Args:
            partial: as in `table`.

        Raises:
            UserError: if trials are not recorded.
        """
        from senet_lab.reports import drawing, figures

        made = self._table(partial)
        shown_as_images()
        with drawing.lab_style():
            return figures.figure_of(made)

    def gates(self, row: str = "", seed: int = 0, images: int = 50) -> pd.DataFrame:
        """What the gates of a trained network do, class by class (paper, figures 6 and 7): printed, drawn into the
        results folder, and returned.

        Args:
            row: whose network; the first that has SE if none is named.
            seed: of its training, which was with `training={"keep": "last"}`.
            images: test images of each class.

        Returns:
            One line for each block, class and channel, as `gates.csv` has them.

        Raises:
            UserError: where no such row, or no weights of it are kept; the message says how to keep them.
        """
        from argparse import Namespace

        import pandas as pd

        from senet_lab.studies import gate_measurement, study

        cells = study.design_of([self._composed]).plans[0].cells
        found = [cell for cell in cells if cell.seed == seed and (cell.row.label == row or (not row and cell.row.se))]
        if not found:
            labels = ", ".join(dict.fromkeys(cell.row.label for cell in cells if cell.row.se))
            raise UserError(f"there is no row '{row}' with SE and seed {seed}; there are {labels}")
        config = self._composed.config
        to = self.folder / "gates" / found[0].trial_id
        gate_measurement.measure_gates(
            Namespace(
                what=found[0].trial_id,
                words=[],
                classes=None,
                images=images,
                every_block=False,
                data_root=None,
                to=to,
                results=Path(config.results),
                storage=config.storage,
            )
        )
        return pd.read_csv(to / "gates.csv")

    def report(self, to: str | Path | None = None) -> Path:
        """Write the HTML page of this study; its path.

        Args:
            to: the page (`report.html` in the study's folder).

        Raises:
            UserError: if the study has not been run.
        """
        from senet_lab import files
        from senet_lab.reports import page, results

        path = Path(to) if to else self.folder / "report.html"
        found = results.finished_studies([self.folder]) if self.folder.is_dir() else []
        if not found:
            raise UserError(f"there is no study in {self.folder}: run() trains it")
        return files.replace_all(
            path.parent, {path.name: page.render_page(found, results.measured_gates([self.folder]))}
        )[0]

    def _table(self, partial: bool) -> Table:
        from senet_lab.studies.study import from_store, gather

        try:
            return gather(*from_store(self._composed, self.words, partial))[2]
        except UserError:
            raise
        except ValueError as error:
            raise RunError(str(error)) from error


class NotebookSearch(NotebookStudy):
    """A search for designs under a budget. Made by `search`."""

    def plan(self) -> pd.DataFrame:
        """The cheapest and the dearest design of its space, and what each costs. Nothing is trained or written."""
        import pandas as pd

        from senet_lab.studies import search_plan
        from senet_lab.studies.search import SearchDesign
        from senet_lab.studies.space import design_text
        from senet_lab.studies.store import Store

        design = SearchDesign(self._composed)
        design.look_up(Store(self._composed.config.storage, create=False))
        space = design.priced.space
        found = search_plan.extremes(design).items()
        lines = [
            {"design": name, "levels": design_text(space, each), **design.worth.cost(each)} for name, each in found
        ]
        frame = pd.DataFrame(lines).set_index("design")
        frame.attrs = {"designs": space.distinct(), "trials": design.asker.trials * design.seeds}
        return frame

    def run(self) -> NotebookSearch:
        """Ask for designs and train them until the search is over, and write the front; progress is shown on the way.
        An interrupt loses nothing: the same call goes on."""
        super().run()
        return self

    def front(self) -> pd.DataFrame:
        """The designs on the front, with their errors, intervals and costs, as `front.csv` has them.

        Raises:
            UserError: if the search has not been run.
        """
        designs = self.table()
        return designs[designs["on_front"] == 1]

    def figure(self, partial: bool = False) -> Figure:
        """Error against cost, with the front as a line."""
        from senet_lab.reports import drawing, front_figures

        made = self._table(partial)
        shown_as_images()
        with drawing.lab_style():
            return front_figures.front_figure(made)

    def _table(self, partial: bool) -> Table:
        from senet_lab.reports import tables

        path = self.folder / "trials.csv"
        if not path.is_file():
            raise UserError(f"there is no search in {self.folder}: run() trains it")
        trials, known = tables.read_study(path)
        return tables.make_table(trials, known)


def shown_as_images() -> None:
    """Have a notebook show figures as images, which it does by itself only after matplotlib's pyplot was imported."""
    if "IPython" in sys.modules:
        from IPython.core.getipython import get_ipython
        from IPython.core.pylabtools import select_figure_formats

        shell = get_ipython()
        if shell is not None:
            select_figure_formats(shell, {"png"})  # type: ignore[no-untyped-call]
