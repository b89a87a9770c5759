"""A Flower app as Flower's quickstart has them: it knows nothing of FD-Flower."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from . import tasks

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model on local data."""
    model = tasks.model("")
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    data = tasks.own(str(context.node_config["partition-id"])).train
    optimizer = torch.optim.SGD(model.parameters(), lr=message.content["config"]["lr"])
    loss = torch.nn.functional.cross_entropy(model(data.x), data.labels)
    loss.backward()
    optimizer.step()
    metrics = MetricRecord({"train_loss": loss.item(), "num-examples": len(data)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model on local data."""
    model = tasks.model("")
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    data = tasks.own(str(context.node_config["partition-id"])).test
    right = (model(data.x).argmax(1) == data.labels).float().mean().item()
    content = RecordDict({"metrics": MetricRecord({"eval_acc": right, "num-examples": len(data)})})
    return Message(content=content, reply_to=message)
