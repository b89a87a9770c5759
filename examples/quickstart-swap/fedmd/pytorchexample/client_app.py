"""The ClientApp."""

from flwr.app import Context, Message
from fd_flower.client import App, reply
from fd_flower.client_apps.fedmd import receive, send
from pytorchexample.task import load_data
from pytorchexample.task import test as accuracy_of
from pytorchexample.task import train as train_on

app = App()


def loaders(context: Context):
    """Return the loaders of this node's partition, to train and to test."""
    node = context.node_config
    return load_data(node["partition-id"], node["num-partitions"], context.run_config["batch-size"])


@app.train()
def train(msg: Message, context: Context):
    """Train on this node's images."""
    turn = receive(msg, context)
    model = turn.model
    trainloader, _ = loaders(context)
    loss = train_on(model, trainloader, context.run_config["local-epochs"], msg.content["config"]["lr"])
    metrics = {"train_loss": loss, "num-examples": len(trainloader.dataset)}
    return send(msg, turn, **metrics)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    """Test on this node's images."""
    turn = receive(msg, context)
    model = turn.model
    _, testloader = loaders(context)
    loss, accuracy = accuracy_of(model, testloader)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(testloader.dataset)}
    return reply(msg, turn, **metrics)
