"""Imports point one way; read here are also those within functions and under TYPE_CHECKING."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = [
    {"learned_opt"},
    {"meta_train.runtime"},
    {"meta_train.tasks"},
    {"meta_train.inner"},
    {"meta_train.estimators", "meta_train.evaluation"},
    {"meta_train.outer"},
    {"meta_train.few_shot"},
    {"meta_train.jobs"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def modules():
    """Every module of both packages, and the modules that it imports."""
    files = [path for top in ("learned_opt", "meta_train") for path in (ROOT / top).rglob("*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    return {name: sorted(imported(path, names)) for name, path in names.items()}


def imported(path, names):
    """The project's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in names or node.module in names:
                    yield inner if inner in names else node.module


def room(module):
    """The folder that a module lives in, as far as `LAYERS` tells them apart."""
    if module.startswith("learned_opt"):
        return "learned_opt"
    return ".".join(module.split(".")[:2])


MODULES = modules()


def circle(arrows):
    """One circle among `{node: nodes}`, or None."""
    done, path = set(), []

    def visit(node):
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return None
        path.append(node)
        for following in arrows.get(node, ()):
            found = visit(following)
            if found:
                return found
        done.add(path.pop())
        return None

    return next(filter(None, map(visit, arrows)), None)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_from_its_own_layer_and_below(module):
    top = ("meta_train", "meta_train.__main__", "meta_train.index")
    level = len(LAYERS) if module in top else LEVEL[room(module)]
    for other in MODULES[module]:
        if (module, other) == ("meta_train", "meta_train.index"):
            continue
        if room(other) != room(module):
            assert other not in top, f"{module} imports {other}"
            assert LEVEL[room(other)] < level, f"{module} imports {other}"


def test_no_file_is_in_a_circle_of_imports():
    assert circle(MODULES) is None


@pytest.mark.parametrize("depth", [2, 3])
def test_no_folder_is_in_a_circle_of_imports(depth):
    """A file that lies beside folders, above this depth, stands for itself."""

    def folder(module):
        return ".".join(module.split(".")[:depth])

    arrows = {}
    for module, others in MODULES.items():
        for other in others:
            if folder(other) != folder(module):
                arrows.setdefault(folder(module), set()).add(folder(other))
    assert circle(arrows) is None


def folder_of(module):
    """The folder right in a package that a module lies in, as the map writes it; else None."""
    package, name = [*module.split("."), ""][:2]
    return f"{package}/{name}/" if (ROOT / package / name / "__init__.py").exists() else None


def map_of_the_code():
    """Folders in the order of the table in CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.findall(r"^\| `((?:learned_opt|meta_train)/\w+/)` \|", text, re.M)


def test_the_map_of_the_code_has_every_folder_once():
    folders = {folder_of(module) for module in MODULES if "." in module} - {None}
    assert sorted(map_of_the_code()) == sorted(folders)


def test_the_docs_of_the_folders_begin_with_the_last_on_the_map():
    pages = (ROOT / "docs" / "api" / "index.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)\.(\w+)`\]\(\2\.md\) \|", pages, re.M)
    assert [f"{package}/{name}/" for package, name in rows] == map_of_the_code()[::-1]


def test_a_folder_imports_only_from_those_below_it_on_the_map():
    places = {folder: place for place, folder in enumerate(map_of_the_code())}
    for module, others in MODULES.items():
        for one, other in ((folder_of(module), folder_of(other)) for other in others):
            if one in places and other in places:
                assert places[one] <= places[other], f"{module} imports from {other}"


def test_a_circle_is_found():
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c"]
    assert circle({"a": ["b"], "b": []}) is None
