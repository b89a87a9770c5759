"""Model, data, and the loops of training and testing: as in any Flower project."""

from functools import cache
from pathlib import Path

import torch
from datasets import Dataset, load_from_disk
from flwr.app import UserConfig
from flwr_datasets import FederatedDataset
from flwr_datasets.partitioner import DirichletPartitioner
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.functional import pil_to_tensor


class Net(nn.Module):
    """A small convolutional network for gray images of any size."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()),
        )
        self.head = nn.Linear(32 * 4 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [B, C] of images [B, 1, H, W]."""
        return self.head(self.body(x))


def tensors(rows: Dataset) -> list[tuple[Tensor, int]]:
    """Return images in [-1, 1] and labels; the columns are those of the Hub's image data sets."""
    image = next(name for name in ("image", "img") if name in rows.column_names)
    return [(pil_to_tensor(row[image].convert("L")) / 127.5 - 1, row["label"]) for row in rows]


@cache
def federated(dataset: str, partitions: int, alpha: float) -> FederatedDataset:
    """Return the data set whose training split is divided among the partitions."""
    partitioner = DirichletPartitioner(partitions, partition_by="label", alpha=alpha, min_partition_size=10, seed=0)
    return FederatedDataset(dataset=dataset, partitioners={"train": partitioner})


@cache
def server_images(dataset: str) -> list[tuple[Tensor, int]]:
    """Return the test split, whose first `public-size` images the server distills on."""
    return tensors(FederatedDataset(dataset=dataset, partitioners={"train": 1}).load_split("test"))


@cache
def client_images(partition: int, partitions: int, dataset: str, alpha: float, most: int) -> list[tuple[Tensor, int]]:
    """Return one partition of a simulation."""
    return tensors(first(federated(dataset, partitions, alpha).load_partition(partition), most))


def first(rows: Dataset, most: int) -> Dataset:
    """Return at most so many rows, all for 0; partitions are shuffled."""
    return rows.select(range(min(most or len(rows), len(rows))))


def loaders(node: UserConfig, config: UserConfig) -> tuple[DataLoader, DataLoader]:
    """Return a client's images, 80 % to train and 20 % to test: of a simulation's partition, or of its `data-path`."""
    most = int(config["client-images"])
    if "partition-id" in node and "num-partitions" in node:
        place = int(node["partition-id"]), int(node["num-partitions"])
        rows = client_images(*place, str(config["dataset"]), float(config["alpha"]), most)
    else:
        rows = tensors(first(load_from_disk(Path(str(node["data-path"]))), most))
    cut = len(rows) * 4 // 5
    batch = int(config["batch-size"])
    return DataLoader(rows[:cut], batch, shuffle=True), DataLoader(rows[cut:], batch)


def train(net: nn.Module, loader: DataLoader, epochs: int, lr: float) -> float:
    """Train for some epochs; return the mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    losses = []
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def test(net: nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Return loss and accuracy."""
    net.eval()
    loss, right, count = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in loader:
            logits = net(images)
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(1) == labels).sum())
            count += len(labels)
    return loss / count, right / count
