"""A client finds what it left in its last turn, whatever was killed, played again or came too late."""

import socket
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Linear, Module

from fd_flower.core import storage
from fd_flower.core.errors import InvalidInputError, RunError, StateError
from fd_flower.core.storage import Memory


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path, "key", "0")


def held(memory: Memory) -> list[str]:
    return sorted(path.name for path in memory.folder.iterdir())


def number(of: float) -> dict[str, Tensor]:
    return {"number": torch.tensor([of])}


def read(memory: Memory, moment: tuple[int, int] | None) -> float | None:
    found = memory.read(moment)
    return float(found["number"]) if found else None


def test_a_newcomer_remembers_nothing(memory: Memory):
    assert memory.read((1, 0)) == {}
    assert memory.read(None) == {}


def test_a_turn_reads_the_newest_of_earlier_turns(memory: Memory):
    memory.write((2, 0), number(2))
    memory.write((10, 0), number(10))  # ten comes after two, also as a file's name
    assert read(memory, (2, 0)) is None
    assert read(memory, (10, 0)) == 2
    assert read(memory, (11, 0)) == 10


def test_exchanges_of_a_round_are_turns_of_their_own(memory: Memory):
    memory.write((1, 0), number(1.0))
    memory.write((1, 1), number(1.1))
    assert read(memory, (1, 1)) == pytest.approx(1.0)
    assert read(memory, (2, 0)) == pytest.approx(1.1)


def test_a_round_played_again_starts_from_what_it_started_from(memory: Memory):
    memory.write((1, 0), number(1))
    memory.write((2, 0), number(2))  # and here the server was killed
    assert read(memory, (2, 0)) == 1
    memory.write((2, 0), number(3))
    assert read(memory, (3, 0)) == 3


def test_a_turn_keeps_its_own_file_and_the_newest_of_earlier_rounds(memory: Memory):
    for round in (1, 2, 4):
        memory.write((round, 0), number(round))
    assert held(memory) == ["2-0.safetensors", "4-0.safetensors"]
    memory.write((4, 1), number(4.1))
    assert held(memory) == ["2-0.safetensors", "4-0.safetensors", "4-1.safetensors"]


def test_a_late_turn_writes_nothing(memory: Memory):
    memory.write((3, 0), number(3))
    memory.write((2, 0), number(2))
    assert held(memory) == ["3-0.safetensors"]


def test_the_closing_message_reads_the_newest(memory: Memory):
    memory.write((1, 0), number(1))
    memory.write((2, 0), number(2))
    assert read(memory, None) == 2


def test_clients_and_runs_do_not_meet(tmp_path: Path):
    names = ["0", "a/b", "a%2fb", "../up", "ward 7", "näh", "a\\b", ".", "..", "x" * 40]
    for place, name in enumerate(names):
        Memory(tmp_path, "key", name).write((1, 0), number(place))
    Memory(tmp_path, "other key", "0").write((1, 0), number(99))
    assert [read(Memory(tmp_path, "key", name), None) for name in names] == list(range(len(names)))
    folders = [path for path in (tmp_path / "key").rglob("*") if path.is_dir()]
    assert len(folders) == len(names)  # one each, and none elsewhere
    assert {path.parent for path in folders} == {tmp_path / "key"}


def test_a_write_is_there_as_a_whole_or_not_at_all(memory: Memory, monkeypatch: pytest.MonkeyPatch):
    memory.write((1, 0), number(1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            memory.write((2, 0), number(2))
    assert read(memory, (3, 0)) == 1
    memory.write((2, 0), number(2))
    assert read(memory, (3, 0)) == 2


def test_training_in_place_leaves_the_file_unchanged(memory: Memory):
    memory.write((1, 0), number(1))
    path = memory.folder / "1-0.safetensors"
    before = path.read_bytes()
    memory.read((2, 0))["number"].add_(1)
    assert path.read_bytes() == before
    assert read(memory, (2, 0)) == 1


def test_what_is_read_can_be_written_over_itself(memory: Memory):
    """A round played again writes the file that is mapped; the tensors read before stay whole."""
    memory.write((1, 0), number(1))
    memory.write((2, 0), number(2))
    mapped = memory.read((3, 0))
    memory.write((2, 0), number(5))
    assert float(mapped["number"]) == 2


class Tied(Module):
    """Two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Linear(3, 3), Linear(3, 3)
        self.two.weight = self.one.weight


def test_tensors_that_share_memory_are_kept(memory: Memory):
    whole = torch.arange(6.0)
    memory.write((1, 0), {**Tied().state_dict(), "rows": whole[:4], "more": whole[2:], "wide": torch.ones(2, 3).T})
    found = memory.read(None)
    assert torch.equal(found["one.weight"], found["two.weight"])
    assert found["rows"].tolist() == [0, 1, 2, 3]
    assert found["more"].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("lasting", [False, True])
def test_a_file_in_which_one_bit_has_flipped_is_named_with_what_to_do(tmp_path: Path, lasting: bool):
    memory = Memory(tmp_path, "key", "0", hosted=not lasting, lasting=lasting)
    memory.write((1, 0), {**number(1), "whole": torch.arange(3), "none": torch.zeros(0, 2)})
    path = memory.folder / "1-0.safetensors"
    whole = path.read_bytes()
    kind, cure = (InvalidInputError, "delete it") if lasting else (StateError, "put it back, or start the run again")
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(kind, match=f"1-0.safetensors cannot be read .*{cure}") as caught:
            memory.read(None)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"torn", bytes(range(256)) * 9, b"{}" * 40])
def test_a_file_that_is_not_ours_is_named_with_what_to_do(memory: Memory, content: bytes):
    memory.write((1, 0), number(1))
    (memory.folder / "1-0.safetensors").write_bytes(content)
    with pytest.raises(StateError, match=r"1-0.safetensors cannot be read .*; put it back, or start the run again"):
        memory.read(None)


def test_tensors_of_somebody_else_are_not_taken_for_ours(memory: Memory):
    memory.folder.mkdir(parents=True)
    save_file(number(1), memory.folder / "1-0.safetensors")
    with pytest.raises(StateError, match="it is not of FD-Flower"):
        memory.read(None)


def test_other_files_beside_the_memory_are_no_turns(memory: Memory):
    memory.write((1, 0), number(1))
    for name in ("closing", "1-0 (copy)", "x-y", "²-0"):
        save_file(number(9), memory.folder / f"{name}.safetensors")
    assert read(memory, None) == 1


def test_a_client_that_remembers_less_than_expected_is_named_with_machine_and_path(tmp_path: Path):
    memory = Memory(tmp_path, "key", "3", expected=(2, 0))
    words = f"client 3 has lost its memory of round 2: {socket.gethostname()} has no {memory.folder}/2-0.safetensors"
    with pytest.raises(StateError, match=words):
        memory.read((3, 0))
    memory.write((1, 0), number(1))
    with pytest.raises(StateError, match=words):
        memory.read((3, 0))
    memory.write((2, 1), number(2))
    assert read(memory, (3, 0)) == 2


@pytest.mark.parametrize(("lasting", "kind"), [(False, StateError), (True, RunError)])
def test_a_memory_that_cannot_be_written_says_why_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lasting: bool, kind: type[RunError]
):
    def full(tensors: object, path: Path, about: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(storage, "save_file", full)
    memory = Memory(tmp_path, "key", "3", hosted=not lasting, lasting=lasting)
    with pytest.raises(kind, match=r"client 3 cannot write its memory .*1-0.safetensors .*No space left") as caught:
        memory.write((1, 0), number(1))
    assert type(caught.value) is kind
    assert held(memory) == []
