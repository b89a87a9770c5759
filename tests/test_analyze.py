"""fd-flower analyze: what each client adds to the others."""

import json
import math
from pathlib import Path

import pytest
import torch
from helpers import tiny
from helpers.tiny import TINY

from fd_flower.cli import analyze
from fd_flower.cli.app import main
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble import contributions

PROBS = torch.tensor(
    [[[0.9, 0.1], [0.4, 0.6]], [[0.4, 0.6], [0.4, 0.6]], [[0.1, 0.9], [0.9, 0.1]]], dtype=torch.float64
)
"""Three clients, two samples of classes 0 and 1: all say (.467, .533) and (.567, .433)."""
TRUTH = torch.tensor([0, 1])


def test_the_mean_of_the_others_by_hand():
    others = contributions.without_each(PROBS)
    torch.testing.assert_close(others[0], torch.tensor([[0.25, 0.75], [0.65, 0.35]]).double())
    torch.testing.assert_close(others[2], torch.tensor([[0.65, 0.35], [0.4, 0.6]]).double())


def test_what_a_client_adds_to_each_class_by_hand():
    """Together wrong on both samples; without client 2 right on both, without client 1 sample 0 is a tie, won by 0."""
    effects = contributions.externalities(PROBS, TRUTH)
    assert effects.tolist() == [[0.0, 0.0], [-1.0, 0.0], [-1.0, -1.0]]
    missing = contributions.externalities(PROBS[:, :1], TRUTH[:1])
    assert torch.isnan(missing[:, 1]).all()


def test_log_loss_by_hand():
    found = contributions.log_loss(PROBS, TRUTH)
    assert found[0].item() == pytest.approx(-(math.log(0.9) + math.log(0.6)) / 2)
    assert contributions.log_loss(PROBS.mean(0), TRUTH).dim() == 0


def test_designs_by_hand():
    """Features are -1, -1, 1, 1 (mean 0, spread 1): log(1 + 2) of each client, log(1 + 4) of all; constants are out."""
    own, added = contributions.design_scores(
        [torch.tensor([[3.0, 7.0], [3.0, 7.0]]), torch.tensor([[5.0, 7.0], [5.0, 7.0]])]
    )
    torch.testing.assert_close(own, torch.full((2,), math.log(3)).double())
    torch.testing.assert_close(added, torch.full((2,), math.log(5 / 3)).double())


def test_who_has_what_nobody_else_has_adds_most():
    draw = torch.Generator().manual_seed(0)
    alike = [torch.randn(20, 3, generator=draw) * torch.tensor([1.0, 1.0, 0.0]) for _ in range(2)]
    other = torch.randn(20, 3, generator=draw) * torch.tensor([0.0, 0.0, 1.0])
    _, added = contributions.design_scores([*alike, other])
    assert added[2] > added[0]
    assert added[2] > added[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "fd"
    tiny.run("fd", TINY + "run.keep=last client.steps=20 data.alpha=0.1", out=folder)
    return folder


def test_a_run_is_analyzed(run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["analyze", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "others gain" in shown
    found = json.loads((run / "analysis" / "analysis.json").read_text())
    assert list(found["clients"]) == ["0", "1", "2"]
    assert len(found["classes"]) == 10
    of_all = analyze.analyzed(run)
    for u, client in enumerate(of_all.clients):
        by_class = [v for v in found["clients"][client]["by_class"] if v is not None]
        assert min(by_class) - 1e-9 <= found["clients"][client]["gain"] <= max(by_class) + 1e-9
        assert found["clients"][client]["gain"] == pytest.approx(float(of_all.gain[u]))
    assert len({found["clients"][client]["adds"] for client in "012"}) == 3  # of each client's own samples
    assert (run / "analysis" / "externalities.png").stat().st_size > 1000
    assert (run / "analysis" / "analysis.md").read_text().startswith("# Contributions of clients")


def test_a_run_of_one_model_is_refused(tmp_path: Path):
    tiny.run("fedavg", TINY + "run.keep=none", out=tmp_path / "fedavg")
    with pytest.raises(InvalidInputError, match="kept models of 0 clients"):
        analyze.analyzed(tmp_path / "fedavg")


def test_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInputError):
        analyze.analyzed(tmp_path)
