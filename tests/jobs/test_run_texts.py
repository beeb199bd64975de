"""Texts of a run in TensorBoard, and the settings that tell runs apart."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meta_train.jobs.run_texts import card_text, told_apart, write_configuration
from meta_train.outer.settings import TrainSettings


def text(folder, tag):
    events = EventAccumulator(str(folder / "tensorboard" / "configuration")).Reload()
    return [e.tensor_proto.string_val[0].decode() for e in events.Tensors(f"{tag}/text_summary")]


def test_the_configuration_and_the_command_that_repeats_the_run(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "config.yaml").write_text("task: quadratic\n")
    write_configuration(folder)
    (folder / "config.yaml").write_text("task: conv\n")
    write_configuration(folder)  # of a resumed run: in place of the first
    assert text(folder, "3 configuration") == ["```yaml\ntask: conv\n```"]
    command = f"python -m meta_train --config '{folder}/config.yaml'"
    assert text(folder, "2 command") == [f"```sh\n{command}\n```"]


def test_a_card_is_a_block_of_json():
    assert card_text({"a": [1]}) == '```json\n{\n  "a": [\n    1\n  ]\n}\n```'


def test_the_main_settings_and_the_changed_ones_tell_runs_apart():
    assert told_apart(TrainSettings(lr=0.5, runs=3, groups=2, gates_every=7, max_minutes=1.0)) == {
        "estimator": "truncated",
        "lr": 0.5,
        "outer_steps": 300,
        "seed": 0,
        "runs": 3,
        "groups": 2,
    }
