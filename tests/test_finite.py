"""Whether a tensor is finite."""

import pytest
import torch

from fd_flower.core.finite import is_finite


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_entry_that_is_not_finite_is_found(kind: torch.dtype, value: float):
    tensor = torch.zeros(3, 1000, dtype=kind)
    assert is_finite(tensor)
    tensor[1, 7] = value
    assert not is_finite(tensor)


def test_infinities_of_both_signs_are_found():
    assert not is_finite(torch.tensor([float("inf"), -float("inf")]))


def test_finite_entries_may_have_a_sum_beyond_their_type():
    large = torch.full((4,), 3e38)
    assert large.sum().isinf()
    assert is_finite(large)
    assert is_finite(torch.full((4,), 60_000.0, dtype=torch.float16))


def test_nothing_and_whole_numbers_are_finite():
    assert is_finite(torch.empty(0))
    assert is_finite(torch.tensor([2**62, 2**62]))
