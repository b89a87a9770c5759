"""Options of the data (section ``data``)."""

import math
from dataclasses import dataclass
from typing import Any

from fd_flower.config.tables import check_tables
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
    """Dataset: `digits`, a Hugging Face name, a folder of Parquet files or class folders, or a list of these."""
    clients: int = option(10, least=1)
    """Number of simulated clients. On real devices, all that answer the handshake take part."""
    split: list[float] = option([0.7, 0.1, 0.2], least=0)
    """Shares of a client's rows for training, validation and test, stratified by class."""
    test_limit: int | None = option(None, least=1)
    """Number of test samples (class-balanced) used in all evaluations but the last. None: all."""
    size: str | None = None
    """Resize images to height x width x channels (1 or 3), such as `28x28x1`."""
    task: str | None = one_of("language", default=None)
    """What is learned from texts: `language` (a language model, each token from those before it). None: classes."""
    image: str | None = None
    """Name of the image column. None: found by its type."""
    text: str | None = None
    """Name of the text column. None: `text`, `sentence` or `content`, or the only column of strings."""
    clean: str | None = one_of("newsgroups", default=None)
    """Cleaning of texts: `newsgroups` strips headers, quotes and signatures and folds white space."""
    length: int | None = option(None, least=1)
    """Maximum number of tokens per text, at most the model's own; longer texts are cut. With `data.task=language`: of
    a window, see docs/language.md. None: 128."""
    label: str | None = None
    """Name of the label column. None: found by its type."""
    class_names: list[str] | None = None
    """Class names in the order of their numbers. None: the source's names, or the values of its labels."""
    features: list[str] | None = None
    """Columns of a table that are inputs. None: all but the label and `data.column`, or its one column of arrays."""
    categories: dict[str, Any] | None = None
    """Categories of columns of a table, `data.categories.sex=[f,m]`; each becomes one input of 0 or 1 (one-hot)."""
    constants: dict[str, Any] | None = None
    """Mean and deviation by which a column of a table, or an array's channel by its number, is standardized:
    `data.constants.age=[52,13]`. Columns that are not named stay unchanged."""
    standardize: str | None = one_of("public", "train", default=None)
    """Standardize numbers by mean and deviation of the `public` samples, which every client has, or of all clients'
    `train` parts together (simulations only: clients would have to agree on them). None: `data.constants` alone."""
    column: str | None = None
    """Column that names each row's client. Sets the default of `data.partition` to `column`."""
    own_test: bool = False
    """With `data.partition=column`: use the source's test rows of a client as its test split."""
    partition: str = one_of(*PARTITIONS, default="dirichlet")
    """Rule that assigns rows to clients, see docs/partitions.md: `iid`, `dirichlet`, `classes`, ... The
    default depends on the data: `domain` for several sources, `iid` for questions and documents."""
    alpha: float = option(0.3, above=0)
    """Concentration of the Dirichlet distribution over labels (`embedding`: clusters; `quantity`: sizes)."""
    clusters: int = option(10, least=1)
    """Number of clusters of encoder features, for `data.partition=embedding` and its report."""
    allocation: str = one_of("per_cluster", "per_client", default="per_cluster")
    """With `data.partition=embedding`: `per_cluster` (shares of each cluster) or `per_client` (the paper's code)."""
    ratio: float = option(0.5, above=0, most=1)
    """With `data.partition=fedgen`: maximum share of a class's rows that clients receive."""
    classes: int = option(2, least=1)
    """With `data.partition=classes`: classes per client. With `overlap`: further classes per client."""
    shared: int = option(2, least=1)
    """With `data.partition=overlap`: number of classes that every client holds."""
    skew: float = option(100.0, least=0)
    """With `data.partition=primary`: a row is 1 + skew times as likely with a primary client of its class; 0: IID."""
    primaries: int = option(1, least=1)
    """With `data.partition=primary`: number of primary clients per class."""
    public: str = "held-out"
    """Public samples: `held-out` (part of the training rows), a Hugging Face name, a folder, `noise` or `none`."""
    public_classes: str = one_of("private", "added", default="private")
    """Classes of labeled public samples: `private` (the clients'), or `added` after the clients' where another dataset
    has other ones. Models then have an output for each."""
    public_size: int = option(2000, least=1)
    """Maximum number of public samples. `held-out` takes at most a third of the training rows."""
    public_batch: int | None = option(None, least=1)
    """Number of public samples per round, a new random subset each time. None: 512, or all if there are fewer."""
    encoder: str = "pixels"
    """Encoder for votes and `embedding`: `pixels`, a torchvision weight, `/path.safetensors`, `train:<source>`, or for
    votes alone `model` (the features of the client's own initial model, the default for texts)."""
    transform: str | None = None
    """Transform of each training sample: a name in `torchvision.transforms.v2` or `package.module:name`."""
    limit: int | None = option(None, least=1)
    """Maximum number of training rows of all clients together."""
    per_client: int | None = option(None, least=1)
    """Maximum number of rows per client."""
    min_rows: int = option(10, least=1)
    """Minimum number of rows per client."""
    test: str | None = None
    """Global test set on real devices (a name or folder). Without it, `global` figures are null."""

    @property
    def adds_classes(self) -> bool:
        """Whether the public samples' classes are classes of the run, too."""
        return self.public_classes == "added"

    def __post_init__(self) -> None:
        """Check the values, that the shares are three of one whole, and what `encoder` and `partition` need."""
        super().__post_init__()
        if len(self.split) != 3 or self.split[0] == 0 or not math.isclose(sum(self.split), 1):
            raise InvalidInputError(
                f"data.split is {self.split}; expected three shares (train, validation, test) that add up to 1"
            )
        if not (self.encoder in ("pixels", "model") or self.encoder.startswith("train:") or "." in self.encoder):
            raise InvalidInputError(
                f"data.encoder is {self.encoder!r}; expected pixels, model, train:<source>, a torchvision weight or "
                "/path.safetensors"
            )
        if self.class_names is not None and len(set(self.class_names)) < max(len(self.class_names), 1):
            raise InvalidInputError(f"data.class_names is {self.class_names}; expected one or more names, each once")
        if self.partition == "column" and not self.column:
            raise InvalidInputError(f"data.column is {self.column!r}; expected a column's name")
        check_tables(self.categories, self.constants, self.standardize)
        if self.own_test and self.partition != "column":
            raise InvalidInputError(
                f"data.own_test is true and data.partition is '{self.partition}': column alone says whose they are"
            )
