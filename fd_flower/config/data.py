"""Options of the data (section ``data``)."""

import math
from dataclasses import dataclass
from typing import Any

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.schema import Options, names, one_of, option

PARTITIONS = (
    "iid",
    "dirichlet",
    "balanced",
    "inner_dirichlet",
    "embedding",
    "fedgen",
    "classes",
    "overlap",
    "primary",
    "quantity",
    "column",
    "domain",
)
"""The rules of ``fd_flower.data.partition``, a layer above, by their names; a test compares."""


@dataclass(frozen=True)
class DataConfig(Options):
    """Where samples come from and who holds which (section ``data``)."""

    section = "data"

    source: Any = names("digits")
    """`digits`, a hub name, a folder of Parquet files or class folders, a list of these (`data.partition=domain`)."""
    clients: int = option(10, least=1)
    """Number of hosted clients; on devices all that answer the handshake take part."""
    split: list[float] = option([0.7, 0.1, 0.2], least=0)
    """Shares of a client's rows for training, validation and test, the same of each class."""
    test_limit: int | None = option(None, least=1)
    """Test images used between the first and the last evaluation (class-balanced); None: all."""
    size: str | None = None
    """Bring images to this size, gray or RGB: `28x28x1`."""
    image: str | None = None
    """The image column; None: found by its type."""
    label: str | None = None
    """The label column; None: found by its type."""
    class_names: list[str] | None = None
    """The classes, in the order of their numbers; None: as the source names them, or the values of its labels."""
    column: str | None = None
    """With `data.partition=column`, the default where this is given: the column that says who is the client."""
    own_test: bool = False
    """With `data.partition=column`: a client's test part is the test rows that have its value, not a cut of its own."""
    partition: str = one_of(*PARTITIONS, default="dirichlet")
    """The rule that assigns rows to clients, see docs/partitions.md: `iid`, `dirichlet`, `classes`, ... The
    default follows the data: `domain` of several sources, `iid` of questions and documents."""
    alpha: float = option(0.3, above=0)
    """Concentration over labels (over clusters with `embedding`, over sizes with `quantity`)."""
    clusters: int = option(10, least=1)
    """Clusters that `data.partition=embedding` and its report make of what `data.encoder` sees."""
    allocation: str = one_of("per_cluster", "per_client", default="per_cluster")
    """With `data.partition=embedding`: `per_cluster` (shares of each cluster) or `per_client` (the paper's code)."""
    ratio: float = option(0.5, above=0, most=1)
    """With `data.partition=fedgen`: the maximum share of a class's rows that clients receive."""
    classes: int = option(2, least=1)
    """With `data.partition=classes`: classes a client holds; with `overlap`: in addition to those that all hold."""
    shared: int = option(2, least=1)
    """With `data.partition=overlap`: classes that every client holds."""
    skew: float = option(100.0, least=0)
    """With `data.partition=primary`: a row is 1 + skew times as likely with a primary client of its class; 0: IID."""
    primaries: int = option(1, least=1)
    """With `data.partition=primary`: primary clients of a class."""
    public: str = "held-out"
    """`held-out`, a Hugging Face name, a folder, `noise` or `none`."""
    public_size: int = option(2000, least=1)
    """Public samples, at most; `held-out` takes at most a third of the training rows."""
    public_batch: int | None = option(None, least=1)
    """Public samples that a round is about, a fresh seeded subset each; None: 512, or all where there are fewer."""
    encoder: str = "pixels"
    """What votes and `embedding` see: `pixels`, a torchvision weight, `/path.safetensors`, or `train:<source>`."""
    transform: str | None = None
    """What training images go through, one by one: a name in `torchvision.transforms.v2` or `package.module:name`."""
    limit: int | None = option(None, least=1)
    """Use at most this many training rows in all."""
    per_client: int | None = option(None, least=1)
    """Use at most this many rows of each client."""
    min_rows: int = option(10, least=1)
    """The smallest client."""
    test: str | None = None
    """On devices: the global test set (a name or folder); without it `global` figures are null."""

    def __post_init__(self) -> None:
        """Check the values, that the shares are three of one whole, and what `encoder` and `partition` need."""
        super().__post_init__()
        if len(self.split) != 3 or self.split[0] == 0 or not math.isclose(sum(self.split), 1):
            raise InvalidInputError(
                f"data.split is {self.split}; expected three shares (train, validation, test) that add up to 1"
            )
        if not (self.encoder == "pixels" or self.encoder.startswith("train:") or "." in self.encoder):
            raise InvalidInputError(
                f"data.encoder is {self.encoder!r}; expected pixels, train:<source>, a torchvision weight or "
                "/path.safetensors"
            )
        if self.class_names is not None and len(set(self.class_names)) < max(len(self.class_names), 1):
            raise InvalidInputError(f"data.class_names is {self.class_names}; expected one or more names, each once")
        if self.partition == "column" and not self.column:
            raise InvalidInputError(f"data.column is {self.column!r}; expected a column's name")
        if self.own_test and self.partition != "column":
            raise InvalidInputError(
                f"data.own_test is true and data.partition is '{self.partition}': column alone says whose they are"
            )
