"""The ServerApp."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from fd_flower import Task
from fd_flower.strategies import FedDF
from pytorchexample.task import Net, load_centralized_dataset, load_images, test

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation."""
    config = context.run_config
    task = Task(model=lambda _: Net(), public=lambda: [image["img"] for image in load_images(slice(1000, 1500))])
    strategy = FedDF(task=task)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=ConfigRecord({"lr": config["learning-rate"]}),
        num_rounds=config["num-server-rounds"],
        evaluate_fn=on_the_test_set,
    )
    torch.save(result.arrays.to_torch_state_dict(), "final_model.pt")


def on_the_test_set(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Test the server's model."""
    model = Net()
    model.load_state_dict(arrays.to_torch_state_dict())
    loss, accuracy = test(model, load_centralized_dataset())
    return MetricRecord({"accuracy": accuracy, "loss": loss})
