"""Which bytes of a text its tokens stand for."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from fd_flower.core.errors import InvalidInputError
from fd_flower.tasks.language.bytes import byte_ends, ends_in, token_bytes

transformers = pytest.importorskip("transformers")

MIXED = "A na\u00efve \u65e5\u672c \U0001f600 end."


def _fast(backend: Tokenizer):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


@pytest.fixture(scope="module")
def byte_level():
    """A byte-level tokenizer without merges but for one: "na"."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, "na", "</s>"])}
    backend = Tokenizer(models.BPE(vocabulary, [("n", "a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _fast(backend)


@pytest.fixture(scope="module")
def sentencepiece():
    """A tokenizer as Llama has it: a space before the text, known characters, and bytes for all others."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "A", "n", "a", "\u65e5", "\u2581A"]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.BPE(vocabulary, [("\u2581", "A")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _fast(backend)


def _ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("sort", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("text", [MIXED, "A", "", "\n\n A  n", "\u65e5\u65e5"])
def test_the_tokens_of_a_text_spell_its_bytes(sort, text, request):
    tokenizer = request.getfixturevalue(sort)
    ends = ends_in(text, _ids(tokenizer, text), token_bytes(tokenizer))
    assert (np.diff(ends) >= 0).all()
    assert not text or ends[-1] == len(text.encode())


def test_a_character_split_over_three_tokens_ends_byte_by_byte(byte_level):
    table = token_bytes(byte_level)
    ids = _ids(byte_level, "na\u65e5")
    assert [table[number] for number in ids] == [b"na", b"\xe6", b"\x97", b"\xa5"]
    ends = byte_ends(ids, table)
    assert ends.tolist() == [2, 3, 4, 5]
    assert byte_level("na\u65e5", return_offsets_mapping=True)["offset_mapping"][1:] == [(2, 3)] * 3


def test_the_space_before_a_sentencepiece_text_is_no_byte_of_it(sentencepiece):
    table, ids = token_bytes(sentencepiece), _ids(sentencepiece, "A\u65e5\u672c")
    assert [table[number] for number in ids] == [b" A", "\u65e5".encode(), b"\xe6", b"\x9c", b"\xac"]
    assert ends_in("A\u65e5\u672c", ids, table).tolist() == [1, 4, 5, 6, 7]


def test_special_tokens_stand_for_nothing_and_added_ones_for_themselves(byte_level):
    byte_level.add_tokens(["\u0120caf\u00e9"])
    table = token_bytes(byte_level)
    assert table[byte_level.eos_token_id] == b""
    assert table[-1] == "\u0120caf\u00e9".encode()


@pytest.mark.parametrize("ids", [[], ["n"], ["A", "n", "</s>"]])
def test_tokens_that_do_not_spell_the_text_have_no_ends_in_it(ids, byte_level):
    assert ends_in("An\u00ef", byte_level.convert_tokens_to_ids(ids), token_bytes(byte_level)) is None


def test_a_tokenizer_whose_tokens_do_not_tell_their_bytes_is_refused():
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    with pytest.raises(InvalidInputError, match="decodes by WordPiece; expected a byte-level or SentencePiece one"):
        token_bytes(_fast(backend))
