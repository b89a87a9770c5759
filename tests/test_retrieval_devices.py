"""A retriever is trained over real SuperNodes with TLS, keys and a secure sum, and asked where it was trained."""

from pathlib import Path

import pytest
from helpers.deployment import lab
from helpers.library_inputs import animals

from fd_flower import engine
from fd_flower.cli import main
from fd_flower.config import settings
from fd_flower.results import RunFolder
from fd_flower.tasks.retrieval import ask

pytestmark = pytest.mark.slow


def test_devices_with_their_own_documents_end_like_a_simulation(tmp_path: Path):
    library_inputs = {str(number): animals(tmp_path / "data" / str(number), 20, 100 * number) for number in range(3)}
    words = (
        "data.partition=domain data.min_rows=5 model.name=hashed:8 client.trainable=all client.epochs=1 "
        f"client.batch=32 client.lr=0.01 client.optimizer=adam server.rounds=2 server.timeout=150 run.device=cpu "
        f"data.clients=3 retrieval.unseen={animals(tmp_path / 'unseen', shift=300)} data.public=none"
    )
    sources = ",".join(str(folder) for folder in library_inputs.values())
    simulated = engine.run(settings("fede4rag", f"{words} data.source=[{sources}]"), out=tmp_path / "simulated")
    with lab(tmp_path / "lab") as made:
        for client, folder in library_inputs.items():
            made.device(client, folder)
        out = tmp_path / "deployed"
        changes = f"{words} server.nodes=3 data.partition=iid"
        assert main(["run", "fede4rag", "--on", str(made.keys), "--set", changes, "--out", str(out)]) == 0
        passages = ask(tmp_path / "lab" / "states" / "1", "where does the animal103 rest", "1", library_inputs["1"], 3)
    real = RunFolder.open(out)
    assert simulated is not None
    assert [line["sum"]["clients"] for line in real.lines() if "asked" in line and "sum" in line] == [3, 3]
    for who, scope in (("personal", "own"), ("personal", "unseen"), ("global", "unseen")):
        ours, expected = (
            {name: figure["final"] for name, figure in run.summary["retrieval"][who][scope].items() if name != "se"}
            for run in (real, simulated)
        )
        assert ours == pytest.approx(expected), (who, scope)
    assert len(passages) == 3
