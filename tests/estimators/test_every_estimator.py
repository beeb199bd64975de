"""What holds for every registered estimator: a new one gets these tests by its row."""

import dataclasses

import pytest
import torch
from conftest import same
from estimator_cases import (
    ALONE,
    F64,
    TRAINABLE,
    NoisyRegression,
    Quadratics,
    SometimesHopeless,
    close,
    estimate,
    make_meta_parameters,
    make_runs,
    meta_objective,
    plan_of,
    vector,
)

from meta_train.estimators import (
    ESTIMATORS,
    Estimate,
    combine,
    create_estimator,
    list_estimators,
)
from meta_train.runtime.distributed import DistributedContext

INITIALIZATION = vector(1.0, -2.0, 0.5)
WINDOW = 2
WITH_WINDOWS = [name for name in list_estimators() if create_estimator(name).continues]

every_estimator = pytest.mark.parametrize("name", list_estimators())


def accepts(estimator, meta_parameters):
    try:
        estimator.check(meta_parameters)
    except ValueError:
        return False
    return True


def runs_for(estimator, meta_parameters, task, **settings):
    return make_runs(meta_parameters, task, **plan_of(estimator, WINDOW), **settings)


def accepted_meta_parameters(estimator):
    """Meta-parameters of each kind that the estimator accepts."""
    kinds = [
        make_meta_parameters("lstm"),
        make_meta_parameters("sgd", INITIALIZATION),
        make_meta_parameters("lstm", INITIALIZATION),
    ]
    taken = [meta_parameters for meta_parameters in kinds if accepts(estimator, meta_parameters)]
    assert taken, "an estimator must accept some meta-parameters"
    return taken


def combinations():
    """Every estimator with all meta-parameters that it accepts."""
    for name in list_estimators():
        for rule in ("sgd", *TRAINABLE):
            for kind, initialization in (("random", None), ("learned", INITIALIZATION)):
                if rule == "sgd" and initialization is None:
                    continue  # nothing to train
                if accepts(create_estimator(name), make_meta_parameters(rule, initialization)):
                    yield pytest.param(name, rule, initialization, id=f"{name}-{rule}-{kind}")


@pytest.mark.parametrize(("name", "rule", "initialization"), list(combinations()))
def test_gradients_are_finite_and_of_the_right_shapes(name, rule, initialization):
    estimator = create_estimator(name)
    meta_parameters = make_meta_parameters(rule, initialization)
    runs = runs_for(estimator, meta_parameters, Quadratics(dimensions=3))
    for outer_step in range(2):
        found = estimate(estimator, meta_parameters, runs, outer_step=outer_step)
        for gradient, weight in zip(found.gradients, meta_parameters.parameters(), strict=True):
            assert gradient.shape == weight.shape
            assert gradient.dtype == weight.dtype
            assert gradient.isfinite().all()
            assert not gradient.requires_grad
        assert found.meta_loss.shape == found.mean_loss.shape == ()
        assert not found.meta_loss.requires_grad
        assert not found.mean_loss.requires_grad
        assert (found.counted, found.diverged) == (3, 0)
        assert any(gradient.abs().max() > 0 for gradient in found.gradients)
    assert all(weight.grad is None for weight in meta_parameters.parameters())


@pytest.mark.parametrize("data", ["training", "validation"])
@every_estimator
def test_runs_shared_out_give_the_gradient_of_all_runs(name, data):
    estimator = create_estimator(name)
    how = meta_objective("log", data)
    for meta_parameters in accepted_meta_parameters(estimator):
        parts = [range(6), range(3), range(3, 6)]
        whole, *shared = (
            runs_for(estimator, meta_parameters, NoisyRegression(), runs=6, indices=part, steps=5)
            for part in parts
        )
        for outer_step in range(3):  # windows carry on, runs end
            expected, *some = (
                estimate(estimator, meta_parameters, runs, how=how, outer_step=outer_step)
                for runs in (whole, *shared)
            )
            together = combine(some)
            close(together.gradients, expected.gradients)
            close(
                [together.meta_loss, together.mean_loss], [expected.meta_loss, expected.mean_loss]
            )
            assert together.counted == expected.counted == 6
            assert together.inner_steps == expected.inner_steps


@every_estimator
def test_runs_that_diverge_are_left_out(name):
    estimator = create_estimator(name)
    task = SometimesHopeless(dimensions=3)
    for meta_parameters in accepted_meta_parameters(estimator):
        whole = runs_for(estimator, meta_parameters, task, runs=8)
        found = estimate(estimator, meta_parameters, whole)
        sound = [
            index
            for index in range(8)
            if estimate(
                estimator,
                meta_parameters,
                runs_for(estimator, meta_parameters, task, runs=8, indices=[index]),
            ).counted
        ]
        assert 0 < found.counted == len(sound) < 8
        assert found.diverged == estimator.copies * (8 - len(sound))
        alone = runs_for(estimator, meta_parameters, task, runs=8, indices=sound)
        close(found.gradients, estimate(estimator, meta_parameters, alone).gradients)


@every_estimator
def test_an_estimate_can_be_drawn_again_and_leaves_torchs_randomness_alone(name):
    estimator = create_estimator(name)
    for meta_parameters in accepted_meta_parameters(estimator):
        before = torch.get_rng_state()
        drawn = [
            estimate(
                estimator, meta_parameters, runs_for(estimator, meta_parameters, NoisyRegression())
            )
            for _ in range(2)
        ]
        assert torch.equal(torch.get_rng_state(), before)
        assert same(drawn[0].gradients, drawn[1].gradients)
        runs = runs_for(estimator, meta_parameters, NoisyRegression())
        other = estimate(estimator, meta_parameters, runs, outer_step=1)
        assert not same(drawn[0].gradients, other.gradients)


@every_estimator
def test_the_meta_parameters_are_left_as_it_was(name):
    estimator = create_estimator(name)
    for meta_parameters in accepted_meta_parameters(estimator):
        before = {key: value.clone() for key, value in meta_parameters.state_dict().items()}
        runs = runs_for(estimator, meta_parameters, Quadratics(dimensions=3))
        estimate(estimator, meta_parameters, runs)
        assert same(dict(meta_parameters.state_dict()), before)
        assert not any(value.requires_grad for _, value in runs.inner.named_tensors())


@pytest.mark.parametrize("name", WITH_WINDOWS)
def test_windows_carry_on_from_where_the_last_one_ended(name):
    estimator = create_estimator(name)
    (meta_parameters, *_) = accepted_meta_parameters(estimator)
    runs = runs_for(estimator, meta_parameters, Quadratics(dimensions=3), steps=6)
    assert runs.clocks.lengths == [2, 4, 6]
    ages = []
    for outer_step in range(4):
        estimate(estimator, meta_parameters, runs, outer_step=outer_step)
        ages.append(list(runs.clocks.ages))
    assert ages == [[0, 2, 2], [2, 0, 4], [4, 2, 0], [0, 4, 2]]


@dataclasses.dataclass(frozen=True)
class TogetherWith(DistributedContext):
    """A process among others whose messages were written down beforehand."""

    others: tuple = ()
    sent: list = dataclasses.field(default_factory=list)

    def sum(self, tensors):
        self.sent.append(list(tensors))
        return [sum(parts) for parts in zip(tensors, *self.others, strict=True)]


@pytest.mark.parametrize("name", ["es", "pes"])
def test_clipped_pairs_are_scaled_by_those_of_all_processes(name):
    meta_parameters = make_meta_parameters("lstm")
    estimator = create_estimator(name, clip=1.0)

    def on(indices, distributed):
        runs = runs_for(estimator, meta_parameters, NoisyRegression(), runs=6, indices=indices)
        return estimate(estimator, meta_parameters, runs, distributed=distributed)

    sent = []
    for indices in (range(2), range(2, 6)):
        distributed = TogetherWith()
        on(indices, distributed)
        sent.append(distributed.sent[0])
    parts = [
        on(range(2), TogetherWith(others=sent[1:])),
        on(range(2, 6), TogetherWith(others=sent[:1])),
    ]
    close(combine(parts).gradients, on(range(6), ALONE).gradients)


def made(gradient, counted, loss=1.0):
    value = torch.tensor(loss, dtype=F64)
    return Estimate([torch.tensor([gradient], dtype=F64)], value, value, counted, 8 - counted, 10)


def test_combining_weighs_by_the_runs_that_count():
    together = combine([made(1.0, 6, loss=1.0), made(5.0, 2, loss=3.0)])
    close(together.gradients, [vector(2.0)])
    assert float(together.meta_loss) == float(together.mean_loss) == 1.5
    assert (together.counted, together.diverged, together.inner_steps) == (8, 8, 20)


def test_estimates_of_no_run_add_nothing_whatever_they_are():
    nan = float("nan")
    close(combine([made(1.0, 3), made(nan, 0, loss=nan)]).gradients, [vector(1.0)])
    nothing = combine([made(nan, 0), made(2.0, 0)])
    close(nothing.gradients, [vector(0.0)])
    assert nothing.counted == 0


def test_estimators_know_their_facts():
    def names(fact):
        return {name for name, estimator in ESTIMATORS.items() if fact(estimator)}

    assert names(lambda one: one.continues) == {"truncated", "pes"}
    assert names(lambda one: one.copies == 2) == {"es", "pes"}
    assert names(lambda one: one.has_memory_modes) == {"full", "first-order"}
    assert names(lambda one: one.allows_zero_steps) == {"full", "first-order", "es"}
    assert names(lambda one: one.second_order is False) == {"first-order", "reptile"}
    assert names(lambda one: one.second_order is True) == {"implicit"}


@every_estimator
def test_runs_of_another_plan_are_refused(name):
    estimator = create_estimator(name)
    (meta_parameters, *_) = accepted_meta_parameters(estimator)
    task = Quadratics(dimensions=3)
    windows = None if estimator.continues else WINDOW
    other = make_runs(meta_parameters, task, truncation_length=windows, copies=estimator.copies)
    with pytest.raises(ValueError, match="truncation_length"):
        estimate(estimator, meta_parameters, other)
    plan = plan_of(estimator, WINDOW)
    other = make_runs(meta_parameters, task, **{**plan, "copies": 3})
    with pytest.raises(ValueError, match=f"needs {estimator.copies} copies of runs, got 3"):
        estimate(estimator, meta_parameters, other)
    with pytest.raises(ValueError, match="runs of other meta-parameters"):
        estimate(
            estimator,
            accepted_meta_parameters(estimator)[0],
            make_runs(meta_parameters, task, **plan),
        )


class DivergesWhenEvaluated(NoisyRegression):
    """Validation data of some problems has a loss far above any loss in training."""

    def sample(self, generator, device):
        problem = super().sample(generator, device)
        hopeless = float(torch.rand((), generator=generator)) < 0.4

        def draw(source):
            inputs, targets = problem.draw(source)
            return inputs, targets + 1e6 * hopeless

        return dataclasses.replace(problem, draw_validation=draw)


@every_estimator
def test_a_run_that_diverges_when_it_is_evaluated_is_over(name):
    estimator = create_estimator(name)
    plan = {**plan_of(estimator, WINDOW), "restart": 0.0 if estimator.continues else 1.0}
    how = meta_objective("sum" if estimator.continues else "last", "validation")
    for meta_parameters in accepted_meta_parameters(estimator):
        runs = make_runs(meta_parameters, DivergesWhenEvaluated(), 40, runs=8, **plan)
        runs.clocks.lengths = [40] * 8
        found = estimate(estimator, meta_parameters, runs, how=how, lr=0.001)
        assert 0 < found.counted < 8
        assert found.diverged == estimator.copies * (8 - found.counted)
        assert found.meta_loss < 1e3
        if estimator.continues:  # it is replaced, so that the next window counts all runs
            assert runs.clocks.ages.count(0) == 8 - found.counted
            assert runs.inner.alive.all()
        else:  # no later run continues from its end
            assert sum(map(bool, runs.buffer.ends)) == found.counted


def test_names_and_settings_that_are_unknown_are_refused():
    with pytest.raises(ValueError, match="estimator 'ful' is unknown|full"):
        create_estimator("ful")
    with pytest.raises(ValueError, match="sigma"):
        create_estimator("full", sigma=1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda found: [value.mean() for value in found],
            r"Changed returned a gradient of shape \[\] for values.0, \[3\]",
        ),
        (
            lambda found: [value[:1] for value in found],
            r"Changed returned a gradient of shape \[1\] for values.0, \[3\]",
        ),
        (lambda found: [], "Changed returned 0 gradients for 1 meta-parameters"),
    ],
)
def test_gradients_of_other_shapes_are_refused(change, said):
    """They would be broadcast in silence when they are applied."""

    class Changed(type(create_estimator("full"))):
        def meta_gradient(self, window, meta_objective, distributed):
            found = super().meta_gradient(window, meta_objective, distributed)
            return dataclasses.replace(found, gradients=change(found.gradients))

    meta_parameters = make_meta_parameters("sgd", INITIALIZATION)
    runs = runs_for(create_estimator("full"), meta_parameters, Quadratics(dimensions=3))
    with pytest.raises(ValueError, match=said):
        estimate(Changed(), meta_parameters, runs)
