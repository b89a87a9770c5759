"""``fd-flower doctor``: whether this machine can run methods, and what fits it."""

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import fd_flower
from fd_flower.cli import device, flower, machine
from fd_flower.cli.finding import Finding
from fd_flower.config import DataConfig
from fd_flower.core.errors import RunError

REINSTALL = "pip install 'flwr[simulation]>=1.41,<2'"
SHARED_PORT = 39091  # where a plain `flwr run` finds a SuperLink, or starts one that stays


def check(console: Console, node: Path | None = None) -> bool:
    """Print what was found and what to do about it; whether everything that is needed is there.

    With ``node``, a device's folder, that the machine can be this device is looked at instead of simulations.
    """
    findings = [*_versions(), *_programs(device=node is not None), _importable(), *_machine()]
    findings += _flower_places() if node is None else device.findings(node)
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark = Text("broken: ", style="red") if finding.cure else Text()
        table.add_row(finding.what, mark + Text(finding.found))
    console.print(table)
    for finding in findings:
        if finding.cure:
            console.print(f"{finding.what}: {finding.cure}", markup=False, highlight=False, soft_wrap=True)
    if node is not None:
        return not any(finding.cure for finding in findings)
    console.print("Flower's simulation fits this machine with", markup=False, highlight=False)
    cores, gpus = machine.cores(), machine.gpus()
    fitting = machine.federation_config(DataConfig().clients, cores, gpus)
    console.print(f"  --federation-config '{fitting}'", markup=False, highlight=False, soft_wrap=True)
    console.print("compare and sweep use all of it with", markup=False, highlight=False)
    every = f"--devices {','.join(map(str, range(len(gpus))))}" if gpus else f"--jobs {cores}"
    console.print(f"  {every}", markup=False, highlight=False)
    return not any(finding.cure for finding in findings)


def _versions() -> Iterator[Finding]:
    yield Finding("fd-flower", f"{fd_flower.__version__} at {Path(fd_flower.__file__).parent}")
    yield Finding("python", f"{platform.python_version()} at {sys.executable}")
    for name, cure in (("flwr", REINSTALL), ("ray", REINSTALL), ("torch", "pip install 'torch>=2.4'")):
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "not installed", cure)
            continue
        fits = name != "flwr" or (1, 41) <= tuple(map(int, found.split(".")[:2])) < (2, 0)
        yield Finding(name, found, "" if fits else cure)


def _programs(*, device: bool) -> Iterator[Finding]:
    for name in ("flower-supernode", "flwr-clientapp") if device else ("flwr", "flower-superlink"):
        try:
            yield Finding(name, flower.program(name))
        except RunError as error:
            yield Finding(name, "not on the PATH", str(error))


def _importable() -> Finding:
    """Whether Flower's processes, which work in folders of their own, can import the package."""
    code = "import fd_flower.server_app, fd_flower.client_app, fd_flower; print(fd_flower.__file__)"
    with TemporaryDirectory() as elsewhere:
        tried = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return Finding("import", f"from any folder: {Path(tried.stdout.strip().splitlines()[-1]).parent}")
    lines = tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"]
    return Finding("import", f"not from other folders: {lines[-1]}", "pip install -e . in the checkout, or the wheel")


def _machine() -> Iterator[Finding]:
    size = machine.memory()
    yield Finding("CPU cores", str(machine.cores()))
    yield Finding("memory", "unknown" if size is None else f"{size / 2**30:.0f} GiB")
    gpus = machine.gpus()
    for number, gpu in enumerate(gpus):
        yield Finding(f"GPU {number}", f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB")
    if not gpus:
        yield Finding("GPU", "none that torch sees")


def _flower_places() -> Iterator[Finding]:
    home = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr")
    nearest = next(folder for folder in (home, *home.parents) if folder.exists())
    writable = os.access(nearest, os.W_OK)
    yield Finding(
        "FLWR_HOME", str(home), "" if writable else f"set FLWR_HOME to a folder that you may write, not {home}"
    )
    port = int(os.environ.get("FLWR_LOCAL_SUPERLINK_HTTP_API_PORT", SHARED_PORT))
    with socket.socket() as probe:
        busy = probe.connect_ex(("127.0.0.1", port)) == 0
    state = "a SuperLink (or another program) listens; plain `flwr run` uses it" if busy else "free"
    yield Finding(f"port {port}", f"{state} (fd-flower takes ports of its own)")
