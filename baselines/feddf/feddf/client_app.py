"""feddf: A Flower Baseline."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.utils.data import DataLoader

from feddf.dataset import load_data
from feddf.model import Net
from feddf.model import test as test_fn
from feddf.model import train as train_fn
from feddf.utils import best_device

app = ClientApp()


def loaders(context: Context) -> tuple[DataLoader, DataLoader]:
    """Return the client's images, to train and to evaluate on."""
    config = context.run_config
    return load_data(
        int(context.node_config["partition-id"]),
        int(context.node_config["num-partitions"]),
        str(config["dataset-name"]),
        float(config["alpha"]),
        int(config["batch-size"]),
        int(config["seed"]),
    )


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the received weights on the client's images."""
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    trainloader, _ = loaders(context)
    loss = train_fn(
        model,
        trainloader,
        int(context.run_config["local-epochs"]),
        float(context.run_config["learning-rate"]),
        best_device(),
    )
    metrics = {"train_loss": loss, "num-examples": len(trainloader.dataset)}
    arrays = ArrayRecord(model.cpu().state_dict())
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the received weights on images that are left out of training."""
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    _, validloader = loaders(context)
    loss, accuracy = test_fn(model, validloader, best_device())
    metrics = {
        "eval_loss": loss,
        "eval_acc": accuracy,
        "num-examples": len(validloader.dataset),
    }
    content = RecordDict({"metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)
