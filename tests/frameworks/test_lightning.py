"""Lightning, automatic and manual optimisation: stopped, and resumed by its `ckpt_path`."""

import lightning
import pytest
import torch
from conftest import make_batch, make_model, same
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from small_rules import each_rule, loss_rule, small_rule, snapshot, steps_taken
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from learned_opt import LearnedOptimizer

# Lightning's own warnings: a deprecated call, advice on speed, a new folder for checkpoints.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        ".*treespec, LeafSpec.* is deprecated",
        ".*does not have many workers",
        "The dirpath has changed",
    )
]


class Automatic(lightning.LightningModule):
    def __init__(self, rule, interval="step"):
        super().__init__()
        self.model, self.rule = make_model(), [rule]  # in a list: no part of the model's weights
        self.interval, self.losses = interval, []

    def configure_optimizers(self):
        optimizer = LearnedOptimizer(self.model.parameters(), lr=0.1, rule=self.rule[0])
        optimizer.register_update_hook(lambda o, u, context: self.losses.append(context.loss))
        schedule = lr_scheduler.CosineAnnealingLR(optimizer, 8)
        return [optimizer], [{"scheduler": schedule, "interval": self.interval}]

    def batch_loss(self, batch):
        inputs, targets = batch
        return nn.functional.mse_loss(self.model(inputs), targets)

    def training_step(self, batch, index):
        return self.batch_loss(batch)


class Averaged(Automatic):
    """As docs/frameworks.md says: evaluated, and saved by a callback, at the average."""

    def __init__(self):
        super().__init__(small_rule("orthogonal-momentum"))
        self.evaluated = []

    def on_train_batch_start(self, batch, index):
        for optimizer in self.trainer.optimizers:
            optimizer.train()

    def on_validation_start(self):
        for optimizer in self.trainer.optimizers:
            optimizer.eval()

    def validation_step(self, batch, index):
        self.evaluated.append([value.clone() for value in self.model.parameters()])


class Manual(Automatic):
    """As in Lightning's guide: a step every `every` batches, with a closure if asked to."""

    def __init__(self, rule, give_loss=False, every=1):
        super().__init__(rule)
        self.automatic_optimization = False
        self.give_loss, self.every = give_loss, every

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        loss = self.batch_loss(batch) / self.every
        self.manual_backward(loss)
        if (index + 1) % self.every == 0:
            if self.give_loss:
                optimizer.step(closure=lambda: loss.detach())
            else:
                optimizer.step()
            optimizer.zero_grad()
            self.lr_schedulers().step()


class Batches(DataLoader):
    """The same few batches in each epoch."""

    def __init__(self):
        super().__init__(TensorDataset(*make_batch()), batch_size=2)


class ResumableBatches(Batches):
    """A loader that resumes in mid-epoch, by Lightning's protocol."""

    seen = 0

    def __iter__(self):
        self.seen %= len(self)
        for batch in list(super().__iter__())[self.seen :]:
            self.seen += 1
            yield batch

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def fit(module, folder, epochs=1, checkpoint=None, callbacks=(), batches=Batches, **settings):
    """Fit; a checkpoint is left in `folder` after each epoch, or after its validation."""
    keep = {"save_on_train_epoch_end": False} if isinstance(module, Averaged) else {}
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, "{epoch}", **keep), *callbacks],
        **settings,
    )
    validation = Batches() if isinstance(module, Averaged) else None
    trainer.fit(module, batches(), validation, ckpt_path=checkpoint, weights_only=True)
    return trainer


def test_the_average_is_validated_and_saved_and_resumes_bitwise(tmp_path):
    unbroken = Averaged()
    fit(unbroken, tmp_path / "unbroken", epochs=2)
    (optimizer,) = unbroken.trainer.optimizers
    assert not optimizer.param_groups[0]["train_mode"]
    assert same(unbroken.evaluated[-1], list(unbroken.model.parameters()))
    broken = Averaged()
    fit(broken, tmp_path / "broken")
    (checkpoint,) = (tmp_path / "broken").glob("*.ckpt")
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert same(list(saved.values()), broken.evaluated[-1])
    resumed = Averaged()
    fit(resumed, tmp_path / "resumed", 2, checkpoint)
    assert same(list(resumed.model.parameters()), list(unbroken.model.parameters()))
    alone = lightning.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    alone.validate(resumed, Batches(), verbose=False)  # there is no optimizer to swap


def end(trainer):
    (optimizer,) = trainer.optimizers
    assert isinstance(optimizer, LearnedOptimizer)
    return snapshot(trainer.lightning_module, optimizer)


def assert_resumes(folder, make, steps, make_callbacks=lambda: (), stop=1, **settings):
    """Train for some epochs, without a stop and with one."""

    def run(name, epochs, checkpoint=None):
        callbacks = make_callbacks()
        return fit(make(), folder / name, epochs, checkpoint, callbacks, **settings)

    unbroken = run("unbroken", 2 * stop)
    stopped = run("stopped", stop)
    resumed = run("resumed", 2 * stop, folder / "stopped" / f"epoch={stop - 1}.ckpt")
    assert steps_taken(stopped.optimizers[0]) == steps // 2
    assert steps_taken(resumed.optimizers[0]) == resumed.global_step == steps
    assert same(end(resumed), end(unbroken))
    losses = [run.lightning_module.losses for run in (stopped, resumed, unbroken)]
    assert same(losses[0] + losses[1], losses[2])


@each_rule
def test_automatic_optimisation_resumes_bitwise(rule_name, tmp_path):
    assert_resumes(tmp_path, lambda: Automatic(small_rule(rule_name)), 8)


def test_automatic_optimisation_gives_the_loss_and_resumes_bitwise(tmp_path):
    assert_resumes(tmp_path, lambda: Automatic(loss_rule()), 8)


@each_rule
def test_automatic_accumulation_resumes_bitwise(rule_name, tmp_path):
    make = lambda: Automatic(small_rule(rule_name))  # noqa: E731
    assert_resumes(tmp_path, make, 4, accumulate_grad_batches=2)


def test_automatic_optimisation_with_autocast_and_clipping_resumes_bitwise(tmp_path):
    settings = {"precision": "bf16-mixed", "gradient_clip_val": 0.5}
    assert_resumes(tmp_path, lambda: Automatic(small_rule()), 8, **settings)


@each_rule
def test_manual_optimisation_resumes_bitwise(rule_name, tmp_path):
    assert_resumes(tmp_path, lambda: Manual(small_rule(rule_name)), 8)


def test_manual_optimisation_that_gives_the_loss_resumes_bitwise(tmp_path):
    assert_resumes(tmp_path, lambda: Manual(loss_rule(), give_loss=True), 8)


def test_manual_accumulation_resumes_bitwise(tmp_path):
    assert_resumes(tmp_path, lambda: Manual(small_rule(), every=2), 4)


def test_a_stop_in_mid_epoch_resumes_bitwise_if_the_loader_can(tmp_path):
    """Without a resumable loader Lightning repeats the epoch's data, with a warning."""

    def run(name, steps, checkpoint=None):
        folder, keep = tmp_path / name, {"every_n_train_steps": 3, "save_top_k": -1}
        settings = {"max_steps": steps, "batches": ResumableBatches}
        settings["callbacks"] = [ModelCheckpoint(folder, "{step}", **keep)]
        return fit(Automatic(small_rule()), folder, 2, checkpoint, **settings)

    unbroken = run("unbroken", 6)
    run("stopped", 3)
    resumed = run("resumed", 6, tmp_path / "stopped" / "step=3.ckpt")
    assert steps_taken(resumed.optimizers[0]) == 6
    assert same(end(resumed), end(unbroken))


def test_automatic_and_manual_optimisation_end_alike(tmp_path):
    modules = [Automatic(small_rule()), Manual(small_rule())]
    assert same(*(end(fit(module, tmp_path / type(module).__name__)) for module in modules))


def test_manual_optimisation_without_the_loss_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"needs the loss.*step\(lambda: loss\)"):
        fit(Manual(loss_rule()), tmp_path)


def test_with_accumulation_the_loss_seen_is_the_last_batchs_share(tmp_path):
    """Lightning's closure returns the loss of the last batch over the number of batches."""
    module = Automatic(loss_rule())
    inputs, targets = make_batch()
    expected = nn.functional.mse_loss(module.model(inputs[2:4]), targets[2:4]) / 2
    fit(module, tmp_path, accumulate_grad_batches=2)
    assert same(module.losses[0], expected.detach())


@pytest.mark.parametrize(
    "average",
    [
        lambda: StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=1),
        lambda: EMAWeightAveraging(decay=0.9),
    ],
    ids=["SWA", "EMA"],
)
def test_weight_averages_resume_bitwise(average, tmp_path):
    make = lambda: Automatic(small_rule(), interval="epoch")  # noqa: E731
    assert_resumes(tmp_path, make, 16, lambda: [average()], stop=2)
