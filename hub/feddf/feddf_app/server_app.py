"""The ServerApp: FedDF (Lin et al. 2020, arXiv 2006.07242) instead of FedAvg."""

from logging import INFO

import torch
from fd_flower.strategies import FedDF
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp
from torch.utils.data import DataLoader

from fd_flower import Task, methods
from feddf_app.task import Net, server_images, test

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Average the clients' models, distill their predictions on public images into the average, and test it."""
    config = context.run_config
    size, steps = int(config["public-size"]), int(config["distill-steps"])
    images = server_images(str(config["dataset"]))
    tested = DataLoader(images[size:], 256)

    def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        model = Net()
        model.load_state_dict(arrays.to_torch_state_dict())
        loss, accuracy = test(model, tested)
        log(INFO, "round %s: accuracy %.3f on the test set", server_round, accuracy)
        return MetricRecord({"accuracy": accuracy, "loss": loss})

    options = {"distill_steps": steps, "check_every": max(1, steps // 10), "nodes": int(config["min-nodes"])}
    task = Task(model=lambda _: Net(), public=lambda: [image for image, _ in images[:size]])
    strategy = FedDF(methods.config("feddf", "server", **options), task)

    torch.manual_seed(0)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=ConfigRecord({"lr": float(config["learning-rate"])}),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=global_evaluate,
    )
