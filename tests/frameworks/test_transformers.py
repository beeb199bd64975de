"""transformers.Trainer: trains, saves, stops and resumes from its own checkpoint."""

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from conftest import same
from small_rules import each_rule, loss_rule, small_rule, snapshot, steps_taken
from torch.optim import lr_scheduler
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from learned_opt import LearnedOptimizer


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Work offline, and reset the singletons of accelerate."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.step


def make_gpt2():
    """With the default dropout: the checkpoint must bring back the random numbers too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"vocab_size": 11, "n_positions": 6, "n_embd": 8, "n_layer": 1, "n_head": 2}
        return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def make_bert():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=11,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=6,
        )
        return BertForSequenceClassification(config)


def make_data(labels_per_token):
    tokens = torch.randint(11, (16, 6), generator=torch.Generator().manual_seed(0))
    return [
        {"input_ids": row, "labels": row if labels_per_token else int(row[0]) % 2} for row in tokens
    ]


def both(model, rule):
    optimizer = LearnedOptimizer(model.parameters(), lr=0.03, rule=rule)
    return {"optimizers": (optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 6))}


def class_and_arguments(model, rule):
    return {"optimizer_cls_and_kwargs": (LearnedOptimizer, {"rule": rule, "lr": 0.03})}


def make_trainer(folder, rule, model, passing, callbacks=(), **settings):
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=2,
        max_steps=6,
        save_strategy="steps",
        save_steps=3,
        logging_steps=2,
        dataloader_pin_memory=False,
        **settings,
    )
    return Trainer(
        model,
        arguments,
        train_dataset=make_data(isinstance(model, GPT2LMHeadModel)),
        eval_dataset=make_data(isinstance(model, GPT2LMHeadModel)),
        callbacks=list(callbacks),
        **passing(model, rule),
    )


def assert_resumes(folder, rule, make=make_gpt2, passing=both, **settings):
    def trainer(name, *callbacks):
        return make_trainer(folder / name, rule, make(), passing, callbacks, **settings)

    unbroken = trainer("unbroken")
    unbroken.train()
    stopped = trainer("stopped", StopAt(3))
    stopped.train()
    assert stopped.state.global_step == 3
    resumed = trainer("resumed")
    resumed.train(resume_from_checkpoint=str(folder / "stopped" / "checkpoint-3"))
    assert steps_taken(resumed.optimizer) == resumed.state.global_step == 6
    assert same(*(snapshot(run.model, run.optimizer) for run in (resumed, unbroken)))
    rates = [run.lr_scheduler.get_last_lr() for run in (stopped, resumed, unbroken)]
    assert rates[0] != rates[1] == rates[2]
    assert not same(*(list(run.model.parameters()) for run in (stopped, resumed)))


@each_rule
def test_a_trainer_given_optimizer_and_schedule_resumes_bitwise(rule_name, tmp_path):
    assert_resumes(tmp_path, small_rule(rule_name))


class WatchMode(TrainerCallback):
    """Which weights the Trainer evaluates and saves."""

    def __init__(self):
        self.seen = []

    def on_evaluate(self, args, state, control, optimizer, **kwargs):
        self.seen.append(("evaluate", optimizer.param_groups[0]["train_mode"]))

    def on_save(self, args, state, control, optimizer, **kwargs):
        self.seen.append(("save", optimizer.param_groups[0]["train_mode"]))


def test_the_trainer_evaluates_and_saves_the_average_and_resumes_bitwise(tmp_path):
    rule, watch = small_rule("orthogonal-momentum"), WatchMode()

    def trainer(name, *callbacks):
        settings = {"eval_strategy": "steps", "eval_steps": 3}
        return make_trainer(tmp_path / name, rule, make_gpt2(), both, callbacks, **settings)

    unbroken = trainer("unbroken", watch)
    unbroken.train()
    assert watch.seen[:2] == [("evaluate", False), ("save", False)]
    trainer("stopped", StopAt(3)).train()
    resumed = trainer("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / "checkpoint-3"))
    assert same(*(snapshot(run.model, run.optimizer) for run in (resumed, unbroken)))


@each_rule
def test_a_trainer_given_the_class_resumes_bitwise(rule_name, tmp_path):
    """The Trainer makes the optimizer, in two groups, and a linear schedule of its own."""
    assert_resumes(tmp_path, small_rule(rule_name), make_bert, class_and_arguments)


def test_a_trainer_that_accumulates_and_clips_resumes_bitwise(tmp_path):
    settings = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1}
    assert_resumes(tmp_path, small_rule(), **settings)


def test_a_trainer_in_bfloat16_resumes_bitwise(tmp_path):
    assert_resumes(tmp_path, small_rule(), bf16=True)


def test_the_trainer_decays_only_the_groups_it_gives_a_decay(tmp_path):
    trainer = make_trainer(
        tmp_path, small_rule(), make_bert(), class_and_arguments, weight_decay=0.5
    )
    trainer.create_optimizer()
    assert isinstance(trainer.optimizer, LearnedOptimizer)
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.5, 0.0]


def test_a_rule_that_reads_the_loss_says_that_the_trainer_gives_none(tmp_path):
    trainer = make_trainer(tmp_path, loss_rule(), make_gpt2(), both)
    with pytest.raises(ValueError, match=r"GatedLSTM needs the loss"):
        trainer.train()


def test_a_checkpoint_of_another_rule_is_refused(tmp_path):
    make_trainer(tmp_path, small_rule("lstm"), make_gpt2(), both, [StopAt(3)]).train()
    trainer = make_trainer(tmp_path, small_rule("adam-lstm"), make_gpt2(), both)
    with pytest.raises(ValueError, match="the loaded state was made by rule"):
        trainer.train(resume_from_checkpoint=True)
