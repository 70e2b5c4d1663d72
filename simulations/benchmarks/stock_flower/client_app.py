"""The stock client: one message, one user, one private step."""

from __future__ import annotations

import time

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from simulations.benchmarks.stock_flower.task import get_weights, load_data, load_model, set_weights, train

app = ClientApp()


@app.train()
def train_on_message(message: Message, context: Context) -> Message:
    """Trains the model that came on local data."""
    torch.set_num_threads(1)  # an actor has one core
    config = message.content["config"]
    settings = str(config["task"])
    model = load_model(settings)
    set_weights(model, message.content.array_records["arrays"].to_torch_state_dict())
    loader = load_data(settings, int(context.node_config["partition-id"]))
    began = time.monotonic()
    loss = train(
        model,
        loader,
        learning_rate=float(str(config["lr"])),
        max_grad_norm=float(str(config["max-grad-norm"])),
        noise_multiplier=float(str(config["noise-multiplier"])),
    )
    taken = time.monotonic() - began
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(loader.dataset), "train_seconds": taken})  # type: ignore[arg-type]
    content = RecordDict(
        {
            "arrays": ArrayRecord(get_weights(model)),
            "metrics": metrics,
        }
    )
    return Message(content=content, reply_to=message)
