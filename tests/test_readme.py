"""README says what is: its commands are those that CI runs, its numbers those of the card."""

import re
from pathlib import Path

import pytest
import torch

import learned_opt
from learned_opt import list_pretrained, list_rules, load_card
from learned_opt.rules import create_rule

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_ci_runs_the_test_line_of_readme():
    lines = re.findall(r"^python -m pip install .* && python -m pytest$", README, re.M)
    assert len(lines) == 1
    assert lines[0] in (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[0] in (ROOT / "CONTRIBUTING.md").read_text().splitlines()


def test_the_main_job_needs_no_arguments():
    assert re.search(r"^python -m pip install .* && python -m meta_train$", README, re.M)


def test_every_file_that_readme_links_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_table_is_the_card_of_the_bundled_weights():
    table = README.split("<!-- table:")[1].split("<!-- end of table -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    columns = load_card("digits-lstm")["columns"].values()
    shown = [row.split("|")[2:-1] for row in rows]
    expected = []
    for column in columns:
        for figure in ("mean_loss", "final_loss"):
            expected.append(
                [f"{row[figure]:.2g} ± {row[figure + '_std']:.1g}" for row in column["rows"][:4]]
            )
    assert [[cell.strip().strip("*") for cell in row] for row in shown] == expected


@pytest.mark.parametrize("name", list_rules())
def test_the_state_table_is_true(name):
    rule = create_rule(name)
    parameter = torch.zeros(8, 4)
    state = rule.init_state(parameter)
    held = sum(value.nbytes for key, value in state.items() if key != "step") // 32
    assert re.search(rf"^\| `{name}` \|.*\| {held} \|$", README, re.M), (name, held)


def test_the_swap_in_readme_runs():
    code = README.split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(code, names)
    optimizer, model = names["optimizer"], names["model"]
    model(torch.ones(2, 64)).sum().backward()
    optimizer.step()
    assert isinstance(optimizer, learned_opt.LearnedOptimizer)


@pytest.mark.parametrize("name", list_pretrained())
def test_every_bundled_rule_has_a_card_to_read(name):
    text = (ROOT / "learned_opt" / "pretrained" / f"{name}.md").read_text()
    for heading in ("## Trained on", "## How well", "## Where not to use it"):
        assert heading in text
