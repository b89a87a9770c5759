"""What a secure sum costs a client and the server: milliseconds of CPU and bytes, by masks and by BFV.

``python benchmarks/secure_sums.py --clients 20 100 --lengths 20000 147456``; 30 % of the clients are lost while they
train, which is what costs the server most.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from flwr.app import MetricRecord, RecordDict

from fd_flower.config import PrivacyConfig
from fd_flower.core.client import Client
from fd_flower.privacy import bfv
from fd_flower.privacy.client_protocol import Party
from fd_flower.privacy.party import client_protocol
from fd_flower.privacy.server_protocol import Contents
from fd_flower.privacy.sums import server_protocol
from fd_flower.wire import Bounds, Payload, Weights, pack
from fd_flower.wire.replies import Reply
from fd_flower.wire.traffic import size_of


class Bench:
    """One round of a sum, timed: CPU milliseconds and bytes by exchange, one of each client."""

    def __init__(self, config: PrivacyConfig, clients: int, length: int, folder: Path, secret: Path | None) -> None:
        self.config, self.folder, self.secret = config, folder, secret
        self.rows = 0.05 * torch.randn(clients, length, generator=torch.Generator().manual_seed(0))
        self.clients = [Client(str(i), i, examples=1) for i in range(clients)]
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.up: dict[str, list[int]] = defaultdict(list)
        self.down: dict[str, list[int]] = defaultdict(list)

    def ask(self, exchange: str, contents: Contents, kinds: Sequence[type[Payload]]) -> list[Reply]:
        """Run every client's half of an exchange."""
        replies = []
        for client, content in contents.items():
            begin = time.process_time()
            party = Party(client.id, self.folder / client.id, "run", "settings", self.config, self.secret)
            protocol = client_protocol(party, content)
            if (answer := protocol.answer(exchange)) is None:
                plain = pack(Weights({"w": self.rows[client.number]}))
                reply = RecordDict({**plain, "metrics": MetricRecord({"num-examples": 1})})
                answer = protocol.outgoing(exchange, reply)
            self.seconds[exchange].append(time.process_time() - begin)
            self.down[exchange].append(size_of(content))
            self.up[exchange].append(size_of(answer))
            replies.append(Reply(client, answer, 1))
        return replies

    def play(self, lost: float) -> float:
        """Play a round with this share of the clients lost; return the largest error of the mean."""
        summing = server_protocol(self.config, (Weights,), "run", "settings")
        begin = time.process_time()
        contents = summing.open(1, self.clients, Bounds(weights={"": {"w": self.rows[0]}}), self.ask)
        summing.sent(contents)
        some = dict(list(contents.items())[round(lost * len(self.clients)) :])
        (received,) = summing.close(self.ask("train", some, summing.kinds(())), self.ask)
        self.server = time.process_time() - begin - sum(map(sum, self.seconds.values()))
        plain = torch.stack([self.rows[c.number] for c in received.clients]).double().mean(0)
        return float((Weights.need(received.content).values["w"].double() - plain).abs().max())


def main() -> None:
    """Print one row a setting and exchange."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--clients", type=int, nargs="+", default=[20, 100])
    asked.add_argument("--lengths", type=int, nargs="+", default=[20_000, 147_456])
    asked.add_argument("--sums", nargs="+", default=["masks", "bfv"])
    asked.add_argument("--bits", type=int, default=64)
    asked.add_argument("--lost", type=float, default=0.3)
    options = asked.parse_args()
    torch.set_num_threads(1)
    print("| sum | clients | numbers | exchange | ms a client | kB up | kB down | server, s | largest error |")
    for name in options.sums:
        for clients in options.clients:
            if name == "bfv":  # once a run and process, before round one
                begin = time.process_time()
                bfv.check_clients(clients)
                print(f"self-test of {clients} clients: {time.process_time() - begin:.2f} s")
            for length in options.lengths:
                with tempfile.TemporaryDirectory() as folder:
                    secret = Path(folder) / "bfv.key" if name == "bfv" else None
                    if secret is not None:
                        bfv.make_key(secret)
                    config = PrivacyConfig(name, threshold=0.6, bits=options.bits, range=64.0)
                    bench = Bench(config, clients, length, Path(folder), secret)
                    error = bench.play(options.lost)
                for i, exchange in enumerate(bench.seconds):
                    cells = [name, str(clients), str(length), exchange.removeprefix("query.fd_flower_")]
                    cells.append(f"{1e3 * statistics.median(bench.seconds[exchange]):.1f}")
                    cells += [f"{statistics.mean(table[exchange]) / 1e3:.1f}" for table in (bench.up, bench.down)]
                    cells += [f"{bench.server:.2f}", f"{error:.1e}"] if not i else ["", ""]
                    print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
