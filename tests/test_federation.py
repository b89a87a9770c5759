"""What a technician sees: the next steps after `keys`, public samples by checksum, who is there, a device removed."""

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from flwr.app import Context, RecordDict
from helpers.deployment import partitions

from fd_flower import client_app
from fd_flower.cli import federation, main, overview, versions_app
from fd_flower.config import settings
from fd_flower.core.versions import versions
from fd_flower.engine import InProcessGrid

PAGE = Path(__file__).parents[1] / "docs" / "deployment.md"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Make a federation of two devices, on port 9443."""
    folder = tmp_path / "lab"
    assert (
        main(["keys", str(folder), "--host", "lab", "--client", "a", "--client", "b", "--port", "9443", "--quiet"]) == 0
    )
    return folder


# --- what is next


@pytest.mark.skipif(not PAGE.is_file(), reason="looks at the checkout")
def test_keys_prints_the_commands_of_the_page_with_the_federations_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "etc"
    words = ["--host", "lab-server", "--client", "ward-7", "--client", "ward-8"]
    assert main(["keys", str(folder), *words]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == str(folder)
    commands = [line.strip().split("    #")[0] for line in said.splitlines() if line.startswith("  ")]
    page = (
        PAGE.read_text()
        .replace("/etc/fd-flower ", f"{folder} ")
        .replace("lab-server:/etc/fd-flower", f"lab-server:{folder}")
    )
    shown = [line for line in commands if not re.match("ufw|firewall-cmd|editor", line)]
    assert len(shown) == 11
    for line in shown:
        plain = line.replace(str(folder), "/etc/fd-flower")
        assert plain in page.replace(str(folder), "/etc/fd-flower"), plain
    assert "ufw allow proto tcp from ADDRESS to any port 8443" in commands
    assert "On ward-7, as root (on ward-8 the same, each with its own id):" in said


def test_keys_of_a_running_federation_say_what_is_new_alone(made: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert main(["keys", str(made), "--client", "c"]) == 0
    said = capsys.readouterr().out
    assert "register" in said
    assert "On c, as root:" in said
    assert "fd-flower-superlink" not in said
    assert main(["keys", str(made), "--host", "lab"]) == 0
    said = capsys.readouterr().out
    assert "systemctl restart fd-flower-superlink" in said
    assert "register" not in said


# --- public samples


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen = settings("local", "data.clients=3 data.public=noise data.limit=200")
    return partitions(tmp_path_factory.mktemp("data"), chosen)["0"]


def test_a_folder_of_public_samples_is_the_same_by_its_checksum_wherever_it_lies(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["public", str(rows)]) == 0
    said = capsys.readouterr().out
    found = re.search(rf"fd-flower public {rows} --is (\w{{64}})", said)
    assert found is not None
    assert f"rsync -a --delete {rows}/ DEVICE:{rows}/" in said
    assert f"--set 'server.nodes=COUNT data.public={rows}'" in said
    copy = shutil.copytree(rows, tmp_path / "copy")
    (copy / ".DS_Store").write_text("")
    assert main(["public", str(copy), "--is", found[1].upper()]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the same as on the server"


def test_a_copy_that_is_not_whole_is_one_line(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    copy = shutil.copytree(rows, tmp_path / "copy")
    (file,) = copy.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["public", str(copy), "--is", "0" * 64]) == 2
    said = capsys.readouterr().err
    assert re.search(rf"{copy} has 1 files with the checksum \w{{64}}; expected {'0' * 64}: copy it", said)
    assert said.count("\n") == 1


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_what_no_run_can_read_is_refused_on_the_server(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "empty").mkdir()
    assert main(["public", str(tmp_path / place)]) == 2
    assert str(tmp_path / place) in capsys.readouterr().err


# --- the SuperLink's view, by a `flwr` that answers from a list


@pytest.fixture
def flwr(made: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[str, ...]], dict[str, Any]]:
    """Answer in place of Flower's command; return what it was asked, and what it answers by its first words."""
    asked: list[tuple[str, ...]] = []
    answers: dict[str, Any] = {
        "supernode register": {"success": True, "node-id": 11},
        "list": {"success": True, "runs": []},
    }

    def answer(folder: Path, *words: str) -> dict[str, Any]:
        asked.append(words)
        found = next(made for start, made in answers.items() if " ".join(words).startswith(start))
        return {"success": True, "error-message": "", **found}

    monkeypatch.setattr(federation, "_flwr", answer)
    monkeypatch.setattr(federation, "_wait", lambda folder, limit=0.0: None)
    return asked, answers


def node(number: str, status: str, offline: str = "N/A") -> dict[str, Any]:
    return {"node-id": number, "status": status, "offline-at": offline}


def test_registering_keeps_which_node_a_client_is(made: Path, flwr: Any, capsys: pytest.CaptureFixture[str]):
    assert main(["register", str(made)]) == 0
    assert federation.nodes_of(made) == {"a": "11", "b": "11"}


def test_status_names_clients_when_they_were_seen_and_how_runs_ended(
    made: Path, flwr: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    _, answers = flwr
    monkeypatch.setenv("COLUMNS", "100")
    (made / "nodes.json").write_text(json.dumps({"a": "11"}))
    ago = (datetime.now(UTC) - timedelta(minutes=5)).strftime("%Y-%m-%d %H:%M:%SZ")
    answers["supernode list"] = {
        "nodes": [node("11", "offline", ago), node("12", "online"), node("13", "unregistered")]
    }
    run = {"run-id": "77", "status": "finished:failed", "status-details": "no node", "elapsed": 61.2, "running-at": ago}
    answers["list"] = {"runs": [run]}
    assert main(["status", "--on", str(made)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^ ?a +offline +5 min ago +11", said, re.MULTILINE)
    assert re.search(r"^ ?b +not registered +never", said, re.MULTILINE)
    assert re.search(r"^ ?not of this folder +online +now +12", said, re.MULTILINE)
    assert "13" not in said.replace(str(made), "").split()
    assert re.search(r"^ ?77 +failed +5 min ago +61 s +no node", said, re.MULTILINE)


def test_versions_are_asked_of_nobody_where_no_device_is_online(
    made: Path, flwr: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(overview, "_asked", lambda folder: pytest.fail("a run was started"))
    (made / "nodes.json").write_text(json.dumps({"a": "11", "b": "12"}))
    flwr[1]["supernode list"] = {"nodes": [node("11", "offline", "2026-01-01 00:00:00Z"), node("12", "registered")]}
    assert main(["status", "--on", str(made), "--versions"]) == 0
    assert "no device is online: none can be asked for its versions" in capsys.readouterr().out


def test_a_superlink_that_is_not_there_is_one_line(made: Path, capsys: pytest.CaptureFixture[str]):
    connection = made / "flwr" / "config.toml"
    connection.write_text(connection.read_text().replace("lab:9443", "127.0.0.1:1"))
    assert main(["status", "--on", str(made)]) == 1
    said = capsys.readouterr().err
    assert "no SuperLink answers at 127.0.0.1:1 (Connection refused): look at `systemctl status" in said
    assert said.count("\n") == 1


def test_a_device_is_removed_at_the_superlink_from_the_allow_list_and_here(
    made: Path, flwr: Any, capsys: pytest.CaptureFixture[str]
):
    asked, answers = flwr
    (made / "nodes.json").write_text(json.dumps({"a": "11", "b": "12"}))
    answers["supernode unregister"] = {}
    assert main(["remove", str(made), "--client", "b"]) == 0
    assert asked == [("supernode", "unregister", "12")]
    assert list(yaml.safe_load((made / "allow.yaml").read_text())) == ["a"]
    assert federation.nodes_of(made) == {"a": "11"}
    assert not (made / "clients" / "b").exists()
    assert main(["keys", str(made), "--host", "lab", "--quiet"]) == 0
    assert list(yaml.safe_load((made / "allow.yaml").read_text())) == ["a"]  # it does not come back


@pytest.mark.parametrize(
    ("known", "answers", "told"),
    [
        ({"b": "12"}, {"supernode unregister": {"success": False, "error-message": "gone away"}}, "gone away"),
        (
            {},
            {"supernode register": {"success": False, "error-message": "[code: 23] Public key already in use."}},
            "does not say as which node: find it by FLWR_HOME=",
        ),
    ],
)
def test_a_device_that_cannot_be_unregistered_stays_as_it_is(
    known: dict[str, str],
    answers: dict[str, Any],
    told: str,
    made: Path,
    flwr: Any,
    capsys: pytest.CaptureFixture[str],
):
    flwr[1].update(answers)
    (made / "nodes.json").write_text(json.dumps(known))
    assert main(["remove", str(made), "--client", "b"]) == 1
    assert told in capsys.readouterr().err
    assert list(yaml.safe_load((made / "allow.yaml").read_text())) == ["a", "b"]
    assert (made / "clients" / "b" / "client.key").exists()


def test_one_that_was_unregistered_already_is_removed_all_the_same(made: Path, flwr: Any):
    flwr[1]["supernode unregister"] = {"success": False, "error-message": "[code: 24] Node ID not found for account."}
    (made / "nodes.json").write_text(json.dumps({"b": "12"}))
    assert main(["remove", str(made), "--client", "b"]) == 0
    assert not (made / "clients" / "b").exists()


def test_a_client_that_nobody_has_is_named_beside_those_that_are(
    made: Path, flwr: Any, capsys: pytest.CaptureFixture[str]
):
    assert main(["remove", str(made), "--client", "c"]) == 2
    assert f"{made} has no client 'c'; it has a, b" in capsys.readouterr().err


# --- versions


def test_devices_say_what_they_run_and_what_keeps_them_from_a_run(
    rows: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    configs = [
        {"client-id": "a", "data-path": str(rows), "state-dir": str(tmp_path / "a")},
        {"client-id": "b", "data-path": "/nowhere", "state-dir": str(tmp_path / "b")},
    ]
    grid = InProcessGrid(client_app.app, node_configs=configs)
    with caplog.at_level("INFO", logger="flwr"):
        versions_app.app(grid, Context(1, 0, {}, RecordDict(), {}))
    (line,) = [record.getMessage() for record in caplog.records if versions_app.MARK in record.getMessage()]
    answers = json.loads(line.partition(versions_app.MARK)[2])
    assert answers["1"] == {**versions(), "same": True}
    assert "there is no folder /nowhere" in answers["2"]["refused"]
    table = overview._versions(answers | {"3": {"same": False, "flwr": "1.41.0"}}, {"1": "a", "2": "b"})
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    assert columns[0] == ["this server", "3", "a", "b"]
    assert columns[-1][:3] == ["", "no: other sources than the server, upgrade it", "yes"]
    assert columns[-1][3].startswith("no: ")
    assert columns[2][1] == "1.41.0"
