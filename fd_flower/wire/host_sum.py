"""What a host answers in place of its clients' replies: their sum, and what there is to say of each as columns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.exact import ExactSum
from fd_flower.wire.payload import Bounds, Payload
from fd_flower.wire.replies import METRICS, ROW, Reply

MISSING, WHOLE, FLOAT = range(3)
"""What is in a cell of the metrics: nothing, a whole number, or a floating-point one."""


@dataclass(frozen=True, eq=False)
class HostSum(Payload):
    """The sum of n clients' replies.

    Attributes
    ----------
    values : Tensor
        [L] int64: the sum (``fd_flower.wire.exact``).
    wholes : Tensor
        [M] int64: the largest whole numbers.
    bytes : Tensor
        [n, K] int64: bytes of each client's own reply, by kind.
    sizes : Tensor
        [n] float64: the largest entry of each.
    cells : Tensor
        [n, W] float64: their metrics, lists flattened.
    types : Tensor
        [n, W] uint8: what each cell is: ``MISSING``, ``WHOLE`` or ``FLOAT``.
    about : Tensor
        uint8, JSON: ``clients``, ``kinds``, ``metrics`` ([name, length of the list or null]) and ``remarks`` by client.
    """

    kind: ClassVar[str] = "host-sum"
    values: Tensor
    wholes: Tensor
    bytes: Tensor
    sizes: Tensor
    cells: Tensor
    types: Tensor
    about: Tensor

    @classmethod
    def made(cls, total: ExactSum, replies: Sequence[Reply], bytes: Sequence[Mapping[str, int]]) -> Self:
        """Return the sum of replies.

        Parameters
        ----------
        total : ExactSum
            The sum of their payloads.
        replies : Sequence[Reply]
            The replies, each with a ``row`` in place of payloads.
        bytes : Sequence[Mapping[str, int]]
            Bytes of each one's payloads, by kind.
        """
        kinds = list(dict.fromkeys(kind for own in bytes for kind in own))
        columns = dict.fromkeys((key, _length(v)) for reply in replies for key, v in (reply.metrics or {}).items())
        ends = np.cumsum([_width(length) for _, length in columns], dtype=np.int64)
        begins = {column: int(end) - _width(column[1]) for column, end in zip(columns, ends, strict=True)}
        cells = np.zeros((len(replies), int(ends[-1]) if len(ends) else 0))
        types = np.full(cells.shape, MISSING, dtype=np.uint8)
        for row, reply in enumerate(replies):
            for key, value in (reply.metrics or {}).items():
                found = value or [0] if isinstance(value, list) else [value]
                own = slice(at := begins[key, _length(value)], at + len(found))
                cells[row, own] = found
                types[row, own] = [WHOLE if isinstance(v, int) else FLOAT for v in found]
        about = {
            "clients": [reply.client.id for reply in replies],
            "kinds": kinds,
            "metrics": list(columns),
            "remarks": {reply.client.id: reply.remark for reply in replies if reply.remark},
        }
        return cls(
            torch.from_numpy(total.values),
            torch.from_numpy(total.wholes),
            torch.tensor([[own.get(kind, 0) for kind in kinds] for own in bytes], dtype=torch.int64),
            torch.tensor([reply.size for reply in replies], dtype=torch.float64),
            torch.from_numpy(cells),
            torch.from_numpy(types),
            torch.from_numpy(np.frombuffer(json.dumps(about).encode(), dtype=np.uint8).copy()),
        )

    def check(self, bounds: Bounds) -> None:
        """Refuse columns of different lengths, other types, and metrics that are no numbers."""
        super().check(Bounds())
        about = self.said
        n, wide = len(about["clients"]), sum(_width(length) for _, length in about["metrics"])
        for key, tensor, dtype, sizes in (
            ("values", self.values, torch.int64, (None,)),
            ("wholes", self.wholes, torch.int64, (None,)),
            ("bytes", self.bytes, torch.int64, (n, len(about["kinds"]))),
            ("sizes", self.sizes, torch.float64, (n,)),
            ("cells", self.cells, torch.float64, (n, wide)),
            ("types", self.types, torch.uint8, (n, wide)),
        ):
            self._shape(key, tensor, *sizes)
            self._dtype(key, tensor, dtype)

    @cached_property
    def said(self) -> dict[str, Any]:
        """What ``about`` says.

        Raises
        ------
        InvalidInputError
            For anything but such texts and numbers.
        """
        try:
            about = json.loads(self.about.numpy().tobytes())
            metrics = [(str(key), None if length is None else int(length)) for key, length in about["metrics"]]
            if any(length is not None and not 0 <= length <= METRICS for _, length in metrics):
                raise ValueError("lists of metrics have up to 1000 numbers")
            return {
                "clients": [str(client) for client in about["clients"]],
                "kinds": [str(kind) for kind in about["kinds"]],
                "metrics": metrics,
                "remarks": {str(client): str(remark) for client, remark in about["remarks"].items()},
            }
        except Exception as error:  # what a stranger's text makes Python raise has no end
            raise InvalidInputError(f"a host's sum cannot be read: {type(error).__name__} {error}") from None

    def rows(self, host: int) -> dict[str, RecordDict]:
        """Return each client's reply: its metrics, and that its payloads are in the sum of this number."""
        about = self.said
        cells, types, sizes = self.cells.tolist(), self.types.tolist(), self.sizes.tolist()
        found = {}
        for row, client in enumerate(about["clients"]):
            metrics: dict[str, Any] = {}
            end = 0
            for key, length in about["metrics"]:
                begin, end = end, end + _width(length)
                if types[row][begin] != MISSING:
                    own = zip(cells[row][begin:end], types[row][begin:end], strict=True)
                    values = [int(v) if t == WHOLE else v for v, t in own]
                    metrics[key] = values[0] if length is None else values[:length]
            row_of = {"host": host, "size": sizes[row], "remark": about["remarks"].get(client, "")}
            found[client] = RecordDict({"metrics": MetricRecord(metrics), ROW: ConfigRecord(row_of)})
        return found

    def bytes_of(self) -> dict[str, dict[str, int]]:
        """Return by client the bytes of its own reply by kind."""
        about = self.said
        rows = zip(about["clients"], self.bytes.tolist(), strict=True)
        return {client: dict(zip(about["kinds"], own, strict=True)) for client, own in rows}


def _length(value: object) -> int | None:
    """Return the length of a list of numbers; None for a number."""
    return len(value) if isinstance(value, list) else None


def _width(length: int | None) -> int:
    """Return how many cells a metric takes; one that says that it is there, where it is an empty list."""
    return max(1, length or 0)
