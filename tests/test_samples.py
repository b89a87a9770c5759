"""Samples of a user's data set: which column is what, which labels are classes, and what is refused by its row."""

import numpy as np
import pytest
import torch

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.models import build
from fd_flower.training import predict

X = torch.tensor([0.5, 1.5])


def of(*labels: object, **more: object) -> Samples:
    return Samples.of([(X, label) for label in labels], **more)


@pytest.mark.parametrize(
    "labels",
    [
        (2, 0),
        (2.0, 0.0),
        (torch.tensor([2]), torch.tensor([0])),
        (np.int32(2), np.array([0.0])),
        (torch.tensor(2.0), 0),
    ],
)
def test_whole_numbers_are_labels(labels):
    found = of(*labels)
    assert (found.y.dtype, found.y.tolist(), found.classes) == (torch.int64, [2, 0], ())


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            (0, 0.2),
            "row 1 of the data set has the label 0.2; expected one class, by its number from 0 on or by its name",
        ),
        ((torch.tensor(0.7),), "row 0 of the data set has the label 0.7"),
        ((0, -1), "row 1 of the data set has the label -1"),
        ((0, 2**70), "row 1 of the data set has the label 1180591620717411303424"),
        ((0, None), r"row 1 of the data set has no label \(None\)"),
        ((0, float("nan")), r"row 1 of the data set has no label \(nan\)"),
        (([1, 1, 0],), "row 0 of the data set has a label of 3 numbers; expected one class"),
        (
            (torch.tensor([0.0, 1.0]),),
            r"a label of 2 numbers, one of them 1 \(of a one-hot row give the place of the 1",
        ),
        ((torch.zeros(4, 5),), "row 0 of the data set has a label of 4x5 numbers"),
        ((1, "cat"), "row 1 of the data set has the label 'cat', row 0 1; expected numbers or names, not both"),
    ],
)
def test_what_is_no_class_is_refused_by_its_row(labels, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        of(*labels)
    assert "\n" not in str(caught.value)


def test_names_of_classes_are_labels():
    assert (of("dog", "cat").y.tolist(), of("dog", "cat").classes) == ([1, 0], ("cat", "dog"))
    assert of("dog", "cat", classes=["eel", "dog", "cat"]).y.tolist() == [1, 2]
    with pytest.raises(
        InvalidInputError, match="row 1 of the data set has the label 'Dog'; expected one of the classes"
    ):
        of("cat", "Dog", classes=["cat", "dog"])


def test_a_number_beyond_the_named_classes_is_refused():
    with pytest.raises(
        InvalidInputError, match="row 1 of the data set has the label 2; expected 0 to 1, for the classes"
    ):
        of(0, 2, classes=["cat", "dog"])


def test_rows_without_labels_are_unlabeled():
    assert of(None, None).y is None
    assert Samples.of([X, X]).y is None
    assert Samples.of([{"pixels": X}, {"pixels": X}]).y is None


# --- columns


def test_more_than_two_columns_are_asked_for_by_name():
    rows = [{"embedding": X, "patient_id": 7, "label": 1}] * 2
    with pytest.raises(
        InvalidInputError, match=r'columns embedding, patient_id, label, .*name them, Samples.of.rows, x="'
    ):
        Samples.of(rows)
    found = Samples.of(rows, x="embedding", y="label")
    assert (found.x.tolist(), found.y.tolist()) == ([X.tolist()] * 2, [1, 1])
    assert Samples.of([(X, 7, 1)], x=0, y=2).y.tolist() == [1]
    with pytest.raises(InvalidInputError, match="columns 0, 1, 2"):
        Samples.of([(X, 7, 1)])


def test_the_second_column_is_no_label_by_its_place():
    assert Samples.of([{"label": 1, "pixels": X}]).y.tolist() == [1]
    with pytest.raises(InvalidInputError, match="columns embedding, patient_id, and which are input and label"):
        Samples.of([{"embedding": X, "patient_id": 7}])


def test_a_column_that_is_not_there_is_refused():
    with pytest.raises(InvalidInputError, match="there is no column 'labels'"):
        Samples.of([{"pixels": X, "label": 1}], x="pixels", y="labels")


def test_several_columns_of_numbers_make_one_input():
    found = Samples.of([{"age": 41, "dose": 0.5, "label": "well"}], x=["age", "dose"], y="label")
    assert found.x.tolist() == [[41.0, 0.5]]


def test_a_hugging_face_data_set_keeps_its_names():
    import datasets

    features = {"v": datasets.Value("float64"), "label": datasets.ClassLabel(names=["dog", "cat"])}
    rows = datasets.Dataset.from_dict({"v": [1.0, 2.0], "label": [0, 1]}, features=datasets.Features(features))
    assert (Samples.of(rows).y.tolist(), Samples.of(rows).classes) == ([0, 1], ("dog", "cat"))
    assert Samples.of(rows, classes=["cat", "dog"]).y.tolist() == [1, 0]


# --- inputs


def test_double_precision_becomes_single():
    assert Samples.of([(np.zeros(3), 0)]).x.dtype == torch.float32
    given = Samples.of(Samples(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[1.0]])))
    assert (given.x.dtype, given.y.tolist(), given.y.dtype) == (torch.float32, [1], torch.int64)
    assert Samples.of([(torch.zeros(3, dtype=torch.uint8), 0)]).x.dtype == torch.uint8


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([X, torch.zeros(3)], r"row 1 of the data set has an input of shape \[3\], row 0 of \[2\]"),
        ([object()], "row 0 of the data set has an input of type object; expected a tensor"),
        (["a text", X], "row 0 of the data set has an input of type str"),
    ],
)
def test_inputs_that_make_no_tensor_are_refused_by_row(inputs, words):
    with pytest.raises(InvalidInputError, match=words):
        Samples.of([(x, 0) for x in inputs])


def test_samples_are_checked_as_rows_are():
    with pytest.raises(InvalidInputError, match=r"row 1 of the data set has the label 0.5"):
        Samples.of(Samples(torch.zeros(2, 3), torch.tensor([0.0, 0.5])))


def test_an_empty_data_set_is_refused():
    with pytest.raises(InvalidInputError, match="the data set is empty"):
        Samples.of([])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_input_that_is_no_number_is_refused_by_its_row(value: float):
    x = torch.tensor([[0.0, 1.0], [2.0, value]])
    with pytest.raises(InvalidInputError, match="row 1 of the data set has an input that is not finite"):
        Samples.of([(row, 0) for row in x])
    with pytest.raises(InvalidInputError, match="row 1 of the data set"):
        Samples.of(Samples(x, torch.tensor([0, 1])))
    assert len(Samples.of(Samples(x, torch.tensor([0, 1]), torch.tensor([0])))) == 1


def test_of_a_view_on_doubles_its_own_rows_alone_are_converted():
    base = Samples(torch.arange(8).double().view(4, 2), torch.tensor([0, 1, 0, 1]), torch.tensor([3, 1]))
    found = Samples.of(base)
    assert (found.x.dtype, found.x.tolist(), found.y.tolist()) == (torch.float32, [[6.0, 7.0], [2.0, 3.0]], [1, 1])
    assert found.index is None


@pytest.mark.parametrize(("name", "shape"), [("mlp", (1, 28, 28)), ("lenet", (1, 28, 28)), ("cnn", (3, 16, 16))])
def test_a_model_says_the_same_of_samples_that_are_kept_decoded(name: str, shape: tuple[int, ...]):
    drawn = torch.Generator().manual_seed(0)
    x = torch.randint(256, (700, *shape), dtype=torch.uint8, generator=drawn)
    images = Samples(x, torch.arange(700) % 10, torch.randperm(700, generator=drawn)[:600])
    network = build(name, shape, 10, seed=0)
    assert images.decoded is images.decoded
    assert images.decoded.x.dtype == torch.float32
    assert torch.equal(images.decoded.labels, images.labels)
    assert torch.equal(predict(network, images.decoded), predict(network, images))


def test_numbers_and_sets_that_would_take_much_are_not_decoded(monkeypatch: pytest.MonkeyPatch):
    numbers = Samples(torch.rand(5, 3))
    assert numbers.decoded is numbers
    images = Samples(torch.zeros(5, 1, 4, 4, dtype=torch.uint8))
    monkeypatch.setattr("fd_flower.core.samples.DECODED", 5 * 16 * 4 - 1)
    assert images.decoded is images
