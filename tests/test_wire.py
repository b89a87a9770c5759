"""What clients and servers say to each other arrives as it was said, or is refused in words."""

import gc
import io
import pickle
import weakref

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from torch import Tensor

from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.wire import (
    Adapter,
    Bounds,
    CachedTeacher,
    Candidates,
    Center,
    Chain,
    ChunkLikelihoods,
    ClassLogits,
    Coefficients,
    Correction,
    Emulator,
    Generator,
    GeneratorWeights,
    GuideGradients,
    Guides,
    Head,
    Holders,
    Importances,
    Information,
    Knowledge,
    LabelCounts,
    Mask,
    Moments,
    OptimizerState,
    Outlyingness,
    Payload,
    PixelStatistics,
    Private,
    Prototypes,
    PublicHeads,
    PublicIndex,
    PublicLabels,
    PublicLogits,
    PublicVotes,
    Representation,
    SampleKnowledge,
    Scores,
    SeedScalars,
    ServerModel,
    SyntheticSet,
    TokenLogits,
    Update,
    Weights,
    likeliest,
    pack,
    stack,
    unpack,
)
from fd_flower.wire.exact import ExactSum, SumSpec
from fd_flower.wire.host_sum import HostSum
from fd_flower.wire.payload import KINDS
from fd_flower.wire.replies import Reply
from fd_flower.wire.sums import Encrypted, Masked, Opened, SumCommitments, SumKeys, SumShares, SumUnmask, text


def npy(array: np.ndarray) -> bytes:
    """Return an array's bytes as Flower sends them, pickled objects too."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


INDEX = torch.tensor([1, 4])
BYTES = torch.arange(64, dtype=torch.uint8).view(2, 32)
LEARNED = {"body.weight": torch.ones(2, 3), "norm.running": torch.ones(3)}
WEIGHTS = {"body.weight": torch.ones(2, 3), "norm.running": torch.zeros(3), "norm.seen": torch.tensor(7)}


def adapter(model: str = "", **changes: object) -> Adapter:
    """Return factors of rank 2 for one module, and a head, with changes."""
    usual = {
        "b": {"body.0": torch.ones(3, 2)},
        "a": {"body.0": torch.ones(2, 5)},
        "rank": torch.tensor(2),
        "scaling": torch.tensor(2.0).double(),
        "base": BYTES[0],
        "others": {"head.weight": torch.ones(3, 4)},
    }
    return Adapter(model=model, **{**usual, **changes})  # type: ignore[arg-type]


SAID: dict[str, Payload] = {
    "an adapter": adapter(),
    "an adapter of one of several": adapter("bert rank=4"),
    "an adapter without a head": adapter(others={}),
    "weights": Weights(WEIGHTS),
    "weights of one of several": Weights(WEIGHTS, "resnet8:0.5"),
    "class logits": ClassLogits(
        torch.rand(3, 3).double() * torch.tensor([[1.0], [0.0], [2.0]]), torch.tensor([1.0, 0.0, 2.0]).double()
    ),
    "class logits of members": ClassLogits.joined(
        torch.zeros(3, 3).double(), torch.ones(3).double(), {"0": 1, "lab/7": 2}
    ),
    "class logits with one's own": ClassLogits(
        torch.zeros(3, 3).double(), torch.ones(3).double(), round=torch.tensor(4)
    ),
    "public logits": PublicLogits(INDEX, torch.rand(2, 3).log_softmax(1)),
    "public logits of one of several": PublicLogits(INDEX, torch.rand(2, 3).log_softmax(1), "lab/7"),
    "public logits on no sample": PublicLogits(INDEX[:0], torch.zeros(0, 3)),
    "public index": PublicIndex(INDEX),
    "public labels": PublicLabels.top(INDEX, torch.rand(2, 3)),
    "public votes": PublicVotes(torch.tensor([True, False, False, True, True])),
    "public heads": PublicHeads(INDEX, torch.rand(2, 4, 3).log_softmax(2), torch.rand(2, 4)),
    "public heads that are kept": PublicHeads(INDEX, torch.zeros(2, 4, 3), client="7", round=torch.tensor(3)),
    "a representation": Representation(torch.rand(4), torch.tensor([0.25, 0.0, 0.75])),
    "a head": Head(torch.rand(3, 4), torch.rand(3)),
    "a head without a bias": Head(torch.rand(3, 4)),
    "an update": Update(WEIGHTS),
    "a correction": Correction.zeros(Weights(WEIGHTS)),
    "a correction of one of several": Correction.zeros(Weights(WEIGHTS, "resnet8:0.5")),
    "a mask": Mask.of_kept({"body.weight": torch.tensor([[True, False, True], [False, True, True]])}),
    "a mask of nothing": Mask.of_kept({"body.weight": torch.ones(2, 3).bool()}),
    "information": Information({"body.weight": torch.ones(2, 3)}),
    "information of one of several": Information({"body.weight": torch.ones(2, 3)}, "resnet8:0.5"),
    "an update of one of several": Update(WEIGHTS, "resnet8:0.5"),
    "candidates": Candidates.of_models([WEIGHTS, WEIGHTS]),
    "scores of candidates": Scores(torch.tensor([5, 0]), torch.tensor(7)),
    "a chain": Chain.along(["7", "lab/7"]),
    "holders": Holders({"7": torch.tensor(3), "lab/7": torch.tensor(3)}),
    "prototypes": Prototypes(torch.rand(3, 4), torch.tensor([5, 0, 1])),
    "guides": Guides(torch.rand(3, 4)),
    "gradients of guides": GuideGradients(torch.rand(3, 4), torch.tensor([1, 0, 1])),
    "generator": Generator({"body.0.weight": torch.rand(2, 4)}, torch.tensor([True, False, True])),
    "weights of a generator": GeneratorWeights({"body.0.weight": torch.rand(2, 4), "body.1.seen": torch.tensor(3)}),
    "moments": Moments.of_parameters(LEARNED, LEARNED, ""),
    "label counts": LabelCounts(torch.tensor([5, 0, 64])),
    "optimizer state": OptimizerState({"0.exp_avg": torch.rand(2, 4), "0.step": torch.tensor(50.0)}),
    "sample knowledge": SampleKnowledge(
        INDEX, torch.tensor(2), torch.rand(2, 4, 5, 5).half(), torch.tensor([0, 2]).short(), torch.zeros(2, 3)
    ),
    "sample knowledge of one of several": SampleKnowledge(INDEX, torch.tensor(2), logits=torch.zeros(2, 3), client="7"),
    "no sample knowledge yet": SampleKnowledge(INDEX[:0], torch.tensor(4)),
    "likelihoods of tokens": ChunkLikelihoods.of_texts(
        INDEX, [(torch.tensor([2, 5]), -torch.rand(2)), (torch.tensor([4]), -torch.rand(1))], "ab" * 32
    ),
    "next tokens": TokenLogits.top(
        INDEX, [likeliest(part, 2) for part in torch.randn(3, 7).split([2, 1])], 7, "ab" * 32
    ),
    "scalars along directions": SeedScalars(torch.rand(2), torch.tensor([4, 0], dtype=torch.int32)),
    "how far clients were": Outlyingness({"0": torch.tensor(0.5, dtype=torch.float64)}),
    "a teacher of earlier rounds": CachedTeacher(INDEX, torch.zeros(2, 3), torch.tensor([1, 4])),
    "how much clients count": Coefficients({"0": torch.tensor([1.0], dtype=torch.float64)}),
    "a cluster": Center(WEIGHTS, {"0": torch.tensor(20)}, "1"),
    "importances of an input's numbers": Importances(torch.tensor([0.5, 1.0, 0.0])),
    "importances that are kept": Importances(torch.tensor([0.5, 1.0, 0.0]), "lab/7"),
    "an emulator": Emulator(WEIGHTS),
    "a model of the server's": ServerModel(WEIGHTS),
    "synthetic set": SyntheticSet(torch.rand(2, 1, 8, 8), torch.tensor([0, 2])),
    "public keys": SumKeys(BYTES, BYTES, text([["0", ""], ["lab/7", "ab"]])),
    "sealed shares": SumShares(torch.zeros(2, 60, dtype=torch.uint8), text(["0", "lab/7"])),
    "commitments to shares": SumCommitments(torch.zeros(2, 2, 32, dtype=torch.uint8), BYTES[0]),
    "masked numbers": Masked(torch.tensor([-(2**63), 5]), torch.zeros(32, dtype=torch.uint8)),
    "opened shares": SumUnmask(text([]), torch.zeros(2, 16, dtype=torch.uint8)),
    "encrypted numbers": Encrypted(torch.zeros(7, dtype=torch.uint8), torch.tensor([3, 4]), BYTES[0], torch.tensor(9)),
    "a host's sum": HostSum.made(
        ExactSum(SumSpec(30, 2, 0, 1.0, 1)),
        [Reply(Client("0", 0), RecordDict(), 5, MetricRecord({"num-examples": 5}))],
        [{"arrays": 8}],
    ),
    "a decrypted sum": Opened(torch.tensor([3, -(2**44), 0])),
    "pixel statistics": PixelStatistics(torch.rand(3, 1), torch.rand(3, 1), torch.tensor([True, False, True])),
}


def sent(*payloads: Payload) -> RecordDict:
    """Return a message's content after a trip between processes."""
    return pickle.loads(pickle.dumps(pack(*payloads)))


def same(one: Payload, other: Payload) -> bool:
    a, b = one.tensors(), other.tensors()
    alike = type(one) is type(other) and one.name == other.name and a.keys() == b.keys()
    return alike and all(torch.equal(a[k], b[k]) and a[k].dtype is b[k].dtype for k in a)


@pytest.mark.parametrize("payload", SAID.values(), ids=SAID)
def test_every_kind_arrives_as_it_was_said(payload: Payload):
    content = sent(payload)
    assert same(type(payload).need(content), payload)
    assert [same(p, payload) for p in unpack(content)] == [True]


def test_every_kind_is_tried_above():
    ours = {kind for kind in KINDS.values() if kind.__module__.startswith("fd_flower.")}  # others are in other tests
    assert {type(p) for p in SAID.values()} == ours


def test_weights_travel_as_flowers_plain_arrays():
    record = pack(Weights(WEIGHTS))["arrays"]
    assert record.to_torch_state_dict().keys() == WEIGHTS.keys()
    anybodys = RecordDict({"arrays": ArrayRecord(WEIGHTS)})
    assert same(Weights.need(anybodys), Weights(WEIGHTS))


def test_a_missing_kind_is_named_with_what_came_instead():
    with pytest.raises(InvalidInputError, match="expected class-logits on the wire, got prototypes"):
        ClassLogits.need(pack(SAID["prototypes"]))
    with pytest.raises(InvalidInputError, match="expected arrays on the wire, got nothing"):
        Weights.need(Knowledge())
    assert ClassLogits.find(pack(SAID["prototypes"])) is None


def test_a_record_of_no_kind_is_refused():
    with pytest.raises(InvalidInputError, match=r"no kind 'logitz' on the wire; known: .*arrays, .*class-logits"):
        unpack(RecordDict({"logitz": ArrayRecord({"x": torch.zeros(1)})}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sums": torch.zeros(3, 3)}, "has the fields .'sums'.; expected sums, counts, members"),
        ({"sums": torch.zeros(3, 3), "counts": torch.ones(3), "more": torch.ones(1)}, "has the fields"),
        ({"sums/a": torch.zeros(3, 3), "counts": torch.ones(3)}, "'sums/a'"),
        ({"sums": torch.zeros(3, 3), "sums/a": torch.ones(3), "counts": torch.ones(3)}, "'sums/a'"),
    ],
)
def test_a_record_with_other_fields_is_refused(fields: dict[str, Tensor], words: str):
    with pytest.raises(InvalidInputError, match=words):
        ClassLogits.need(RecordDict({"class-logits": ArrayRecord(fields)}))


@pytest.mark.parametrize("data", [b"", b"nonsense", b"PK\x03\x04nonsense", npy(np.array([{}], dtype=object))])
def test_bytes_that_are_no_array_are_refused(data: bytes):
    array = Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=data)
    with pytest.raises(InvalidInputError, match="class-logits on the wire cannot be decoded"):
        ClassLogits.need(RecordDict({"class-logits": ArrayRecord({"sums": array})}))


# --- checked before use

BOUNDS = Bounds(classes=3, index=INDEX, features=4, weights={"": WEIGHTS}, adapters={"": adapter()}, public=5)
OF_ANOTHER_FORM = (
    "weights of one of several",
    "a correction of one of several",
    "an update of one of several",
    "information of one of several",
    "an adapter of one of several",
    "an adapter without a head",
)


def knowledge_of(**changes: Tensor) -> SampleKnowledge:
    return SampleKnowledge(**{"id": INDEX, "cut": torch.tensor(1), **changes})


def weights(**changes: Tensor) -> Weights:
    return Weights({**WEIGHTS, **{k.replace("_", "."): t for k, t in changes.items()}})


def update(**changes: Tensor) -> Update:
    return Update(weights(**changes).values)


@pytest.mark.parametrize("name", [n for n in SAID if n not in OF_ANOTHER_FORM])
def test_what_is_well_formed_passes(name: str):
    assert SAID[name].check(BOUNDS) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (ClassLogits(torch.zeros(4, 4).double(), torch.ones(4).double()), r"'counts' of shape \[4\]; expected \[3\]"),
        (ClassLogits(torch.zeros(3, 4).double(), torch.ones(3).double()), r"'sums' of shape \[3, 4\]; expected"),
        (ClassLogits(torch.full((3, 3), torch.nan).double(), torch.ones(3).double()), "'sums' that are not finite"),
        (ClassLogits(torch.zeros(3, 3).double(), -torch.ones(3).double()), "counts below 0"),
        (ClassLogits(torch.zeros(3, 3).long(), torch.ones(3).double()), "'sums' of torch.int64; expected"),
        (ClassLogits(torch.zeros(3, 3).double(), torch.ones(3).bool()), "'counts' of torch.bool; expected"),
        (PublicLogits(INDEX + 1, torch.zeros(2, 3)), "other public samples than the round's"),
        (PublicLogits(INDEX.float(), torch.zeros(2, 3)), "'index' of torch.float32; expected torch.int64"),
        (PublicLogits(INDEX[:, None], torch.zeros(2, 3)), r"'index' of shape \[2, 1\]; expected \[any\]"),
        (PublicLogits(INDEX.flip(0), torch.zeros(2, 3)), "'index' out of order"),
        (PublicLogits(INDEX[[0, 0]], torch.zeros(2, 3)), "'index' out of order"),
        (PublicLogits(INDEX, torch.zeros(1, 3)), r"'values' of shape \[1, 3\]; expected \[2, 3\]"),
        (PublicLogits(INDEX, torch.zeros(2, 5)), r"'values' of shape \[2, 5\]; expected \[2, 3\]"),
        (PublicLogits(INDEX, torch.full((2, 3), torch.inf)), "'values' that are not finite"),
        (PublicLogits(INDEX, torch.zeros(2, 3).int()), "'values' of torch.int32; expected"),
        (PublicLabels(INDEX, torch.tensor([0, 3]).short(), torch.tensor(3)), "'labels' outside 0 to 2"),
        (PublicLabels(INDEX, torch.tensor([0]).short(), torch.tensor(3)), r"'labels' of shape \[1\]; expected \[2\]"),
        (PublicLabels(INDEX, torch.tensor([0, 3]).short(), torch.tensor(4)), "about 4 classes; expected 3"),
        (PublicVotes(torch.ones(4).bool()), r"'mask' of shape \[4\]; expected \[5\]"),
        (PublicVotes(torch.ones(5)), "'mask' of torch.float32; expected torch.bool"),
        (PublicHeads(INDEX, torch.zeros(2, 4, 5), torch.zeros(2, 4)), r"'values' of shape \[2, 4, 5\]; expected"),
        (PublicHeads(INDEX, torch.zeros(2, 4, 3), torch.zeros(2, 5)), r"'features' of shape \[2, 5\]; expected"),
        (PublicHeads(INDEX, torch.zeros(2, 4, 3), round=torch.tensor(0.5)), "'round' of torch.float32"),
        (Representation(torch.zeros(5), torch.eye(3)[0]), r"'values' of shape \[5\]; expected \[4\]"),
        (Representation(torch.zeros(4), torch.eye(4)[0]), r"'label' of shape \[4\]; expected \[3\]"),
        (Representation(torch.zeros(4), torch.ones(3)), "'label' with the sum 3; expected weights"),
        (Representation(torch.zeros(4), torch.tensor([1.5, -0.5, 0.0])), "'label' with the sum 1; expected weights"),
        (Representation(torch.full((4,), torch.nan), torch.eye(3)[0]), "'values' that are not finite"),
        (Head(torch.zeros(3, 5), torch.zeros(3)), r"'weight' of shape \[3, 5\]; expected \[3, 4\]"),
        (Head(torch.zeros(3, 4), torch.zeros(4)), r"'bias' of shape \[4\]; expected \[3\]"),
        (Head(torch.zeros(3, 4), torch.full((3,), torch.inf)), "'bias' that are not finite"),
        (Prototypes(torch.zeros(3, 5), torch.ones(3).long()), r"'values' of shape \[3, 5\]; expected \[3, 4\]"),
        (Prototypes(torch.zeros(3, 4), torch.ones(3)), "'counts' of torch.float32; expected torch.int64"),
        (Prototypes(torch.zeros(3, 4), torch.tensor([-1, 0, 1])), "'counts' outside 0 to any"),
        (Prototypes(torch.full((3, 4), -torch.inf), torch.ones(3).long()), "'values' that are not finite"),
        (Prototypes(torch.zeros(3, 4).long(), torch.ones(3).long()), "'values' of torch.int64; expected"),
        (knowledge_of(id=INDEX.flip(0)), "'id' out of order"),
        (knowledge_of(id=INDEX[[0, 0]]), "'id' out of order"),
        (knowledge_of(cut=torch.tensor([2])), r"'cut' of shape \[1\]; expected \[\]"),
        (knowledge_of(features=torch.zeros(3, 4)), r"'features' of shape \[3, 4\]; expected 2 rows"),
        (knowledge_of(features=torch.full((2, 4), torch.inf).half()), "'features' that are not finite"),
        (knowledge_of(features=torch.zeros(2, 4).int()), "'features' of torch.int32"),
        (knowledge_of(labels=torch.tensor([0, 3]).short()), "'labels' outside 0 to 2"),
        (knowledge_of(logits=torch.zeros(2, 4)), r"'logits' of shape \[2, 4\]; expected \[2, 3\]"),
        (SyntheticSet(torch.zeros(3, 1), torch.tensor([0, 1])), r"'x' of shape \[3, 1\]; expected 2 rows"),
        (SyntheticSet(torch.zeros(2, 1), torch.tensor([0, 3])), "'labels' outside 0 to 2"),
        (SyntheticSet(torch.full((2, 1), torch.nan), torch.tensor([0, 1])), "'x' that are not finite"),
        (SyntheticSet(torch.zeros(2, 1).byte(), torch.tensor([0, 1])), "'x' of torch.uint8"),
        (
            PixelStatistics(torch.zeros(2, 1), torch.zeros(2, 1), torch.ones(2).bool()),
            r"'held' of shape \[2\]; expected",
        ),
        (PixelStatistics(torch.zeros(3, 1), torch.zeros(3, 2), torch.ones(3).bool()), r"'std' of shape \[3, 2\]"),
        (PixelStatistics(torch.zeros(3, 1), -torch.ones(3, 1), torch.ones(3).bool()), "deviations below 0"),
        (PixelStatistics(torch.zeros(3, 1), torch.ones(3, 1), torch.ones(3)), "'held' of torch.float32"),
        (Generator({"w": torch.tensor([torch.nan])}, torch.ones(3).bool()), "'values/w' that are not finite"),
        (Generator({"w": torch.ones(1)}, torch.ones(4).bool()), r"'trained' of shape \[4\]; expected \[3\]"),
        (Generator({"w": torch.ones(1)}, torch.ones(3)), "'trained' of torch.float32; expected torch.bool"),
        (LabelCounts(torch.ones(4).long()), r"'counts' of shape \[4\]; expected \[3\]"),
        (LabelCounts(torch.tensor([-1, 0, 1])), "'counts' outside 0 to any"),
        (LabelCounts(torch.ones(3)), "'counts' of torch.float32; expected torch.int64"),
        (OptimizerState({"0.exp_avg": torch.tensor([torch.inf])}), "'values/0.exp_avg' that are not finite"),
        (Weights({"body.weight": torch.ones(2, 3)}), "other keys than the server's: norm.running, norm.seen"),
        (weights(body_weight=torch.ones(3, 2)), r"'body.weight' of shape \[3, 2\]; expected \[2, 3\]"),
        (weights(body_weight=torch.full((2, 3), torch.nan)), "'body.weight' that are not finite"),
        (weights(body_weight=torch.ones(2, 3).double()), "'body.weight' of torch.float64; expected torch.float32"),
        (Weights(WEIGHTS, "other"), "arrays.other is of no architecture here"),
        (Update(WEIGHTS, "other"), "update.other is of no architecture here"),
        (Update({"body.weight": torch.ones(2, 3)}), "other keys than the server's: norm.running, norm.seen"),
        (update(body_weight=torch.ones(1, 6)), r"'body.weight' of shape \[1, 6\]; expected an update of \[2, 3\]"),
        (update(body_weight=torch.ones(0, 6)), r"'body.weight' of shape \[0, 6\]; expected an update of"),
        (update(body_weight=torch.ones(3)), r"'body.weight' of shape \[3\]; expected an update of"),
        (update(norm_running=torch.ones(1, 5)), r"'norm.running' of shape \[1, 5\]; expected an update of \[3\]"),
        (update(body_weight=torch.ones(2, 3).double()), "'body.weight' of torch.float64; expected torch.float32"),
        (update(norm_running=torch.full((3,), torch.nan)), "'values/norm.running' that are not finite"),
        (
            Information({"body.weight": -torch.ones(2, 3)}),
            "information has -1 in 'body.weight'; expected squares of",
        ),
        (
            Information({"body.weight": torch.full((2, 3), torch.nan)}),
            "values in 'values/body.weight' that are not f",
        ),
        (Information({"body.weight": torch.ones(3)}), r"'body.weight' of shape \[3\]; expected \[2, 3\]"),
        (Information({"body.weight": torch.ones(2, 3).double()}), "'body.weight' of torch.float64; expected torch.fl"),
        (Information({"body.wait": torch.ones(2, 3)}), "keys that the server's model has not: body.wait"),
        (Information({}, "other"), "information.other is of no architecture here"),
        (Holders({"7": torch.tensor(0.5)}), "'7' of torch.float32; expected torch.int64"),
        (Holders({"7": torch.tensor([1])}), r"'7' of shape \[1\]; expected \[\]"),
        (adapter("other"), "adapter.other is of no architecture here; known: ''"),
        (adapter(base=BYTES[1]), r"adapter is for another frozen body than the one here \(SHA-256 20212223"),
        (adapter(base=BYTES[0, :31]), r"'base' of shape \[31\]; expected \[32\]"),
        (adapter(base=BYTES[0].int()), "'base' of torch.int32; expected torch.uint8"),
        (adapter(b={"body.0": torch.full((3, 2), torch.nan)}), "'b/body.0' that are not finite"),
        (adapter(b={"body.0": torch.ones(3, 2).int()}), "'b/body.0' of torch.int32; expected"),
        (adapter(b={"body.0": torch.ones(3, 2).double()}), "'b/body.0' of torch.float64; expected torch.float32"),
        (adapter(b={"body.1": torch.ones(3, 2)}), "one factor alone of body.0, body.1; expected a and b"),
        (adapter(a={}, b={}), "adapter has no factors"),
        (adapter(b={"body.0": torch.ones(3, 1)}), r"of shapes \[3, 1\] and \[2, 5\]; expected \[out, r\] and"),
        (adapter(rank=torch.tensor(1)), r"expected \[out, r\] and \[r, in\], r at most 1"),
        (adapter(rank=torch.tensor(4)), "has the rank 4; expected 2, as the server has it"),
        (adapter(rank=torch.tensor(2.0)), "'rank' of torch.float32; expected torch.int64"),
        (adapter(scaling=torch.tensor(4.0).double()), "has the scaling 4; expected 2"),
        (adapter(scaling=torch.tensor(0.0).double()), "has the scaling 0; expected one above 0"),
        (adapter(scaling=torch.ones(1).double()), r"'scaling' of shape \[1\]; expected \[\]"),
        (adapter(b={"body.0": torch.ones(4, 2)}), r"'b/body.0' of shape \[4, 2\]; expected \[3, 2\]"),
        (adapter(others={}), "other keys than the server's adapter: others/head.weight"),
    ],
    ids=lambda value: value.name if isinstance(value, Payload) else None,
)
def test_what_cannot_be_used_is_refused_in_words(payload: Payload, words: str):
    with pytest.raises(InvalidInputError, match=words):
        payload.check(BOUNDS)


# --- what the server knows


def known() -> Knowledge:
    return Knowledge(
        [
            Weights(WEIGHTS, "cnn"),
            Weights(WEIGHTS, "org/model"),
            SAID["class logits of members"],
            Private(SAID["prototypes"]),
            Private(Weights({"evaluated": torch.ones(2)}, "generator")),
        ]
    )


def test_knowledge_survives_flattening():
    before = known()
    after = Knowledge.of(before.flat())
    assert list(map(same, before.public, after.public)) == [True] * 3
    assert list(map(same, before.private, after.private)) == [True] * 2


def test_private_knowledge_is_read_like_the_rest_and_never_shown():
    assert same(Prototypes.need(known()), SAID["prototypes"])
    assert len(known()) == 5
    assert not [key for key in known().shown() if "prototypes" in key or "moment" in key]


def test_weights_alone_are_shown_as_any_flower_user_expects_them():
    shown = Knowledge([Weights(WEIGHTS), Private(SAID["prototypes"])]).shown()
    assert shown.to_torch_state_dict().keys() == WEIGHTS.keys()


@pytest.mark.parametrize(
    "knowledge", [Knowledge([Weights(WEIGHTS), SAID["prototypes"], Private(SAID["class logits"])]), known()]
)
@pytest.mark.parametrize("factor", [1, 2])
def test_what_comes_back_between_the_hooks_is_laid_over_the_knowledge(knowledge: Knowledge, factor: int):
    """Doubling what is shown doubles the public knowledge that is shown, and leaves the rest as it was."""
    shown = knowledge.shown()
    changed = ArrayRecord({k: torch.as_tensor(a.numpy() * factor) for k, a in shown.items()})
    after = knowledge.overlaid(changed)
    assert {p.name for p in after.public} == {p.name for p in knowledge.public}
    assert list(map(same, after.private, knowledge.private)) == [True] * len(knowledge.private)
    before = {k.removeprefix("arrays/"): t for k, t in knowledge.flat().items()}
    flat = {k.removeprefix("arrays/"): t for k, t in after.flat().items()}
    for key, tensor in flat.items():
        assert torch.equal(tensor, before[key] * (factor if key in shown else 1))


def test_a_models_own_names_are_no_kinds():
    """A model with a module that is called like a kind: its weights are plain weights between the hooks, too."""
    values = {f"{kind}.weight": torch.ones(2) for kind in KINDS}
    after = Knowledge([Weights(values)]).overlaid(ArrayRecord({key: 2 * t for key, t in values.items()}))
    assert same(Weights.need(after), Weights({key: 2 * t for key, t in values.items()}))


# --- nothing is encoded twice


def test_a_payload_has_one_record_and_a_record_one_payload():
    payload = ClassLogits(torch.zeros(2, 2).double(), torch.ones(2).double())
    assert pack(payload)["class-logits"] is pack(payload)["class-logits"] is payload.record
    content = sent(payload)
    assert ClassLogits.need(content) is ClassLogits.need(content)
    assert ClassLogits.need(content).record is content["class-logits"]


def test_what_a_record_remembers_is_not_pickled_with_it():
    payload = Weights({"w": torch.zeros(10_000)})
    bare = len(pickle.dumps(ArrayRecord({"w": torch.zeros(10_000)})))
    assert len(pickle.dumps(payload.record)) < bare + 200


def test_a_record_that_was_changed_is_decoded_anew():
    """A mod of Flower's may replace arrays inside the reply's record."""
    payload = Weights({"w": torch.zeros(2)})
    payload.record["w"] = ArrayRecord({"w": torch.ones(2)})["w"]
    assert Weights.need(pack(payload)).values["w"].tolist() == [1, 1]


def test_replies_on_the_same_samples_are_stacked():
    """Whoever says nothing about a sample has no vote there; a hard label is all of the probability."""
    rows = torch.rand(3, 3).log_softmax(1)
    index = torch.tensor([1, 4, 6])
    votes = [PublicLogits(index, rows), PublicLogits(index[1:2], rows[:1]), PublicLabels.top(index[2:], rows[:1])]
    values, mask = stack(votes, index)
    assert mask.tolist() == [[True, True, True], [False, True, False], [False, False, True]]
    assert torch.equal(values[0], rows)
    assert torch.equal(values[1, 1], rows[0])
    assert values[2, 2].exp().tolist() == [float(i == int(rows[0].argmax())) for i in range(3)]
    assert stack([PublicLogits(index[:0], rows[:0])], index)[1].tolist() == [[False] * 3]


@pytest.mark.parametrize("made", [True, False])
def test_a_payload_and_its_record_go_without_the_collector(made):
    """Models of every round would pile up until Python's collector comes by, which counts objects and not bytes."""
    gc.disable()
    try:
        payload = Weights({"weight": torch.ones(3)})
        record = payload.record if made else pickle.loads(pickle.dumps(payload.record))
        payload = payload if made else Weights.need(RecordDict({"arrays": record}))
        assert Weights.need(RecordDict({"arrays": record})) is payload
        assert payload.record is record
        gone = [weakref.ref(payload), weakref.ref(record)]
        del payload, record
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()
