"""feddf: A Flower Baseline."""

from logging import INFO

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from feddf.dataset import load_public, load_test
from feddf.model import Net, test
from feddf.strategy import Distillation, FedDF
from feddf.utils import best_device

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedDF, or FedAvg to compare with."""
    config = context.run_config
    device = best_device()
    testloader = load_test(str(config["dataset-name"]))

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        model = Net()
        model.load_state_dict(arrays.to_torch_state_dict())
        loss, accuracy = test(model, testloader, device)
        log(INFO, "round %s: test accuracy %.4f", server_round, accuracy)
        return MetricRecord({"accuracy": accuracy, "loss": loss})

    nodes = int(config["min-available-nodes"])
    options = {
        "fraction_train": float(config["fraction-train"]),
        "fraction_evaluate": 0.0,
        "min_available_nodes": nodes,
    }
    strategy: FedAvg
    if config["algorithm"] == "fedavg":
        strategy = FedAvg(**options)
    else:
        distillation = Distillation(
            steps=int(config["distill-steps"]),
            patience=int(config["distill-patience"]),
            check_every=int(config["distill-check-every"]),
            learning_rate=float(config["distill-learning-rate"]),
            batch_size=int(config["distill-batch-size"]),
            seed=int(config["seed"]),
        )
        name, size = str(config["public-dataset-name"]), int(config["public-size"])
        strategy = FedDF(Net, load_public(name, size), distillation, device, **options)

    torch.manual_seed(int(config["seed"]))
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=evaluate,
    )
    torch.save(result.arrays.to_torch_state_dict(), "final_model.pt")
