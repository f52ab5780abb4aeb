"""The display of a study's progress in a notebook: one output that is renewed in place, by IPython's own means.

Rich's display needs ipywidgets there, which not every front end shows and none keeps in the file.
"""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, RenderableType

PAGE = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'


class NotebookDisplay:
    """As rich's `Live` is used by `Progress`.

    Args:
        width: columns of text.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.handle: Any = None
        self.shown: dict[str, str] = {}

    def start(self) -> None:
        from IPython.display import display

        self.handle = display({"text/plain": ""}, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def update(self, content: RenderableType, refresh: bool = False) -> None:
        """Show the content, where it is another than what is shown; `refresh` says nothing here."""
        console = Console(file=io.StringIO(), record=True, width=self.width, force_jupyter=False, force_terminal=True)
        console.print(content)
        html = console.export_html(code_format=PAGE, inline_styles=True, clear=False)
        forms = {"text/html": html, "text/plain": console.export_text()}
        if forms != self.shown:
            self.shown = forms
            self.handle.update(forms, raw=True)

    def stop(self) -> None:
        """What was shown last stays."""
