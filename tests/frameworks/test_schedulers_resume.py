"""Every scheduler of torch.optim: a run that stops and resumes ends like an unbroken one."""

import inspect

import pytest
import torch
from conftest import make_model, model_loss, same
from small_rules import each_rule, loss_rule, small_rule, snapshot, steps_taken, through_a_file
from torch.optim import lr_scheduler

from learned_opt import LearnedOptimizer

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 4], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 9),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2, cycle_momentum=False),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 9, cycle_momentum=False),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.5), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.StepLR(o, 2, 0.5), lr_scheduler.ExponentialLR(o, 0.9)], o
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0),
}


class Run:
    def __init__(self, make_scheduler, rule, lr=0.1):
        self.model = make_model()
        lr = lr.clone() if isinstance(lr, torch.Tensor) else lr
        self.optimizer = LearnedOptimizer(self.model.parameters(), lr=lr, rule=rule)
        self.schedule = make_scheduler(self.optimizer)
        self.rates = []

    def train(self, steps):
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = model_loss(self.model)
            loss.backward()
            self.rates.append(float(self.optimizer.param_groups[0]["lr"]))
            self.optimizer.step(lambda loss=loss: loss)
            if isinstance(self.schedule, lr_scheduler.ReduceLROnPlateau):
                self.schedule.step(1.0)
            else:
                self.schedule.step()

    def parts(self):
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}

    def save(self):
        return through_a_file({key: part.state_dict() for key, part in self.parts().items()})

    def load(self, saved):
        for key, part in self.parts().items():
            part.load_state_dict(saved[key])


def assert_resumes(make_scheduler, rule, lr=0.1):
    unbroken = Run(make_scheduler, rule, lr)
    unbroken.train(6)
    stopped = Run(make_scheduler, rule, lr)
    stopped.train(3)
    resumed = Run(make_scheduler, rule, lr)
    resumed.load(stopped.save())
    resumed.train(3)
    assert len(set(unbroken.rates)) > 1
    assert stopped.rates + resumed.rates == unbroken.rates
    assert steps_taken(resumed.optimizer) == 6
    ends = [snapshot(run.model, run.optimizer) for run in (resumed, unbroken)]
    assert same(*ends)
    assert same(*(run.schedule.get_last_lr() for run in (resumed, unbroken)))


def test_the_table_has_every_scheduler_of_torch():
    classes = {
        name
        for name, value in vars(lr_scheduler).items()
        if inspect.isclass(value) and issubclass(value, lr_scheduler.LRScheduler)
    }
    assert classes - {"LRScheduler", "_LRScheduler"} == set(SCHEDULERS)


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float lr", "tensor lr"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduled_run_resumes_bitwise(name, lr):
    assert_resumes(SCHEDULERS[name], small_rule(), lr)


@each_rule
def test_every_learned_rule_resumes_with_its_schedule(rule_name):
    assert_resumes(SCHEDULERS["CosineAnnealingLR"], small_rule(rule_name))


def test_a_rule_that_reads_the_loss_resumes_with_its_schedule():
    assert_resumes(SCHEDULERS["OneCycleLR"], loss_rule())


@pytest.mark.parametrize("scheduler", [lr_scheduler.CyclicLR, lr_scheduler.OneCycleLR])
def test_cycling_the_momentum_is_refused_and_the_message_names_the_way_out(scheduler):
    optimizer = LearnedOptimizer(make_model().parameters(), rule=small_rule())
    with pytest.raises(ValueError, match="momentum.*with `cycle_momentum` option enabled"):
        scheduler(optimizer, 0.01, 10)
    scheduler(optimizer, 0.01, 10, cycle_momentum=False)
