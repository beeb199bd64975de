"""A small training for the tests of the monitor, and readers of what it wrote."""

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from torch import nn

from learned_opt import LearnedOptimizer, create_rule

LAYERS = ["0.weight", "0.bias", "2.weight", "2.bias"]


def make_rule(name="gated-lstm"):
    torch.manual_seed(1)
    return create_rule(name)


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def make_optimizer(rule, **options):
    model = make_model()
    return model, LearnedOptimizer(model.named_parameters(), rule=rule, **options)


def train(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        loss = model(torch.randn(8, 5, generator=generator)).square().mean()
        loss.backward()
        optimizer.step(lambda loss=loss: loss)


def read(folder, run="training"):
    """The events of a run: "training", or "tensors/NAME" for those of one tensor."""
    events = EventAccumulator(str(folder / run), size_guidance={"histograms": 0, "scalars": 0})
    return events.Reload()


def steps_of(folder, tensor, tag="update_rms"):
    return [event.step for event in read(folder, f"tensors/{tensor}").Scalars(tag)]


def layout_of(folder, run="training"):
    """Titles of charts by category, as the newest layout has them."""
    event = read(folder, run).Tensors("custom_scalars__config__")[-1]
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    return {one.title: [chart.title for chart in one.chart] for one in layout.category}
