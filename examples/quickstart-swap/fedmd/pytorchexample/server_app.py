"""The ServerApp."""

from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from fd_flower.strategies import FedMD

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation."""
    config = context.run_config
    strategy = FedMD(task="pytorchexample.task:task")
    strategy.start(
        grid=grid,
        train_config=ConfigRecord({"lr": config["learning-rate"]}),
        num_rounds=config["num-server-rounds"],
    )
