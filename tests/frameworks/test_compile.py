"""torch.compile of `optimizer.step`: scheduled, stopped, resumed.

What is compared bitwise are two compiled runs; conformance line 31 compares compiled with eager.
"""

import pytest
import torch
from conftest import make_model, model_loss, same
from small_rules import loss_rule, small_rule, snapshot, steps_taken, through_a_file
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim import lr_scheduler

from learned_opt import LearnedOptimizer

# Dynamo makes an instance of torch.autograd.Function to trace a custom one, and inductor imports
# modules of PyTorch that still use torch.jit (from torch 2.14 on the warning is a FutureWarning).
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (".*autograd.function.Function'> should not be instantiated", "`torch.jit")
]


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Run:
    """A run with a scheduled tensor `lr`, as PyTorch's recipe for compiled optimizers has it."""

    def __init__(self, rule, backend, model=None):
        self.model = model or make_model()
        rule.requires_grad_(False)
        self.optimizer = LearnedOptimizer(self.model.parameters(), lr=torch.tensor(0.1), rule=rule)
        self.schedule = lr_scheduler.LinearLR(self.optimizer, total_iters=5)
        self.compiled_step = torch.compile(self.optimizer.step, backend=backend)

    def train(self, steps):
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = model_loss(self.model)
            loss.backward()
            loss = loss.detach()
            self.compiled_step(lambda loss=loss: loss)
            self.schedule.step()

    def parts(self):
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}

    def save(self):
        return through_a_file({key: part.state_dict() for key, part in self.parts().items()})

    def load(self, saved):
        for key, part in self.parts().items():
            part.load_state_dict(saved[key])


def assert_resumes(unbroken, resumed):
    unbroken.train(3)
    saved = unbroken.save()
    unbroken.train(3)
    resumed.load(saved)
    resumed.train(3)
    assert steps_taken(resumed.optimizer) == 6
    assert same(*(snapshot(run.model, run.optimizer) for run in (resumed, unbroken)))


def test_a_compiled_run_resumes_bitwise():
    counter = CompileCounterWithBackend("eager")
    assert_resumes(*(Run(small_rule(), counter) for _ in range(2)))
    assert counter.frame_count > 0


def test_a_compiled_rule_that_reads_the_loss_resumes_bitwise():
    assert_resumes(*(Run(loss_rule(), "eager") for _ in range(2)))


@pytest.mark.slow
def test_a_run_compiled_by_inductor_resumes_bitwise():
    # One tensor and its state made beforehand: one graph, the C++ compiler takes half a minute.
    runs = [Run(small_rule("lstm"), "inductor", nn.Linear(3, 2, bias=False)) for _ in range(2)]
    for run in runs:
        run.optimizer.init_state()
        nn.init.ones_(run.model.weight)
    assert_resumes(*runs)


def test_a_scheduled_tensor_lr_is_not_compiled_again():
    counter = CompileCounterWithBackend("eager")
    run = Run(small_rule(), counter)
    run.train(2)
    compiled = counter.frame_count
    run.train(4)
    assert counter.frame_count == compiled > 0
    plain = Run(small_rule(), "eager")
    plain.compiled_step = plain.optimizer.step
    plain.train(6)
    torch.testing.assert_close(*(snapshot(r.model, r.optimizer)[0] for r in (run, plain)))


def test_a_state_loaded_in_mid_run_is_honoured():
    run = Run(small_rule(), "eager")
    run.train(2)
    saved = run.save()
    run.train(2)
    first = snapshot(run.model, run.optimizer)
    first = through_a_file(first)
    run.load(saved)
    run.train(2)
    assert same(through_a_file(snapshot(run.model, run.optimizer)), first)
