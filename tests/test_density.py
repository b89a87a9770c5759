"""Density estimators: KuLSIF's closed form, distances to centroids, and the votes that a threshold makes of them."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.density import kmeans, kulsif, vote

torch.set_num_threads(1)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


# --- KuLSIF


def test_kulsif_by_hand():
    """Own sample 0, background 0 and 1, k(0, 1) = 1/2, lambda = 1/2.

    The system is [[1, 1/4], [1/4, 1]] alpha = -(1, 1/2), of determinant 15/16: alpha = -(14, 4) / 15. So the ratio is
    -14/15 - 2/15 + 2 = 14/15 at 0 and -7/15 - 4/15 + 1 = 4/15 at 1. A product in place of the solution would give
    alpha = -(9/8, 3/4), and 1/2 at 0.
    """
    width = 1 / math.sqrt(2 * math.log(2))
    ratio = kulsif.fit(column(0), column(0, 1), width, 0.5)
    torch.testing.assert_close(ratio.alpha, torch.tensor([-14 / 15, -4 / 15], dtype=torch.float64))
    torch.testing.assert_close(ratio.score(column(0, 1)), torch.tensor([14 / 15, 4 / 15], dtype=torch.float64))


def test_kulsif_minimizes_its_objective_over_all_kernels():
    """J(r) = mean r(u)^2 / 2 - mean r(x) + lambda |r|^2 / 2, solved over the kernels of x and u alike."""
    random = np.random.default_rng(0)
    x, u, new = random.normal(size=(6, 3)), 2 * random.normal(size=(9, 3)), random.normal(size=(5, 3))
    width, penalty = 1.3, 0.2
    both = np.concatenate([u, x])

    def kernel(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(2) / (2 * width**2))

    on_u, on_x = kernel(both, u), kernel(both, x)
    beta = np.linalg.solve(on_u @ on_u.T / len(u) + penalty * kernel(both, both), on_x.mean(1))
    ratio = kulsif.fit(*map(torch.from_numpy, (x, u)), width, penalty)
    np.testing.assert_allclose(ratio.score(torch.from_numpy(new)).numpy(), kernel(new, both) @ beta, rtol=1e-6)


def test_kulsif_recovers_a_ratio_of_two_gaussians():
    """N(0, 1) over N(0, 4): 2 exp(-3 x^2 / 8)."""
    own, background = (
        torch.randn(800, 1, generator=rng(), dtype=torch.float64),
        torch.randn(800, 1, generator=rng(1), dtype=torch.float64),
    )
    ratio = kulsif.fit(own, 2 * background, 1.0, 0.01)
    at = column(0, 1, -1, 2, 4)
    torch.testing.assert_close(ratio.score(at), 2 * torch.exp(-3 * at[:, 0] ** 2 / 8), atol=0.3, rtol=0)


def test_scores_do_not_depend_on_how_many_are_asked_for():
    ratio = kulsif.fit(torch.randn(5, 4, generator=rng()), torch.randn(7, 4, generator=rng(1)), 2.0, 0.3)
    many = torch.randn(kulsif.ROWS + 3, 4, generator=rng(2))
    torch.testing.assert_close(ratio.score(many)[-3:], ratio.score(many[-3:]))
    assert ratio.score(many).dtype == torch.float64
    assert ratio.score(many[:0]).shape == (0,)


def test_a_kernel_that_underflows_gives_zeros_and_says_so(caplog):
    """800 pixels 1 apart are 28 apart: exp(-(28 / 0.1)^2 / 2) is 0 in float64 too."""
    own = torch.arange(4, dtype=torch.float64)[:, None].expand(4, 784).contiguous()
    ratio = kulsif.fit(own, kulsif.uniform(-1, 4, 3, 784, rng()), 0.1, 0.5)
    assert torch.equal(ratio.score(own + 0.5), torch.zeros(4, dtype=torch.float64))
    assert "width 0.1 is 0 between samples 28 apart" in caplog.text


def test_kulsif_refuses_what_it_cannot_use():
    some = column(0, 1)
    with pytest.raises(InvalidInputError, match="0 own samples"):
        kulsif.fit(some[:0], some, 1.0, 1.0)
    with pytest.raises(InvalidInputError, match="width 0"):
        kulsif.fit(some, some, 0.0, 1.0)
    with pytest.raises(InvalidInputError, match="penalty -1"):
        kulsif.fit(some, some, 1.0, -1.0)


def test_the_median_distance_is_that_of_pairs():
    assert kulsif.median_distance(column(0, 1, 3)) == 2.0  # of 1, 2 and 3
    assert kulsif.median_distance(column(5)) == 1.0
    assert kulsif.median_distance(column(5, 5)) == 1.0


def test_the_background_fills_its_box():
    background = kulsif.uniform(-1.0, 3.0, 4000, 2, rng())
    assert background.shape == (4000, 2)
    assert -1.0 <= background.min() < -0.99
    assert 2.99 < background.max() <= 3.0
    torch.testing.assert_close(background.mean(0), torch.ones(2, dtype=torch.float64), atol=0.1, rtol=0)


# --- k-means


LINE = column(0, 1, 2, 3, 4, 100, 101, 102, 103, 104)


def test_kmeans_by_hand():
    """Two groups of five: their means are 2 and 102."""
    found = kmeans.fit(LINE, None, 2, seed=0)
    assert sorted(found.centroids[:, 0].tolist()) == [2.0, 102.0]
    torch.testing.assert_close(found.score(column(2, 5, 101)), torch.tensor([0.0, -3.0, -1.0], dtype=torch.float64))


def test_each_class_has_clusters_of_its_own():
    """By classes 0 to 4 and 100 to 104 have one mean each, together they have the mean 52."""
    labels = torch.tensor([7] * 5 + [2] * 5)
    assert sorted(kmeans.fit(LINE, labels, 1, seed=0).centroids[:, 0].tolist()) == [2.0, 102.0]
    assert kmeans.fit(LINE, None, 1, seed=0).centroids.tolist() == [[52.0]]


@pytest.mark.parametrize(("samples", "clusters"), [(1, 1), (4, 1), (9, 1), (10, 2), (23, 4), (50, 10), (80, 10)])
def test_a_cluster_has_five_samples_or_is_the_only_one(samples, clusters, caplog):
    x = torch.randn(samples, 3, generator=rng(), dtype=torch.float64)
    found = kmeans.fit(x, torch.zeros(samples), 10, seed=0)
    assert found.centroids.shape == (clusters, 3)
    assert found.score(x).isfinite().all()
    assert ("fewer clusters than 10" in caplog.text) == (clusters < 10)


def test_kmeans_is_a_function_of_its_seed():
    x = torch.randn(200, 5, generator=rng(), dtype=torch.float64)
    one, same, other = (kmeans.fit(x, None, 8, seed=seed).centroids for seed in (3, 3, 2**62))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_kmeans_refuses_what_it_cannot_use():
    with pytest.raises(InvalidInputError, match="0 samples"):
        kmeans.fit(LINE[:0], None, 1, seed=0)
    with pytest.raises(InvalidInputError, match="0 clusters"):
        kmeans.fit(LINE, None, 0, seed=0)


# --- votes


class Own:
    """Scores a sample by its first feature, and remembers what it was fitted to."""

    def __init__(self, learned: Tensor, labels: Tensor) -> None:
        self.learned = learned

    def score(self, x: Tensor) -> Tensor:
        return x[:, 0].double()


def cast(own: Tensor, public: Tensor, fit=Own, fitted=4, accepted=0.75, seed=0) -> Tensor:
    return vote(
        own, torch.zeros(len(own)), public, fit, fitted=fitted, accepted=accepted, rng=rng(seed), who="client 3"
    )


def test_the_threshold_comes_from_samples_that_were_not_fitted():
    """Four of 0 to 9 are fitted; the others' lower quartile is the limit, whatever the four are."""
    seen = []

    def fit(learned: Tensor, labels: Tensor) -> Own:
        seen.extend(learned[:, 0].tolist())
        return Own(learned, labels)

    own = column(*range(10))
    public = column(*np.arange(0, 10, 0.125))
    said = cast(own, public, fit)
    assert len(set(seen)) == 4
    limit = np.quantile(sorted(set(range(10)) - set(seen)), 0.25)
    assert torch.equal(said, public[:, 0] > limit)


@pytest.mark.parametrize("accepted", [0.0, 0.5, 0.75, 0.9])
def test_the_share_asked_for_is_the_recall_on_own_samples(accepted):
    own = torch.randn(4000, 2, generator=rng(), dtype=torch.float64)
    again = torch.randn(4000, 2, generator=rng(1), dtype=torch.float64)
    assert float(cast(own, again, fitted=400, accepted=accepted).double().mean()) == pytest.approx(accepted, abs=0.03)


def test_who_is_held_out_is_a_function_of_the_random_numbers():
    own, public = column(*range(30)), column(*range(30))
    assert torch.equal(cast(own, public), cast(own, public))
    assert len({int(cast(own, public, seed=seed).sum()) for seed in range(20)}) > 1


@pytest.mark.parametrize("samples", [0, 1])
def test_who_can_hold_nothing_out_claims_nothing(samples, caplog):
    said = cast(column(*range(samples)), column(0, 1, 2))
    assert said.tolist() == [False] * 3
    assert f"client 3 has {samples} samples" in caplog.text


@pytest.mark.parametrize("fitted", [0, 1, 2, 100])
@pytest.mark.parametrize("samples", [2, 3])
def test_one_is_fitted_and_one_is_held_out_at_least(samples, fitted):
    for fit in (partial(kmeans.fit, clusters=10, seed=0), lambda x, y: kulsif.fit(x, column(-9, 9), 1.0, 0.5)):
        said = cast(column(*range(samples)), column(0.5, 90.0), fit, fitted=fitted)
        assert said.dtype == torch.bool
        assert not said[1]


def test_who_accepts_nothing_says_so(caplog):
    assert not cast(column(5, 5, 5, 5, 5), column(0, 1)).any()
    assert "client 3 votes on no public sample" in caplog.text


def test_nothing_passes_where_the_kernel_underflows(caplog):
    own = torch.randn(20, 784, generator=rng())
    ratio = lambda x, y: kulsif.fit(x, kulsif.uniform(-1, 1, 5, 784, rng()), 1e-3, 0.5)  # noqa: E731
    assert not cast(own, own + 0.5, ratio).any()
    assert "is 0 between samples" in caplog.text
    assert "votes on no public sample" in caplog.text


def test_it_refuses_features_that_are_not_finite_and_shares_out_of_range():
    with pytest.raises(InvalidInputError, match="client 3 has features that are not finite"):
        cast(column(0, math.nan), column(0))
    with pytest.raises(InvalidInputError, match="share of 1"):
        cast(column(0, 1), column(0), accepted=1.5)


def test_one_class_clients_recognize_their_own_digits(shared_data):
    """On MNIST three quarters of its own, at a precision above 0.35, where all votes together have 0.1."""
    from fd_flower.config import settings
    from fd_flower.data import federation
    from fd_flower.data.encoder import encoder

    data = settings(
        "fedmd", f"data.source={shared_data('mnist')} data.partition=classes data.classes=1 data.per_client=600"
    ).data
    held = federation(data, 0)
    encode = encoder(data, held.public)
    public, labels = encode(held.public), held.public_labeled.labels
    right = torch.stack([torch.isin(labels, held.data(client).train.labels) for client in held.clients])

    def ratio(own: Tensor, _: Tensor) -> kulsif.KuLSIF:
        width = kulsif.median_distance(own) / 6
        return kulsif.fit(own, kulsif.uniform(-1, 1, 250, 784, rng()), width, 250**-0.5)

    for fit, fitted in ((ratio, 100), (partial(kmeans.fit, clusters=10, seed=0), 336)):
        said = torch.stack(
            [
                vote(encode(own), own.labels, public, fit, fitted=fitted, accepted=0.75, rng=rng(), who=client)
                for client, own in ((client, held.data(client).train) for client in held.clients)
            ]
        )
        recall = float((said & right).sum()) / float(right.sum())
        assert recall == pytest.approx(0.75, abs=0.06)
        assert float((said & right).sum()) / float(said.sum()) > 0.35
        assert 0.1 < float((~said.any(0)).double().mean()) < 0.35
