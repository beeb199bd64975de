"""README and the pages of the site: snippets run, links lead somewhere, commands exist."""

import os
import re
import runpy
import subprocess
import sys

import pytest
import torch
from pages import PAGES, ROOT, anchors, commands, links, paths, prose, read, rows, snippets

from learned_opt import (
    LearnedOptimizer,
    create_rule,
    list_initializations,
    list_pretrained,
    list_rules,
)
from meta_train.estimators import ESTIMATORS
from meta_train.few_shot.methods.registry import METHODS
from meta_train.jobs import cli, explain
from meta_train.jobs.benchmark import cli as benchmark
from meta_train.jobs.few_shot import cli as few_shot_cli
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import list_tasks

SINGLE = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
WITH_SNIPPETS = [page for page in PAGES if page != "CONTRIBUTING.md" and snippets(read(page))]
SCRIPTS = {
    f"{page}: {title}": block
    for page in PAGES
    for title, block in snippets(read(page), title=True).items()
}


def run(folder, code):
    """Run a script in this folder, as the only process where it asks how many there are."""
    (folder / "snippet.py").write_text(code)
    environment = {**os.environ, **SINGLE, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "snippet.py"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_markers_of_a_merge(page):
    assert not re.findall(r"^(?:<{7}|>{7}|\|{7})", read(page), re.M)


@pytest.mark.parametrize("page", [page for page in WITH_SNIPPETS if "frameworks" not in page])
def test_the_snippets_of_a_page_run_from_top_to_bottom(page, tmp_path):
    run(tmp_path, "\n".join(snippets(read(page))))


@pytest.mark.slow
def test_the_snippets_for_frameworks_run(tmp_path):
    run(tmp_path, "\n".join(snippets(read("docs/frameworks.md"))))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_on_a_page_runs(script, tmp_path):
    run(tmp_path, SCRIPTS[script])


def test_a_snippet_that_fails_is_noticed(tmp_path):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run(tmp_path, "1 / 0")


@pytest.mark.parametrize("page", PAGES)
def test_links_and_named_files_are_there(page):
    text, folder = read(page), (ROOT / page).parent
    for link in links(text):
        file, _, anchor = link.partition("#")
        target = (folder / file).resolve() if file else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = target.read_text()
            for included in re.findall(r'^--8<-- "(.+)"$', headings, re.M):
                headings += read(included)
            assert anchor in anchors(headings), link
    assert [path for path in paths(text) if not (ROOT / path).exists()] == []


def test_every_page_is_in_the_navigation():
    pages = re.findall(r"[:-] ([\w/-]+\.md)$", read("mkdocs.yml"), re.M)
    there = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")]
    assert sorted(pages) == sorted(there)


def lines_of(program):
    """Lines of all pages that start this module, script or program: `(page, arguments)`."""
    for page in PAGES:
        text = read(page)
        flags = re.findall(r"`(--train\.\w+ [\da-z][\w.-]*)`", prose(text))
        lines = [*commands(text), *(["python", "-m", "meta_train", *f.split()] for f in flags)]
        for words in lines:
            words = [word for word in words if "=" not in word or word.startswith("-")]
            if words[0] == "torchrun" and "-m" in words:
                words = ["python", *words[words.index("-m") :]]
            if words[: len(program)] == program:
                yield page, words[len(program) :]


def test_every_command_of_meta_training_is_one_that_it_takes(monkeypatch, tmp_path, capsys):
    started = []
    for module in (benchmark, cli, explain, few_shot_cli):
        monkeypatch.setattr(module, "run", lambda config, *write: started.append(config))
    monkeypatch.chdir(tmp_path)
    for folder in ("benchmarks", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.yaml").write_text("rule: lstm\n")
    expected = 0
    for page, arguments in lines_of(["python", "-m", "meta_train"]):
        try:
            assert cli.main(arguments) == 0
            expected += 1
        except SystemExit as end:
            assert end.code == 0 and "--help" in arguments, (page, arguments, capsys.readouterr())
    assert len(started) == expected > 15


def test_a_command_with_a_wrong_setting_is_noticed(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--train.no_such_setting", "1"])
    assert end.value.code == 2


SCRIPT_LINES = [
    (words[0], [word for word in words[1:] if word.startswith("--")])
    for _, words in lines_of(["python"])
    if words[0].endswith(".py")
]


@pytest.mark.parametrize("script", sorted({script for script, _ in SCRIPT_LINES}))
def test_every_script_has_the_options_that_pages_give_it(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend((ROOT / script).parent)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert end.value.code == 0
    text = capsys.readouterr().out
    used = {option for name, options in SCRIPT_LINES if name == script for option in options}
    assert [option for option in used if option not in text] == []


def test_tables_are_written_from_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))
    for file, name, render in module["TABLES"]:
        assert module["find_tables"](read(file))[name] == render(), (file, name)


def test_every_measured_table_is_written_by_a_program():
    here = {
        (page, name)
        for page in (*PAGES, *(f"learned_opt/pretrained/{name}.md" for name in list_pretrained()))
        if page not in ("docs/few_shot.md", "docs/sine.md", "CONTRIBUTING.md")
        for name in re.findall(r"^<!-- table: (.+?) -->$", read(page), re.M)
    }
    written = re.findall(r'^    \("(.+)", "(.+)", \w+\),$', read("benchmarks/tables.py"), re.M)
    assert here == set(written)


@pytest.mark.parametrize("name", list_rules())
def test_the_state_table_is_true(name):
    parameter = torch.zeros(8, 4)
    state = create_rule(name).init_state(parameter)
    held = sum(value.nbytes for value in state.values() if value.shape[:2] == (8, 4)) // 32
    table = read("docs/choose.md").split("## All rules")[1].split("## ")[0]
    assert [row[2] for row in rows(table) if row[0] == f"`{name}`"] == [str(held)]


@pytest.mark.parametrize(
    ("page", "heading", "names"),
    [
        ("docs/tasks.md", "## Built-in families", list_tasks(with_files=True)),
        ("docs/estimators.md", "# Estimators and memory", list(ESTIMATORS)),
    ],
)
def test_a_table_has_every_name_once(page, heading, names):
    table = read(page).split(heading, 1)[1].split("\n## ", 1)[0]
    shown = [name for row in rows(table) for name in re.findall(r"`([\w-]+)`", row[0])]
    assert sorted(shown) == sorted(names)


def test_the_table_of_costs_has_every_rule():
    table = read("docs/choose.md").split("## What a step costs", 1)[1].split("\n## ", 1)[0]
    shown = {name for row in rows(table) for name in re.findall(r"`([\w-]+)`", row[0])}
    assert shown == set(list_rules())


def test_pages_give_the_number_of_few_shot_methods():
    assert len(METHODS) == 37
    for page in ("README.md", "docs/index.md"):
        assert re.search(r"MAML and 36 other", read(page))
    for page in ("docs/initialisations.md", "docs/recipes.md", "CHANGELOG.md"):
        assert re.search(r"\b37\b", read(page))


def test_conformance_has_all_56_lines_and_each_has_a_test():
    text = read("docs/conformance.md")
    assert [int(n) for n in re.findall(r"^\| (\d+) \|", text, re.M)] == list(range(1, 57))
    for heading, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.S | re.M):
        files = re.findall(r"`(tests/conformance/test_\w+\.py)`", body)
        tests = "".join(read(file) for file in files)
        for number in re.findall(r"^\| (\d+) \|", body, re.M):
            assert f"def test_{int(number):02}_" in tests, (heading, number)


@pytest.mark.parametrize("name", list_pretrained())
def test_every_bundled_rule_has_a_card_to_read(name):
    text = read(f"learned_opt/pretrained/{name}.md")
    for heading in ("## Trained on", "## How well", "## Where not to use it"):
        assert heading in text
    assert f'"learned_opt/pretrained/{name}.md"' in read(f"docs/cards/{name}.md")


@pytest.mark.parametrize("name", list_initializations())
def test_every_bundled_initialisation_has_a_card_to_read(name):
    text = read(f"learned_opt/pretrained/initializations/{name}.md")
    for heading in ("## Trained on", "## How well", "## Where not to use it"):
        assert heading in text
    shown = f'"learned_opt/pretrained/initializations/{name}.md"'
    assert shown in read(f"docs/cards/{name}.md")
    assert f"cards/{name}.md" in read("mkdocs.yml")


def test_the_python_in_contributing_trains(monkeypatch):
    from meta_train import TrainSettings, estimators
    from meta_train.estimators import settings

    names: dict = {"__name__": "contributing"}
    for block in snippets(read("CONTRIBUTING.md")):
        exec(block, names)
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, -0.1])
    rule = names["QuasiHyperbolicMomentum"](beta=0.5, nu=0.5)
    LearnedOptimizer([parameter], rule=rule, lr=0.5).step()
    assert parameter.tolist() == pytest.approx([-0.5 * 0.75 * 3.0, 0.5 * 0.75 * 0.1])

    row = names["TWO_STEPS"]["anil-two-steps"].on_omniglot(ways=5, shots=1)
    assert (row.adapted, row.train_steps, row.inner_lr) == ("head", 2, 0.4)

    monkeypatch.setattr(estimators, "ESTIMATORS", {**ESTIMATORS, "half": names["HalfStep"]})
    monkeypatch.setattr(settings, "ESTIMATORS", estimators.ESTIMATORS)
    norms = []
    for estimator in ("full", "half"):
        torch.manual_seed(0)
        trainer = MetaTrainer(
            create_rule("adam-lstm", hidden_size=3),
            names["Bowl"](),
            TrainSettings(estimator=estimator, horizons=(3,), runs=2),
            device="cpu",
        )
        norms.append(trainer.take_outer_step().gradient_norm)
    assert norms[0] == pytest.approx(2 * norms[1])
