"""The ServerApp: FedMD (Li and Wang 2019, arXiv 1910.03581) with the options of the run configuration."""

from logging import INFO

from flwr.app import Context, UserConfig
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from fd_flower import Strategy, settings

app = ServerApp()

OPTIONS = {
    "num-server-rounds": "server.rounds",
    "num-clients": "data.clients",
    "min-nodes": "server.nodes",
    "dataset": "data.source",
    "public": "data.public",
    "alpha": "data.alpha",
    "local-steps": "client.steps",
    "learning-rate": "client.lr",
    "batch-size": "client.batch",
}
"""Keys of the run configuration, and the options of FD-Flower that they set."""

OURS = {"client.objective": "kl", "client.optimizer": "sgd", "client.momentum": "0.9", "client.warmup": "0"}
"""What differs from FedMD's recipe, so that a short run learns: the loss between predictions, and the optimizer."""


def options(config: UserConfig) -> str:
    """Return the options of a run as FD-Flower reads them."""
    chosen = {option: str(config[key]) for key, option in OPTIONS.items()} | OURS
    chosen["model.name"] = f"[{config['models']}]"
    if config["results"]:
        chosen["run.out"] = str(config["results"])
    return " ".join(f"{option}={value}" for option, value in chosen.items())


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedMD and log the mean accuracy of the clients' models after each round."""
    strategy = Strategy.for_method(settings("fedmd", options(context.run_config)))
    strategy.on_line = report
    strategy.start(grid)


def report(line: dict) -> None:
    """Log one client's accuracy, on its own test images and on the global test set, after training."""
    if "client" in line:
        for point, figures in line["evaluations"].items():
            known = {name: figures[name] for name in ("accuracy", "global") if figures.get(name) is not None}
            words = ", ".join(f"{name} {value:.3f}" for name, value in known.items())
            log(INFO, "round %s, client %s, %s: %s", line["round"], line["client"], point, words)
