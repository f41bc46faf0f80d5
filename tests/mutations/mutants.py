"""Changes the source in one place at a time, and asks of the tests beside the module that one of them fails.

What they pass with is a survivor: code that no test there sees, or code that does nothing. The places and the changes
to numbers, operators and arguments are mutmut's; forking is our own, as mutmut leaves alone what stands outside of
functions (constants are half of this code) and in decorated ones, and runs one selection of tests for all modules.

A process that has imported torch forks one for each mutant, so that none waits for that. `make mutants` calls this;
docs/mutants.md says what was found.
"""

import argparse
import hashlib
import importlib
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation import mutators

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "openddpm"
SETTINGS = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text("utf-8"))
"""[tests]: files under tests/ of each module; [[equivalent]]: mutants that change nothing that can be seen, and why;
`new = "*"` stands for whatever becomes of `old`."""
MIN_SECONDS, TIMES_AS_LONG = 20, 5  # assumed: a mutant that takes longer than this, or that many times, hangs
MAX_SECONDS = 1200  # assumed: of the tests beside a module without a mutant
MAX_BYTES = 6 << 30  # of data of a process: assumed, so that no mutant takes all memory
LEFT_ALONE = ("strict",)  # of zip: it only tells of bugs elsewhere
FLOAT_FACTOR = 1.2  # a float is made larger by a fifth: by 1, as mutmut does it, most tests would notice

Nodes = Iterable[cst.CSTNode]


@dataclass(frozen=True)
class Mutant:
    """A change to a module, as text."""

    function: str
    """Qualified name of what it is in; empty at the top."""
    line: int
    old: str
    new: str
    """The changed lines, without indentation; empty where one is removed."""
    source: str
    lines: tuple[int, ...]
    """Of the statement that is changed, counted from 1."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is known by, wherever it stands."""
        return self.function, self.old, self.new


def _numbers(node: cst.CSTNode, _: cst.CSTNode | None) -> Nodes:
    if isinstance(node, cst.Integer):
        yield node.with_changes(value=str(node.evaluated_value + 1))
    elif isinstance(node, cst.Float):
        yield node.with_changes(value=repr(node.evaluated_value * FLOAT_FACTOR or 1.0))


def _names(node: cst.CSTNode, _: cst.CSTNode | None) -> Nodes:
    """Change strings that are names, not words for people."""
    if isinstance(node, cst.SimpleString) and not any(character in node.value for character in " \n"):
        yield from list(mutators.operator_string(node))[:1]


def _keyword_arguments(node: cst.CSTNode, _: cst.CSTNode | None) -> Nodes:
    """Leave one out; without an argument by position most calls fail in any case."""
    if isinstance(node, cst.Call):
        for number, argument in enumerate(node.args):
            if argument.keyword is not None and argument.keyword.value not in LEFT_ALONE:
                yield node.with_changes(args=[*node.args[:number], *node.args[number + 1 :]])


def _conditions(node: cst.CSTNode, parent: cst.CSTNode | None) -> Nodes:
    if isinstance(parent, cst.If | cst.IfExp | cst.CompIf) and node is parent.test:
        yield from (cst.Name("True"), cst.Name("False"))


def _statements(node: cst.CSTNode, _: cst.CSTNode | None) -> Nodes:
    """Leave out what does something, in place of naming it."""
    if isinstance(node, cst.SimpleStatementLine) and len(node.body) == 1:
        statement = node.body[0]
        is_call = isinstance(statement, cst.Expr) and isinstance(statement.value, cst.Call)
        stores = isinstance(statement, cst.Assign) and not isinstance(statement.targets[0].target, cst.Name | cst.Tuple)
        if is_call or stores or isinstance(statement, cst.AugAssign | cst.Raise | cst.Continue | cst.Break):
            yield node.with_changes(body=[cst.Pass()])


def _of_mutmut(node: cst.CSTNode, _: cst.CSTNode | None) -> Nodes:
    for kind, operator in mutators.mutation_operators:
        if isinstance(node, kind) and operator in (
            *(mutators.operator_name, mutators.operator_remove_unary_ops),
            *(mutators.operator_keywords, mutators.operator_swap_op),
        ):
            yield from operator(node)


OPERATORS = (_numbers, _names, _keyword_arguments, _conditions, _statements, _of_mutmut)


class _Places(cst.CSTVisitor):
    """Collects what to change: (node, what takes its place, function, lines of its statement)."""

    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[cst.CSTNode, cst.CSTNode, str, tuple[int, ...]]] = []
        self._inside: list[str] = []
        self._statements: list[tuple[int, ...]] = [()]

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom | cst.Assert):
            return False
        if isinstance(node, cst.Subscript) and isinstance(node.value, cst.Name) and node.value.value == "Literal":
            return False
        parent = self.get_metadata(ParentNodeProvider, node, None)
        if isinstance(node, cst.Arg):
            if node.keyword is not None and node.keyword.value in LEFT_ALONE:
                return False
            if isinstance(self.get_metadata(ParentNodeProvider, parent, None), cst.Raise):
                return False  # words for people
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._inside.append(node.name.value)
        if isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            place = self.get_metadata(PositionProvider, node)
            end = place.end.line if isinstance(node, cst.SimpleStatementLine) else place.start.line
            self._statements.append(tuple(range(place.start.line, end + 1)))
        for operator in OPERATORS:
            for changed in operator(node, parent):
                self.found.append((node, changed, ".".join(self._inside), self._statements[-1]))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self._inside.pop()
        if isinstance(original_node, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            self._statements.pop()


def find_mutants(source: str) -> list[Mutant]:
    """Return all mutants of a module."""
    wrapper = MetadataWrapper(cst.parse_module(source))
    places = _Places()
    wrapper.visit(places)
    spans = wrapper.resolve(PositionProvider)
    found: dict[str, Mutant] = {}
    before = source.splitlines(keepends=True)
    for old, new, function, lines in places.found:
        start, end = spans[old].start, spans[old].end
        head, tail = before[start.line - 1][: start.column], before[end.line - 1][end.column :]
        middle = head + wrapper.module.code_for_node(new).strip() + tail
        changed = "".join([*before[: start.line - 1], middle, *before[end.line :]])
        try:
            compile(changed, "mutant", "exec")
        except SyntaxError:
            continue
        texts = (" ".join(text.split()) for text in ("".join(before[start.line - 1 : end.line]), middle))
        found.setdefault(changed, Mutant(function, start.line, *texts, changed, lines))
    return list(found.values())


class _Loader(SourceFileLoader):
    """Loads a module from other text than its file has."""

    source = ""

    def get_code(self, fullname: str) -> Any:
        return compile(self.source, self.path, "exec")


def _load_mutated(module: str, source: str) -> None:
    """See that `module` will be imported as `source`."""
    name = "openddpm." + module.replace("/", ".")
    assert name not in sys.modules

    class Finder:
        @staticmethod
        def find_spec(fullname: str, path: Any = None, target: Any = None) -> Any:
            if fullname != name:
                return None
            loader = _Loader(fullname, str(SOURCE / f"{module}.py"))
            loader.source = source
            return importlib.util.spec_from_loader(fullname, loader)

    sys.meta_path.insert(0, Finder)


class _Noted:
    """Notes, in a run without a mutant, which test takes how long and which lines of the module it runs."""

    def __init__(self, file: Path) -> None:
        import coverage

        self.file, self.seconds, self.failures = file, Counter[str](), list[str]()
        self.coverage = coverage.Coverage(data_file=None, include=[str(file)], config_file=False)
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self.coverage.switch_context(item.nodeid)
        result = yield
        self.coverage.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failures.append(f"{report.nodeid}\n{report.longreprtext}")

    def all(self) -> dict[str, Any]:
        """Return what was noted."""
        self.coverage.stop()
        lines = self.coverage.get_data().contexts_by_lineno(str(self.file))
        own = [name for name, module in sys.modules.items() if _is_own(module)]
        third = [name for name in sys.modules if name not in own and not name.startswith("openddpm")]
        return {"seconds": self.seconds, "failures": self.failures, "lines": lines, "modules": third}


def _is_own(module: Any) -> bool:
    path = getattr(module, "__file__", None) or ""
    return Path(path).is_relative_to(ROOT) and not Path(path).is_relative_to(ROOT / ".venv")


class _Ordered:
    """Runs the tests that are likeliest to fail first, the quick ones before the slow."""

    def __init__(self, seconds: dict[str, float], likely: set[str]) -> None:
        self._seconds, self._likely, self.failed = seconds, likely, ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: (item.nodeid not in self._likely, self._seconds.get(item.nodeid, 0.0)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = report.nodeid


def _run_tests(files: list[str], folder: Path, plugin: object) -> int:
    from hypothesis import settings

    settings.register_profile("mutants", derandomize=True, database=None, deadline=None)
    settings.load_profile("mutants")
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist", "--basetemp", str(folder)]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is here before its plugin
    return int(pytest.main([*options, *files], plugins=[plugin]))


def _forked(act: Any, answer: Path) -> int:
    """Start `act` in a process of its own, which writes what it returns to `answer`; return its id."""
    process = os.fork()
    if process:
        return process
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
        output = os.open(answer.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        answer.write_text(json.dumps(act()), encoding="utf-8")
        os._exit(0)
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)


def _answered(process: int, answer: Path, seconds: float) -> Any:
    """Return what a process has written; None if it wrote nothing, or not in time."""
    until = time.monotonic() + seconds
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return None
        time.sleep(0.01)
    return json.loads(answer.read_text("utf-8")) if answer.exists() else None


def _test_files(module: str) -> list[str]:
    """Return the test files beside a module."""
    return [str(ROOT / "tests" / path) for path in SETTINGS["tests"][module]]


Key = tuple[str, str, str]


def measure(module: str, results: Path, again: bool) -> None:
    """Try the mutants of a module that have not been tried, and write how each ends to `results`.

    Args:
        again: try those again that survived, whatever has become of the tests since.
    """
    path, files = SOURCE / f"{module}.py", _test_files(module)
    source = path.read_text("utf-8")
    digests = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in (str(path), *files)}
    digests = {str(Path(name).relative_to(ROOT)): digest for name, digest in digests.items()}
    ends: dict[Key, dict[str, Any]] = {}
    if results.exists():
        earlier = json.loads(results.read_text("utf-8"))
        if again or earlier["digests"] == digests:
            ends = {_key(one): one for one in earlier["mutants"] if not (again and one["survived"])}
    mutants = [mutant for mutant in find_mutants(source) if mutant.key not in ends]
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        before = _noted_before(module, files, folder) if mutants else {}
        for number, mutant in enumerate(mutants):
            by = _attempt(module, mutant, files, before, folder / str(number))
            entry = {"function": mutant.function, "line": mutant.line, "old": mutant.old, "new": mutant.new}
            ends[mutant.key] = {**entry, "survived": not by, "by": by}
            results.write_text(
                json.dumps({"module": module, "digests": digests, "mutants": list(ends.values())}, indent=1)
            )
            print(f"{'killed' if by else 'SURVIVED':8} {module}:{mutant.line} {mutant.old} -> {mutant.new}", flush=True)


def _noted_before(module: str, files: list[str], folder: Path) -> dict[str, Any]:
    """Run the tests without a mutant; import what they have imported that is not ours."""

    def note() -> dict[str, Any]:
        noted = _Noted(SOURCE / f"{module}.py")
        _run_tests(files, folder / "tests", noted)
        return noted.all()

    before = _answered(_forked(note, folder / "before"), folder / "before", MAX_SECONDS)
    if before is None or before["failures"] or not before["seconds"]:
        log = (folder / "before.log").read_text("utf-8")[-3000:]
        sys.exit(f"{module}: the tests fail as they are: {before and before['failures']}\n{log}")
    for third in before["modules"]:
        if not third.startswith(("_pytest", "pytest", "__m")):
            _import(third)
    return dict(before)


def _attempt(module: str, mutant: Mutant, files: list[str], before: dict[str, Any], folder: Path) -> str:
    """Return the test that fails with a mutant; empty if none does."""
    likely = {test for line in mutant.lines for test in before["lines"].get(str(line), ())}

    def act() -> list[Any]:
        _load_mutated(module, mutant.source)
        ordered = _Ordered(before["seconds"], likely)
        return [_run_tests(files, folder, ordered), ordered.failed]

    answer = folder.with_name(f"mutant-{folder.name}")
    limit = MIN_SECONDS + TIMES_AS_LONG * sum(before["seconds"].values())
    ended = _answered(_forked(act, answer), answer, limit)
    if ended is None:
        return "hangs, or ends the process"
    status, failed = ended
    return failed or (f"pytest's status {status}" if status else "")


def _key(entry: dict[str, Any]) -> Key:
    return entry["function"], entry["old"], entry["new"]


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:  # a part of a package that is not there by this name
        return


def _table(results: list[dict[str, Any]]) -> str:
    """Return a line a module, and the survivors that are not known to be equivalent."""
    lines, left = ["| module | mutants | equivalent | killed | survivors |", "|---|---|---|---|---|"], []
    for result in results:
        module, mutants = result["module"], result["mutants"]
        known = {_key(one) for one in SETTINGS["equivalent"] if one["module"] == module}
        alive = [one for one in mutants if one["survived"]]
        unknown = [one for one in alive if not {_key(one), (*_key(one)[:2], "*")} & known]
        different = len(mutants) - len(alive) + len(unknown)
        killed = len(mutants) - len(alive)
        share = f"{killed / max(1, different):.0%}"
        lines.append(
            f"| {module} | {len(mutants)} | {len(alive) - len(unknown)} | {killed} ({share}) | {len(unknown)} |"
        )
        for one in unknown:
            left.append(
                f"{module}:{one['line']} in {one['function'] or 'the module'}\n  - {one['old']}\n  + {one['new']}"
            )
    return "\n".join([*lines, "", *left])


def main() -> None:
    """Measure modules, keep the results, and print them as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", help=f"such as diffusion/process; all of {', '.join(SETTINGS['tests'])}")
    parser.add_argument("--results", type=Path, default=ROOT / "runs" / "mutants")
    parser.add_argument("--survivors", action="store_true", help="try those again that survived the last time")
    parser.add_argument("--table", action="store_true", help="only show the results that there are")
    arguments = parser.parse_args()
    modules = arguments.modules or list(SETTINGS["tests"])
    sys.path.insert(0, str(SOURCE.parent))
    arguments.results.mkdir(parents=True, exist_ok=True)
    files = {module: arguments.results / f"{module.replace('/', '-')}.json" for module in modules}
    if not arguments.table:
        for module, file in files.items():
            measure(module, file, arguments.survivors)
    print(_table([json.loads(file.read_text("utf-8")) for file in files.values() if file.exists()]))


if __name__ == "__main__":
    main()
