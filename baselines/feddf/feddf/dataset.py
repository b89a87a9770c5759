"""feddf: A Flower Baseline."""

from functools import cache

import torch
from datasets import Dataset
from flwr_datasets import FederatedDataset
from flwr_datasets.partitioner import DirichletPartitioner
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.functional import pil_to_tensor


@cache
def federated(name: str, partitions: int, alpha: float, seed: int) -> FederatedDataset:
    """Return a dataset whose training split is divided by a Dirichlet distribution."""
    partitioner = DirichletPartitioner(
        num_partitions=partitions, partition_by="label", alpha=alpha, seed=seed
    )
    return FederatedDataset(dataset=name, partitioners={"train": partitioner})


def images_of(rows: Dataset) -> Tensor:
    """Return images [N, C, H, W] in [-1, 1]."""
    column = next(name for name in ("img", "image") if name in rows.column_names)
    pixels = [pil_to_tensor(image) for image in rows[column]]
    return torch.stack(pixels).float() / 127.5 - 1


def load_data(
    partition_id: int, partitions: int, name: str, alpha: float, batch: int, seed: int
) -> tuple[DataLoader, DataLoader]:
    """Load a partition: 90 % to train, 10 % to evaluate on."""
    rows = federated(name, partitions, alpha, seed).load_partition(partition_id)
    data = TensorDataset(images_of(rows), torch.tensor(rows["label"]))
    cut = max(1, len(data) * 9 // 10)
    parts = [torch.utils.data.Subset(data, range(cut))]
    parts.append(torch.utils.data.Subset(data, range(cut, len(data))))
    train, valid = parts
    return DataLoader(train, batch, shuffle=True), DataLoader(valid, batch)


def load_test(name: str) -> DataLoader:
    """Load the test split."""
    rows = FederatedDataset(dataset=name, partitioners={"train": 1}).load_split("test")
    return DataLoader(TensorDataset(images_of(rows), torch.tensor(rows["label"])), 512)


def load_public(name: str, size: int) -> Tensor:
    """Load the unlabeled images that the server distills on."""
    rows = FederatedDataset(dataset=name, partitioners={"train": 1}).load_split("train")
    return images_of(rows.select(range(min(size, len(rows)))))
