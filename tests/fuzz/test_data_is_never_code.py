"""What a file says is never run: no pickle, no eval, in whatever wrapping."""

import ast
from pathlib import Path

import pytest

import openddpm

SOURCES = sorted(Path(openddpm.__file__).parent.rglob("*.py"))
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "code",
    "codeop",
    "runpy",
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
LOADERS = {"torch": {"load", "jit", "hub", "package"}, "numpy": {"load"}, "yaml": {"load", "unsafe_load", "full_load"}}
KEYWORDS = {"allow_pickle", "weights_only", "trust_remote_code"}


def ways_to_run_data(source: str) -> list[str]:
    """Return the names in `source` by which content could be run, as written there."""
    tree = ast.parse(source)
    aliases, found = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in MODULES]
            aliases |= {name.asname or name.name.split(".")[0]: name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[0]
            names = {name.name for name in node.names}
            found += [module] if module in MODULES else sorted(names & LOADERS.get(module, set()))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            module = aliases.get(node.value.id, "") if isinstance(node.value, ast.Name) else ""
            if node.attr in LOADERS.get(module, ()) or "pickle" in node.attr:
                found.append(f"{module}.{node.attr}")
        if isinstance(node, ast.Name) and (node.id in BUILTINS or "pickle" in node.id):
            found.append(node.id)
        if isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            found.append(node.arg)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_no_source_can_run_what_it_reads(path: Path) -> None:
    """No module of openddpm names a loader that runs what it loads, not even one told to be careful."""
    assert ways_to_run_data(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from pickle import load", "import torch as t\nt.load(path, weights_only=True)"),
        *("from torch import load", "import numpy as np\nnp.load(path)", "table = read(path, allow_pickle=False)"),
        *("eval(text)", "frame.read_pickle(path)", "import yaml\nyaml.load(text)", "torch = __import__('torch')"),
    ],
)
def test_each_way_is_seen(source: str) -> None:
    """Each such loader is found under the names that it goes by."""
    assert ways_to_run_data(source)
