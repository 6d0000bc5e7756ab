"""The arrows of the imports point one way: tools to scripts to lib/ to config. Read from the files, not imported."""

import ast
import collections
import graphlib
import sys
from pathlib import Path

from tests.conftest import SCRIPTS

NAMES = {"train_tokenizer", "prepare", "model", "train", "sample", "plot_loss"}


def files(*folders):
    """{module: path} of the .py files in folders; "" for the top level."""
    found = [path for folder in folders for path in (SCRIPTS / folder).glob("**/*.py" if folder else "*.py")]
    return {".".join(path.relative_to(SCRIPTS).with_suffix("").parts).removesuffix(".__init__"): path for path in found}


OURS = files("", "config", "lib", "tools")


def imports(path, everywhere=True):
    """The modules that a file imports, or imports at once when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            whole = {f"{node.module}.{alias.name}" for alias in node.names} & OURS.keys()  # from lib import plan
            found |= whole or {node.module}
    return found


GRAPH = {name: imports(path) & OURS.keys() for name, path in OURS.items()}


def test_the_top_level_holds_the_six_scripts():
    assert files("").keys() == NAMES


def test_lib_has_four_rooms_and_a_few_files_beside_them():
    rooms = {"text", "tokens", "run", "machine"}
    beside = {"errors", "storage", "other_names", "generation", "muon", "qwen3"}
    assert {name.split(".")[1] for name in OURS if name.startswith("lib.")} == rooms | beside


def test_every_arrow_points_one_way():
    for name, targets in GRAPH.items():
        for target in targets:
            layer, other = name.partition(".")[0], target.partition(".")[0]
            if layer == "config":
                allowed = False
            elif layer == "lib":
                allowed = other in ("lib", "config")
            elif layer == "tools":
                allowed = True
            else:
                allowed = other in ("lib", "config", "model")
            assert allowed, f"{name} imports {target}"
    assert GRAPH["train"] >= {"model", "config", "lib.tokens.memmap"}  # The imports are found.


def test_there_are_no_circles():
    graphlib.TopologicalSorter(GRAPH).prepare()  # CycleError names one


def test_what_must_come_first_is_imported_first():
    for name in (NAMES - {"model"}) | {"tools"}:  # python -m tools.bench imports tools before it
        tree = ast.parse(OURS[name].read_text(encoding="utf-8"))
        first = next(node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
        assert ast.unparse(first) == "import lib.machine.startup", name


def test_a_constant_has_a_name_of_its_own():
    places = collections.defaultdict(set)
    for name, path in OURS.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for target in ast.walk(node) if isinstance(node, ast.Assign) else ():
                if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store) and target.id.isupper():
                    places[target.id.lstrip("_")].add(name)
    assert len(places) > 50
    assert {constant: where for constant, where in places.items() if len(where) > 1} == {}


def test_the_model_needs_torch_alone():
    assert {name.partition(".")[0] for name in imports(OURS["model"])} - sys.stdlib_module_names == {"torch"}


def test_the_scripts_that_fetch_a_corpus_stand_alone():
    fetchers = files("data")
    assert fetchers.keys() >= {"data.sanguo", "data.poetry", "data.shakespeare"}
    ours = {name.partition(".")[0] for name in OURS} | {"data", "tests"}
    for path in fetchers.values():
        assert not {name.partition(".")[0] for name in imports(path)} & ours, path


def test_nobody_changes_where_python_looks():
    for path in files("", "config", "lib", "tools", "data", "tests").values():
        assert path == Path(__file__) or "sys.path" not in path.read_text(encoding="utf-8"), path


def loaded_by(name):
    """All that a script imports as it starts, directly or not."""
    found, new = set(), {name}
    while new:
        found |= new
        new = set().union(*(imports(OURS[name], everywhere=False) for name in new & OURS.keys())) - found
    return {name.partition(".")[0] for name in found} | found


def test_no_script_waits_for_a_library_that_it_does_not_need():
    """The import of torch takes seconds."""
    for name in ("train_tokenizer", "prepare", "plot_loss"):
        assert "torch" not in loaded_by(name), name
    for name in ("train", "sample"):
        assert not loaded_by(name) & {"matplotlib", "transformers", "torch.utils.tensorboard", "safetensors"}, name
    assert {"torch", "lib.tokens.memmap", "numpy"} <= loaded_by("train")
