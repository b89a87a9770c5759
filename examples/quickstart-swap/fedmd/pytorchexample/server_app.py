"""The ServerApp."""

from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from fd_flower.strategies import FedMD

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation."""
    num_rounds: int = context.run_config["num-server-rounds"]
    lr: float = context.run_config["learning-rate"]

    strategy = FedMD(task="pytorchexample.task:task")

    strategy.start(
        grid=grid,
        train_config=ConfigRecord({"lr": lr}),
        num_rounds=num_rounds,
    )
