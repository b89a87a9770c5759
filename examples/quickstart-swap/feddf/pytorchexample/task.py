"""Model, data, and the loops of training and testing."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


class Net(nn.Module):
    """A small convolutional network for images of 8 x 8 pixels."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        )

    def forward(self, x):
        return self.layers(x)


def load_images(part: slice):
    """Load some rows of the data set, as pairs of image and label by name."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels[part] / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return [{"img": image, "label": int(label)} for image, label in zip(images, labels[part], strict=True)]


def load_data(partition_id: int, num_partitions: int, batch_size: int):
    """Load a partition: 80 % to train, 20 % to test."""
    partition = load_images(slice(partition_id, 1000, num_partitions))
    cut = len(partition) * 4 // 5
    trainloader = DataLoader(partition[:cut], batch_size=batch_size, shuffle=True)
    testloader = DataLoader(partition[cut:], batch_size=batch_size)
    return trainloader, testloader


def load_centralized_dataset():
    """Load the test set."""
    return DataLoader(load_images(slice(1500, None)), batch_size=128)


def train(net, loader, epochs, lr):
    """Train by SGD with momentum; return the mean loss of the mini-batches."""
    net.to(DEVICE).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    losses = []
    for _ in range(epochs):
        for batch in loader:
            images, labels = batch["img"].to(DEVICE), batch["label"].to(DEVICE)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def test(net, loader):
    """Return the mean loss and the accuracy."""
    net.to(DEVICE).eval()
    loss, right = 0.0, 0
    for batch in loader:
        labels = batch["label"].to(DEVICE)
        logits = net(batch["img"].to(DEVICE))
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        right += int((logits.argmax(1) == labels).sum())
    return loss / len(loader.dataset), right / len(loader.dataset)
