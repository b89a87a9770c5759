"""What a secure sum costs a client and the server: milliseconds of CPU and bytes, by masks and by CKKS.

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
from fd_flower.privacy import ckks
from fd_flower.privacy.client_protocol import Party
from fd_flower.privacy.party import CLIENT_PROTOCOLS
from fd_flower.privacy.secret_store import SecretStore
from fd_flower.privacy.server_protocol import Letters
from fd_flower.privacy.sums import stage
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

    def ask(self, exchange: str, letters: Letters, kinds: Sequence[type[Payload]]) -> list[Reply]:
        """Run every client's half of an exchange."""
        replies = []
        for client, content in letters.items():
            begin = time.process_time()
            party = Party(client.id, "run", self.config, SecretStore(self.folder / client.id), self.secret)
            veil = CLIENT_PROTOCOLS[self.config.sum](party, content)
            if (said := veil.answer(exchange)) is None:
                plain = pack(Weights({"w": self.rows[client.number]}))
                said = veil.over(exchange, RecordDict({**plain, "metrics": MetricRecord({"num-examples": 1})}))
            self.seconds[exchange].append(time.process_time() - begin)
            self.down[exchange].append(size_of(content))
            self.up[exchange].append(size_of(said))
            replies.append(Reply(client, said, 1))
        return replies

    def play(self, lost: float) -> float:
        """Play a round with this share of the clients lost; return the largest error of the mean."""
        summing = stage(self.config, (Weights,))
        begin = time.process_time()
        letters = summing.open(1, self.clients, Bounds(weights={"": {"w": self.rows[0]}}), self.ask)
        some = dict(list(letters.items())[round(lost * len(self.clients)) :])
        (received,) = summing.close(self.ask("train", some, summing.kinds(())), self.ask)
        self.server = time.process_time() - begin - sum(map(sum, self.seconds.values()))
        plain = torch.stack([self.rows[c.number] for c in received.clients]).double().mean(0)
        return float((Weights.need(received.content).values["w"].double() - plain).abs().max())


def main() -> None:
    """Print one row a setting."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--clients", type=int, nargs="+", default=[20, 100])
    asked.add_argument("--lengths", type=int, nargs="+", default=[20_000, 147_456])
    asked.add_argument("--sums", nargs="+", default=["masks", "ckks"])
    asked.add_argument("--bits", type=int, default=64)
    asked.add_argument("--lost", type=float, default=0.3)
    said = asked.parse_args()
    torch.set_num_threads(1)
    print("| sum | clients | numbers | exchange | ms a client | kB up | kB down | server, s | largest error |")
    for name in said.sums:
        for clients in said.clients:
            for length in said.lengths:
                with tempfile.TemporaryDirectory() as folder:
                    secret = Path(folder) / "ckks.key" if name == "ckks" else None
                    if secret is not None:
                        ckks.make_key(secret)
                    config = PrivacyConfig(name, threshold=0.6, bits=said.bits, range=64.0)
                    bench = Bench(config, clients, length, Path(folder), secret)
                    error = bench.play(said.lost)
                for i, exchange in enumerate(bench.seconds):
                    cells = [name, str(clients), str(length), exchange.removeprefix("query.fd_flower_")]
                    cells.append(f"{1e3 * statistics.median(bench.seconds[exchange]):.1f}")
                    cells += [f"{statistics.mean(table[exchange]) / 1e3:.1f}" for table in (bench.up, bench.down)]
                    print(
                        "|",
                        " | ".join([*cells, *((f"{bench.server:.2f}", f"{error:.1e}") if not i else ("", ""))]),
                        "|",
                    )


if __name__ == "__main__":
    main()
