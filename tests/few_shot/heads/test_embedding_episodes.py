"""Every head on episodes: vmap, gradients, names of parameters, refusals."""

import pytest
import torch
from few_shot_cases import MadeUp
from torch.func import vmap

from meta_train.few_shot.heads.closed_form import ridge
from meta_train.few_shot.heads.episodes import HEADS, EmbeddingEpisodes
from meta_train.inner.state import stack
from meta_train.runtime.seeding import generator
from meta_train.tasks.episodes.networks import make_network
from meta_train.tasks.episodes.sampler import Episode

CPU = torch.device("cpu")


def test_closed_forms_count_the_weights_that_they_solve_for():
    solved = {
        name: made(make_network("conv4", 5, hidden=2), ways=5) for name, made in HEADS.items()
    }
    found = {name: one.solved_parameters for name, one in solved.items()}
    weights = ridge(torch.ones(7, solved["r2d2"].features), torch.ones(7, 5), torch.ones(()))
    assert found == {
        **dict.fromkeys(HEADS, 0),
        "r2d2": weights.numel(),
        "metaoptnet": weights.numel(),
    }


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("batch_norm", ["batch", "support"])
def test_every_head_is_the_same_under_vmap_and_has_finite_gradients(name, batch_norm):
    task = EmbeddingEpisodes(MadeUp(ways=3, shots=2, queries=2, batch_norm=batch_norm), name)
    problems = [task.sample(generator(seed), CPU) for seed in range(3)]
    parameters = {k: v.clone().requires_grad_() for k, v in problems[0].parameters.items()}
    episodes = [p.draw_validation(generator(0)) for p in problems]
    alone = torch.stack(
        [task.loss(parameters, p.buffers, e)[0] for p, e in zip(problems, episodes, strict=True)]
    )
    buffers = stack([p.buffers for p in problems])
    together, _ = vmap(task.loss, (None, 0, 0))(parameters, buffers, stack(episodes))
    torch.testing.assert_close(together, alone)
    gradients = torch.autograd.grad(together.sum(), list(parameters.values()), allow_unused=True)
    for key, gradient in zip(parameters, gradients, strict=True):
        assert gradient is not None and gradient.isfinite().all(), key
    scores = vmap(task.score, (None, 0, 0))(parameters, buffers, stack(episodes))
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("name", [name for name in HEADS if name != "nearest-neighbour"])
def test_every_head_with_a_loss_learns(name):
    quick = {"iterations": 40} if name == "metaoptnet" else {}
    task = EmbeddingEpisodes(MadeUp(ways=3, shots=2, queries=2), name, **quick)
    problems = [task.sample(generator(seed), CPU) for seed in range(6)]
    parameters = {k: v.clone().requires_grad_() for k, v in problems[0].parameters.items()}
    optimizer = torch.optim.Adam(parameters.values(), 1e-2)
    losses = []
    for _ in range(15):
        loss = torch.stack([task.loss(parameters, p.buffers, p.full())[0] for p in problems]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", HEADS)
def test_names_of_the_body_are_those_of_the_network(name):
    task = MadeUp(ways=3)
    body = {key: value for key, value in task.template().items() if key.startswith("body.")}
    own = EmbeddingEpisodes(task, name).template()
    assert {k: v.shape for k, v in own.items() if k.startswith("body.")} == {
        k: v.shape for k, v in body.items()
    }


def test_order_of_support_rows_does_not_matter():
    task = EmbeddingEpisodes(MadeUp(ways=3, shots=2, queries=2), "metaoptnet")
    episode = task.sample(generator(0), CPU).full()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    mixed = Episode(episode[0][order], episode[1][order], *episode[2:])
    parameters = task.template()
    torch.testing.assert_close(
        task.predict(parameters, {}, mixed),
        task.predict(parameters, {}, episode),
        atol=1e-4,
        rtol=1e-3,
    )


def test_support_statistics_make_no_head_transductive():
    for name in HEADS:
        if HEADS[name].mixes_queries:
            continue
        task = EmbeddingEpisodes(MadeUp(ways=3, shots=2, queries=2, batch_norm="support"), name)
        drawn = task.sample(generator(0), CPU)
        episode = drawn.full()
        half = (*episode[:2], episode[2][:3], episode[3][:3], *episode[4:])
        whole = task.predict(drawn.parameters, drawn.buffers, episode)
        part = task.predict(drawn.parameters, drawn.buffers, half)
        torch.testing.assert_close(whole[:3], part, atol=1e-5, rtol=1e-4)


def test_unknown_heads_and_settings_are_refused():
    with pytest.raises(ValueError, match="did you mean 'prototypical'"):
        EmbeddingEpisodes(MadeUp(), "prototype")
    with pytest.raises(ValueError, match="did you mean 'strength'"):
        EmbeddingEpisodes(MadeUp(), "r2d2", strenght=1.0)
    with pytest.raises(ValueError, match="strength must be positive, got 0"):
        EmbeddingEpisodes(MadeUp(), "r2d2", strength=0)
    with pytest.raises(ValueError, match="must be positive, got -1"):
        EmbeddingEpisodes(MadeUp(), "metaoptnet", c=-1)
