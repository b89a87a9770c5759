"""What language models send each other about public texts, and what of it is refused."""

from dataclasses import replace

import pytest
import torch

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire import Bounds, ChunkLikelihoods, TokenLogits, likeliest, mean_of_likelihoods, pack, unpack

ONE, OTHER = "ab" * 32, "cd" * 32
INDEX = torch.tensor([3, 5, 8])
BOUNDS = Bounds(index=torch.arange(10), public=10, largest=1e6)


def chunks(tokenizer: str = ONE, *, scale: float = 1.0) -> ChunkLikelihoods:
    """Return what is said of three texts, of which the second has no scored token."""
    texts = [
        (torch.tensor([2, 2, 5]), scale * torch.tensor([-1.0, -2.0, -3.0])),
        (torch.empty(0, dtype=torch.int64), torch.empty(0)),
        (torch.tensor([4]), scale * torch.tensor([-0.5])),
    ]
    return ChunkLikelihoods.of_texts(INDEX, texts, tokenizer)


def logits(k: int = 2, vocabulary: int = 7) -> TokenLogits:
    drawn = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(0))
    texts = [likeliest(part, k) for part in drawn.split([3, 0, 1])]
    return TokenLogits.top(INDEX, texts, vocabulary, ONE)


def test_chunk_likelihoods_come_back_as_they_were_said():
    sent = chunks()
    (received,) = unpack(pack(sent))
    received.check(BOUNDS)
    found = [(number, ends.tolist(), values.tolist()) for number, ends, values in received.texts()]
    assert found == [(3, [2, 2, 5], [-1.0, -2.0, -3.0]), (8, [4], [-0.5])]
    assert received.digest == ONE


def test_a_token_of_a_short_text_takes_four_bytes():
    sent = chunks()
    assert sum(t.numel() * t.element_size() for key, t in sent.tensors().items() if key in ("ends", "values")) == 4 * 4
    longer = ChunkLikelihoods.of_texts(torch.tensor([0]), [(torch.tensor([40000]), torch.tensor([-1.0]))], ONE)
    assert longer.ends.tolist() == [40000]


def test_token_logits_come_back_with_all_of_the_probability():
    (received,) = unpack(pack(logits()))
    received.check(BOUNDS)
    assert received.ids.dtype == torch.uint16
    said = list(received.texts())
    assert [number for number, *_ in said] == [3, 8]
    assert said[0][1].shape == (3, 2)
    torch.testing.assert_close(
        received.values.float().exp().sum(1) + received.rest.float(), torch.ones(4), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("k", [1, 3, 7, 9])
def test_the_rest_is_never_below_0_and_is_0_where_all_tokens_are_named(k: int):
    """Predictions that are sure: rounding alone would take the sum of the likeliest beyond 1."""
    drawn = 40 * torch.randn(2000, 7, generator=torch.Generator().manual_seed(1))
    ids, values, rest = likeliest(drawn, k)
    assert (rest >= 0).all()
    assert ids.shape == values.shape == (2000, min(k, 7))
    assert k < 7 or not rest.any()


def spoilt(payload, **changes):
    return replace(payload, **{key: change(getattr(payload, key).clone()) for key, change in changes.items()})


def put(place, value):
    def change(tensor):
        tensor[place] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (spoilt(chunks(), values=put(0, torch.nan)), "not finite"),
        (spoilt(chunks(), values=put(0, 0.5)), "log-probabilities above 0 in 'values'"),
        (spoilt(chunks(), ends=put(1, 1)), "byte ends that fall"),
        (spoilt(chunks(), ends=put(0, -1)), "byte ends that fall"),
        (spoilt(chunks(), ends=put(3, 0)), "cover no byte"),
        (spoilt(chunks(), counts=put(0, 0)), "texts without tokens"),
        (spoilt(chunks(), counts=put(0, 2)), r"'ends' of shape \[4\]; expected \[3\]"),
        (spoilt(chunks(), index=put(1, 12)), "other public samples than the round's"),
        (spoilt(chunks(), index=put(1, 3)), "out of order"),
        (spoilt(chunks(), tokenizer=lambda t: t[:5]), r"'tokenizer' of shape \[5\]; expected \[32\]"),
        (spoilt(logits(), ids=put((0, 0), 7)), "'ids' outside 0 to 6"),
        (spoilt(logits(), ids=put(0, 3)), "a token twice"),
        (spoilt(logits(), rest=put(2, -0.1)), "a rest below 0"),
        (spoilt(logits(), rest=put(2, 0.9)), "do not add up to 1 with the rest"),
        (spoilt(logits(), values=put((0, 0), torch.inf)), "not finite"),
        (spoilt(logits(), rest=lambda t: t[:2]), r"'rest' of shape \[2\]; expected \[4\]"),
    ],
)
def test_what_no_model_says_is_refused_in_one_line(payload, said: str):
    chunks().check(BOUNDS)
    logits().check(BOUNDS)
    with pytest.raises(InvalidInputError, match=said) as error:
        payload.check(BOUNDS)
    assert "\n" not in str(error.value)


def test_tokens_of_another_tokenizer_are_refused():
    logits().need_tokenizer(ONE)
    with pytest.raises(InvalidInputError, match=r"another tokenizer.*abababab.*cdcdcdcd.*client\.objective=alm"):
        logits().need_tokenizer(OTHER)


def test_likelihoods_of_one_tokenizer_are_averaged_as_probabilities():
    mean = mean_of_likelihoods([chunks(), chunks(scale=3.0)], "two")
    expected = ((torch.tensor([-1.0, -2.0, -3.0]).exp() + torch.tensor([-3.0, -6.0, -9.0]).exp()) / 2).log()
    number, ends, values = next(mean.texts())
    assert (number, ends.tolist()) == (3, [2, 2, 5])
    torch.testing.assert_close(values, expected, rtol=2e-3, atol=0)
    assert mean.voters.tolist() == [2, 2]
    assert mean.name == "chunk-likelihoods.two"


def test_a_model_that_ends_tokens_elsewhere_than_most_is_in_no_mean_of_that_text():
    odd = spoilt(chunks(scale=9.0), ends=put(2, 6))
    mean = mean_of_likelihoods([odd, chunks(), chunks()])
    assert mean.voters.tolist() == [2, 3]
    torch.testing.assert_close(next(mean.texts())[2], torch.tensor([-1.0, -2.0, -3.0]))
