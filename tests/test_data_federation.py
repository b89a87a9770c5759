"""A federation's cuts: disjoint, seeded, the same on a device as in a simulation."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import numpy_rng
from fd_flower.data import clients, cut, device_data, elsewhere, federation, holdings, labeled, plot_holdings
from fd_flower.data.public import checksum

pytestmark = pytest.mark.usefixtures("fresh_cache")
PARTS = ("train", "validation", "test")


def rows(samples):
    return samples.index.tolist()


def own_rows(fed, client):
    data = fed.data(client)
    return [rows(getattr(data, part)) for part in PARTS]


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "classes", "quantity"])
def test_no_row_has_two_uses(partition):
    fed = federation(DataConfig(partition=partition), seed=0)
    used = [row for client in fed.clients for part in own_rows(fed, client) for row in part]
    used += rows(fed.public) + rows(fed.test)
    assert sorted(used) == list(range(1797))


def test_digits_give_a_stratified_fifth_to_the_test_set():
    fed = federation(DataConfig(), seed=0)
    whole, test = torch.bincount(fed.base.labels), torch.bincount(fed.test.labels)
    assert (test - whole / 5).abs().max() <= 0.5
    assert fed.test.x is fed.base.x  # a view, not a copy


def test_calls_in_another_order_give_the_same():
    config = DataConfig()
    first = federation(config, seed=5)
    forwards = {client: own_rows(first, client) for client in first.clients}
    clients._federation.cache_clear()
    federation(config, seed=6).data("3")
    second = federation(config, seed=5)
    assert second is not first
    assert {client: own_rows(second, client) for client in reversed(second.clients)} == forwards
    assert rows(second.public) == rows(first.public)
    assert rows(federation(config, seed=6).public) != rows(first.public)


def test_one_object_for_the_same_arguments():
    assert federation(DataConfig(), 0) is federation(DataConfig(clients=10), 0)
    assert federation(DataConfig(), 0) is not federation(DataConfig(), 1)


def test_clients_are_in_natural_order_and_strangers_refused():
    fed = federation(DataConfig(clients=12, partition="iid"), 0)
    assert fed.clients == tuple(str(number) for number in range(12))
    for stranger in ("12", "-1", "01", "anna"):
        with pytest.raises(InvalidInputError, match=f"there is no client '{stranger}'"):
            fed.data(stranger)


def test_shares_of_a_client():
    data = federation(DataConfig(partition="iid", clients=5, split=[0.5, 0.2, 0.3], public="none"), 0).data("0")
    assert [len(getattr(data, part)) for part in PARTS] == [144, 58, 86]  # 288 rows


@pytest.mark.parametrize(
    ("number", "shares", "expected"),
    [
        (1, (0.7, 0.1, 0.2), (1, 0, 0)),
        (2, (0.7, 0.1, 0.2), (1, 0, 1)),
        (3, (0.7, 0.1, 0.2), (1, 1, 1)),
        (10, (0.7, 0.1, 0.2), (7, 1, 2)),
        (10, (1.0, 0.0, 0.0), (10, 0, 0)),
        (4, (0.02, 0.49, 0.49), (1, 1, 2)),
    ],
)
def test_small_clients_keep_a_training_row(number, shares, expected):
    for classes in (1, 2, 10):
        parts = cut.parts(np.arange(number), np.arange(number) % classes, shares)
        assert tuple(map(len, parts)) == expected
        assert sorted(np.concatenate(parts).tolist()) == list(range(number))


def by_class(labels, shares):
    """Return the classes in each part."""
    labels = np.array(labels)
    return [sorted(labels[part].tolist()) for part in cut.parts(np.arange(len(labels)), labels, shares)]


def test_a_clients_parts_have_its_classes_in_the_shares_that_it_has():
    order = numpy_rng(0).permutation(100)
    labels = np.repeat([0, 1, 2], [60, 30, 10])[order]
    train, validation, test = by_class(labels, (0.7, 0.1, 0.2))
    assert np.bincount(train).tolist() == [42, 21, 7]
    assert np.bincount(validation).tolist() == [6, 3, 1]
    assert np.bincount(test).tolist() == [12, 6, 2]


def test_what_does_not_divide_goes_to_the_largest_remainders():
    # 2 of 11 rows for the test: quotas 1.09, 0.55, 0.36; 1 for validation: 0.55, 0.27, 0.18
    assert by_class([0] * 6 + [1] * 3 + [2] * 2, (0.7, 0.1, 0.2)) == [[0] * 4 + [1] * 2 + [2] * 2, [0], [0, 1]]


def test_a_class_of_one_row_is_learned_and_a_class_of_two_keeps_one_to_learn():
    train, validation, test = by_class([0] * 4 + [1, 2, 3, 3], (0.5, 0.2, 0.3))  # 2 for each
    assert train == [0, 1, 2, 3]
    assert sorted(validation + test) == [0, 0, 0, 3]


def test_where_every_class_has_one_row_some_are_tested_all_the_same():
    train, validation, test = by_class(range(10), (0.7, 0.1, 0.2))
    assert (len(train), len(validation), len(test)) == (7, 1, 2)


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_each_clients_parts_are_stratified(partition):
    fed = federation(DataConfig(partition=partition, clients=5), seed=0)
    for client in fed.clients:
        data = fed.data(client)
        counts = [torch.bincount(getattr(data, part).labels, minlength=10) for part in PARTS]
        whole = sum(counts)
        for share, part in zip((0.7, 0.1, 0.2), counts, strict=True):
            assert (part - whole * share).abs().max() <= 2
            assert abs(int(part.sum()) - int(whole.sum()) * share) <= 1
        assert not ((counts[0] == 0) & (whole > 0)).any()


def test_limits_hold():
    fed = federation(DataConfig(limit=500, public_size=60, per_client=20, clients=4, partition="iid"), 0)
    assert [sum(map(len, own_rows(fed, client))) for client in fed.clients] == [20] * 4
    assert len(fed.public) == 60
    assert len(fed.test) == pytest.approx(100, abs=5)
    assert sum(map(len, fed.rows)) == 500 - 60 - len(fed.test)


def test_public_samples_hide_their_labels():
    fed = federation(DataConfig(public_size=100), 0)
    assert fed.public.y is None
    assert rows(fed.public_labeled) == rows(fed.public)
    assert len(fed.public_labeled.labels) == 100
    same, other = federation(DataConfig(public_size=100, clients=3), 0), federation(DataConfig(public_size=100), 1)
    assert checksum(same.public) == checksum(fed.public) != checksum(other.public)


def test_noise_and_no_public_samples():
    noise = federation(DataConfig(public="noise", public_size=200), 0)
    assert noise.public.x.shape == (200, 1, 8, 8)
    assert noise.public.x.double().mean().item() == pytest.approx(127.5, abs=3)
    assert noise.public_labeled is None
    none = federation(DataConfig(public="none"), 0)
    assert (none.public, none.public_labeled) == (None, None)
    assert sum(map(len, none.rows)) + len(none.test) == 1797


def test_another_set_as_public_samples(shared_data):
    usps = str(shared_data("usps"))
    fed = federation(DataConfig(public=usps, public_size=300), 0)
    assert fed.public.x.shape[1:] == (1, 8, 8)  # brought to the private shape
    assert len(fed.public) == len(fed.public_labeled) == 300  # USPS has the same classes
    alone = elsewhere(DataConfig(public=usps, public_size=300), 0, fed.shape, fed.class_names)
    assert checksum(alone.samples) == checksum(fed.public)  # as a device makes it
    assert elsewhere(DataConfig(public=usps), 0, fed.shape, ("cat", "dog")).labeled is None


def test_private_samples_cannot_be_public():
    with pytest.raises(InvalidInputError, match=r"data.public is data.source, digits: use data.public=held-out"):
        federation(DataConfig(public="digits"), 0)
    with pytest.raises(InvalidInputError, match=r"data.public=held-out cuts from simulated data"):
        elsewhere(DataConfig(), 0, (1, 8, 8), ())


def test_domains(shared_data):
    usps = str(shared_data("usps"))
    config = DataConfig(source=["digits", usps], partition="domain", clients=4, size="8x8x1", public="none")
    fed = federation(config, 0)
    assert [set((own >= 1797).tolist()) for own in fed.rows] == [{False}, {False}, {True}, {True}]
    assert len(fed.test) == 359 + 2007  # a fifth of digits and the test rows of USPS
    assert sum(map(len, fed.rows)) == 1797 - 359 + 7291
    with pytest.raises(
        InvalidInputError, match=r"\(1, 16, 16\), digits of \(1, 8, 8\): bring them to one size, like data.size"
    ):
        federation(DataConfig(source=["digits", usps], partition="domain"), 0)
    with pytest.raises(InvalidInputError, match=r"a list of sources goes with data.partition=domain"):
        federation(DataConfig(source=["digits", usps]), 0)


def test_domains_need_the_same_classes(tmp_path, write_parquet):
    two = str(write_parquet(tmp_path, np.zeros((30, 8, 8), dtype=np.uint8), [0, 1] * 15, classes=2))
    with pytest.raises(InvalidInputError, match="has other classes than digits: it lacks 2, 3, 4, 5, 6 and 3 more"):
        federation(DataConfig(source=["digits", two], partition="domain"), 0)


def test_a_column_of_clients(tmp_path, write_parquet):
    images = np.random.default_rng(0).integers(0, 256, (120, 4, 4), dtype=np.uint8)
    writers = [f"writer {row % 3}" for row in range(120)]
    folder = str(write_parquet(tmp_path, images, np.arange(120) % 10, writer=writers))
    write_parquet(tmp_path, images[:20], np.arange(20) % 10, split="test")  # names no writers: nobody holds it
    config = DataConfig(source=folder, partition="column", column="writer", clients=3, public_size=20)
    fed = federation(config, 0)
    assert [{writers[row] for row in own} for own in fed.rows] == [{"writer 0"}, {"writer 1"}, {"writer 2"}]
    with pytest.raises(InvalidInputError, match=r"data.column is 'write'.*did you mean 'writer'"):
        federation(DataConfig(source=folder, partition="column", column="write"), 0)


def test_a_device_cuts_its_folder_as_the_simulation_does(tmp_path, write_parquet):
    config = DataConfig(per_client=60)
    fed = federation(config, 7)
    for client in ("0", "2"):
        held = fed.rows[int(client)]
        folder = write_parquet(tmp_path / client, fed.base.x[held, 0].numpy(), fed.base.labels[held].numpy())
        device, simulated = device_data(str(folder), config, 7, client), fed.data(client)
        for part in PARTS:
            mine, theirs = getattr(device, part), getattr(simulated, part)
            assert torch.equal(mine.x[mine.index], theirs.x[theirs.index])
            assert torch.equal(mine.labels, theirs.labels)


def test_a_missing_device_folder_is_refused():
    with pytest.raises(InvalidInputError, match="there is no folder /nowhere"):
        device_data("/nowhere", DataConfig(), 0, "anna")


def test_an_unlabeled_set_serves_as_public_alone(tmp_path):
    from datasets import Dataset, Features, Image
    from PIL import Image as Pil

    images = [Pil.fromarray(np.full((4, 4), level, dtype=np.uint8)) for level in range(20)]
    Dataset.from_dict({"image": images}, features=Features({"image": Image()})).to_parquet(tmp_path / "train.parquet")
    public = elsewhere(DataConfig(public=str(tmp_path), public_size=5), 0, (3, 8, 8), tuple("0123456789"))
    assert public.samples.x.shape == (20, 3, 8, 8)
    assert len(public.samples) == 5
    assert public.labeled is None
    with pytest.raises(InvalidInputError, match="the images are unlabeled"):
        labeled(str(tmp_path), DataConfig(), "train")


def test_holdings_count_every_row(tmp_path):
    fed = federation(DataConfig(), 0)
    held = holdings(fed)
    assert held.counts.shape == (10, 10)
    assert held.counts.sum(1).tolist() == held.parts.sum(1).tolist() == [len(own) for own in fed.rows]
    assert held.counts[3].tolist() == torch.bincount(fed.base.labels[fed.rows[3]], minlength=10).tolist()
    assert int(held.counts.sum()) + held.public + held.test == 1797
    plot_holdings(fed, tmp_path / "holdings.png")
    assert (tmp_path / "holdings.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), [("mnist", 60_000), ("cifar10", 50_000)])
def test_real_federations_load_fast_the_second_time(shared_data, name, number):
    config = DataConfig(source=str(shared_data(name)), clients=20, alpha=0.1)
    first = federation(config, 0)
    assert sum(map(len, first.rows)) + len(first.public) == number
    assert len(first.test) == 10_000
    clients._federation.cache_clear()
    start = time.perf_counter()
    second = federation(config, 0)
    assert time.perf_counter() - start < 0.5
    assert own_rows(second, "11") == own_rows(first, "11")


def test_the_cache_stays_where_it_is_told(fresh_cache: Path):
    federation(DataConfig(), 0)
    assert {folder.name for folder in fresh_cache.iterdir()} == {"images", "partitions"}
