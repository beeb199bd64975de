"""Character models: causal, equal to torch's layers, and able to learn a text file."""

import os
from pathlib import Path

import pytest
import torch

from meta_train.runtime.seeding import generator
from meta_train.tasks import create_task
from meta_train.tasks.data.text import VOCABULARY
from meta_train.tasks.families.char_rnn import GRU
from meta_train.tasks.families.char_transformer import Block

SHAKESPEARE = [
    Path(folder) / "tinyshakespeare.txt"
    for folder in (
        os.environ.get("LEARNED_OPT_DATA", ""),
        Path(__file__).parents[4] / "shared" / "data",
    )
]


@pytest.mark.parametrize("name", ["char-rnn", "char-transformer"])
def test_models_are_causal(name):
    family = create_task(name, length=(6, 6), width=(8, 8))
    task = family.sample_task(generator(0)).task
    module = task.make_module()
    symbols = torch.randint(VOCABULARY, (2, 6), generator=generator("symbols"))
    changed = symbols.clone()
    changed[:, 4:] = 0
    with torch.no_grad():
        before, after = module(symbols), module(changed)
    assert before.shape == (2, VOCABULARY, 6)
    torch.testing.assert_close(before[..., :4], after[..., :4])
    assert (before[..., 4] != after[..., 4]).any()


def test_the_recurrent_layer_is_torchs():
    ours, theirs = GRU(5), torch.nn.GRU(5, 5, batch_first=True)
    with torch.no_grad():
        for part, suffix in ((ours.from_input, "ih_l0"), (ours.from_hidden, "hh_l0")):
            part.weight.copy_(getattr(theirs, f"weight_{suffix}"))
            part.bias.copy_(getattr(theirs, f"bias_{suffix}"))
    inputs = torch.randn(2, 7, 5, generator=generator("inputs"))
    torch.testing.assert_close(ours(inputs), theirs(inputs)[0])


def test_the_attention_is_torchs():
    block = Block(6, 2)
    inputs = torch.randn(3, 5, 6, generator=generator("inputs"))
    joint = block.queries_keys_values(inputs).reshape(3, 5, 3, 2, 3).permute(2, 0, 3, 1, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(*joint, is_causal=True)
    expected = expected.transpose(1, 2).reshape(3, 5, 6)
    torch.testing.assert_close(block._attend(inputs), expected)


@pytest.mark.skipif(
    not any(path.is_file() for path in SHAKESPEARE),
    reason="no tinyshakespeare.txt in ../shared/data or LEARNED_OPT_DATA",
)
def test_a_text_of_the_users_own_is_learned():
    path = next(path for path in SHAKESPEARE if path.is_file())
    task = next(iter(create_task("char-rnn", path=str(path)).held_out().values()))
    problem = task.sample(generator(0), torch.device("cpu"))
    parameters = {k: v.clone().requires_grad_() for k, v in problem.parameters.items()}
    optimizer, source, losses = torch.optim.Adam(parameters.values(), 1e-2), generator(1), []
    for _ in range(40):
        loss, _ = problem.loss(parameters, {}, problem.draw(source))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 3.0 < 4.3 < losses[0]
