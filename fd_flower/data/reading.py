"""A split of a source: images, texts or numbers, whichever it holds."""

from collections.abc import Mapping, Sequence

from fd_flower.config import DataConfig
from fd_flower.config.labeled import NOT_ANOTHER
from fd_flower.core.errors import InvalidInputError
from fd_flower.data import images, numbers, texts
from fd_flower.data.images import Images
from fd_flower.data.source import locate

OPTIONS: Mapping[str, Sequence[str]] = {
    "images": ("size", "image", "transform"),
    "texts": ("text", "clean", "length"),
    "numbers": ("features", "categories", "constants", "standardize"),
}
"""Options of ``data`` that are about one kind of samples; numbers can have a training transform, too."""


def kind(source: str, data: DataConfig) -> str:
    """Return what a source's samples are, `images`, `texts` or `numbers`: by its options or columns."""
    if data.features is not None or data.categories is not None:
        return "numbers"
    held = texts.held(source)
    if held == "numbers" and (data.text or data.image):
        return "texts" if data.text else "images"
    return held or "images"


def hold_texts(sources: str | Sequence[str], data: DataConfig) -> bool:
    """Whether the samples of all these sources are texts."""
    return all(kind(source, data) == "texts" for source in ([sources] if isinstance(sources, str) else sources))


def check_device(folder: str, data: DataConfig) -> None:
    """Refuse a device's table of numbers whose inputs, or what standardizes them, no other device can know.

    Raises
    ------
    InvalidInputError
        Without ``data.features``, by which all devices have the same inputs in one order, and where
        ``data.standardize`` goes by rows that a device does not have.
    """
    if kind(folder, data) != "numbers":
        return
    if data.features is None:
        raise InvalidInputError(
            f"{folder} holds numbers, and devices may have other columns, or in another order: name the inputs in "
            "data.features, for arrays their one column"
        )
    if data.standardize and (data.standardize == "train" or data.public in NOT_ANOTHER):
        raise InvalidInputError(
            f"data.standardize is '{data.standardize}', and a device has its own rows alone: give data.constants, or "
            "data.standardize=public with data.public=<a folder that all devices have>"
        )


def read(
    source: str,
    data: DataConfig,
    split: str = "train",
    *,
    size: str | None = None,
    column: str | None = None,
    own: bool = True,
) -> Images:
    """Return a split of a source, decoded.

    Parameters
    ----------
    source : str
        `digits`, the absolute path of a folder or of a table, or a Hugging Face name.
    data : DataConfig
        Its ``image``, ``text`` and ``label`` name columns, its ``class_names`` classes, its ``size`` brings images to a
        size, its ``clean`` says what texts are stripped of.
    split : str
        `train` or `test`.
    size : str | None
        In place of ``data.size``.
    column : str | None
        The column to return as ``groups``.
    own : bool
        The columns and classes that ``data`` names must be there. False for a set in addition to the private one
        (public, test): there columns are used if present and otherwise found by type, and classes are the set's own.

    Returns
    -------
    Images
        Images of bytes, the texts' hashes [N, 2], or inputs of float32.

    Raises
    ------
    InvalidInputError
        When the source, the split or a column is missing, when an image cannot be read, when images differ in size,
        when a label is no class's, when a row has no value in ``column``, for options of the other kind of samples.
    """
    found = locate(source)
    if split not in found.splits():
        raise InvalidInputError(
            f"{source} has no {split} rows: expected {split}-*.parquet, or class folders in {split}/, or that split on "
            f"the hub; it has {' and '.join(found.splits())}"
        )
    samples = kind(source, data)
    if own:
        check_options(data, source, samples)
    if samples == "texts":
        found_rows = texts.read(source, data, split, column, own=own)
    elif samples == "numbers":
        found_rows = numbers.read(source, data, split, column, own=own)
    else:
        found_rows = images.read(source, data, split, size=size, column=column, own=own)
    if own and data.class_names:
        found_rows = found_rows.named(data.class_names, f"{source} ({split})", lacking=data.adds_classes)
    return with_added(found_rows, data, None) if own and data.adds_classes else found_rows


def with_added(own: Images, data: DataConfig, public: Images | None) -> Images:
    """Return private rows with the public samples' classes after their own (``data.public_classes=added``).

    Parameters
    ----------
    own : Images
        The private rows.
    data : DataConfig
        ``public`` names the public set.
    public : Images | None
        The public set, where it is given; None: the one that ``data`` names.

    Raises
    ------
    InvalidInputError
        Where the public set has no classes of its own.
    """
    named = "the task's public set" if public is not None else f"data.public={data.public}"
    if public is None and data.public not in NOT_ANOTHER:
        public = read(
            data.public, data, size="{1}x{2}x{0}".format(*own.shape) if len(own.shape) == 3 else None, own=False
        )
    if public is None or public.y is None or not public.class_names:
        raise InvalidInputError(
            f"data.public_classes is 'added', and {named} has no classes of its own: name another labeled set, or "
            "leave it out"
        )
    return own.with_classes(public.class_names)


def check_options(data: DataConfig, source: str, samples: str) -> None:
    """Refuse options that are about another kind of samples than a source's."""
    allowed = ("transform",) if samples == "numbers" else ()
    for other, names in OPTIONS.items():
        for name in names:
            if other != samples and name not in allowed and (value := getattr(data, name)) is not None:
                raise InvalidInputError(
                    f"data.{name} is {value!r}, which is about {other}, and {source} holds {samples}: leave it out"
                )
