"""Who holds which rows: each rule does what it says, always the same for a seed, or says what would work."""

import re
import warnings
from dataclasses import fields

import numpy as np
import pytest

from fd_flower.config import DataConfig
from fd_flower.config.data import PARTITIONS
from fd_flower.core.errors import InvalidInputError
from fd_flower.data.partition import dirichlet, options, partition, rules

pytestmark = pytest.mark.usefixtures("fresh_cache")
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))
RULES = {
    "iid": {},
    "dirichlet": {"alpha": 0.5},
    "balanced": {"alpha": 0.5},
    "inner_dirichlet": {"alpha": 0.5},
    "embedding": {"alpha": 0.5},
    "fedgen": {"alpha": 0.5},
    "classes": {"classes": 3},
    "overlap": {"classes": 2, "shared": 3},
    "primary": {"skew": 20.0, "primaries": 2},
    "quantity": {"alpha": 0.3},
    "column": {"column": "writer"},
    "domain": {},
}


def deal(rule, clients=8, seed=0, labels=LABELS, groups=None, **options):
    config = DataConfig(partition=rule, clients=clients, **{**RULES[rule], **options})
    if groups is None:
        writers = np.array([f"w{i % 12}" for i in range(1000)])
        groups = {"column": writers, "domain": np.arange(1000) % 3, "embedding": LABELS // 2}.get(rule)
    return partition(config, labels, groups, seed)


def test_every_partition_has_its_rule():
    assert set(rules()) == set(PARTITIONS) == set(RULES)


def test_a_partition_speaks_of_its_own_options_alone():
    about = options(DataConfig(partition="overlap", shared=4, alpha=0.7))
    assert about["shared"] == 4
    assert about["source"] == "digits"
    others = {"alpha", "clusters", "allocation", "ratio", "skew", "primaries", "column"}
    assert about.keys() == {f.name for f in fields(DataConfig)} - others


def test_another_rules_option_does_not_deal_anew(tmp_path, monkeypatch):
    """What is kept on disk is known by the rule's own options: `iid` has no alpha, `quantity` has."""
    monkeypatch.setenv("FD_FLOWER_CACHE", str(tmp_path))
    for rule, count in (("iid", 1), ("quantity", 3)):
        for alpha in (0.1, 0.2):
            deal(rule, alpha=alpha)
        assert len(list(tmp_path.glob("partitions/*"))) == count


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_deals_disjoint_rows(rule):
    held = deal(rule)
    rows = np.concatenate(held)
    assert len(held) == 8
    assert len(np.unique(rows)) == len(rows)
    dealt = {"column": pytest.approx(8 * 1000 / 12, abs=8), "fedgen": 10 * 50}
    assert len(rows) == dealt.get(rule, 1000)
    assert all(len(own) >= 10 and (np.diff(own) > 0).all() for own in held)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_a_function_of_the_seed(rule, tmp_path, monkeypatch):
    held = deal(rule, seed=3)
    other = deal(rule, seed=4)
    monkeypatch.setenv("FD_FLOWER_CACHE", str(tmp_path))  # dealt anew, not read
    again = deal(rule, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(held, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(held, other, strict=True))


def test_iid_is_even():
    assert {len(own) for own in deal("iid")} == {125}
    assert all(len(np.unique(LABELS[own])) == 10 for own in deal("iid"))


def test_a_small_alpha_skews_labels():
    def classes(alpha):
        return np.mean([len(np.unique(LABELS[own])) for own in deal("dirichlet", alpha=alpha)])

    assert classes(0.1) < classes(1.0) < classes(100.0) == 10


def counted(held, labels=LABELS):
    """Return how many rows of each class each client has [clients, classes]."""
    return np.array([np.bincount(labels[own], minlength=10) for own in held])


@pytest.mark.parametrize("rule", ["balanced", "inner_dirichlet"])
@pytest.mark.parametrize("alpha", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("clients", [10, 20, 25])
def test_equal_sizes_of_unequal_classes(rule, alpha, clients):
    counts = counted(deal(rule, clients=clients, alpha=alpha))
    assert set(counts.sum(1).tolist()) == {1000 // clients}
    assert counts.sum(0).tolist() == [100] * 10
    largest = (counts.max(1) / counts.sum(1)).mean()
    assert largest > 0.4 if alpha == 0.1 else largest > 0.15 if alpha == 1 else largest < 0.25


def test_a_client_holds_the_mix_that_it_draws_while_classes_last():
    labels = np.repeat(np.arange(10), 2000)
    counts = counted(deal("inner_dirichlet", clients=4, alpha=100.0, labels=labels, seed=1), labels)
    assert counts.sum(1).tolist() == [5000] * 4
    assert np.abs(counts / 5000 - 0.1).max() < 0.04
    alone = counted(deal("inner_dirichlet", clients=4, alpha=1e-3, labels=labels, seed=1), labels)
    assert (alone.max(1) > 900).all()  # a class has 2,000, which others take of once theirs are used up


def test_groups_of_ten_clients_have_their_part_of_the_rows():
    counts = counted(deal("balanced", clients=20, alpha=1.0))
    assert counts[:10].sum() == counts[10:].sum() == 500
    assert (counts[:10].sum(0) > 25).all()  # a random half of the rows has of every class


def test_an_impossible_balanced_partition_names_an_alpha_that_works():
    line = refusal("balanced", clients=20, alpha=1e-6)
    assert "found no partition of 1000 rows among 20 clients in 2000 draws: take data.alpha=" in line


MNIST = np.repeat(np.arange(10), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
LETTERS = np.repeat(np.arange(26), 4800)


@pytest.mark.parametrize(
    ("labels", "ratio", "clients", "number"),
    [
        (MNIST, 0.5, 20, [1500] * 10),  # min(.5 * 60,000 / 20, .5 * 5,421) = 1,500 of each class: 15,000 in all
        (LETTERS, 0.1, 20, [480] * 26),  # min(.1 * 124,800 / 20, .1 * 4,800) = min(624, 480): 12,480 in all
        (LABELS, 0.5, 4, [50] * 10),  # min(.5 * 1,000 / 4, .5 * 100)
        (LABELS, 1.0, 20, [100] * 10),  # everything
        (np.repeat([0, 1], [900, 100]), 0.5, 2, [250, 50]),  # min(.5 * 1,000 / 2, .5 * 900), min(250, 50)
    ],
)
def test_fedgens_rule_uses_so_many_rows_of_a_class(labels, ratio, clients, number):
    held = deal("fedgen", clients=clients, alpha=1.0, ratio=ratio, labels=labels, min_rows=1)
    assert np.bincount(labels[np.concatenate(held)]).tolist() == number


@pytest.mark.parametrize("alpha", [0.05, 0.1, 1.0])
def test_fedgens_rule_lets_full_clients_stand_by(alpha):
    """A client gets of a class only while it has fewer than 1,500 rows: without its largest class it has fewer, too."""
    held = deal("fedgen", clients=20, alpha=alpha, labels=MNIST)
    assert min(map(len, held)) >= 10
    counts = [np.bincount(MNIST[own], minlength=10) for own in held]
    assert all(own.sum() - own.max() < 1500 for own in counts)
    spread = np.mean([np.count_nonzero(own) for own in counts])
    assert spread < 6 if alpha <= 0.1 else spread > 8


def test_fedgens_rule_gives_up_in_words():
    line = refusal("fedgen", clients=40, alpha=0.01)
    assert "found no partition of 120 rows among 40 clients with at least 10" in line
    assert "found no partition of 250 rows among 20 clients" in refusal("fedgen", clients=20, alpha=1e-9, min_rows=20)
    for ratio in (0.0, 1.5):
        with pytest.raises(InvalidInputError, match=r"data.ratio is .*; expected a share above 0 and at most 1"):
            deal("fedgen", ratio=ratio)


@pytest.mark.parametrize(("clients", "classes"), [(5, 2), (7, 2), (10, 1), (4, 3), (8, 7), (30, 3), (3, 10)])
def test_with_classes_every_class_is_held_evenly(clients, classes):
    held = deal("classes", clients=clients, classes=classes, min_rows=1)
    assert [len(np.unique(LABELS[own])) for own in held] == [classes] * clients
    holders = np.bincount(np.concatenate([np.unique(LABELS[own]) for own in held]), minlength=10)
    assert holders.min() >= 1
    assert holders.max() - holders.min() <= 1
    assert sum(map(len, held)) == 1000


@pytest.mark.parametrize(("clients", "classes"), [(10, 1), (5, 2)])
def test_classes_can_be_disjoint(clients, classes):
    hands = [set(LABELS[own]) for own in deal("classes", clients=clients, classes=classes)]
    assert [len(hand) for hand in hands] == [classes] * clients
    assert sum(map(len, hands)) == 10 == len(set.union(*hands))  # no class is in two hands


@pytest.mark.parametrize(("clients", "classes", "shared"), [(8, 2, 3), (4, 2, 2), (9, 1, 1), (5, 5, 5)])
def test_classes_overlap_in_those_that_all_hold(clients, classes, shared):
    """Of a shared class everybody has 100 / clients rows; of the others each is held by somebody, evenly."""
    held = deal("overlap", clients=clients, classes=classes, shared=shared, min_rows=1)
    assert sum(map(len, held)) == 1000
    counts = np.stack([np.bincount(LABELS[own], minlength=10) for own in held])
    assert (np.count_nonzero(counts, axis=1) == classes + shared).all()
    holders = np.count_nonzero(counts, axis=0)
    everybodys = np.sort(holders)[-shared:]
    assert everybodys.tolist() == [clients] * shared
    others = np.sort(holders)[:-shared]
    assert others.min() >= 1
    assert others.max() - others.min() <= 1
    common = counts[:, (counts >= 1).all(axis=0)]
    assert common.max() - common.min() <= 1


def test_with_four_clients_and_two_shared_classes_of_ten_the_others_are_disjoint():
    """4 x 2 private classes are just the eight that are not shared: 100 rows each, and 25 of each shared one."""
    held = deal("overlap", clients=4, classes=2, shared=2)
    counts = np.stack([np.bincount(LABELS[own], minlength=10) for own in held])
    assert all(sorted(own) == [0] * 6 + [25, 25, 100, 100] for own in counts.tolist())


def test_impossible_overlaps_are_refused():
    assert "data.shared is 9 and data.classes is 2, but the private rows have 10 classes: expected a sum of at" in (
        refusal("overlap", classes=2, shared=9)
    )
    assert "leave some of 10 classes to no client: take data.classes=4 or at least 8 clients" in refusal(
        "overlap", clients=2, classes=1, shared=2
    )


CLUSTERS = np.random.default_rng(2).integers(0, 5, 1000)


def test_clusters_are_dealt_out_whole_and_labels_do_not_count():
    held = deal("embedding", groups=CLUSTERS, alpha=0.2)
    other = deal("embedding", groups=CLUSTERS, alpha=0.2, labels=np.roll(LABELS, 1))
    assert all(np.array_equal(a, b) for a, b in zip(held, other, strict=True))
    counts = np.stack([np.bincount(CLUSTERS[own], minlength=5) for own in held])
    assert (counts.sum(0) == np.bincount(CLUSTERS)).all()


def test_an_alpha_means_the_same_for_clusters_as_for_classes():
    """A share ~ Dir(alpha 1_n) has the variance (n - 1) / (n^2 (n alpha + 1)): 7 / (64 * 5) = 0.0219 at alpha 1/2.

    Over 200 clusters of 500 rows the mean of 1,600 squared deviations is that within a few per cent.
    """
    labels = np.repeat(np.arange(200), 500)
    got = shares(deal("embedding", labels=labels, groups=labels, alpha=0.5), labels)
    assert np.mean((got - 1 / 8) ** 2) == pytest.approx(7 / 320, rel=0.15)
    np.testing.assert_allclose(got.sum(0), 1)


def test_the_papers_allocation_mixes_clusters_by_client():
    """With more clients than clusters nearly every row is used; a mixture's total concentration is alpha.

    Its shares have the variance r (1 - r) / (alpha + 1), here .2 * .8 / 3 = 0.0533, before some draws are refused.
    """
    labels = np.repeat(np.arange(5), 2000)
    held = deal("embedding", clients=40, labels=labels, groups=labels, alpha=2.0, allocation="per_client")
    rows = np.concatenate(held)
    assert len(np.unique(rows)) == len(rows)
    assert 9000 < len(rows) <= 10_000
    counts = np.stack([np.bincount(labels[own], minlength=5) for own in held])
    mixtures = counts / counts.sum(1, keepdims=True)
    assert np.mean((mixtures - 0.2) ** 2) == pytest.approx(0.16 / 3, rel=0.4)


def test_the_papers_allocation_solves_for_sizes():
    """Two clients and one cluster: each has a mixture of one, and least squares gives both half of the rows."""
    one = np.zeros(1000, dtype=np.int64)
    held = deal("embedding", clients=2, groups=one, alpha=1.0, allocation="per_client")
    assert [len(own) for own in held] == pytest.approx([500, 500], abs=1)  # rounded down


def test_what_the_papers_allocation_cannot_do_is_refused():
    assert "takes more clients than clusters: data.clients is 5 for 5 clusters (data.clusters)" in refusal(
        "embedding", clients=5, groups=CLUSTERS, allocation="per_client"
    )
    hopeless = refusal("embedding", clients=6, groups=CLUSTERS, alpha=1e-3, min_rows=150, allocation="per_client")
    assert "found no partition of 1000 rows among 6 clients with at least 150 (data.min_rows) each in 1000" in hopeless


def test_an_impossible_embedding_names_an_alpha_that_works():
    line = refusal("embedding", clients=40, alpha=0.01)
    works = float(re.search(r"take data.alpha=([\d.]+), fewer clients", line)[1])
    assert min(map(len, deal("embedding", clients=40, alpha=works))) >= 10


MANY = np.random.default_rng(1).permutation(np.repeat(np.arange(5), 20_000))


def shares(held, labels):
    """Return the share of each class [classes] that each client holds [clients]: [clients, classes]."""
    counts = np.stack([np.bincount(labels[own], minlength=labels.max() + 1) for own in held])
    return counts / counts.sum(0)


@pytest.mark.parametrize(("skew", "primaries"), [(4.0, 1), (100.0, 3)])
def test_primary_clients_have_the_formulas_share(skew, primaries):
    """Of K clients P are primary for a class, with (1 + s) / (K + P s) of its rows each; the others have 1 / (K + P s).

    A share over 20,000 rows has a standard deviation of at most 0.0036.
    """
    got = shares(deal("primary", labels=MANY, skew=skew, primaries=primaries), MANY)
    total = 8 + primaries * skew
    is_primary = got > 2 / total
    assert is_primary.sum(0).tolist() == [primaries] * 5
    np.testing.assert_allclose(got, np.where(is_primary, (1 + skew) / total, 1 / total), atol=0.015)


def test_clients_are_primary_for_equally_many_classes():
    got = shares(deal("primary", clients=4, skew=1000.0, primaries=2), LABELS)
    assert (got > 0.25).sum(1).tolist() == [5, 5, 5, 5]  # ten classes with two primary clients each
    uneven = shares(deal("primary", clients=4, skew=1000.0, primaries=1, labels=MANY), MANY)
    assert sorted((uneven > 0.5).sum(1)) == [1, 1, 1, 2]


def test_without_skew_nobody_is_primary():
    """Binomial shares of 1/8: a standard deviation of 0.0023."""
    got = shares(deal("primary", labels=MANY, skew=0.0), MANY)
    np.testing.assert_allclose(got, 1 / 8, atol=0.01)


def test_quantity_skews_sizes_alone():
    held = deal("quantity", alpha=0.2, min_rows=20)
    sizes = [len(own) for own in held]
    assert min(sizes) >= 20
    assert max(sizes) > 4 * min(sizes)
    assert len(np.unique(LABELS[max(held, key=len)])) == 10


def test_a_column_says_who_is_the_client():
    groups = np.array(["anna"] * 300 + ["bo"] * 5 + ["cy"] * 695)
    held = deal("column", clients=2, groups=groups)
    assert [set(groups[own]) for own in held] == [{"anna"}, {"cy"}]  # bo has less than data.min_rows
    with pytest.raises(InvalidInputError, match=r"has 2 values with at least 10 rows .*: take at most 2 clients"):
        deal("column", clients=3, groups=groups)


def test_a_domain_is_shared_by_neighbors():
    groups = np.repeat([0, 1], 500)
    assert [set(groups[own]) for own in deal("domain", clients=5, groups=groups)] == [{0}, {0}, {0}, {1}, {1}]
    with pytest.raises(InvalidInputError, match=r"data.clients is 1, but data.source lists 2 sources"):
        deal("domain", clients=1, groups=groups)


def refusal(*args, **kwargs):
    """Return the one line, after a look that nothing else was said."""
    with warnings.catch_warnings(action="error"), pytest.raises(InvalidInputError) as raised:
        deal(*args, **kwargs)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300
    return str(raised.value)


def test_more_clients_than_rows_are_refused():
    assert refusal("iid", clients=2000) == "2000 clients are more than the 1000 private rows: take data.clients=100"
    assert "need 1200 private rows, there are 1000: take data.clients=100 or data.min_rows=8" in refusal(
        "iid", clients=120
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("option", ["clients", "min_rows"])
def test_a_hint_that_is_followed_to_the_letter_works(rule: str, option: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dirichlet, "DRAWS", 50)  # what is found among them is found among more
    line = refusal(rule, clients=120)
    hint = re.search(rf"data.{option}=(\d+)|at most (\d+) {option}", line)
    if hint is None:  # every number was tried and none works
        assert (rule, option) in {("fedgen", "min_rows"), ("primary", "min_rows"), ("column", "min_rows")}
        return
    changed = {"clients": 120, "min_rows": 10, option: int(hint[1] or hint[2])}
    assert min(map(len, deal(rule, **changed))) >= changed["min_rows"]


def test_a_columns_values_are_counted_for_its_hint():
    """Sizes 6, 3, 2 and 1."""
    groups = np.repeat(["a", "b", "c", "d"], [6, 3, 2, 1])
    about = {"labels": np.zeros(12, dtype=np.int64), "groups": groups}
    assert "take at most 2 clients or data.min_rows=2" in refusal("column", clients=3, min_rows=3, **about)
    assert list(map(len, deal("column", clients=3, min_rows=2, **about))) == [6, 3, 2]


def test_an_impossible_dirichlet_names_an_alpha_that_works(capfd):
    line = refusal("dirichlet", clients=40, alpha=0.05)
    works = float(re.search(r"take data.alpha=([\d.]+), fewer clients", line)[1])
    assert min(map(len, deal("dirichlet", clients=40, alpha=works))) >= 10
    assert capfd.readouterr() == ("", "")


def test_a_hopeless_dirichlet_still_ends():
    assert refusal("dirichlet", clients=100, alpha=0.3).endswith("take fewer clients or a smaller data.min_rows")
    assert "take data.alpha=0.1, fewer clients" in refusal("dirichlet", alpha=1e-6, min_rows=1)  # one holder a class


def test_impossible_classes_are_refused():
    assert "leave some of 10 classes to no client: take data.classes=3 or at least 5 clients" in refusal(
        "classes", clients=4, classes=2
    )
    assert refusal("classes", classes=11) == "data.classes is 11, but the private rows have 10 classes"


def test_more_primary_clients_than_clients_are_refused():
    assert refusal("primary", primaries=9) == "data.primaries is 9, but data.clients is 8: take at most 8"
    for option in ({"skew": -1.0}, {"skew": float("inf")}, {"primaries": 0}):
        with pytest.raises(InvalidInputError, match=f"data.{next(iter(option))} is"):
            deal("primary", **option)


def test_a_client_that_is_primary_for_nothing_is_left_too_few_rows():
    """Ten of twenty clients share 1 / (20 + 10,000) of each class."""
    assert "data.partition=primary leaves a client with 0 rows, data.min_rows is 10" in refusal(
        "primary", clients=20, skew=10_000.0, primaries=1
    )


def test_the_smallest_client_keeps_min_rows():
    rare = np.repeat([0, 1], [900, 100])  # ten of twenty clients share the rare class
    assert min(map(len, deal("classes", clients=20, classes=1, min_rows=10, labels=rare))) == 10
    assert "leaves a client with 10 rows, data.min_rows is 11: take data.clients=19 or data.min_rows=10" in refusal(
        "classes", clients=20, classes=1, min_rows=11, labels=rare
    )
