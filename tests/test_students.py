"""fd-flower estimate --models: untrained students are ranked by how like a teacher their relations are (DisWOT)."""

import math

import pytest
import torch
from torch import nn

from fd_flower.cli import main
from fd_flower.models.students import relations, scored

X, Y = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1])


class Net(nn.Module):
    """Features are the inputs times a matrix, and the head starts at zero."""

    def __init__(self, matrix: list[list[float]], bias: bool = True) -> None:
        super().__init__()
        self.body = torch.tensor(matrix)
        self.head = nn.Linear(len(matrix[0]), 2, bias=bias)
        nn.init.zeros_(self.head.weight)
        if bias:
            nn.init.zeros_(self.head.bias)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.body


@pytest.mark.parametrize("bias", [True, False])
def test_relations_by_hand(bias: bool):
    """Features (1, 0) and (1, 1): products 1, 1; 1, 2. Predictions are even, so the head's gradient is +-(0, 1) / 4."""
    samples, classes = relations(Net([[1.0, 0.0], [0.0, 1.0]], bias), X, Y)
    half = math.sqrt(0.5)
    torch.testing.assert_close(samples, torch.tensor([[half, half], [1 / math.sqrt(5), 2 / math.sqrt(5)]]))
    torch.testing.assert_close(classes, torch.tensor([[half, -half], [-half, half]]))


def test_a_score_by_hand_and_of_the_teacher_itself():
    teacher, student = Net([[1.0, 0.0], [0.0, 1.0]]), Net([[1.0], [0.0]])
    found = scored(relations(student, X, Y), relations(teacher, X, Y))
    half = math.sqrt(0.5)
    apart = (half - 1 / math.sqrt(5)) ** 2 + (half - 2 / math.sqrt(5)) ** 2
    assert found.samples == pytest.approx(-apart / 4, rel=1e-5)
    assert found.classes == pytest.approx(-1.0)  # the student's gradient is 0, and so are its relations
    assert found.total == found.samples + found.classes
    same = scored(*(relations(teacher, X, Y) for _ in range(2)))
    assert (same.samples, same.classes) == (0.0, 0.0)


def test_the_command_ranks_the_teacher_first(capsys: pytest.CaptureFixture[str]):
    words = ["--models", "mlp,lenet", "--teacher", "lenet", "--set", "data.source=digits data.clients=3"]
    assert main(["estimate", "fedmd", *words]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [line[0] for line in lines if line[0] in ("mlp", "lenet")] == ["lenet", "mlp"]
    assert next(line for line in lines if line[0] == "lenet")[-1] in ("-0.00e+00", "0.00e+00")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "mlp"], "--models and --teacher go together"),
        (["--models", "mlp,lenett", "--teacher", "lenet"], "lenett"),
        (["--models", "mlp", "--teacher", "lenett"], "lenett"),
    ],
)
def test_what_cannot_be_ranked(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["estimate", "fedmd", *words, "--set", "data.source=digits"]) == 2
    assert message in capsys.readouterr().err
