"""Means of low-rank changes: by hand, against dense matrices, and where they must agree."""

import pytest
import torch

from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.adapters import (
    Factors,
    fisher,
    freeze_a,
    mean,
    product,
    relative_error,
    spectrum,
    stack,
)
from fd_flower.ensemble.parameters import mean_of_parameters

OUT, IN = 12, 9
WEIGHTS = [3.0, 1.0, 4.0]


def drawn(*ranks, seed=0, scaling=2.0, dtype=torch.float64):
    """Return random factors of a matrix [OUT, IN], one a rank."""
    rng = torch.Generator().manual_seed(seed)
    return [
        Factors(
            torch.randn(OUT, rank, generator=rng, dtype=dtype),
            torch.randn(rank, IN, generator=rng, dtype=dtype),
            scaling,
        )
        for rank in ranks
    ]


def dense(factors):
    """Return the change itself [out, in], float64."""
    return factors.scaling * (factors.b.double() @ factors.a.double())


def dense_mean(clients, weights):
    """Return the weighted mean of the changes, by its definition."""
    return sum(w * dense(c) for w, c in zip(weights, clients, strict=True)) / sum(weights)


def start(rank, scaling=2.0, dtype=torch.float64):
    """Return what a client of a rank starts from: b 0, a drawn."""
    own = drawn(rank, seed=99, scaling=scaling, dtype=dtype)[0]
    return Factors(torch.zeros_like(own.b), own.a, scaling)


# --- by hand


def test_rules_by_hand():
    """B A of (2)(3) and (4)(1) are 6 and 4: their mean is 5, while the means of the factors, 3 and 2, make 6."""
    one, two = (Factors(torch.tensor([[b]]), torch.tensor([[a]])) for b, a in ((2.0, 3.0), (4.0, 1.0)))
    averaged = mean([one, two], [1, 1])
    assert (float(averaged.b), float(averaged.a)) == (3.0, 2.0)
    assert float(dense(stack([one, two], [1, 1]))) == pytest.approx(5.0)
    assert float(product([one, two], [1, 1]).values) == pytest.approx(5.0)
    assert relative_error(averaged, stack([one, two], [1, 1])) == pytest.approx(0.2)


def test_balanced_factors_by_hand():
    """A change of 9 in one place, of scaling 1, is 3 times 3; of scaling 4 it is 1.5 times 1.5."""
    change = spectrum(Factors(torch.tensor([[9.0], [0.0]]), torch.tensor([[1.0, 0.0]])))
    for scaling, side in ((1.0, 3.0), (4.0, 1.5)):
        found = change.truncated(Factors(torch.zeros(2, 1), torch.ones(1, 2), scaling))
        torch.testing.assert_close(found.b, torch.tensor([[side], [0.0]]))
        torch.testing.assert_close(found.a, torch.tensor([[side, 0.0]]))


def test_a_fisher_weighted_mean_by_hand():
    """1 with information 3 and 5 with information 1 make (3 + 5) / 4."""
    found = fisher([torch.tensor([1.0]), torch.tensor([5.0])], [torch.tensor([3.0]), torch.tensor([1.0])])
    assert float(found) == 2.0


# --- against dense matrices


@pytest.mark.parametrize("ranks", [(2, 2, 2), (1, 2, 4), (5, 5, 5)])
def test_a_stack_is_the_exact_mean(ranks):
    clients = drawn(*ranks)
    found = stack(clients, WEIGHTS)
    assert found.rank == sum(ranks)
    torch.testing.assert_close(dense(found), dense_mean(clients, WEIGHTS))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_product_is_the_truncated_decomposition_of_the_dense_mean(rank):
    clients = drawn(2, 2, 3)
    u, s, v = torch.linalg.svd(dense_mean(clients, WEIGHTS))
    expected = u[:, :rank] @ torch.diag(s[:rank]) @ v[:rank]
    torch.testing.assert_close(dense(product(clients, WEIGHTS).truncated(start(rank))), expected)


def test_the_error_is_that_of_dense_matrices():
    clients = drawn(2, 2, 2)
    found, exact = mean(clients, WEIGHTS), dense_mean(clients, WEIGHTS)
    expected = torch.linalg.norm(dense(found) - exact) / torch.linalg.norm(exact)
    assert relative_error(found, stack(clients, WEIGHTS)) == pytest.approx(float(expected))


def test_no_tensor_is_as_large_as_the_matrix():
    """A dense [out, in] of this size would not fit into memory."""
    size = 2_000_000
    wide = Factors(torch.ones(size, 1), torch.ones(1, size))
    found = product([wide, wide], [1, 1]).truncated(Factors(torch.zeros(size, 1), torch.ones(1, size)))
    assert float(found.b[0] * found.a[0, 0]) == pytest.approx(1.0)


# --- scalings


def test_scalings_are_folded_in_before_any_mean():
    one, two = drawn(2, scaling=2.0)[0], drawn(2, seed=1, scaling=0.5)[0]
    twin = Factors(two.b / 4, two.a, 2.0)
    for found, alike in (
        (dense(mean([one, two], [1, 3])), dense(mean([one, twin], [1, 3]))),
        (dense(stack([one, two], [1, 3])), dense(stack([one, twin], [1, 3]))),
        (product([one, two], [1, 3]).values, product([one, twin], [1, 3]).values),
    ):
        torch.testing.assert_close(found, alike)


def test_a_clients_scaling_changes_its_factors_and_not_the_change():
    change = product(drawn(2, 2), [1, 1])
    torch.testing.assert_close(dense(change.truncated(start(2, 0.25))), dense(change.truncated(start(2, 8.0))))


# --- where rules must agree


def test_the_mean_is_that_of_parameters_to_the_bit():
    clients = drawn(3, 3, 3, dtype=torch.float32)
    found = mean(clients, WEIGHTS)
    expected = mean_of_parameters([{"a": c.a, "b": c.b} for c in clients], WEIGHTS)
    assert torch.equal(found.b, expected["b"])
    assert torch.equal(found.a, expected["a"])


@pytest.mark.parametrize("count", [1, 3])
def test_equal_clients_make_what_each_of_them_has(count):
    own = drawn(3)[0]
    clients = [own] * count
    for found in (
        mean(clients, WEIGHTS[:count]),
        stack(clients, WEIGHTS[:count]),
        freeze_a(clients, WEIGHTS[:count]),
        product(clients, WEIGHTS[:count]).truncated(start(3)),
    ):
        torch.testing.assert_close(dense(found), dense(own))


def test_a_common_a_makes_the_mean_exact():
    clients = [Factors(c.b, drawn(2)[0].a, c.scaling) for c in drawn(2, 2, 2, seed=5)]
    torch.testing.assert_close(dense(freeze_a(clients, WEIGHTS)), dense_mean(clients, WEIGHTS))


def test_a_product_of_the_sum_of_ranks_is_exact():
    clients = drawn(2, 2, 3)
    assert relative_error(product(clients, WEIGHTS).truncated(start(7)), stack(clients, WEIGHTS)) < 1e-12


def test_ranks_that_exceed_the_matrix_lose_nothing():
    clients = drawn(8, 8)
    torch.testing.assert_close(dense(product(clients, [1, 1]).factors), dense_mean(clients, [1, 1]))


@pytest.mark.parametrize("rule", [mean, stack, product])
def test_the_order_of_clients_does_not_matter(rule):
    clients = drawn(2, 2, 2)
    one, two = rule(clients, WEIGHTS), rule(clients[::-1], WEIGHTS[::-1])
    if rule is product:
        one, two = one.truncated(start(2)), two.truncated(start(2))
        torch.testing.assert_close(one.b, two.b)  # signs are fixed, so even the factors agree
    torch.testing.assert_close(dense(one), dense(two))


def test_equal_factors_give_equal_numbers():
    one, two = (product(drawn(2, 3, dtype=torch.float32), [1, 2]).truncated(start(2)) for _ in range(2))
    assert torch.equal(one.b, two.b)
    assert torch.equal(one.a, two.a)


def test_a_sign_follows_the_largest_entry_of_the_left_vector():
    clients = drawn(2, 2)
    turned = [Factors(-c.b, -c.a, c.scaling) for c in clients]
    one, two = (product(each, [1, 1]) for each in (clients, turned))
    torch.testing.assert_close(one.left, two.left)
    assert bool((one.left.gather(0, one.left.abs().argmax(0, keepdim=True)) > 0).all())


def test_weights_that_are_all_zero_count_equally():
    clients = drawn(2, 2)
    for rule in (mean, stack):
        torch.testing.assert_close(dense(rule(clients, [0, 0])), dense(rule(clients, [1, 1])))


def test_equal_information_makes_the_weighted_mean():
    values = [c.b for c in drawn(2, 2, 2)]
    for information in (torch.full((OUT, 2), 0.3), torch.zeros(OUT, 2)):
        expected = sum(w * v for w, v in zip(WEIGHTS, values, strict=True)) / sum(WEIGHTS)
        torch.testing.assert_close(fisher(values, [information] * 3, WEIGHTS), expected)


# --- directions that nothing is in


def test_a_direction_without_a_value_restarts_so_that_it_can_learn():
    """One client of rank 1 and a receiver of rank 3: two of its directions are those of its start, with b 0."""
    own, first = drawn(1)[0], start(3)
    found = product([own], [1]).truncated(first)
    torch.testing.assert_close(dense(found), dense(own))
    assert torch.equal(found.a[1:], first.a[1:])
    assert not found.b[:, 1:].any()


def test_clients_that_learned_nothing_leave_the_start():
    first = start(2)
    found = product([first, first], [1, 1]).truncated(first)
    assert torch.equal(found.a, first.a)
    assert not found.b.any()


def test_a_change_of_rank_zero_is_none():
    empty = Factors(torch.zeros(OUT, 0), torch.zeros(0, IN))
    assert empty.norm == 0.0
    assert len(spectrum(empty).values) == 0
    torch.testing.assert_close(dense(stack([empty, drawn(2)[0]], [0, 1])), dense(drawn(2)[0]))


# --- what is refused


@pytest.mark.parametrize("rule", [mean, freeze_a])
def test_unequal_ranks_are_refused_with_the_rules_that_take_them(rule):
    with pytest.raises(InvalidInputError, match=r"one rank; got ranks 2, 3: server.adapters=product and .*stack"):
        rule(drawn(2, 3), [1, 1])


def test_a_frozen_a_that_differs_is_refused():
    with pytest.raises(InvalidInputError, match="the clients' A differ"):
        freeze_a(drawn(2, 2), [1, 1])


def test_factors_of_other_matrices_are_refused():
    other = Factors(torch.zeros(OUT, 2), torch.zeros(2, IN + 1))
    for rule in (mean, stack):
        with pytest.raises(InvalidInputError, match="several sizes"):
            rule([drawn(2)[0], other], [1, 1])
    with pytest.raises(InvalidInputError, match=r"expected \[out, r\] and \[r, in\]"):
        Factors(torch.zeros(3, 2), torch.zeros(3, 2))
    with pytest.raises(InvalidInputError, match="expected one each"):
        stack(drawn(2, 2), [1])


@pytest.mark.parametrize("information", [torch.ones(3), torch.tensor([-1.0]), torch.tensor([torch.inf])])
def test_information_that_is_none_is_refused(information):
    with pytest.raises(InvalidInputError, match="Fisher information"):
        fisher([torch.zeros(1)], [information])


# --- how far rules are from the exact mean


def trained(clients=3, rank=8, out=96, size=64, moved=0.15, common=True):
    """Return factors as short local training leaves them: B from 0, A a little off its start."""
    rng = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    first, found = random(rank, size), []
    for _ in range(clients):
        a = first if common else random(rank, size)
        found.append(Factors(random(out, rank), a + moved * random(rank, size), 2.0))
    return found


@pytest.mark.parametrize(("common", "expected"), [(True, [0.120, 0.107, 0]), (False, [0.797, 0.604, 0])])
def test_a_common_start_of_a_keeps_the_mean_near_the_exact_one(common, expected):
    """Errors of mean, product and stack: a common A is worth more than the better rule."""
    clients, weights = trained(common=common), [1, 1, 1]
    exact = stack(clients, weights)
    rules = mean(clients, weights), product(clients, weights).truncated(clients[0]), stack(clients, weights)
    assert [relative_error(rule, exact) for rule in rules] == pytest.approx(expected, abs=5e-4)
