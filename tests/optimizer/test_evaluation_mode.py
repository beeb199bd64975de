import copy
import io
import pickle

import pytest
import torch
from conftest import clones, make_model, model_loss, same, train, weights
from torch import nn
from torch._subclasses import FakeTensorMode

from learned_opt import LearnedOptimizer, create_rule


def make(steps=5, dtype=torch.float32, **settings):
    model = make_model(dtype)
    rule = create_rule("orthogonal-momentum")
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, **settings)
    train(model, optimizer, steps)
    return model, optimizer


def test_the_average_is_the_weighted_mean_of_what_was_trained():
    model, optimizer = make(0)
    average = None
    for k in range(1, 7):
        train(model, optimizer, 1)
        now = weights(model)
        c = 9 / (k + 8)
        average = now if k == 1 else [a + c * (p - a) for a, p in zip(average, now, strict=True)]
    optimizer.eval()
    torch.testing.assert_close(weights(model), average)


def test_training_goes_on_bitwise_as_if_nothing_had_been_evaluated():
    model, optimizer = make(5)
    other, plain = make(5)
    before = weights(model)
    optimizer.eval()
    assert not same(weights(model), before)
    optimizer.eval()  # twice is once
    optimizer.train()
    assert same(weights(model), before)
    optimizer.train()
    train(model, optimizer, 5)
    train(other, plain, 5)
    assert same(weights(model), weights(other))
    optimizer.eval()
    plain.eval()
    assert same(weights(model), weights(other))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_any_dtype_come_back_as_they_were(dtype):
    model, optimizer = make(3, dtype)
    before = weights(model)
    optimizer.eval()
    optimizer.train(True)
    assert same(weights(model), before)
    assert weights(model)[0].dtype == dtype


def test_a_step_in_evaluation_mode_says_what_to_do():
    model, optimizer = make(1)
    optimizer.train(False)
    before = weights(model)
    with pytest.raises(RuntimeError, match=r"call optimizer\.train\(\)|Call optimizer\.train\(\)"):
        optimizer.step(lambda: model_loss(model))
    assert same(weights(model), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_checkpoint_in_evaluation_mode_is_resumed_bitwise(dtype):
    model, optimizer = make(4, dtype)
    optimizer.eval()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed, again = make(0, dtype)
    resumed.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    assert same(weights(resumed), weights(model))  # averages, both
    for one, its in ((model, optimizer), (resumed, again)):
        its.train()
        train(one, its, 3)
    assert same(weights(resumed), weights(model))


def test_with_planned_steps_the_parameters_are_where_they_should_be():
    model, optimizer = make(4, total_steps=10)
    before = weights(model)
    optimizer.eval()
    assert same(weights(model), before)
    optimizer.train()
    train(model, optimizer, 1)


def test_rules_without_an_average_do_nothing_and_go_on(rule_name):
    rule = create_rule(rule_name)
    if rule.averages:
        return
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, total_steps=10)
    train(model, optimizer, 2)
    before = weights(model)
    optimizer.eval()
    assert same(weights(model), before)
    train(model, optimizer, 1)
    optimizer.train()


def test_parameters_without_a_step_are_left_alone():
    model = make_model()
    frozen = model[0].weight.requires_grad_(False)
    optimizer = LearnedOptimizer(model.parameters(), rule=create_rule("orthogonal-momentum"))
    train(model, optimizer, 3)
    before = frozen.clone()
    optimizer.eval()
    assert same(frozen, before)
    optimizer.train()


def test_weights_that_were_loaded_before_any_step_stay_though_state_was_made():
    model, optimizer = make(0)
    optimizer.init_state()
    loaded = make_model(seed=9)
    model.load_state_dict(loaded.state_dict())
    optimizer.eval()
    assert same(weights(model), weights(loaded))
    optimizer.train()
    assert same(weights(model), weights(loaded))


def test_a_lazy_module_may_be_evaluated_before_it_has_a_shape():
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    optimizer = LearnedOptimizer(model.parameters())
    optimizer.eval()
    optimizer.train()
    for _ in range(2):
        model(torch.ones(3, 5)).square().mean().backward()
        optimizer.step()
    train_on = weights(model)
    optimizer.eval()
    assert not same(weights(model), train_on)
    optimizer.train()
    assert same(weights(model), train_on)


def test_it_survives_deepcopy_in_evaluation_mode():
    model, optimizer = make(3)
    train_on = weights(model)
    optimizer.eval()
    both = copy.deepcopy((model, optimizer))
    both[1].train()
    assert same(weights(both[0]), train_on)
    optimizer.train()
    assert same(clones(model.parameters()), train_on)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_weights_that_were_loaded_into_a_copy_are_evaluated_as_they_are(how):
    both = make(5)
    model, optimizer = (
        copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
    )
    loaded = make_model(seed=9)
    model.load_state_dict(loaded.state_dict())
    with pytest.warns(UserWarning, match="evaluated as they are"):
        optimizer.eval()
    assert same(weights(model), weights(loaded))
    optimizer.train()
    assert same(weights(model), weights(loaded))


def test_weights_that_were_loaded_in_training_are_evaluated_as_they_are():
    """As transformers.Trainer does with load_best_model_at_end."""
    model, optimizer = make(5)
    other = make_model(seed=7)
    model.load_state_dict(other.state_dict())
    with pytest.warns(UserWarning, match="changed since the last step"):
        optimizer.eval()
    assert same(weights(model), weights(other))
    optimizer.train()
    assert same(weights(model), weights(other))
    train(model, optimizer, 1)
    optimizer.eval()  # nothing was changed: no warning


def test_weights_that_were_loaded_before_a_step_begin_a_new_average():
    model, optimizer = make(30)
    model.load_state_dict(make_model(seed=7).state_dict())
    optimizer.train()  # as transformers.Trainer does before every step
    with pytest.warns(UserWarning, match="changed since the last step") as caught:
        train(model, optimizer, 1)
    assert caught[0].filename.endswith("conftest.py")  # the line that called step
    for _ in range(3):
        train(model, optimizer, 1)
    trained = weights(model)
    optimizer.eval()
    for now, value, old in zip(weights(model), trained, weights(make(30)[0]), strict=True):
        assert (now - value).norm() < 0.2 * (now - old).norm()


def test_a_layer_that_is_drawn_anew_alone_begins_a_new_average():
    model, optimizer = make(30)
    before = optimizer.state[model[2].weight]["average"].clone()
    model[0].reset_parameters()
    drawn = model[0].weight.detach().clone()
    with pytest.warns(UserWarning, match="changed since the last step"):
        train(model, optimizer, 1)
    assert torch.equal(optimizer.state[model[0].weight]["average"], drawn)
    assert not torch.equal(optimizer.state[model[2].weight]["average"], model[2].weight)
    assert not torch.equal(optimizer.state[model[2].weight]["average"], before)


def test_weights_that_are_bounded_after_each_step_keep_their_average():
    """As the norms of an embedding's rows are, and the weights of a Wasserstein critic."""
    model, optimizer = make(5)
    for _ in range(20):
        with torch.no_grad():
            model[0].weight.mul_(0.99)
        train(model, optimizer, 1)  # no warning: warnings are errors here
    trained = model[0].weight.detach().clone()
    optimizer.eval()
    assert (model[0].weight - trained).norm() > 0.01 * trained.norm()


@pytest.mark.parametrize("fake", [False, True])
def test_it_runs_without_values(fake):
    """On the meta device and under fake tensors, as tools that foretell memory do."""
    rule = create_rule("orthogonal-momentum")
    with FakeTensorMode() if fake else torch.device("meta"):
        model = torch.nn.Linear(4, 3)
        optimizer = LearnedOptimizer(model.parameters(), rule=rule)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(5, 4)).sum().backward()
            optimizer.step()
        optimizer.eval()
        optimizer.train()
        optimizer.step()
    assert optimizer.state[model.weight]["average"].shape == (3, 4)


def test_parameters_that_are_views_of_one_buffer_keep_their_averages():
    evaluated = []
    for shared in (False, True):
        torch.manual_seed(0)
        flat = torch.randn(20)
        parts = [flat[:10].view(2, 5), flat[10:].view(5, 2)]
        parameters = [torch.nn.Parameter(p if shared else p.clone()) for p in parts]
        optimizer = LearnedOptimizer(parameters)
        for _ in range(20):
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        optimizer.eval()
        evaluated.append([p.detach().clone() for p in parameters])
        optimizer.train()
    torch.testing.assert_close(*evaluated)


def test_weights_that_were_loaded_in_evaluation_are_trained_on():
    model, optimizer = make(5)
    optimizer.eval()
    other = make_model(seed=7)
    model.load_state_dict(other.state_dict())
    with pytest.warns(UserWarning, match="changed in evaluation mode"):
        optimizer.train()
    assert same(weights(model), weights(other))
    train(model, optimizer, 1)


def test_a_model_loaded_after_its_optimizer_is_evaluated_at_its_own_average():
    model, optimizer = make(5)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    optimizer.eval()
    averages = weights(model)
    other, own = make(9)
    own.load_state_dict(saved[1])
    own.train()
    other.load_state_dict(saved[0])
    own.eval()  # no warning: warnings are errors here
    assert same(weights(other), averages)


@pytest.mark.parametrize("model_first", [True, False])
def test_a_state_loaded_after_steps_is_evaluated_at_its_own_average(model_first):
    """As where the best checkpoint of a run is restored at its end."""
    model, optimizer = make(5)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    optimizer.eval()
    averages = weights(model)
    other, own = make(9)
    if model_first:
        other.load_state_dict(saved[0])
    own.load_state_dict(saved[1])
    if not model_first:
        other.load_state_dict(saved[0])
    own.eval()  # no warning: warnings are errors here
    assert same(weights(other), averages)


def test_a_layer_that_was_frozen_while_others_trained_on_is_evaluated_as_it_is():
    model, optimizer = make(20)
    first, last = model[0].weight, model[2].weight
    model[0].requires_grad_(False)
    train(model, optimizer, 5)
    frozen, trained = first.detach().clone(), last.detach().clone()
    optimizer.eval()
    assert torch.equal(first, frozen)
    assert not torch.equal(last, trained)
    optimizer.train()
    assert torch.equal(first, frozen)
    assert torch.equal(last, trained)
    train(model, optimizer, 1)


def test_a_model_that_is_frozen_for_its_evaluation_is_evaluated_at_its_average():
    model, optimizer = make(20)
    other, plain = make(20)
    plain.eval()
    model.requires_grad_(False)
    optimizer.eval()
    assert same(weights(model), weights(other))


def test_the_warning_names_the_line_that_evaluates():
    model, optimizer = make(2)
    model.load_state_dict(make_model(seed=7).state_dict())
    with pytest.warns(UserWarning) as caught:
        optimizer.eval()
    assert caught[0].filename == __file__


def test_a_state_saved_in_evaluation_without_the_weights_to_train_on_is_refused():
    """torch.distributed.checkpoint drops keys that the optimizer at hand has not."""
    _, optimizer = make(2)
    optimizer.eval()
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        del state["training_value"]
    _, fresh = make(1)
    with pytest.raises(ValueError, match=r"call optimizer\.train\(\) before you save"):
        fresh.load_state_dict(saved)


def test_a_step_at_a_learning_rate_of_zero_may_make_state_in_evaluation_mode():
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), lr=0.0)
    optimizer.eval()
    before = weights(model)
    train(model, optimizer, 1)
    assert same(weights(model), before)


def test_the_default_is_built_under_any_device_context():
    with torch.device("meta"):
        optimizer = LearnedOptimizer([torch.nn.Parameter(torch.ones(2, device="cpu"))])
    assert optimizer.rule.device.type == "cpu"
