"""A few of the faults of `make chaos`, on workers and on Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.postgres import BINARIES

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BINARIES, reason="there is no PostgreSQL here")]


def test_five_faults_lose_nothing_and_train_nothing_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import chaos

    code = chaos.main(["--faults", "5", "--seed", "2", "--ray-every", "0", "--to", str(tmp_path / "to")])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "| trials lost | 0 |" in (tmp_path / "to" / "reliability" / "chaos.md").read_text()
    assert len((tmp_path / "to" / "reliability" / "chaos.csv").read_text().splitlines()) == 6
