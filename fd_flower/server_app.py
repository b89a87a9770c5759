"""Flower's entry point on the server: builds the method's strategy from the run's configuration and starts it."""

import os
import time
from dataclasses import replace
from logging import ERROR, INFO
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fd_flower.config import registry, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.results import RunFolder
from fd_flower.results.folder import CONFIG
from fd_flower.results.outcome import standing
from fd_flower.server import Strategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run ``method`` with ``set`` and ``task`` of the run's configuration."""
    config = context.run_config
    chosen = settings(str(config["method"]), str(config.get("set", "")), task=str(config.get("task", "")))
    if chosen.run.out is None:
        # Under plain `flwr run` the working directory is not the user's, so the home is where a run is found again.
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{registry.short_name(chosen.method)}-{os.getpid()}"
        out = Path.home() / ".fd-flower" / "runs" / name
        chosen = replace(chosen, run=replace(chosen.run, out=str(out)))
    folder = str(chosen.run.resume or chosen.run.out)
    log(INFO, "results: %s", folder)  # `flwr stop` ends this process before it could say anything
    try:
        Strategy.for_method(chosen).start(grid)
    except InvalidInputError:
        raise
    except BaseException:
        begun = RunFolder.open(folder) if Path(folder, CONFIG).is_file() else None
        if begun is not None and begun.lines():
            again = f"method='{chosen.method}' set='run.resume={folder}'"
            log(ERROR, '%s, resume: flwr run . --stream --run-config "%s"', standing(begun), again)
        raise
    log(INFO, "%s", folder)
