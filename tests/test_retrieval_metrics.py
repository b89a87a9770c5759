"""Rankings are measured as trec_eval measures them, ties and all."""

import math

import pytest
import torch

from fd_flower.tasks.retrieval.metrics import METRICS, measure, precedence, standard_error


def test_metrics_by_hand():
    """Documents a to d have scores .4, .3, .2, .1, so their ranks are 1 to 4; relevant are b (gain 2) and d (gain 1).

    nDCG = (2 / log2 3 + 1 / log2 5) / (2 / log2 2 + 1 / log2 3); MRR = 1/2; MAP = (1/2 + 2/4) / 2.
    """
    found = measure(torch.tensor([[0.4, 0.3, 0.2, 0.1]]), [{1: 2, 3: 1}], precedence(["a", "b", "c", "d"]))
    ndcg = (2 / math.log2(3) + 1 / math.log2(5)) / (2 + 1 / math.log2(3))
    expected = {"ndcg@10": ndcg, "mrr@100": 0.5, "hit@1": 0.0, "hit@10": 1.0, "map": 0.5}
    assert {name: float(values) for name, values in found.items()} == pytest.approx(expected)


def test_of_equal_scores_the_later_id_comes_first_as_a_text():
    """'9' comes before '10': trec_eval compares texts."""
    scores = torch.zeros(1, 3)
    places = precedence(["10", "9", "2"])
    firsts = [float(measure(scores, [{document: 1}], places)["mrr@100"]) for document in range(3)]
    assert firsts == pytest.approx([1 / 3, 1.0, 1 / 2])


def test_hidden_documents_are_in_no_ranking():
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    found = measure(scores, [{2: 1}, {2: 1}], precedence("abc"), [frozenset({0}), frozenset()])
    assert found["mrr@100"].tolist() == pytest.approx([1 / 2, 1 / 3])
    assert scores[0, 0] == 3.0


def test_nothing_counts_below_its_rank():
    """The relevant document is 101st: no reciprocal rank, no hit; average precision goes over the whole ranking."""
    scores = -torch.arange(200.0)[None]
    found = {
        name: float(v) for name, v in measure(scores, [{100: 1}], precedence([str(i) for i in range(200)])).items()
    }
    assert found == pytest.approx({"ndcg@10": 0, "mrr@100": 0, "hit@1": 0, "hit@10": 0, "map": 1 / 101})


@pytest.mark.parametrize("levels", [3, 1000])
def test_like_trec_eval(levels):
    """Random scores of few levels (many ties) and of many, graded judgments, ids of one to three digits."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = torch.Generator().manual_seed(levels)
    documents = [str(number) for number in torch.randperm(150, generator=rng).tolist()]
    scores = torch.randint(levels, (20, 150), generator=rng).float()
    judged = []
    for _ in range(20):
        relevant = torch.randperm(150, generator=rng)[: int(torch.randint(1, 15, (1,), generator=rng))].tolist()
        judged.append({d: int(torch.randint(1, 4, (1,), generator=rng)) for d in relevant})
    found = measure(scores, judged, precedence(documents))
    qrel = {str(q): {documents[d]: gain for d, gain in of.items()} for q, of in enumerate(judged)}
    run = {str(q): dict(zip(documents, row.tolist(), strict=True)) for q, row in enumerate(scores)}
    names = {
        "ndcg@10": "ndcg_cut_10",
        "hit@1": "success_1",
        "hit@10": "success_10",
        "map": "map",
        "mrr@100": "recip_rank",
    }
    oracle = pytrec_eval.RelevanceEvaluator(qrel, {"ndcg_cut.10", "success.1,10", "map", "recip_rank"}).evaluate(run)
    for ours in METRICS:
        theirs = [oracle[str(q)][names[ours]] for q in range(20)]
        if ours == "mrr@100":
            theirs = [value if value >= 1 / 100 else 0.0 for value in theirs]
        assert found[ours].tolist() == pytest.approx(theirs, abs=1e-6), ours  # it rounds to float32 here and there


def test_standard_error():
    """The sample deviation of 1, 2, 3 is 1; over the root of 3."""
    assert standard_error(torch.tensor([1.0, 2.0, 3.0]).double()) == pytest.approx(1 / math.sqrt(3))
    assert standard_error(torch.tensor([1.0]).double()) == 0.0
