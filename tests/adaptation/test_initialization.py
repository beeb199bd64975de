from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import initialization_of, make_model, make_rule, same, weights
from torch import nn

import learned_opt
from learned_opt import create_rule, save_rule
from learned_opt.adaptation import (
    Initialization,
    adapt,
    list_initializations,
    load_initialization,
    save_initialization,
)
from learned_opt.files import write_tensors
from learned_opt.rules.per_tensor_rates import MetaSGD
from meta_train.tasks.episodes.networks import make_network


def test_apply_to_writes_every_value_and_keeps_what_it_is_told():
    source, target = make_model(seed=1), make_model(seed=2)
    before = weights(target)
    initialization = initialization_of(source)
    assert initialization.apply_to(target, keep=["2."]) is target
    assert same(weights(target), [*weights(source)[:2], *before[2:]])
    assert same(weights(initialization.apply_to(target)), weights(source))
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in target.parameters())


def test_apply_to_a_module_of_another_dtype():
    source, target = make_model(seed=1), make_model(torch.float64, seed=2)
    initialization_of(source).apply_to(target)
    assert same(weights(target), [value.double() for value in weights(source)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.pop("0.bias"), "only the module has parameter '0.bias'"),
        (
            lambda own: own.update(tail=torch.zeros(1)),
            "only the initialisation has parameter 'tail'",
        ),
        (
            lambda own: own.update({"0.bias": torch.zeros(7)}),
            r"parameter '0.bias' is \[4\] in the module, \[7\] in the initialisation",
        ),
    ],
)
def test_apply_to_refuses_what_does_not_fit_and_changes_nothing(change, message):
    target = make_model(seed=2)
    before = weights(target)
    initialization = initialization_of(make_model(seed=1))
    change(initialization.parameters)
    with pytest.raises(ValueError, match=f"does not fit Sequential: {message}"):
        initialization.apply_to(target)
    assert same(weights(target), before)


def test_buffers_are_applied_too():
    source, target = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    source.running_mean.fill_(3.0)
    buffers = {"running_mean": source.running_mean}
    initialization_of(source, buffers=buffers).apply_to(target)
    assert target.running_mean.tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match="only the initialisation has buffer 'running_mean'"):
        initialization_of(nn.Linear(2, 2), buffers=buffers).apply_to(nn.Linear(2, 2))


# files


@pytest.mark.parametrize("kind", ["none", "lstm", "rates"])
def test_a_file_holds_everything(tmp_path, kind):
    model = make_model(torch.float64)
    rule = {
        "none": None,
        "lstm": make_rule("gated-lstm", torch.float64, hidden_size=3),
        "rates": MetaSGD(shapes=[list(p.shape) for p in model.parameters()]),
    }[kind]
    written = initialization_of(
        model,
        buffers={"count": torch.tensor(3)},
        rule=rule,
        lr=0.4,
        steps=3,
        card={"task": "sine", "mse": [0.4]},
    )
    path = tmp_path / "phi.safetensors"
    save_initialization(written, path)
    state = torch.get_rng_state()
    read = load_initialization(path)
    assert torch.equal(state, torch.get_rng_state())
    assert list(read.parameters) == list(written.parameters)
    assert same(read.parameters, written.parameters) and same(read.buffers, written.buffers)
    assert (read.lr, read.steps, read.card) == (0.4, 3, written.card)
    if rule is None:
        assert read.rule is None
    else:
        assert type(read.rule) is type(rule) and read.rule.settings == rule.settings
        assert same(read.rule.state_dict(), rule.state_dict())


def test_bad_files_are_refused_by_name(tmp_path):
    path = tmp_path / "phi.safetensors"
    with pytest.raises(FileNotFoundError, match="phi.safetensors"):
        load_initialization(path)
    save_rule(create_rule("gated-lstm"), path)
    with pytest.raises(ValueError, match="not of the format learned_opt.adaptation.initialization"):
        load_initialization(path)
    path.write_bytes(b"{}")
    with pytest.raises(ValueError, match="damaged"):
        load_initialization(path)
    whole = {"version": "1", "names": "[]", "facts": '{"lr": 0.1, "steps": 1}', "card": "{}"}
    ruled = '{"lr": 0.1, "steps": 1, "rule": "sgd", "settings": {}, "dtype": "foo"}'
    for change, message in (
        ({"version": None}, "has no format version"),
        ({"version": "2"}, "a newer version"),
        ({"facts": None}, "it lacks 'facts'"),
        ({"facts": '{"lr": "hi", "steps": 1}'}, "lr must be a finite number, got 'hi'"),
        ({"facts": ruled}, "unknown dtype 'foo'"),
    ):
        header = {key: value for key, value in {**whole, **change}.items() if value is not None}
        write_tensors(path, {}, "learned_opt.adaptation.initialization", header)
        with pytest.raises(ValueError, match=message) as caught:
            load_initialization(path)
        assert str(path) in str(caught.value)


def test_a_rule_that_nobody_could_load_is_not_saved(tmp_path):
    class Mine(type(create_rule("sgd"))):
        pass

    with pytest.raises(ValueError, match="cannot save rule Mine"):
        save_initialization(initialization_of(make_model(), rule=Mine()), tmp_path / "phi")
    assert not list(tmp_path.iterdir())


def test_names_to_keep_are_not_a_text():
    with pytest.raises(ValueError, match="keep must be a list of names"):
        initialization_of(make_model()).apply_to(make_model(seed=2), keep="2.")


def test_of_a_module_takes_the_buffers_that_it_saves(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    module.register_buffer("scratch", torch.zeros(2), persistent=False)
    module(torch.randn(9, 3))
    learned = Initialization.of(module, lr=0.1, steps=3)
    save_initialization(learned, tmp_path / "a.safetensors")
    fresh = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    load_initialization(tmp_path / "a.safetensors").apply_to(fresh)
    x = torch.randn(4, 3)
    assert torch.equal(fresh(x), module.eval()(x))
    assert "scratch" not in learned.buffers
    with torch.no_grad():
        module[0].weight.zero_()
    assert learned.parameters["0.weight"].abs().sum() > 0


def test_numbers_of_other_kinds_become_plain_ones(tmp_path):
    learned = Initialization.of(
        nn.Linear(3, 2), lr=torch.tensor(0.5), steps=np.int64(3), only=["weight"]
    )
    assert (learned.lr, learned.steps, learned.only) == (0.5, 3, ("weight",))
    assert type(learned.lr) is float and type(learned.steps) is int
    save_initialization(learned, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": "0.1"}, "lr must be a finite number, got '0.1'"),
        ({"lr": float("inf")}, "lr must be a finite number, got inf"),
        ({"steps": -3}, "steps must be a whole number of at least 0, got -3"),
        ({"steps": 1.5}, "steps must be a whole number of at least 0, got 1.5"),
        ({"only": "head."}, "only must be a list of names or prefixes, got 'head.'"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Initialization.of(nn.Linear(3, 2), **fields)


def test_what_cannot_be_applied_or_saved_is_named(tmp_path):
    learned = Initialization.of(nn.Linear(3, 2), card={"loss": torch.zeros(())})
    with pytest.raises(ValueError, match=r"no name begins with 'haed\.', given in keep"):
        learned.apply_to(nn.Linear(3, 2), keep=["haed."])
    with torch.device("meta"), pytest.raises(ValueError, match="Linear is on the meta device"):
        learned.apply_to(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="the card of the initialisation cannot be saved"):
        save_initialization(learned, tmp_path / "a.safetensors")


def test_bundled_initialisations_are_loaded_by_name():
    assert list_initializations() == ["omniglot-maml", "omniglot-prototypical"]
    assert list_initializations("digits-*") == []
    folder = Path(learned_opt.__file__).parent / "pretrained" / "initializations"
    assert sorted(path.stem for path in folder.glob("*.safetensors")) == list_initializations()
    descriptions = dict(list_initializations(with_description=True))
    name = "omniglot-maml"
    assert (
        "5-way" in descriptions[name] and "without a head" in descriptions["omniglot-prototypical"]
    )
    initialization = load_initialization(name)
    assert (initialization.lr, initialization.steps, initialization.only) == (0.4, 3, None)
    network = make_network("conv4", 5)
    before = [value.clone() for value in network.parameters()]
    initialization.apply_to(network)
    assert not any(map(torch.equal, before, network.parameters()))
    own = load_initialization(folder / f"{name}.safetensors")
    assert same(own.parameters, initialization.parameters)
    # Adaptation takes the name, too, and learns its support set.
    images = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    adapted = adapt(network, (images, torch.arange(5)), initialization=name)
    assert torch.equal(adapted(images).argmax(1), torch.arange(5))


def test_the_bundled_embedding_tells_shapes_apart_and_leaves_a_head_alone():
    """Three shapes, drawn twice: a shifted drawing is nearest to the first one of its shape."""
    initialization = load_initialization("omniglot-prototypical")
    assert (initialization.lr, initialization.steps) == (None, 0)
    assert initialization.card["row"] == "prototypical"
    network = make_network("conv4", 3)
    head = network.head.weight.clone()
    with pytest.raises(ValueError, match="head.weight"):
        initialization.apply_to(network)
    initialization.apply_to(network, keep=["head."])
    assert torch.equal(network.head.weight, head)
    shapes = torch.zeros(3, 28, 28)
    shapes[0, 13:15, 4:24] = 1  # a bar
    shapes[1, 6:8, 6:20] = shapes[1, 20:22, 6:20] = shapes[1, 6:22, 6:8] = 1  # an open box
    shapes[2, range(4, 24), range(4, 24)] = shapes[2, range(4, 24), range(5, 25)] = 1  # a slope
    drawings = torch.cat([shapes, shapes.roll((2, -1), (1, 2))]).unsqueeze(1)
    with torch.no_grad():
        known, new = network.body(drawings).split(3)
    distances = torch.cdist(new, known)
    assert torch.equal(distances.argmin(1), torch.arange(3))
    others = distances + torch.eye(3) * 1e3
    assert bool((distances.diagonal() < 0.5 * others.amin(1)).all())


def test_unknown_names_and_missing_files_are_told_apart(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="unknown initialisation 'omniglot-mamml'; did you mean"):
        load_initialization("omniglot-mamml")
    with pytest.raises(FileNotFoundError):
        load_initialization("absent.safetensors")
    with pytest.raises(FileNotFoundError):
        load_initialization(tmp_path / "absent")
    monkeypatch.chdir(tmp_path)
    save_initialization(Initialization.of(make_model()), "plain")
    assert (
        load_initialization("plain").parameters.keys()
        == dict(make_model().named_parameters()).keys()
    )


def test_an_initialization_prints_in_one_line():
    initialization = Initialization.of(torch.nn.Linear(300, 4), lr=0.4, steps=5)
    assert repr(initialization) == (
        "Initialization(2 tensors of 1,204 numbers, rule=None, lr=0.4, steps=5, only=None, "
        "proximal=None)"
    )
