"""The steps in blocks of the LSTM rules of papers: lstm, gated-lstm and momentum-gated-lstm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from learned_opt.backends.blocks.coordinate_step import Compute, CoordinateStepInBlocks
from learned_opt.backends.blocks.log_sign import (
    Preprocessing,
    find_active,
    preprocess,
    split_loss,
)
from learned_opt.backends.blocks.lstm_cell import PackedCell, pack_weights, step_cell
from learned_opt.backends.blocks.rows import Rows
from learned_opt.backends.c_steps.paper_lstms import gated_rule, refuses_p
from learned_opt.backends.fused_step import expect
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.gated_lstm import MomentumGatedLSTM
from learned_opt.rules.lstm import CoordinateLSTM
from learned_opt.rules.parts.gate_pair import GatePair
from learned_opt.rules.parts.lstm_cell import LSTMCell


class CoordinateLSTMInBlocks(CoordinateStepInBlocks):
    """The stack of LSTMs, any number of layers and units."""

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse rules that were cast, or whose p is too large for float32."""
        return super().refuses_rule(rule) or refuses_p(expect(rule, CoordinateLSTM).p)

    def layout(self, rule: UpdateRule) -> Mapping[str, int]:
        """The outputs of all layers in a row: each reads those of the one before and its own."""
        own = expect(rule, CoordinateLSTM)
        sizes = list(enumerate(own.hidden_sizes))
        return {
            "inputs": 2,
            **{f"h{k}": size for k, size in sizes},
            **{f"c{k}": size for k, size in sizes},
            **{"recent": 1, "parameter": 1, "gradient": 1, "delta": 1, "size": 1, "known": 1},
            "gates": 5 * max(own.hidden_sizes),
        }

    def prepare(self, rule: UpdateRule, step: float, loss: float | None) -> Compute:
        """Pack the weights; the rule reads neither step nor loss."""
        own = expect(rule, CoordinateLSTM)
        cells = [pack_weights(*_plain(layer)) for layer in own.layers]
        head = [own.head.weight.detach(), own.head.bias.detach().unsqueeze(-1)]
        weight, bias = (own.output_scale * value for value in head)
        return _StackStep(preprocess(own.p), cells, weight, bias).compute


def _plain(layer: torch.nn.Module) -> tuple[Tensor, Tensor]:
    return layer.get_parameter("weight").detach(), layer.get_parameter("bias").detach()


@dataclass(frozen=True, slots=True)
class _StackStep:
    """A step of lstm. Weight `[1, H]` and bias `[1, 1]` of the head have its output's scale."""

    preprocessing: Preprocessing
    cells: list[PackedCell]
    weight: Tensor
    bias: Tensor

    def compute(self, rows: Rows) -> Tensor | None:
        """See `Compute`."""
        g = rows["gradient"]
        size = torch.abs(g, out=rows["size"])
        active = find_active(size, rows["c0"], rows, "gates")
        self.preprocessing.split(g, rows["inputs"])
        before = "inputs"
        for k, cell in enumerate(self.cells):
            h, c = rows[f"h{k}"], rows[f"c{k}"]
            step_cell(cell, rows, rows.between(before, f"h{k}"), h, c)
            before = f"h{k}"
        known = self.preprocessing.known(size, rows["recent"], rows["known"])
        torch.addmm(self.bias, self.weight, rows[before], out=rows["delta"]).mul_(known)
        return active


class GatedLSTMInBlocks(CoordinateStepInBlocks):
    """Both gated rules. A gate reads its last value or its last logit."""

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse rules that were cast, or whose p is too large for float32."""
        return super().refuses_rule(rule) or refuses_p(gated_rule(rule).p)

    def layout(self, rule: UpdateRule) -> Mapping[str, int]:
        """Inputs of a pair of gates lie side by side: h or features, the cell, the last gates."""
        own = gated_rule(rule)
        memories = ["m_", ""] if isinstance(own, MomentumGatedLSTM) else [""]
        layout: dict[str, int] = {}
        for prefix in memories:
            layout[f"{prefix}inputs"] = 2
            if own.hidden_size:
                layout[f"{prefix}h"] = own.hidden_size
            layout |= {"m" if prefix else "parameter": 1, f"{prefix}gates": 2}
        if own.hidden_size:
            layout |= {f"{prefix}c": own.hidden_size for prefix in memories}
        work = {"recent": 1, "gradient": 1, "delta": 1, "size": 1, "known": 1, "pair": 2}
        return {**layout, **work, "work": max(2, 5 * own.hidden_size)}

    def prepare(self, rule: UpdateRule, step: float, loss: float | None) -> Compute:
        """Fold the loss, which is equal in all coordinates, into the biases."""
        own = gated_rule(rule)
        features = None
        if own.use_loss and loss is not None:
            features = split_loss(loss, own.p)
        memory = None
        if isinstance(own, MomentumGatedLSTM):
            memory = _pack_pair(own.memory_reader, own.memory_gates, features)
        pair = _pack_pair(own.reader, own.gate_pair, features)
        return _GatedStep(preprocess(own.p), memory, pair).compute


@dataclass(frozen=True, slots=True)
class _Pair:
    """A pair of gates and the LSTM before it.

    Attributes:
        cell: of the LSTM, or None.
        weight: of the gates, for their inputs, the cell's value and both last values, `[2, rows]`.
        bias: of the gates, `[2, 1]`.
        keeps_logits: whether the last values are those before the sigmoid.
    """

    cell: PackedCell | None
    weight: Tensor
    bias: Tensor
    keeps_logits: bool


def _pack_pair(reader: LSTMCell | None, gates: GatePair, loss: Tensor | None) -> _Pair:
    """Pack the weights; `loss`, `[2]`, are its features, which come after those of the gradient."""
    weight, bias = gates.weight.detach().double(), gates.bias.detach().double()
    cell = None
    if reader is not None:
        own, own_bias = reader.weight.detach().double(), reader.bias.detach().double()
        if loss is not None:
            own, own_bias = torch.cat([own[:2], own[4:]]), own_bias + loss @ own[2:4]
        cell = pack_weights(own, own_bias)
    elif loss is not None:
        weight, bias = torch.cat([weight[:2], weight[4:]]), bias + loss @ weight[2:4]
    # Each gate reads its own last value alone.
    packed = torch.cat([weight[:-1], weight[-1].diag()])
    return _Pair(cell, packed.t().float(), bias.unsqueeze(-1).float(), gates.recurrence == "logit")


@dataclass(frozen=True, slots=True)
class _GatedStep:
    """A step of gated-lstm, or with a `memory` of momentum-gated-lstm."""

    preprocessing: Preprocessing
    memory: _Pair | None
    pair: _Pair

    def compute(self, rows: Rows) -> Tensor | None:
        """See `Compute`."""
        g, parameter, delta = rows["gradient"], rows["parameter"], rows["delta"]
        size = torch.abs(g, out=rows["size"])
        active = find_active(size, rows["gates"], rows, "work")
        value = g
        if self.memory is not None:
            self._gate(self.memory, "m_", "m", g, rows)
            value = rows["m"]
            f, i = rows.part("pair", 0), rows.part("pair", 1)
            value.mul_(f).addcmul_(i, g, value=-1)
        self._gate(self.pair, "", "parameter", value, rows)
        shrink, i = rows.part("pair", 0), rows.part("pair", 1)
        torch.mul(shrink, parameter, out=delta)
        delta.addcmul_(i, value, value=-1 if self.memory is None else 1)
        delta.mul_(self.preprocessing.known(size, rows["recent"], rows["known"]))
        return active

    def _gate(self, pair: _Pair, prefix: str, cell: str, value: Tensor, rows: Rows) -> None:
        """Write both gates into the rows `pair`, and their last values.

        That of a parameter gets f - 1 in place of f: exact where f rounds to 1.
        """
        self.preprocessing.split(value, rows[f"{prefix}inputs"])
        first = f"{prefix}inputs"
        if pair.cell is not None:
            h, c = rows[f"{prefix}h"], rows[f"{prefix}c"]
            step_cell(pair.cell, rows, rows.between(first, f"{prefix}h"), h, c, "work")
            first = f"{prefix}h"
        last, found = rows[f"{prefix}gates"], rows["pair"]
        torch.addmm(pair.bias, pair.weight, rows.between(first, f"{prefix}gates"), out=found)
        if pair.keeps_logits:
            last.copy_(found)
        else:
            torch.sigmoid(found, out=last)
        if cell == "parameter":
            rows.part("pair", 0).neg_().sigmoid_().neg_()
            rows.part("pair", 1).sigmoid_()
        else:
            found.sigmoid_()
