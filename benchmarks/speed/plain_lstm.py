"""The rule `lstm` written with `nn.LSTMCell`, for `higher` and TorchOpt in meta_gradient.py."""

import higher
import torch
from torch import nn

from learned_opt.rules.parts.features import log_sign


class PlainLSTM(nn.Module):
    """The rule `lstm` made of torch's modules, with the weights of `rule`."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule
        self.cells = nn.ModuleList([nn.LSTMCell(2, 20), nn.LSTMCell(20, 20)])
        self.head = nn.Linear(20, 1)
        self.head.load_state_dict(rule.head.state_dict())
        for cell, layer in zip(self.cells, rule.layers, strict=True):
            inputs = cell.weight_ih.shape[1]
            cell.weight_ih.data.copy_(self.reorder(layer.weight)[:, :inputs])
            cell.weight_hh.data.copy_(self.reorder(layer.weight)[:, inputs:])
            cell.bias_ih.data.copy_(self.reorder(layer.bias))
            cell.bias_hh.data.zero_()

    @staticmethod
    def reorder(ours):
        """Convert our columns i, f, o, z to torch's rows i, f, z, o."""
        i, f, o, z = ours.detach().t().chunk(4)
        return torch.cat([i, f, z, o])

    def forward(self, gradients, state):
        """Compute updates of all coordinates at once, and the new state."""
        x = log_sign(torch.cat([g.detach().reshape(-1) for g in gradients]), self.rule.p)
        after = []
        for cell, before in zip(self.cells, state or [None, None], strict=True):
            after.append(cell(x, before))
            x = after[-1][0]
        flat = self.rule.output_scale * self.head(x).squeeze(-1)
        parts = flat.split([g.numel() for g in gradients])
        return [p.view_as(g) for p, g in zip(parts, gradients, strict=True)], after

    def in_our_order(self, gradients):
        """Gradients of this module's weights, in the order and layout of the rule's weights."""
        by_name = dict(zip([n for n, _ in self.named_weights()], gradients, strict=True))
        result = []
        for k in range(2):
            both = [by_name[f"cells.{k}.weight_{part}"] for part in ("ih", "hh")]
            for value in (torch.cat(both, 1), by_name[f"cells.{k}.bias_ih"]):
                i, f, z, o = value.chunk(4)
                result.append(torch.cat([i, f, o, z]).t())
        return [*result, by_name["head.weight"], by_name["head.bias"]]

    def named_weights(self):
        """The weights by name, without the original rule's."""
        return [(n, p) for n, p in self.named_parameters() if not n.startswith("rule.")]


class PlainOptimizer(torch.optim.SGD):
    """Carries the network into `higher`, which builds the differentiable optimizer from it."""

    network = None


class DifferentiablePlainOptimizer(higher.optim.DifferentiableOptimizer):
    """The differentiable version of `PlainOptimizer`."""

    def __init__(self, other, *args, **kwargs):
        super().__init__(other, *args, **kwargs)
        self.network, self.lstm_state = other.network, None

    def _update(self, grouped_grads, **kwargs):
        (group,), (gradients,) = self.param_groups, grouped_grads
        deltas, self.lstm_state = self.network(gradients, self.lstm_state)
        group["params"] = [p + d for p, d in zip(group["params"], deltas, strict=True)]


higher.register_optim(PlainOptimizer, DifferentiablePlainOptimizer)
