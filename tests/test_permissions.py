"""Who may read and write what a study leaves: the user's umask decides, and the store is never everyone's to write."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from launching import WORDS, Lab


@pytest.mark.slow
def test_files_are_created_with_the_users_umask(tmp_path: Path) -> None:
    umask = 0o027
    lab = Lab(tmp_path / "lab")
    words = [word for word in WORDS if not word.startswith(("recipe.epochs", "seeds"))]
    ended = lab.run(*words, "recipe.epochs=1", "seeds=1", "training.keep=last", umask=umask)
    assert ended.code == 0, ended.err
    made = list((lab.folder / "results").rglob("*"))
    assert {path.suffix for path in made} >= {".db", ".ckpt", ".csv", ".md", ".tex", ".svg", ".pdf", ".png"}
    for path in made:
        mode = stat.S_IMODE(path.stat().st_mode)
        whole = 0o777 if path.is_dir() else 0o666
        if path.suffix == ".db":  # SQLite itself lets the owner alone write
            whole = 0o644
        assert mode == whole & ~umask, f"{path}: {mode:o}"
