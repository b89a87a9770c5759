"""``run.report=false``: a run that leaves its figures and draws nothing."""

from pathlib import Path

import pytest
from helpers import tiny

from fd_flower.results import RunFolder
from fd_flower.results.folder import CURVES, REPORT
from fd_flower.results.outcome import ending


@pytest.mark.usefixtures("drawn")
def test_a_run_without_a_report_has_its_figures_and_draws_nothing(tmp_path: Path):
    tiny.run("local", f"{tiny.TINY} run.report=false", out=tmp_path)
    folder = RunFolder.open(tmp_path)
    assert folder.finished
    assert not (tmp_path / REPORT).exists()
    assert not (tmp_path / CURVES).exists()
    assert not any(line.startswith("report: ") for line in ending(folder))
