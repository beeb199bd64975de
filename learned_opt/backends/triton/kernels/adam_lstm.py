"""The cell of `adam-lstm` for a block of coordinates, in place.

The formulas are those of `learned_opt.rules.adam_lstm`, and tests hold them to it. State may lie
coordinate by coordinate, `[*param, H]`, or unit by unit: such a view of `[H, *param]`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from learned_opt.backends.triton.kernels.blocks import (
    ADDRESSES,
    SIZE,
    find_block,
    load_block,
    not_finite,
    store_block,
)

GRADIENT: tl.constexpr = tl.constexpr(0)
PARAMETER: tl.constexpr = tl.constexpr(1)
H_STATE: tl.constexpr = tl.constexpr(2)
C_STATE: tl.constexpr = tl.constexpr(3)
MOMENTA: tl.constexpr = tl.constexpr(4)
FAST: tl.constexpr = tl.constexpr(5)
SLOW: tl.constexpr = tl.constexpr(6)
"""Columns of addresses in the table."""

LOG_EPS: tl.constexpr = tl.constexpr(-55.262042231857095)
"""log 1e-24, which stands for the logarithm of a mean square of 0."""


@triton.jit
def tanh(x):
    """The hyperbolic tangent to one or two units in the last place.

    Near 0 by a polynomial in x^2, fitted to tanh on [0, 0.625]: there 1 - 2 / (exp(2x) + 1) loses
    digits.
    """
    z = x * x
    p = -0.005704042501747608 * z + 0.020637862384319305
    p = p * z - 0.05373915657401085
    p = p * z + 0.133314311504364
    p = p * z - 0.3333328068256378
    magnitude = tl.abs(x)
    # The exponential of large numbers would be infinite, which is right, but slow to divide by.
    large = 1.0 - 2.0 / (tl.exp(2.0 * tl.minimum(magnitude, 20.0)) + 1.0)
    return tl.where(magnitude < 0.625, x + x * (z * p), tl.where(x < 0.0, -large, large))


@triton.jit
def _inverse_root(mean_square):
    """1 / sqrt(v), 0 where v is 0, and log v, bounded below."""
    root = tl.sqrt_rn(mean_square)
    seen = root > 0.0
    inverse = tl.where(seen, 1.0 / (tl.where(seen, root, 1.0) + 1e-12), 0.0)
    return inverse, tl.where(seen, tl.log(mean_square + 1e-24), LOG_EPS)


@triton.jit
def _logits(inputs, weight, bias, H: tl.constexpr, COUNT: tl.constexpr):
    """Bias and inputs times weights, `[BLOCK]`, of the four gates of one unit."""
    i = tl.load(bias)
    f = tl.load(bias + H)
    o = tl.load(bias + 2 * H)
    z = tl.load(bias + 3 * H)
    for k in tl.static_range(COUNT):
        row = weight + k * 4 * H
        i += inputs[k] * tl.load(row)
        f += inputs[k] * tl.load(row + H)
        o += inputs[k] * tl.load(row + 2 * H)
        z += inputs[k] * tl.load(row + 3 * H)
    return i, f, o, z


@triton.jit
def _read_momenta(memory, stride, decays, g, inside, BETAS: tl.constexpr):
    """The momenta after the gradient, `[BLOCK]` each."""
    momenta = ()
    for k in tl.static_range(BETAS):
        m = tl.load(memory + k * stride, mask=inside, other=0.0)
        m = tl.load(decays + 2 * k) * m + tl.load(decays + 2 * k + 1) * g
        momenta = momenta + (m,)
    return momenta


@triton.jit
def step_blocks(
    table,
    blocks,
    numbers,
    decays,
    weight,
    bias,
    head,
    head_bias,
    finite,
    skipped,
    moved,
    sign,
    log_range,
    log_gain,
    direction_gain,
    bend_bound,
    fade_share,
    smallest,
    H: tl.constexpr,
    BETAS: tl.constexpr,
    MAIN: tl.constexpr,
    SHORTEST: tl.constexpr,
    UNIT_MAJOR: tl.constexpr,
    NUMBERS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    P_TYPE: tl.constexpr,
    G_TYPE: tl.constexpr,
):
    """Step a block, or leave it untouched; set its tensor's `moved` or `skipped`.

    Args:
        table: see `TensorTable`.
        blocks: see `TensorTable`.
        numbers: `[tensors, NUMBERS]`, float32: 1 / (1 - beta^t) of each momentum, of `fast` and of
            `slow`; four ages; the decay of the step; lr; lr times weight decay.
        decays: `[BETAS + 2, 2]`, float32: beta and 1 - beta of the momenta, `fast` and `slow`.
        weight: of the LSTM, `[BETAS + 9 + H, 4 H]`.
        bias: of the LSTM, `[4 H]`.
        head: `[2, H]`.
        head_bias: `[2]`.
        finite: `[tensors]`, int8: whether all of the gradient is finite.
        skipped: `[tensors]`, int8: set if a block is left untouched, since a number that would be
            written may not be finite.
        moved: `[tensors]`, int8: set if a block is written.
        sign: -1 to maximise, else 1.
        log_range: setting of the rule.
        log_gain: setting of the rule.
        direction_gain: setting of the rule.
        bend_bound: 0-dim, float32: the largest magnitude that the head's second output can have.
        fade_share: `FADE` of the rule.
        smallest: `SMALLEST` of the rule.
        H: units of the LSTM.
        BETAS: number of momenta.
        MAIN: the momentum of Adam's direction.
        SHORTEST: the momentum of the smallest beta.
        UNIT_MAJOR: how the state lies.
        NUMBERS: columns of `numbers`.
        WIDTH: see `TensorTable`.
        BLOCK: coordinates of a block.
        P_TYPE: dtype of parameters.
        G_TYPE: dtype of gradients.
    """
    tensor, row, start, left, full = find_block(table, blocks, WIDTH, BLOCK)
    if tl.load(finite + tensor) != 0:
        offsets = tl.arange(0, BLOCK)
        inside = offsets < left
        number = numbers + tensor * NUMBERS
        g = sign * load_block(row, GRADIENT, G_TYPE, start, left, full, offsets)
        p = load_block(row, PARAMETER, P_TYPE, start, left, full, offsets)
        fast = load_block(row, FAST, tl.float32, start, left, full, offsets)
        slow = load_block(row, SLOW, tl.float32, start, left, full, offsets)
        idle = (g == 0.0) & (slow == 0.0)
        last = decays + 2 * BETAS
        fast = tl.load(last) * fast + tl.load(last + 1) * g * g
        slow = tl.load(last + 2) * slow + tl.load(last + 3) * g * g
        per_fast, log_fast = _inverse_root(fast * tl.load(number + BETAS))
        slow_hat = slow * tl.load(number + BETAS + 1)
        per_slow, log_slow = _inverse_root(slow_hat)
        seen = tl.where(slow > 0.0, 1.0, 0.0)

        # Where unit 0, or momentum 0, of these coordinates lies, and how far the next one is.
        if UNIT_MAJOR:
            unit_start = start + offsets
            m_start = start + offsets
            stride = tl.load(row + SIZE)
        else:
            unit_start = (start + offsets) * H
            m_start = (start + offsets) * BETAS
            stride = tl.full((), 1, tl.int64)
        h_memory = tl.load(row + ADDRESSES + H_STATE).to(tl.pointer_type(tl.float32)) + unit_start
        c_memory = tl.load(row + ADDRESSES + C_STATE).to(tl.pointer_type(tl.float32)) + unit_start
        m_memory = tl.load(row + ADDRESSES + MOMENTA).to(tl.pointer_type(tl.float32)) + m_start

        momenta = _read_momenta(m_memory, stride, decays, g, inside, BETAS)
        direction = momenta[MAIN] * tl.load(number + MAIN) * per_slow
        recent = tl.maximum(tl.abs(g), tl.abs(momenta[SHORTEST] * tl.load(number + SHORTEST)))
        inputs = ()
        for k in tl.static_range(BETAS):
            inputs = inputs + (momenta[k] * tl.load(number + k) * per_fast,)
        inputs = inputs + (
            tl.minimum(tl.maximum(g * per_slow, -3.0), 3.0),
            direction,
            0.25 * (log_fast - log_slow),
            seen * (1.0 + 0.2 * tl.log(tl.abs(g) + 1e-9)),
            seen * (1.0 + 0.1 * log_slow),
        )
        for k in tl.static_range(4):
            inputs = inputs + (seen * tl.load(number + BETAS + 2 + k),)
        # Of finite inputs and state, gates and new state are finite, too.
        bad = not_finite(fast) + not_finite(slow)
        for k in tl.static_range(BETAS):
            bad += not_finite(momenta[k])
        for k in tl.static_range(BETAS + 9):
            bad += not_finite(inputs[k])
        for k in tl.static_range(H):
            h = tl.load(h_memory + k * stride, mask=inside, other=0.0)
            c = tl.load(c_memory + k * stride, mask=inside, other=0.0)
            bad += not_finite(h) + not_finite(c)
            inputs = inputs + (h,)
        # The largest that the parameter can become.
        step_size = tl.load(number + BETAS + 7)
        decay = tl.load(number + BETAS + 8)
        largest_delta = tl.exp(log_range) * (
            tl.abs(direction) + direction_gain * tl.load(bend_bound)
        )
        largest = tl.abs(p) * (1.0 + decay) + step_size * largest_delta
        # A parameter that holds an infinity already, as masks do, may keep it.
        bad += not_finite(largest.to(P_TYPE).to(tl.float32)) * (1 - not_finite(p))

        if tl.sum(tl.where(inside, bad, 0)) == 0:
            # The loads above come before the stores below in all threads.
            tl.debug_barrier()
            scale = tl.zeros((BLOCK,), dtype=tl.float32) + tl.load(head_bias)
            bend = tl.zeros((BLOCK,), dtype=tl.float32) + tl.load(head_bias + 1)
            for unit in range(H):
                i, f, o, z = _logits(inputs, weight + unit, bias + unit, H, BETAS + 9 + H)
                c_unit = tl.load(c_memory + unit * stride, mask=inside, other=0.0)
                c_unit = tl.sigmoid(f) * c_unit + tl.sigmoid(i) * tanh(z)
                h_unit = tl.sigmoid(o) * tanh(c_unit)
                scale += h_unit * tl.load(head + unit)
                bend += h_unit * tl.load(head + H + unit)
                tl.store(c_memory + unit * stride, tl.where(idle, 0.0, c_unit), mask=inside)
                tl.store(h_memory + unit * stride, tl.where(idle, 0.0, h_unit), mask=inside)
            root = tl.sqrt_rn(slow_hat)
            factor = tl.exp(log_range * tanh(log_gain * scale / log_range))
            factor = factor * tl.load(number + BETAS + 6) * (root / (root + smallest))
            fade = tl.minimum(recent * per_slow / fade_share, 1.0)
            delta = tl.where(idle, 0.0, -factor * (direction + direction_gain * fade * bend))
            # Not 0 times an infinite parameter.
            p = p + step_size * delta - tl.where(decay == 0.0, 0.0, decay * p)
            store_block(row, PARAMETER, P_TYPE, start, left, full, offsets, p)
            store_block(row, FAST, tl.float32, start, left, full, offsets, fast)
            store_block(row, SLOW, tl.float32, start, left, full, offsets, slow)
            for k in tl.static_range(BETAS):
                tl.store(m_memory + k * stride, momenta[k], mask=inside)
            tl.store(moved + tensor, 1)
        else:
            tl.store(skipped + tensor, 1)
    else:
        tl.store(skipped + tensor, 1)
