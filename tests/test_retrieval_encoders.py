"""Texts become vectors: tokens, pooling, what learns and what travels, and vectors that are made once."""

import math
import sys

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.library_inputs import animals
from torch.nn import functional as F

import fd_flower
from fd_flower import export
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.data import cache
from fd_flower.models.trainable import choose
from fd_flower.server import Strategy
from fd_flower.tasks.retrieval import ask, encoders
from fd_flower.tasks.retrieval.encoders import PASSAGE, QUESTION, apply, embedded, encoder, padded
from fd_flower.tasks.retrieval.models import Bag, ResidualMap, Retriever, contrastive, pooled

TEXTS = ("the cat sat", "a dog barked at the cat", "", "cat")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FD_FLOWER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    """Return the folder of a BERT of two layers and eight features, with words of its own."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "a", "barked", "at"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "plain")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "plain")
    modules = [Transformer(str(folder / "plain"), max_seq_length=16), Pooling(8, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "sentences"))
    return str(folder / "sentences")


# --- the loss


def test_contrastive_by_hand():
    """Cosines (.5, 0; 0, .5) at tau .5: each question's own passage has e / (e + 1)."""
    loss = contrastive(torch.eye(2) / 2, torch.tensor([[0, 0], [1, 1]]), 0.5)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1)))


@pytest.mark.parametrize("y", [[[0, 5], [1, 5]], [[3, 0], [3, 1]]])
def test_an_equal_passage_or_question_is_no_negative(y):
    """What else answers the question is left out of its sum, which leaves its own passage alone: the loss is 0."""
    assert float(contrastive(torch.randn(2, 2), torch.tensor(y), 0.05)) == 0.0


def test_only_that_pair_is_left_out():
    y = torch.tensor([[0, 5], [1, 5], [2, 6]])
    loss = contrastive(torch.zeros(3, 3), y, 1.0)
    assert float(loss) == pytest.approx((2 * math.log(2) + math.log(3)) / 3)


def test_a_head_begins_as_no_change():
    x = torch.randn(3, 8)
    torch.testing.assert_close(Retriever(ResidualMap(8), 0.05)(x), F.normalize(x, dim=-1))


# --- tokens and pooling


def test_words_are_hashed_alike_everywhere():
    tokens = encoder("hashed:4", "model", 0).tokens(["Cat, the CAT", ""], QUESTION)
    assert tokens.shape == (2, 3)
    assert tokens[0, 0] == tokens[0, 2] == 936  # crc32(b"cat") % 8192
    assert tokens[1].tolist() == [-1, -1, -1]


def test_the_hashed_vectors_are_a_function_of_the_seed():
    first, same, other = (encoder("hashed:4", "model", seed).network().vectors for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_bag_is_the_mean_of_its_words_and_an_empty_one_nothing():
    bag = Bag(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    found = bag(padded([[0, 1, 1], [], [0]]))
    torch.testing.assert_close(found, torch.tensor([[1 / 3, 2.0], [0.0, 0.0], [1.0, 0.0]]))
    assert Retriever(bag, 0.1)(padded([[]])).tolist() == [[0.0, 0.0]]


def test_pooling_by_hand():
    """Two tokens, of which the second is padding."""
    states, there = torch.tensor([[[1.0], [5.0]]]), torch.tensor([[True, False]])
    found = {pool: float(pooled(states, there, pool)) for pool in ("mean", "cls", "mean_all")}
    assert found == {"mean": 1.0, "cls": 1.0, "mean_all": 3.0}


def test_static_embeddings_are_those_of_sentence_transformers(shared_data):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer

    folder = str(shared_data("potion-base-2m"))
    texts = ["Statins lower cholesterol.", "an experimental study of a wing", ""]
    ours = F.normalize(embedded(encoder(folder, "model", 0), texts, PASSAGE), dim=1)
    theirs = SentenceTransformer(folder, device="cpu").encode(texts)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-5, atol=1e-6)


def test_a_transformer_is_that_of_sentence_transformers(transformer):
    from sentence_transformers import SentenceTransformer

    taken = encoder(transformer, "model", 0)
    texts = [text for text in TEXTS if text]
    ours = apply(taken.network().eval(), taken.tokens(texts, PASSAGE))
    theirs = SentenceTransformer(transformer, device="cpu").encode(texts)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing_but_under_mean_all(transformer):
    for pool in ("model", "mean", "cls", "mean_all"):
        taken = encoder(transformer, pool, 0)
        network = taken.network().eval()
        alone = network(taken.tokens(["cat"], PASSAGE)).detach()
        beside = network(taken.tokens((*TEXTS[:2], "cat"), PASSAGE)).detach()[2:]
        assert torch.allclose(alone, beside, atol=1e-5) == (pool != "mean_all"), pool


# --- what learns


@pytest.mark.parametrize(("trainable", "part"), [("lora", "lora_"), ("last_layer", ".layer.1."), ("all", "embeddings")])
def test_what_learns_is_what_travels(transformer, trainable, part):
    torch.manual_seed(1)
    model = choose(Retriever(encoder(transformer, "model", 0).network(), 0.05), trainable, "bert")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert state.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert any(part in name for name in state)
    if trainable != "all":
        assert all(part in name for name in state)
    tokens = encoder(transformer, "model", 0).tokens(TEXTS[:2], PASSAGE)
    before = model(tokens).detach()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1.0)
    for _ in range(2):  # LoRA's second matrix starts at zero, so that its first learns a step later
        optimizer.zero_grad()
        model.supervised_loss(tokens[:, None].expand(-1, 2, -1), torch.tensor([[0, 0], [1, 1]])).backward()
        optimizer.step()
    assert any(not torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not torch.equal(model(tokens), before)


@pytest.mark.parametrize("trainable", ["lora", "adapter"])
def test_what_is_added_begins_as_no_change(transformer, trainable):
    taken = encoder(transformer, "model", 0)
    tokens = taken.tokens(TEXTS[:2], PASSAGE)
    plain, adapted = Retriever(taken.network(), 0.05), Retriever(taken.network(), 0.05)
    choose(adapted, trainable, "bert", rank=2)
    torch.testing.assert_close(plain.eval()(tokens), adapted.eval()(tokens))


@pytest.mark.parametrize(
    ("trainable", "lacks"), [("lora", "linear layers in blocks"), ("last_layer", "blocks"), ("bias", "biases")]
)
def test_static_embeddings_have_no_such_part(trainable, lacks):
    with pytest.raises(
        InvalidInputError, match=f"client.trainable is '{trainable}'; 'hashed' has no {lacks}: take head or all"
    ):
        choose(Retriever(encoder("hashed", "model", 0).network(), 0.05), trainable, "hashed")


@pytest.mark.parametrize("trainable", ["adapter", "lora", "last_layer"])
def test_layers_that_an_encoder_lacks_are_refused_before_a_client_is_asked(trainable):
    words = f"data.source=companies data.clients=2 model.name=hashed client.trainable={trainable}"
    reason = f"client.trainable is '{trainable}'; 'hashed' has no .*blocks: take head or all"
    with pytest.raises(InvalidInputError, match=reason):
        Strategy.for_method(settings("fede4rag", words))


@pytest.mark.parametrize("trainable", ["head", "lora", "last_layer", "all"])
def test_whole_runs_with_a_transformer(transformer, trainable, tmp_path):
    """Without distillation it is local training whatever learns, and with it nothing but what learns is sent."""
    words = (
        f"data.source=companies data.partition=iid data.clients=2 data.per_client=10 model.name={transformer} "
        f"client.trainable={trainable} server.rounds=2 client.epochs=1 client.lr=0.01 client.optimizer=adam "
        "client.batch=8 run.device=cpu run.keep=last privacy.sum=none"
    )
    for method, also in (("fede4rag", "client.kd_weight=0"), ("local", "")):
        tiny.run(method, f"{words} {also}", out=tmp_path / method)
    tiny.assert_same_bits(tiny.models(tmp_path / "fede4rag"), tiny.models(tmp_path / "local"))
    lines = tiny.run("fede4rag", words, out=tmp_path / "taught")
    sizes = {len(kept) for kept in tiny.models(tmp_path / "taught").values()}
    assert len(sizes) == 1
    assert all(not line["failed"] for line in tiny.rounds(lines))
    kept = tiny.models(tmp_path / "taught")["1", "2-0"]
    numbers = sum(tensor.numel() for tensor in kept.values())
    assert 4 * numbers <= tiny.rounds(lines)[-1]["bytes"]["up"]["arrays"] / 2 < 4 * numbers + 400 * len(kept)
    assert any(
        not torch.equal(tensor, tiny.models(tmp_path / "local")["1", "2-0"][name]) for name, tensor in kept.items()
    )
    assert len(ask(tmp_path / "taught", "the cat", "0", animals(tmp_path / "animals"), 3)) == 3


# --- taken out


@pytest.mark.parametrize("trainable", ["head", "lora", "last_layer", "all"])
def test_a_kept_transformer_is_a_folder_of_sentence_transformers(transformer, trainable, tmp_path):
    """Its vectors are the retriever's, prompts and pooling among them; in the folder are the model and its card."""
    from sentence_transformers import SentenceTransformer

    words = (
        f"data.source=companies data.partition=iid data.clients=2 data.per_client=10 model.name={transformer} "
        f"client.trainable={trainable} server.rounds=1 client.epochs=2 client.lr=0.01 client.optimizer=adam "
        "client.batch=8 run.device=cpu retrieval.pool=cls"
    )
    tiny.run("local", words, out=tmp_path / "run")
    model = fd_flower.load(tmp_path / "run", "1")
    export.write(model, tmp_path / "out", tmp_path / "run")
    taken = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    told = ["the cat sat", "a dog barked at the cat", "cat"]
    for found, role in ((taken.encode_query(told), QUESTION), (taken.encode_document(told), PASSAGE)):
        torch.testing.assert_close(torch.from_numpy(found), model.encode(told, role), atol=1e-5, rtol=0)
    untrained = SentenceTransformer(transformer, device="cpu").encode(told, normalize_embeddings=True)
    assert not torch.allclose(torch.from_numpy(untrained), model.encode(told), atol=1e-3)
    export.write(model, tmp_path / "again.safetensors")
    again = fd_flower.load(tmp_path / "again.safetensors")
    assert torch.equal(again.encode(told), model.encode(told))
    assert "nDCG@10 on questions about the client's own documents" in (tmp_path / "out" / "README.md").read_text()


def test_a_retriever_without_such_a_layout_says_what_to_take(transformer, tmp_path):
    words = "data.source=companies data.partition=iid data.clients=2 data.per_client=10 server.rounds=1 client.steps=1 "
    pooled = f"model.name={transformer} client.trainable=last_layer retrieval.pool=mean_all"
    for name, changes, to, reason in (
        ("a", "model.name=hashed:8", "out", "'hashed:8' is no model of sentence-transformers"),
        ("a", "", "model.onnx", "a retriever takes texts, which .onnx does not"),
        ("b", pooled, "out", "retrieval.pool=mean_all averages over padding, too"),
    ):
        if changes:
            tiny.run("local", words + changes, out=tmp_path / name)
        with pytest.raises(InvalidInputError, match=reason):
            export.write(fd_flower.load(tmp_path / name, "0"), tmp_path / to)
        assert not (tmp_path / "out").exists()


# --- made once


def test_vectors_are_made_once_and_mapped(monkeypatch):
    taken, made = encoder("hashed:4", "model", 0), []
    network = encoders.Hashed.network
    monkeypatch.setattr(encoders.Hashed, "network", lambda self: made.append(1) or network(self))
    first = embedded(taken, TEXTS, PASSAGE)
    again = embedded(encoder("hashed:4", "model", 0), TEXTS, PASSAGE)
    assert len(made) == 1
    assert torch.equal(first, again)
    for other in (embedded(taken, TEXTS[:2], PASSAGE), embedded(encoder("hashed:4", "model", 1), TEXTS, PASSAGE)):
        assert len(made) > 1
        assert other.shape[1] == 4
    (file, *_) = (cache.root() / "embeddings").glob("*/*.npy")
    assert isinstance(np.load(file, mmap_mode="r"), np.memmap)


def test_the_order_of_batches_is_not_that_of_vectors(monkeypatch):
    monkeypatch.setattr(encoders, "PREDICTION_BATCH", 2)
    taken = encoder("hashed:4", "model", 0)
    network, tokens = taken.network(), taken.tokens(TEXTS, PASSAGE)
    torch.testing.assert_close(apply(network, tokens), network(tokens).detach())


def test_other_files_are_another_encoder(transformer, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(transformer, copy)
    first = encoder(transformer, "model", 0).key()
    assert encoder(str(copy), "model", 0).key() == first
    shutil.copytree(transformer, tmp_path / "other")
    (tmp_path / "other" / "note.txt").write_text("x")
    assert encoder(str(tmp_path / "other"), "model", 0).key() != first
    assert encoder(transformer, "cls", 0).key() != first


# --- what is refused


@pytest.mark.parametrize(
    ("name", "pool", "reason"),
    [
        ("hashed:x", "model", "expected a size from 1 to 9999"),
        ("hashed", "cls", "retrieval.pool is 'cls'; 'hashed' has no tokens in layers"),
        ("cnn", "model", "a retriever is 'hashed', the absolute path"),
        ("/nowhere", "model", "is no folder of sentence-transformers"),
    ],
)
def test_encoders_that_there_are_not(name, pool, reason):
    with pytest.raises(InvalidInputError, match=reason):
        encoder(name, pool, 0)


def test_a_missing_library_is_one_line_that_says_what_to_install(transformer, monkeypatch):
    model = Retriever(encoder(transformer, "model", 0).network(), 0.05)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InvalidInputError, match=r"client.trainable=lora needs peft: pip install peft"):
        choose(model, "lora", "bert")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InvalidInputError, match=r"needs sentence-transformers: pip install 'fd-flower\[retrieval\]'"):
        encoders._fresh(transformer)
