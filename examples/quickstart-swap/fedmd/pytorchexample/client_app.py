"""The ClientApp."""

import torch
from flwr.app import Context, Message
from fd_flower.client import App, reply
from fd_flower.client_apps.fedmd import receive, send
from pytorchexample.task import load_data
from pytorchexample.task import test as test_fn
from pytorchexample.task import train as train_fn

app = App()


@app.train()
def train(msg: Message, context: Context):
    """Train the model on local data."""
    turn = receive(msg, context)
    model = turn.model
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model.to(device)

    partition_id = context.node_config["partition-id"]
    num_partitions = context.node_config["num-partitions"]
    batch_size = context.run_config["batch-size"]
    trainloader, _ = load_data(partition_id, num_partitions, batch_size)

    train_loss = train_fn(
        model,
        trainloader,
        context.run_config["local-epochs"],
        msg.content["config"]["lr"],
        device,
    )

    metrics = {
        "train_loss": train_loss,
        "num-examples": len(trainloader.dataset),
    }
    return send(msg, turn, **metrics)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    """Evaluate the model on local data."""
    turn = receive(msg, context)
    model = turn.model
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model.to(device)

    partition_id = context.node_config["partition-id"]
    num_partitions = context.node_config["num-partitions"]
    batch_size = context.run_config["batch-size"]
    _, valloader = load_data(partition_id, num_partitions, batch_size)

    eval_loss, eval_acc = test_fn(model, valloader, device)

    metrics = {
        "eval_loss": eval_loss,
        "eval_acc": eval_acc,
        "num-examples": len(valloader.dataset),
    }
    return reply(msg, turn, **metrics)
