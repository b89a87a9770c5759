"""Which bytes of a text a token stands for, derived from the token itself.

Character offsets of a tokenizer do not give them: where one character is split over three tokens, all three "end"
behind it.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fd_flower.core.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPACE = "\u2581"
"""What SentencePiece writes in place of a space."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_bytes(tokenizer: "PreTrainedTokenizerFast") -> list[bytes]:
    """Return what every token stands for, in UTF-8, by its id.

    Special tokens, and ids that no token has, stand for nothing. The tokens of a byte-level tokenizer spell bytes
    in characters; SentencePiece's have U+2581 for a space and ``<0xNN>`` for a byte that no other token holds.

    Raises
    ------
    InvalidInputError
        For a tokenizer of another sort: its tokens do not determine their bytes.
    """
    backend: Any = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder()
    vocabulary = backend.get_vocab(True)
    read = _reading(backend, type(tokenizer).__name__)
    special = {number for number, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    table = [b""] * (1 + max(vocabulary.values()))
    for token, number in vocabulary.items():
        if number not in special:
            # A byte-level tokenizer cuts added tokens out of the text as they stand, before it spells bytes.
            literal = number in added and read is _byte_level
            table[number] = token.encode() if literal else read(token)
    return table


def byte_ends(ids: Iterable[int], table: Sequence[bytes]) -> NDArray[np.int32]:
    """Return where in the text's bytes each of these tokens ends, [T] int32, never falling.

    Parameters
    ----------
    ids : Iterable[int]
        T token ids, in the order of the text.
    table : Sequence[bytes]
        What each token stands for, as ``token_bytes`` returns it.
    """
    return np.cumsum([len(table[number]) for number in ids], dtype=np.int32)


def ends_in(text: str, ids: Iterable[int], table: Sequence[bytes]) -> NDArray[np.int32] | None:
    """Return where in this text's bytes each token ends, [T] int32; None where the tokens do not spell the text.

    A space that the tokenizer puts before the text belongs to no byte of it.
    """
    ids = list(ids)
    encoded, spelled = text.encode(), b"".join(table[number] for number in ids)
    before = len(spelled) - len(encoded)
    if before not in (0, 1) or spelled != b" " * before + encoded:
        return None
    return np.maximum(byte_ends(ids, table) - before, 0).astype(np.int32)


def _reading(backend: Any, name: str) -> Callable[[str], bytes]:
    """Return the function from a token of the vocabulary to its bytes."""
    steps = list(_steps(json.loads(backend.decoder.__getstate__()) if backend.decoder else {}))
    kinds = {step.get("type") for step in steps}
    spaces = "Metaspace" in kinds or any(step.get("pattern") == {"String": SPACE} for step in steps)
    if "ByteLevel" in kinds:
        return _byte_level
    if spaces:
        return _sentencepiece if "ByteFallback" in kinds else _spaced
    raise InvalidInputError(
        f"the tokenizer {name} decodes by {', '.join(sorted(map(str, kinds - {None, 'Sequence'}))) or 'nothing'};"
        " expected a byte-level or SentencePiece one, whose tokens determine their bytes"
    )


def _steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a decoder's steps, those inside sequences too."""
    yield decoder
    for step in decoder.get("decoders", ()):
        yield from _steps(step)


def _letters() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Printable bytes of Latin-1 are themselves, the others follow from U+0100 on (Radford et al. 2019, GPT-2).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_LETTERS = _letters()


def _byte_level(token: str) -> bytes:
    if all(letter in _LETTERS for letter in token):
        return bytes(_LETTERS[letter] for letter in token)
    return token.encode()  # as the decoder does


def _sentencepiece(token: str) -> bytes:
    found = _BYTE.fullmatch(token)
    return bytes.fromhex(found[1]) if found else _spaced(token)


def _spaced(token: str) -> bytes:
    return token.replace(SPACE, " ").encode()
