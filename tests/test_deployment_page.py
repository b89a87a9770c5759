"""docs/deployment.md, followed to the letter: its blocks are run, each machine being a folder of this one.

What a machine has that a test has not stands in for itself: `sudo` runs the rest of its line, `systemctl` the unit's
ExecStart, `scp` copies, `useradd`, `chown`, `ufw`, `rsync` and what installs do nothing. Absolute paths lie below the
machine's folder; public samples are in one place for all, as they must have one path.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers.deployment import partitions, short_settings, until

from fd_flower.cli.flower import program, python_path
from fd_flower.cli.superlink import free_port, groups_below
from fd_flower.results import RunFolder

PAGE = Path(__file__).parents[1] / "docs" / "deployment.md"
SERVER = "lab-server"
SHORT = (
    "server.nodes=2 server.rounds=1 client.steps=2 client.warmup=0 data.public_size=30 data.public_batch=20 "
    "model.name=mlp run.device=cpu"
)

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="looks at the checkout")

SUPERVISED = """\
trap 'kill -TERM $child; wait $child; exit' TERM
while :; do {command} & child=$!; wait $child; sleep {pause} & child=$!; wait $child; done
"""

SYSTEMCTL = """\
#!{python}
\"\"\"Start and stop units as systemd would, ExecStart, and again after RestartSec where it ends.\"\"\"
import configparser, os, re, signal, subprocess, sys, time
from pathlib import Path

root, words = Path({root!r}), [word for word in sys.argv[1:] if word != "--now"]
pid = root / f"{{words[-1]}}.pid"
if words[0] in ("restart", "disable"):
    os.kill(int(pid.read_text()), signal.SIGTERM)
    state = Path("/proc", pid.read_text(), "status")
    while state.exists() and "zombie" not in state.read_text():
        time.sleep(0.1)
if words[0] in ("restart", "enable"):
    text = (root / "etc/systemd/system" / f"{{words[-1]}}.service").read_text().replace("\\\\\\n", "")
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(text)
    command = re.sub(r"(?<![\\w/.-])/(opt|etc|var)/", rf"{{root}}/\\1/", unit["Service"]["ExecStart"])
    command = command.replace("--port 9094", "--port {port}").replace("--host 0.0.0.0", "--host 127.0.0.1")
    supervised = {supervised!r}.format(command=command, pause=unit["Service"]["RestartSec"])
    with (root / f"{{words[-1]}}.log").open("ab") as log:
        started = subprocess.Popen(
            ["bash", "-c", supervised], cwd=root / "var/lib/fd-flower", stdout=log, stderr=log, start_new_session=True
        )
    pid.write_text(str(started.pid))
"""

STANDING_IN = {
    "sudo": 'while [ "${1#-}" != "$1" ]; do [ "$1" = -u ] && shift; shift; done\nexec "$@"',
    **dict.fromkeys(("useradd", "chown", "ufw", "rsync"), ":"),
    "python3": '[ "$1 $2" = "-m venv" ] || exit 1',
    "scp": 'exec cp "$@"',
}


def blocks() -> list[tuple[str, str]]:
    """Return the page's blocks in order: the machine that the first line names, and the lines."""
    found = re.findall(r"```\n# ([\w-]+|every machine), as root\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [(machine, text) for machine, text in found]


@dataclass
class Site:
    """The machines of the page, as folders."""

    root: Path
    port: int = field(default_factory=free_port)

    def machine(self, name: str) -> Path:
        """Return a machine's folder, which is made when it is first asked for."""
        root = self.root / ("hub" if name == SERVER else name)  # a block's host name becomes an address
        if not root.exists():
            for folder in ("bin", "etc/systemd/system", "opt/fd-flower/bin", "srv", "var/lib/fd-flower"):
                (root / folder).mkdir(parents=True)
            for tool in Path(program("flwr")).parent.iterdir():
                if not tool.name.startswith("pip"):
                    (root / "opt/fd-flower/bin" / tool.name).symlink_to(tool)
            systemctl = SYSTEMCTL.format(python=sys.executable, root=str(root), port=free_port(), supervised=SUPERVISED)
            scripts = {name: f"#!/bin/sh\n{text}\n" for name, text in STANDING_IN.items()}
            for path, text in {
                **{root / "bin" / tool: text for tool, text in scripts.items()},
                root / "bin/systemctl": systemctl,
                root / "opt/fd-flower/bin/pip": "#!/bin/sh\n",
            }.items():
                path.write_text(text)
                path.chmod(0o700)
        return root

    def run(self, name: str, text: str) -> str:
        """Run a block on a machine; return what it printed."""
        root = self.machine(name)
        text = text.replace(f"{SERVER}:/", f"{self.machine(SERVER)}/").replace(SERVER, "127.0.0.1")
        text = text.replace("keys /etc/fd-flower", f"keys /etc/fd-flower --port {self.port}")
        text = text.replace("/srv/public", str(self.root / "public"))
        text = re.sub(r"(?<![\w/.-])/(opt|etc|var|srv)/", rf"{root}/\1/", text)
        environment = {
            **os.environ,
            "PATH": f"{root}/bin{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": python_path(),
            "HOME": f"{root}/var/lib/fd-flower",
            "COLUMNS": "100",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            ["bash", "-euc", text], env=environment, cwd=root, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, f"{name}:\n{text}\n{done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        """Return the ends of what the units said."""
        return "".join(
            f"\n--- {path}\n{path.read_text(errors='replace')[-3000:]}" for path in self.root.glob("*/*.log")
        )

    def end(self) -> None:
        """End what was started."""
        for path in self.root.glob("*/*.pid"):
            for group in groups_below(int(path.read_text())) | {int(path.read_text())}:
                try:
                    os.killpg(group, signal.SIGKILL)
                except ProcessLookupError:
                    continue


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "site")
    yield made
    made.end()


def test_every_block_says_on_which_machine_it_is_typed():
    text = PAGE.read_text()
    assert len(re.findall(r"^```$", text, re.MULTILINE)) == 2 * len(blocks())
    assert {machine for machine, _ in blocks()} == {"every machine", SERVER, "ward-7", "ward-8"}


@pytest.mark.slow
def test_the_page_followed_to_the_letter_ends_with_a_run_and_a_device_less(site: Site, tmp_path: Path):
    folders = list(partitions(tmp_path / "data", short_settings("local")).values())
    for ward, folder in zip(("ward-7", "ward-8"), folders, strict=False):
        shutil.copytree(folder, site.machine(ward) / "srv/images")
    shutil.copytree(folders[2], site.root / "public")
    printed: dict[str, str] = {}
    for machine, text in blocks():
        if machine == "every machine":
            for name in (SERVER, "ward-7", "ward-8"):
                site.run(name, text)
            continue
        if "run fedmd" in text:
            for ward in ("ward-7", "ward-8"):
                unit = site.machine(ward) / "fd-flower-supernode.log"
                until(lambda log=unit: "SuperNode ID" in log.read_text(errors="replace"), f"{ward}'s start", 120)
            text = text.replace("server.nodes=2", SHORT)
        if "--is SHA256" in text:
            text = text.replace("SHA256", re.search(r"--is (\w{64})", printed["public"])[1])  # type: ignore[index]
        word = next(
            (word for word in ("keys", "public", "status", "remove", "run") if f"fd-flower {word} " in text), ""
        )
        printed[word] = site.run(machine, text)
        if machine == "ward-7" and "node.toml" in text:  # "on ward-8 the same, with its own id"
            site.run("ward-8", text.replace("ward-7", "ward-8"))
        if word == "run":
            assert RunFolder.open(Path(printed["run"].splitlines()[-1])).summary["clients"] == 2
        if word == "status":
            assert re.search(r"ward-7 +online +now", printed["status"])
            assert len(re.findall(r"^ *ward-\d +0\.1\.0 .* yes *$", printed["status"], re.MULTILINE)) == 2
            assert "completed" in printed["status"]
    assert "ward-8: removed" in printed["remove"]
    status = "/opt/fd-flower/bin/fd-flower status --on /etc/fd-flower"
    until(lambda: re.search(r"ward-7 +online +now", site.run(SERVER, status)), "ward-7's return after the upgrade")
    assert "ward-8" not in site.run(SERVER, status)
    assert not (site.machine("ward-8") / "etc/fd-flower").exists()
