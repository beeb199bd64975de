"""Imagined examples: exact where the generator copies, the formula elsewhere, and derivatives."""

import pytest
import torch
from few_shot_cases import MadeUp

from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.few_shot.heads.hallucination import ExampleGenerator, Hallucination
from meta_train.few_shot.heads.metric import Prototypical
from meta_train.runtime.seeding import generator
from meta_train.tasks.episodes.networks import make_network
from meta_train.tasks.episodes.sampler import Episode

CPU = torch.device("cpu")
DOUBLE = {"dtype": torch.float64}


def classifier(ways=2, **settings):
    torch.manual_seed(0)
    return Hallucination(make_network("conv4", ways, hidden=2), ways=ways, **settings).double()


def moved(module):
    """The same module with weights away from the identity."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, **DOUBLE)
    return module


@pytest.mark.parametrize("units", [3, 5])
def test_a_new_generator_copies_its_example_whatever_the_noise(units):
    x, z = torch.rand(4, 3, **DOUBLE), torch.randn(4, 2, **DOUBLE)
    copies = ExampleGenerator(3, 2, units).double()
    assert torch.equal(copies(x, z), x)
    weights = [layer.weight for layer in copies.layers[::2]]
    assert [list(w.shape) for w in weights] == [[units, 5], [units, units], [3, units]]


def test_the_generator_is_three_layers_with_relu():
    made = moved(ExampleGenerator(3, 2, 4).double())
    x, z = torch.rand(4, 3, **DOUBLE), torch.randn(4, 2, **DOUBLE)
    (a, p), (b, q), (c, r) = [(layer.weight, layer.bias) for layer in made.layers[::2]]
    for row in range(4):
        hidden = (a @ torch.cat([x[row], z[row]]) + p).clamp(min=0)
        expected = (c @ (b @ hidden + q).clamp(min=0) + r).clamp(min=0)
        torch.testing.assert_close(made(x[row], z[row]), expected)


@pytest.mark.parametrize("shots", [1, 3])
def test_copies_leave_the_prototypes_and_the_loss_as_they_are(shots):
    """A generator at the identity, with as many copies of each image, changes nothing."""
    episodes = MadeUp(ways=3, shots=shots, queries=2)
    ours = EmbeddingEpisodes(episodes, "hallucination", imagined=2 * shots)
    plain = EmbeddingEpisodes(episodes, "prototypical")
    problem = ours.sample(generator(5), CPU)
    batch = problem.full()
    quiet = (*batch[:4], torch.zeros_like(batch[4]))
    body = {k: v for k, v in problem.parameters.items() if k.startswith("body.")}
    expected, _ = plain.loss(body, {}, batch[:4])
    for given in (batch, quiet):
        torch.testing.assert_close(ours.loss(problem.parameters, {}, given)[0], expected)


def test_prototypes_are_means_over_real_and_imagined_examples_in_turn():
    head = moved(classifier(imagined=3, noise=2))
    support = torch.rand(4, 2, **DOUBLE)
    labels = torch.tensor([1, 0, 1, 0])
    z = torch.randn(6, 2, **DOUBLE)
    members = {0: [1, 3], 1: [0, 2]}
    means = []
    for label, rows in members.items():
        examples = [support[row] for row in rows]
        for turn in range(3):
            examples.append(head.generator(support[rows[turn % 2]], z[3 * label + turn]))
        means.append(torch.stack(examples).mean(0))
    query = torch.rand(5, 2, **DOUBLE)
    expected = -((query[:, None] - torch.stack(means)[None]) ** 2).sum(-1)
    larger = head.add_examples(support, labels, z)
    torch.testing.assert_close(head.scores(*larger, query), expected)
    assert not torch.allclose(
        expected, Prototypical.scores(Prototypical(head_network(), ways=2), support, labels, query)
    )


def head_network():
    return make_network("conv4", 2, hidden=2)


def test_the_derivative_of_the_loss_is_right_for_embedding_and_generator():
    head = moved(classifier(imagined=2, noise=2))
    episode = MadeUp(ways=2, shots=1, queries=2).sampler.draw(generator(0), CPU)
    episode = Episode(*(x.double() if x.is_floating_point() else x for x in episode))
    noise = torch.randn(4, 2, **DOUBLE)
    named = dict(head.named_parameters())
    names = [name for name in named if not name.endswith("bias") or "generator" in name]

    def loss(*values):
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(head, {**named, **given}, (episode, noise))[0]

    values = [named[name].detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(loss, values)
    assert all(gradient.any() for gradient in torch.autograd.grad(loss(*values), values))


def test_noise_belongs_to_the_episode():
    episodes = MadeUp(ways=3, shots=1, queries=2)
    task = EmbeddingEpisodes(episodes, "hallucination", imagined=4, noise=3)
    first, again, other = (task.sample(generator(seed), CPU).full() for seed in (0, 0, 1))
    assert first[4].shape == (12, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[4], other[4])
    plain = EmbeddingEpisodes(episodes, "prototypical").sample(generator(0), CPU).full()
    assert all(torch.equal(a, b) for a, b in zip(first, plain, strict=False))
    assert abs(float(first[4].mean())) < 0.5 and 0.5 < float(first[4].std()) < 1.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"imagined": 0}, "imagined must be at least 1, got 0"),
        ({"noise": 0}, "noise must be at least 1, got 0"),
        ({"units": 3}, "units must be at least the 4 features, got 3"),
        ({"imagine": 2}, "did you mean 'imagined'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingEpisodes(MadeUp(), "hallucination", **settings)
