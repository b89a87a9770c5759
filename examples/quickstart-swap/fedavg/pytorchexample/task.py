"""Model, data, and the loops of training and testing."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader


class Net(nn.Module):
    """A small convolutional network."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 16, 3, padding=1)
        self.fc1 = nn.Linear(16 * 2 * 2, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 16 * 2 * 2)
        return self.fc2(F.relu(self.fc1(x)))


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


def train(net, trainloader, epochs, lr, device):
    """Train the model on the training set."""
    net.to(device)
    criterion = torch.nn.CrossEntropyLoss().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for batch in trainloader:
            images = batch["img"].to(device)
            labels = batch["label"].to(device)
            optimizer.zero_grad()
            loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net, testloader, device):
    """Evaluate the model on the test set."""
    net.to(device)
    criterion = torch.nn.CrossEntropyLoss()
    correct, loss = 0, 0.0
    with torch.no_grad():
        for batch in testloader:
            images = batch["img"].to(device)
            labels = batch["label"].to(device)
            outputs = net(images)
            loss += criterion(outputs, labels).item()
            correct += (outputs.argmax(1) == labels).sum().item()
    return loss / len(testloader), correct / len(testloader.dataset)
