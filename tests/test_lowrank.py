"""Updates by their singular values: the fewest that hold the energy, never none, never more numbers than there were."""

import pytest
import torch
from torch import nn

from fd_flower.wire import Update
from fd_flower.wire.lowrank import applied, compressed, difference, fits, restored


def matrix(*values: float, rows: int = 20, columns: int = 30) -> torch.Tensor:
    """Return a matrix [20, 30] with these singular values."""
    rng = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=rng)).Q
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=rng)).Q
    return left @ torch.diag(torch.tensor(values)) @ right.T


@pytest.mark.parametrize(
    ("energy", "kept"),
    [
        (0.05, 1),  # at least one, and the first holds more than that
        (0.5, 1),  # 16 of 30
        (0.54, 2),  # 25 of 30
        (0.9, 3),  # 29 of 30
        (0.97, 4),
    ],
)
def test_the_fewest_values_that_hold_the_energy(energy, kept):
    """Singular values 4, 3, 2, 1: their squares are 16, 9, 4, 1 of 30.

    The public codes look at the sum before the value at hand, and keep none where all are needed.
    """
    update = matrix(4.0, 3.0, 2.0, 1.0)
    said = compressed(update, energy)
    assert said.shape == (kept, 1 + 20 + 30)
    torch.testing.assert_close(said[:, 0], torch.tensor([4.0, 3.0, 2.0, 1.0][:kept]))
    lost = (update - restored(said, update.shape)).square().sum()
    assert float(lost) == pytest.approx(sum([16, 9, 4, 1][kept:]), abs=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(20, 30), (30, 20), (25, 25)])
def test_any_shape_comes_back(rows, columns):
    update = matrix(4.0, 3.0, 2.0, rows=rows, columns=columns)
    said = compressed(update, 0.9999)
    assert said.shape == (3, 1 + rows + columns)
    torch.testing.assert_close(restored(said, update.shape), update, atol=1e-5, rtol=1e-4)


def test_a_convolution_is_a_matrix_of_a_row_an_output():
    """Batches of kernel-sized matrices, as the public codes decompose, are of rank 3 at most and come back wrong."""
    update = matrix(4.0, 3.0, rows=20, columns=36).reshape(20, 4, 3, 3)
    said = compressed(update, 0.9999)
    assert said.shape == (2, 1 + 20 + 36)
    torch.testing.assert_close(restored(said, update.shape), update, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("energy", [0.95, 0.98, 1.0])
def test_a_fresh_head_survives_and_costs_no_more_bytes_than_as_it_is(energy):
    """512 -> 10: its ten values are nearly equal, so all are needed, which is more numbers than it has.

    The public codes keep none of them and zero the head.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weight = nn.Linear(512, 10).weight.detach()
    said = compressed(weight, energy)
    assert said.numel() <= weight.numel()
    back = restored(said, weight.shape)
    assert float(back.square().sum()) >= energy * float(weight.square().sum()) - 1e-5
    encoded, plain = (sum(len(a.data) for a in Update({"w": t}).record.values()) for t in (said, weight))
    assert encoded <= plain


def test_as_it_is_where_that_is_not_more_numbers():
    """[20, 30] is 600 numbers and a value with its vectors 51: eleven values are fewer, twelve are not."""
    for rank, shape in ((11, (11, 51)), (12, (20, 30))):
        assert compressed(matrix(*[1.0] * rank), 0.9999).shape == shape


def test_all_of_the_energy_is_the_update_itself():
    """Rounding leaves a matrix of rank 4 with twenty values above 0."""
    update = matrix(4.0, 3.0, 2.0, 1.0)
    assert compressed(update, 1.0) is update


def test_nothing_has_changed():
    said = compressed(torch.zeros(20, 30), 0.95)
    assert said.shape == (1, 51)
    assert torch.equal(restored(said, (20, 30)), torch.zeros(20, 30))


def test_what_is_no_matrix_stays_as_it_is():
    for tensor in (torch.rand(5), torch.tensor(3.0), torch.ones(20, 30).long()):
        assert compressed(tensor, 0.5) is tensor
        assert restored(tensor, tensor.shape) is tensor


def test_a_decomposition_that_fails_leaves_the_update_as_it_is(monkeypatch):
    def fail(*args, **more):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "svd", fail)
    update = matrix(1.0)
    assert compressed(update, 0.9) is update


def test_values_that_are_not_finite_do_not_raise():
    """The server refuses them by name; a client's turn is not lost in the decomposition."""
    update = torch.full((20, 30), torch.nan)
    assert not compressed(update, 0.9).isfinite().all()


@pytest.mark.parametrize(
    ("shape", "of", "right"),
    [
        ((20, 30), (20, 30), True),
        ((2, 51), (20, 30), True),
        ((11, 51), (20, 30), True),
        ((12, 51), (20, 30), False),  # more numbers than the matrix
        ((0, 51), (20, 30), False),
        ((2, 50), (20, 30), False),
        ((2, 57), (20, 4, 3, 3), True),
        ((1, 3), (5,), False),
        ((5,), (5,), True),
        ((51,), (20, 30), False),
    ],
)
def test_what_can_be_an_update_of_a_shape(shape, of, right):
    assert fits(torch.zeros(shape), of) is right


def test_states_change_and_whole_numbers_are_replaced():
    """The difference travels, not the state: adding it twice adds it twice."""
    old = {"w": matrix(9.0, 8.0, 7.0), "b": torch.tensor([1.0, 2.0]), "seen": torch.tensor(3)}
    step = matrix(2.0)
    new = {"w": old["w"] + step, "b": torch.tensor([1.5, 2.0]), "seen": torch.tensor(10)}
    update = difference(new, old, 0.95)
    assert update["w"].shape == (1, 51)
    assert (update["b"].tolist(), int(update["seen"])) == ([0.5, 0.0], 10)
    for times, state in enumerate([applied(old, update), applied(applied(old, update), update)], 1):
        torch.testing.assert_close(state["w"], old["w"] + times * step, atol=1e-5, rtol=1e-4)
        assert state["b"].tolist() == [1 + 0.5 * times, 2.0]
        assert int(state["seen"]) == 10
