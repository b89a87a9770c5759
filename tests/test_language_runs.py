"""Runs of language models: whose texts they are measured on, what travels, and the models that are kept."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import tiny
from helpers.llama import llama

import fd_flower
from fd_flower import config
from fd_flower.cli import main
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.library import texts_of
from fd_flower.data.documents import Documents
from fd_flower.data.texts import holds
from fd_flower.results import RunFolder
from fd_flower.results.outcome import outcome
from fd_flower.tasks.described import described
from fd_flower.tasks.language.generate import printable

SHORT = (
    "data.task=language data.column=folder data.clients=3 data.length=16 data.public=none server.rounds=2 "
    "client.steps=3 client.epochs=1 client.lr=0.02 client.optimizer=adamw run.device=cpu run.report=false "
)
LORA = "client.trainable=lora client.rank=2 "
PHRASES = {"ann": "the cat sat on the mat", "bob": "stocks fell by ten points", "eve": "naïve cafés 日本"}


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the notes of three people, a folder each."""
    root = tmp_path_factory.mktemp("notes")
    for who, phrase in PHRASES.items():
        (root / who).mkdir()
        for number in range(14):
            (root / who / f"{number:02}.md").write_text(f"{phrase} {number}. " * (1 + number % 3))
    return root


@pytest.fixture(scope="module")
def run(notes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of FedAvg whose adapters learn in a folder of transformers."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("run")
    model = llama(tmp_path_factory.mktemp("llama"))
    words = f"{SHORT}{LORA} data.source={notes} model.name={model} run.precision=fp32"
    tiny.run("fedavg", words, out=folder / "run")
    return folder / "run"


def test_a_folder_of_text_files_says_whose_each_is(notes: Path):
    (table,) = Documents(notes).tables("train", ["folder", "file", "text"])
    assert table["folder"].to_pylist()[::14] == ["ann", "bob", "eve"]
    assert table["file"].to_pylist()[0] == "ann/00.md"
    assert table["text"].to_pylist()[0] == "the cat sat on the mat 0. "
    assert holds(str(notes))


def test_folders_of_splits_are_no_clients(tmp_path: Path):
    for split in ("train", "test"):
        (tmp_path / split / "ann").mkdir(parents=True)
        (tmp_path / split / "ann" / "a.txt").write_text(split)
    source = Documents(tmp_path)
    assert source.splits() == ("train", "test")
    assert [next(source.tables(split, ["text", "folder"])).to_pylist() for split in source.splits()] == [
        [{"text": split, "folder": "ann"}] for split in source.splits()
    ]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"caf\xe9", r"a\.txt is no UTF-8 at byte 3: save it as UTF-8"),
        (b"\xff\xfea\x00", "no UTF-8 at byte 0"),
        (b"a\x00b", r"a\.txt has NUL characters"),
    ],
)
def test_files_that_are_no_text_are_refused(content: bytes, wanted: str, tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InvalidInputError, match=wanted):
        next(Documents(tmp_path).tables("train", ["text"]))


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "local", "fedspeed"])
@pytest.mark.parametrize("learns", ["", LORA])
def test_methods_of_weights_teach_language_models(method: str, learns: str, notes: Path):
    if learns:
        pytest.importorskip("peft")
    lines = tiny.run(method, f"{SHORT}{learns} data.source={notes} model.name=gpt:8")
    clients = tiny.of_clients(lines)
    assert len(clients) == 6
    first, last = (clients[number, "0"]["evaluations"]["trained"]["own/bits_per_byte"] for number in (1, 2))
    assert last < first < 8.5


def test_scaffold_teaches_them_by_plain_sgd(notes: Path):
    lines = tiny.run("scaffold", f"{SHORT} client.optimizer=sgd client.lr=0.5 data.source={notes} model.name=gpt:8")
    clients = tiny.of_clients(lines)
    first, last = (clients[number, "0"]["evaluations"]["trained"]["own/bits_per_byte"] for number in (1, 2))
    assert last < first < 8.5


def test_examples_are_the_tokens_of_training_texts(notes: Path):
    words = f"{SHORT} data.source={notes} model.name=gpt:8"
    lines = tiny.run("local", words)
    task = described(config.settings("local", words))
    assert task.data is not None
    train = task.data("2").train
    texts = texts_of(train.x[train.index])
    assert tiny.of_clients(lines)[1, "2"]["examples"] == sum(len(text.encode()) for text in texts)


def test_the_partition_is_shown_in_texts_and_bytes(notes: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "local", "--set", f"{SHORT} data.source={notes} model.name=gpt:8"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith(("0", "1", "2"))]
    assert sum(sum(map(int, row[1:4])) for row in rows) == 34  # of 42, a fifth of which is the test set
    task = described(config.settings("local", f"{SHORT} data.source={notes} model.name=gpt:8"))
    assert task.data is not None
    train = task.data("2").train
    assert int(rows[2][4]) == sum(len(text.encode()) for text in texts_of(train.x[train.index]))


def test_own_others_and_unseen_texts_are_those_of_the_parts(notes: Path, tmp_path: Path):
    words = f"{SHORT} data.source={notes} model.name=gpt:8"
    lines = tiny.run("local", words, out=tmp_path / "run")
    figures = tiny.of_clients(lines, closing=False)[2, "1"]["evaluations"]["trained"]
    task, kept = described(config.settings("local", words)), fd_flower.load(tmp_path / "run", client="1")
    assert task.data is not None
    parts = {client: task.data(client) for client in "012"}
    texts = {client: texts_of(part.test.x[part.test.index]) for client, part in parts.items()}
    assert all(phrase[:3] in texts[client][0] for client, phrase in zip("012", PHRASES.values(), strict=True))
    unseen = texts_of(task.test.x[task.test.index])
    scopes = {"own": texts["1"], "others": [*texts["0"], *texts["2"]], "unseen": unseen}
    for scope, own in scopes.items():
        assert figures[f"{scope}/bits_per_byte"] == pytest.approx(kept.bits_per_byte(own), rel=1e-5)
    validation = texts_of(parts["1"].validation.x[parts["1"].validation.index])
    assert figures["validation"] == pytest.approx(kept.bits_per_byte(validation), rel=1e-5)


def test_the_number_of_texts_in_an_evaluation_is_limited(notes: Path):
    words = f"{SHORT} data.source={notes} model.name=gpt:8 server.rounds=1"
    every, some = (
        tiny.of_clients(tiny.run("local", f"{words} language.texts={count}"))[1, "0"]["evaluations"]["trained"]
        for count in ("null", "1")
    )
    assert all(every[f"{scope}/bits_per_byte"] != some[f"{scope}/bits_per_byte"] for scope in ("others", "unseen"))


def test_clients_with_different_models_train_alone(notes: Path, tmp_path: Path):
    words = f"{SHORT} data.source={notes} model.name=[gpt:8,gpt:12]"
    tiny.run("local", words, out=tmp_path / "run")
    summary = RunFolder.open(tmp_path / "run").summary
    assert summary["data"]["task"] == "language"
    bits = summary["language"]["references"]["zero-shot"]["own"]["bits_per_byte"]
    assert summary["language"]["personal"]["own"]["bits_per_byte"]["final"] < bits


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("data.partition=dirichlet", "deals out classes"),
        ("data.label=folder", r"data\.label is 'folder'"),
        ("data.source=digits data.column=null data.partition=iid", "digits holds none"),
        ("model.name=mlp", "needs a causal language model"),
        ("model.name=[gpt:8,gpt:12] language.start=[a,b,c]", "lists 3 tokens"),
        ("language.start='<s>'", "one start token"),
        ("language.stride=17", r"language\.stride is 17, above data\.length=16: .* take 1 to 16"),
        ("client.objective=kl", r"client\.objective is kl, which compares classes, .*: leave it out"),
        ("data.task=null data.label=folder", r"say data\.task=language"),
        ("data.task=null model.name=bag", "unlabeled.*data.task=language"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(words: str, wanted: str, notes: Path):
    with pytest.raises(Exception, match=wanted) as found:
        tiny.run("local", f"{SHORT} data.source={notes} model.name=gpt:8 {words}")
    assert "\n" not in str(found.value)


def test_other_methods_say_which_can(notes: Path):
    with pytest.raises(InvalidInputError, match=r"fedmd cannot learn language.*fedalm, fedavg, .*local"):
        tiny.run("fedmd", f"{SHORT} data.source={notes} model.name=gpt:8 data.min_rows=3 data.public=held-out")


@pytest.mark.parametrize("method", ["fedavg", "fedkseed"])
def test_training_that_diverges_says_what_to_lower(method: str, notes: Path, tmp_path: Path):
    words = f"{SHORT} data.source={notes} model.name=gpt:8 client.lr=1e6"
    if method == "fedavg":  # bits that are no number cost the reply
        with pytest.raises(RunError, match=r"bits_per_byte' is nan; .*, or lower client\.lr"):
            tiny.run(method, words)
        return
    tiny.run(method, words, out=tmp_path / "run")
    assert ": lower client.lr)" in outcome(RunFolder.open(tmp_path / "run").summary)
    tiny.run(method, words.replace("1e6", "1e-5"), out=tmp_path / "other")
    assert "client.lr" not in outcome(RunFolder.open(tmp_path / "other").summary)


# --- kept models


def test_an_adapter_that_was_exported_is_the_model(run: Path, tmp_path: Path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    kept = fd_flower.load(run, client="server")
    assert main(["export", str(run), "--client", "server", "--to", str(tmp_path / "adapter"), "--quiet"]) == 0
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == f"sha256:{kept.about['files']}"
    base = AutoModelForCausalLM.from_pretrained(kept.about["architecture"])
    other = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.tensor([[0, 70, 71, 72, 73]])
    mine = kept(ids, torch.ones_like(ids, dtype=torch.bool))
    plain = AutoModelForCausalLM.from_pretrained(kept.about["architecture"])(input_ids=ids).logits
    assert torch.equal(other(input_ids=ids).logits, mine)
    assert not torch.equal(plain, mine)
    torch.testing.assert_close(kept.merged()(input_ids=ids).logits, mine, atol=1e-6, rtol=1e-5)


def test_a_model_goes_on_with_a_text_by_seed(run: Path):
    kept = fd_flower.load(run, client="server")
    assert kept.generate("the cat", max_tokens=4) == kept.generate("the cat", max_tokens=4, seed=5)
    drawn = [kept.generate("the cat", max_tokens=8, temperature=2.0, seed=seed) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    for temperature in (float("nan"), float("inf"), 1e-320, -1.0):
        with pytest.raises(InvalidInputError, match=r"temperature of 0 or from 0\.001 on"):
            kept.generate("the cat", temperature=temperature)
    with pytest.raises(InvalidInputError, match="no chat template"):
        kept.generate("the cat", chat=True)
    with pytest.raises(InvalidInputError, match="the model takes 32 in all"):
        kept.generate("the cat", max_tokens=500)


def test_a_built_in_model_is_generated_from_and_exported(
    notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tiny.run("local", f"{SHORT} data.source={notes} model.name=gpt:8", out=tmp_path / "run")
    file = str(tmp_path / "model.safetensors")
    assert main(["export", str(tmp_path / "run"), "--client", "0", "--to", file]) == 0
    capsys.readouterr()
    assert main(["generate", file, "the cat", "--max-tokens", "3"]) == 0
    said = capsys.readouterr()
    assert said.out.rstrip("\n") == printable(fd_flower.load(file).generate("the cat", max_tokens=3)).rstrip("\n")
    assert "may repeat private text" in said.err


def test_a_client_of_offsite_tuning_has_its_emulator(notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """It models the client's own texts as in the run; the whole model is the server's."""
    public = "data.public=held-out data.public_size=8 data.min_rows=6"
    words = f"{SHORT} data.source={notes} model.name=gpt:8x5 {public} run.keep=last"
    lines = tiny.run("offsite", words, out=tmp_path / "run")
    task = described(config.settings("offsite", words))
    assert task.data is not None
    test = task.data("0").test
    client, server = (fd_flower.load(tmp_path / "run", client=who) for who in ("0", "server"))
    assert [len(one.model.layers()) for one in (client, server)] == [3, 5]  # of three between the ends one is left
    figures = tiny.of_clients(lines, closing=False)[2, "0"]["evaluations"]["trained"]
    own = texts_of(test.x[test.index])
    assert client.bits_per_byte(own) == pytest.approx(figures["own/bits_per_byte"], rel=1e-5)
    assert server.bits_per_byte(own) != client.bits_per_byte(own)
    capsys.readouterr()
    assert main(["generate", str(tmp_path / "run"), "the cat", "--client", "0", "--max-tokens", "3"]) == 0
    assert "client 0's model, an emulator that lacks 2 of the model's blocks" in capsys.readouterr().err


def test_characters_that_steer_a_terminal_are_not_printed():
    assert printable("a\x1b[31mb\u202ec\n\td\x07") == "a[31mbc\n\td"


@pytest.mark.slow
def test_the_simulation_gives_the_figures_of_one_process(notes: Path, tmp_path: Path):
    pytest.importorskip("peft")
    words = f"{SHORT}{LORA} data.source={notes} model.name=gpt:8"
    tiny.run("fedavg", words, out=tmp_path / "process")
    out = str(tmp_path / "flower")
    assert main(["run", "fedavg", "--engine", "flower", "--set", words, "--out", out, "--quiet"]) == 0
    process, flower = (RunFolder.open(tmp_path / name) for name in ("process", "flower"))
    assert tiny.figures(flower.lines()) == tiny.figures(process.lines())


@pytest.mark.slow
def test_texts_stay_on_supernodes(notes: Path, tmp_path: Path):
    from helpers.deployment import lab

    shutil.copytree(notes / "eve", tmp_path / "unseen" / "test" / "eve")
    with lab(tmp_path / "lab", ("ann", "bob")) as made:
        for who in ("ann", "bob"):
            made.device(who, notes / who)
        words = (
            f"data.task=language server.nodes=2 model.name=gpt:8 data.public=none data.test={tmp_path / 'unseen'} "
            "data.length=16 server.rounds=2 client.steps=3 client.lr=0.02 client.optimizer=adamw run.device=cpu"
        )
        assert main(["run", "fedavg", "--on", str(made.keys), "--set", words, "--out", str(tmp_path / "run")]) == 0
    language = RunFolder.open(tmp_path / "run").summary["language"]
    assert language["personal"]["own"]["bits_per_byte"]["final"] < 8.5
    assert language["global"]["unseen"]["bits_per_byte"]["final"] < 8.5
    assert language["global"]["own"] is None
