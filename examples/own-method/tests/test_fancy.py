"""Fancy by hand: two clients, numbers that can be checked on paper."""

import torch
from fd_flower import engine, settings
from fd_flower.core.client import Client
from fd_flower.server import Reply
from fd_flower.wire import Knowledge, pack

from my_paper.fancy import Fancy
from my_paper.options import Server
from my_paper.wire import ClassMeans

SHORT = "model.name=my_paper.nets:Net data.clients=3 server.rounds=2 client.steps=2 run.device=cpu"


def sent(client: int, means: list[list[float]], counts: list[int]) -> Reply:
    return Reply(Client(str(client), client), pack(ClassMeans(torch.tensor(means), torch.tensor(counts))))


def test_means_are_weighted_by_samples_and_sharpened():
    """Class 0: (3 * [.8, .2] + 1 * [.4, .6]) / 4 = [.7, .3]; squared [.49, .09] / .58. No client has class 1."""
    replies = [sent(0, [[0.8, 0.2], [0, 0]], [3, 0]), sent(1, [[0.4, 0.6], [0, 0]], [1, 0])]
    (made,) = Fancy(Server(sharpness=2.0)).aggregate(replies, Knowledge(), round=1)
    torch.testing.assert_close(made.means, torch.tensor([[0.49 / 0.58, 0.09 / 0.58], [0.0, 0.0]]))
    assert made.counts.tolist() == [4, 0]


def test_without_the_pull_it_is_local_training():
    def losses(method: str, changes: str = "") -> list[float]:
        lines: list[dict] = []
        engine.run(settings(method, f"{SHORT} {changes}"), on_line=lines.append)
        return [line["metrics"]["loss"] for line in lines if "client" in line]

    local = losses("local", "client.batch=32 client.lr=0.01")
    assert losses("my_paper.fancy:Fancy", "client.pull=0 client.batch=32 client.lr=0.01") == local
    assert losses("my_paper.fancy:Fancy", "client.pull=9 client.batch=32 client.lr=0.01") != local
