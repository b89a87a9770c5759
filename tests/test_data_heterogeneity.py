"""How different clients are, in bits, by hand and by others' formulas; clusters that are a function of their key."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import adjusted_rand_score, mutual_info_score

from fd_flower.cli import main
from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.data import clusters, federation, holdings, plot_holdings
from fd_flower.data.encoder import identity
from fd_flower.data.heterogeneity import divergences, entropy, mutual_information

pytestmark = pytest.mark.usefixtures("fresh_cache")


def counts(*rows):
    return torch.tensor(rows)


def test_two_clients_with_a_class_each():
    """p = (1, 0), q = (1/2, 1/2), mean (3/4, 1/4): .8113 - (0 + 1) / 2 bits."""
    assert divergences(counts([9, 0], [0, 9])).tolist() == pytest.approx([0.31128] * 2, abs=1e-5)


def test_clients_like_the_whole_do_not_diverge():
    assert divergences(counts([1, 2, 0, 5], [10, 20, 0, 50])).tolist() == pytest.approx([0, 0], abs=1e-12)


def test_ten_clients_with_a_class_each():
    """Mean (11/20, 9 x 1/20): .4744 + .45 x 4.3219 = 2.4193; less log2(10) / 2 = 1.6610."""
    assert divergences(torch.eye(10, dtype=torch.int64) * 7).tolist() == pytest.approx([0.7583] * 10, abs=1e-4)


def test_a_tiny_client_with_a_kind_of_its_own_is_just_below_one():
    apart = divergences(counts([1, 0], [0, 10**9]))
    assert 0.999 < float(apart[0]) < 1


def test_divergence_is_scipys():
    held = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (6, 8)))
    whole = held.sum(0).numpy()
    expected = [jensenshannon(own, whole, base=2) ** 2 for own in held.numpy()]
    np.testing.assert_allclose(divergences(held), expected, atol=1e-12)


def test_mutual_information_by_hand():
    assert mutual_information(counts([5, 0], [0, 5])) == pytest.approx(1)  # one says the other
    assert mutual_information(counts([4, 4], [2, 2])) == pytest.approx(0, abs=1e-12)  # independent
    assert float(entropy(torch.tensor([0.5, 0.25, 0.25, 0.0]))) == pytest.approx(1.5)


def test_mutual_information_is_scikit_learns():
    joint = np.random.default_rng(1).integers(0, 50, (6, 8))
    nats = mutual_info_score(None, None, contingency=joint)
    assert mutual_information(torch.from_numpy(joint)) == pytest.approx(nats / np.log(2))


# --- clusters


def blobs():
    """Four bundles of 2x2 images, 30 of each, far apart."""
    rng = np.random.default_rng(0)
    centers = np.array([[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 255]])
    truth = rng.permutation(np.repeat(np.arange(4), 30))
    pixels = np.clip(centers[truth] + rng.integers(-9, 10, (120, 4)), 0, 255).astype(np.uint8)
    return Samples(torch.from_numpy(pixels).view(120, 1, 2, 2)), truth


def test_clusters_find_what_is_apart():
    samples, truth = blobs()
    found = clusters.clustered(samples, DataConfig(clusters=4), seed=0)
    assert adjusted_rand_score(truth, found) == 1
    assert found.dtype == np.int64


def test_clusters_are_made_once_a_key(monkeypatch):
    samples, _ = blobs()
    made = []
    inner = clusters._save
    monkeypatch.setattr(clusters, "_save", lambda *about: made.append(1) or inner(*about))
    keys = [(7, 0), (7, 0), (7, 1), (6, 0)]
    got = [clusters.clustered(samples, DataConfig(clusters=number), seed) for number, seed in keys]
    assert len(made) == 3
    assert np.array_equal(got[0], got[1])
    clusters.clustered(samples[torch.arange(100)], DataConfig(clusters=7), 0)
    assert len(made) == 4


def test_clusters_do_not_depend_on_the_cache(tmp_path, monkeypatch):
    samples, _ = blobs()
    before = clusters.clustered(samples, DataConfig(clusters=7), 3)
    monkeypatch.setenv("FD_FLOWER_CACHE", str(tmp_path))
    assert np.array_equal(before, clusters.clustered(samples, DataConfig(clusters=7), 3))


def test_encoders_differ_in_their_identity(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    a, b, c = (identity(DataConfig(encoder=str(tmp_path / f"{n}.safetensors")), (1, 8, 8)) for n in "abc")
    assert a == c != b
    assert identity(DataConfig(encoder="pixels"), (1, 8, 8)) not in (a, b)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        identity(DataConfig(encoder=str(tmp_path / "none.safetensors")), (1, 8, 8))


def test_no_encoder_of_clusters_learns_private_labels():
    with pytest.raises(InvalidInputError, match=r"train:digits would learn the private labels of data.source"):
        federation(DataConfig(partition="embedding", encoder="train:digits"), 0)


def test_fewer_rows_than_clusters_are_refused():
    with pytest.raises(InvalidInputError, match="40 private rows cannot make 50 clusters"):
        clusters.clustered(blobs()[0][torch.arange(40)], DataConfig(clusters=50), 0)


# --- the report


@pytest.mark.parametrize("rule", ["embedding", "fedgen", "overlap"])
def test_holdings_count_clusters_as_they_count_classes(rule):
    whole = federation(DataConfig(partition=rule, clients=4, clusters=6), 0)
    held = holdings(whole, clusters=True)
    assert held.clusters.shape == (4, 6)
    assert held.clusters.sum(1).tolist() == held.counts.sum(1).tolist() == held.parts.sum(1).tolist()
    assert held.joint.sum(0).tolist() == held.counts.sum(0).tolist()
    assert held.joint.sum(1).tolist() == held.clusters.sum(0).tolist()
    plain = holdings(whole)
    assert torch.equal(plain.counts, held.counts)
    assert plain.clusters is None


def test_a_small_alpha_is_more_heterogeneous_in_clusters():
    def mean(alpha):
        whole = federation(DataConfig(partition="embedding", clients=4, alpha=alpha, min_rows=1), 0)
        return float(divergences(holdings(whole, clusters=True).clusters).mean())

    assert mean(0.1) > mean(1.0) > mean(100.0)
    assert mean(100.0) < 0.02


def test_public_samples_are_nobodys():
    whole = federation(DataConfig(partition="embedding", clients=4), 0)
    private = np.concatenate(whole.rows)
    assert not set(private) & set(whole.public.index.tolist())
    assert sorted(private) == whole.dealt.tolist()  # all of the others are somebody's


def test_clusters_are_drawn_below_classes(tmp_path):
    whole = federation(DataConfig(partition="embedding", clients=4), 0)
    plot_holdings(whole, tmp_path / "plain.png")
    plot_holdings(whole, tmp_path / "both.png", clusters=True)
    assert (tmp_path / "both.png").stat().st_size > (tmp_path / "plain.png").stat().st_size > 10_000


def test_the_report_names_its_figures(capsys):
    assert main(["data", "--set", "data.partition=embedding data.clients=3 data.clusters=4"]) == 0
    said = capsys.readouterr().out
    assert "c3" in said
    assert "bits of its label (mutual information)" in said
    assert main(["data", "--set", "data.partition=iid data.clients=3"]) == 0
    plain = capsys.readouterr().out
    assert "JS" in plain
    assert "c3" not in plain
