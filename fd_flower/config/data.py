"""Options of the data (section ``data``)."""

import math
from dataclasses import dataclass, field
from typing import Any

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.schema import need

PARTITIONS = (
    "iid",
    "dirichlet",
    "embedding",
    "fedgen",
    "classes",
    "overlap",
    "primary",
    "quantity",
    "column",
    "domain",
)
ALLOCATIONS = ("per_cluster", "per_client")


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from and who holds which (section ``data``)."""

    source: Any = "digits"
    """`digits`, a hub name, a folder of Parquet files or class folders, a list of these (`data.partition=domain`)."""
    clients: int = 10
    """Number of hosted clients; on devices all that answer the handshake take part."""
    split: list[float] = field(default_factory=lambda: [0.7, 0.1, 0.2])
    """Shares of a client's rows for training, validation and test."""
    test_limit: int | None = None
    """Test images used between the first and the last evaluation (class-balanced); None: all."""
    size: str | None = None
    """Bring images to this size, gray or RGB: `28x28x1`."""
    image: str | None = None
    """The image column; None: found by its type."""
    label: str | None = None
    """The label column; None: found by its type."""
    column: str | None = None
    """With `data.partition=column`: the column that says who is the client."""
    partition: str = "dirichlet"
    """`iid`, `dirichlet`, `embedding`, `fedgen`, `classes`, `overlap`, `primary`, `quantity`, `column` or `domain`."""
    alpha: float = 0.3
    """Concentration of `dirichlet` and `fedgen` (over labels), `embedding` (over clusters), `quantity` (over sizes)."""
    clusters: int = 10
    """Clusters that `data.partition=embedding` and its report make of what `data.encoder` sees."""
    allocation: str = "per_cluster"
    """With `data.partition=embedding`: `per_cluster` (shares of each cluster) or `per_client` (the paper's code)."""
    ratio: float = 0.5
    """With `data.partition=fedgen`: the share of a class's rows that are dealt out, at most."""
    classes: int = 2
    """With `data.partition=classes`: classes a client holds; with `overlap`: beside those that all hold."""
    shared: int = 2
    """With `data.partition=overlap`: classes that every client holds."""
    skew: float = 100.0
    """With `data.partition=primary`: a row is 1 + skew times as likely with a primary client of its class; 0: IID."""
    primaries: int = 1
    """With `data.partition=primary`: primary clients of a class."""
    public: str = "held-out"
    """`held-out`, a Hugging Face name, a folder, `noise` or `none`."""
    public_size: int = 2000
    """Public samples, at most; `held-out` takes at most a third of the training rows."""
    public_batch: int = 512
    """Public samples that a round is about: a fresh seeded subset each."""
    encoder: str = "pixels"
    """What votes and `embedding` see: `pixels`, a torchvision weight, `/path.safetensors`, or `train:<source>`."""
    limit: int | None = None
    """Use at most this many training rows in all."""
    per_client: int | None = None
    """Use at most this many rows of each client."""
    min_rows: int = 10
    """The smallest client."""
    test: str | None = None
    """On devices: the balanced test set (a name or folder); without it `global` figures are null."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        need(self.clients >= 1, "data.clients", self.clients, "at least 1")
        shares = self.split
        right = len(shares) == 3 and all(s >= 0 for s in shares) and shares[0] > 0 and math.isclose(sum(shares), 1)
        need(right, "data.split", list(shares), "three shares (train, validation, test) that add up to 1")
        for key, known in (("partition", PARTITIONS), ("allocation", ALLOCATIONS)):
            if getattr(self, key) not in known:
                raise InvalidInputError(f"data.{key} is '{getattr(self, key)}'{nearest(getattr(self, key), known)}")
        need(self.alpha > 0, "data.alpha", self.alpha, "a number above 0")
        need(0 < self.ratio <= 1, "data.ratio", self.ratio, "a share above 0 and at most 1")
        for key in ("classes", "shared", "clusters"):
            need(getattr(self, key) >= 1, f"data.{key}", getattr(self, key), "at least 1")
        need(0 <= self.skew < math.inf, "data.skew", self.skew, "a number, 0 or more")
        need(self.primaries >= 1, "data.primaries", self.primaries, "at least 1")
        for key in ("test_limit", "limit", "per_client"):
            value = getattr(self, key)
            need(value is None or value >= 1, f"data.{key}", value, "at least 1, or nothing for all")
        for key in ("public_size", "public_batch", "min_rows"):
            need(getattr(self, key) >= 1, f"data.{key}", getattr(self, key), "at least 1")
        seen = self.encoder == "pixels" or self.encoder.startswith("train:") or "." in self.encoder
        need(seen, "data.encoder", self.encoder, "pixels, train:<source>, a torchvision weight or /path.safetensors")
        need(self.partition != "column" or bool(self.column), "data.column", self.column, "a column's name")
