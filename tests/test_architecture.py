"""The package map as a table, and what follows from it.

Each check takes a folder and yields what is wrong there, so that it can be seen to fail: on a small sound package that
one file breaks at a time.
"""

from __future__ import annotations

import ast
import graphlib
import os
import pickle
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

import statefile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "statefile"

# Earlier bands know nothing of later ones. A name stands for a module or for a whole subpackage.
BANDS = {
    "rules": ("errors", "_log", "_ids", "_lifecycle", "_storable"),
    "system": ("_lock", "_claim", "_turn", "_holder", "_waiter", "_atomic", "_process", "_record", "_codec"),
    "objects": (
        *("_place", "_state_file", "_state_dir", "oci", "runtime", "_hooks", "_oom", "_forwarding", "_arguments"),
        *("_container_state", "_driving", "_destruction", "_container"),
    ),
    "faces": ("aio", "process_runtime", "testing", "pytest_plugin", "interop", "__main__"),
    "front door": ("__init__",),
}
LEVEL = {name: level for level, names in enumerate(BANDS.values()) for name in names}

# Models are everywhere, so pydantic is nobody's own; pydantic_core is its other half, and typing_extensions comes with it.
SHARED = {"pydantic", "pydantic_core", "typing_extensions"}

# A runtime has files, pipes and processes of its own, and touches them as it likes; a test kit damages them by the plainest
# means. Libraries they still do not own.
FREE = ("process_runtime", "testing")

# Nobody needs these as attributes of the package: pytest finds its plugin by name, and Python what it runs.
OWN_DOORS = {"pytest_plugin", "interop", "__main__", "__init__", "__pycache__"}

MAX_LINES = 420
LONG = {"errors.py": 640}  # one tree, one page: what an error means is found in one place
VAGUE = {"base", "common", "helper", "helpers", "misc", "util", "utils"}


def owners() -> dict[str, str]:
    """Read who owns which primitive from the lint that bans it elsewhere, so that there is one list."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    banned = config["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    found = {name: re.match(r"only (\w+)\.py: ", entry["msg"]) for name, entry in banned.items()}
    assert all(found.values()), "a message in banned-api does not start with `only FILE.py: `"
    return {name: match[1] for name, match in found.items() if match}


@dataclass(frozen=True)
class Module:
    """A file of the package, parsed."""

    name: str  # dotted, the package's own name first
    path: Path
    tree: ast.Module

    @property
    def row(self) -> str:
        """Its name in the table."""
        _, _, rest = self.name.partition(".")
        return rest.partition(".")[0] or "__init__"

    def imports(self) -> Iterator[tuple[ast.stmt, str, str]]:
        """Yield each import statement, the dotted name it imports and the local name it gives it."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    # `import a.b` binds `a`; `import a.b as c` binds `a.b`.
                    yield node, alias.name, alias.asname or alias.name.partition(".")[0]
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield node, f"{self._origin(node)}.{alias.name}", alias.asname or alias.name

    def _origin(self, node: ast.ImportFrom) -> str:
        parts = self.name.split(".")
        if node.level:
            keep = len(parts) - node.level + (self.path.stem == "__init__")
            return ".".join([*parts[:keep], *filter(None, [node.module])])
        return node.module or ""

    def for_types_only(self) -> set[ast.stmt]:
        """Return the statements below `if TYPE_CHECKING:`, which never run."""
        tests = {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        blocks = [n for n in ast.walk(self.tree) if isinstance(n, ast.If) and ast.unparse(n.test) in tests]
        return {n for block in blocks for stmt in block.body for n in ast.walk(stmt) if isinstance(n, ast.stmt)}

    def uses(self) -> Iterator[tuple[int, str]]:
        """Yield the line and the full dotted name of whatever the file imports or reaches through an import."""
        bound = {}
        for stmt, target, local in self.imports():
            bound[local] = target if isinstance(stmt, ast.ImportFrom) or local not in target.split(".") else local
            yield stmt.lineno, target
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute):
                first, dot, rest = ast.unparse(node).partition(".")
                if first in bound:
                    yield node.lineno, bound[first] + dot + rest


def modules(package: Path) -> dict[str, Module]:
    """Parse every file of the package, by dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, ast.parse(path.read_text(), str(path)))
    return found


def home(target: str, known: Iterable[str]) -> str:
    """Return the module that an imported dotted name lives in: the longest known one it starts with."""
    return max((name for name in known if f"{target}.".startswith(f"{name}.")), key=len, default="")


def check_bands(package: Path) -> Iterator[str]:
    """Every file stands in the table and imports from its own band or an earlier one, also for types only."""
    known = modules(package)
    for module in known.values():
        if module.row not in LEVEL:
            yield f"{module.path.name} ({module.row}) stands in no row of BANDS: give it one, in the band it belongs to"
            continue
        for stmt, target, _ in module.imports():
            there = home(target, known)
            if there and LEVEL.get(known[there].row, 0) > LEVEL[module.row]:
                yield f"{module.path.name}:{stmt.lineno} imports {there}, which is in a later band"


def check_cycles(package: Path) -> Iterator[str]:
    """No import comes back to where it started, lazy ones included; only types may."""
    known = modules(package)
    graph = {}
    for module in known.values():
        unreal = module.for_types_only()
        real = {home(target, known) for stmt, target, _ in module.imports() if stmt not in unreal}
        graph[module.name] = real - {"", module.name}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield "import cycle: " + " -> ".join(error.args[1])


def check_owners(package: Path) -> Iterator[str]:
    """Each library and each dangerous call has one owner; a library in no table is no dependency."""
    table = owners()
    for module in modules(package).values():
        for line, name in sorted(set(module.uses())):
            library = name.partition(".")[0]
            foreign = library not in sys.stdlib_module_names and library != package.name
            primitive = home(name, table)
            if primitive:
                allowed = table[primitive] == module.row or (module.row in FREE and not foreign)
                if not allowed:
                    yield f"{module.path.name}:{line} uses {name}: only {table[primitive]}.py may"
            elif foreign and library not in SHARED:
                yield f"{module.path.name}:{line} uses {library}, which is no dependency"


def check_sizes_and_names(package: Path) -> Iterator[str]:
    """No file is longer than can be read at once, and none is named for being a drawer."""
    for path in sorted(package.rglob("*.py")):
        lines = len(path.read_text().splitlines())
        most = LONG.get(path.name, MAX_LINES)
        if lines > most:
            yield f"{path.name} has {lines} lines, over {most}: split it by idea"
        for name in path.relative_to(package).with_suffix("").parts:
            if name.strip("_") in VAGUE:
                yield f"{path.name}: {name} says nothing: name the idea"


def check_front_door(front: ModuleType) -> Iterator[str]:
    """`__all__` is sorted as ruff sorts it (constants, classes, the rest), free of doubles, and true."""
    names: list[str] = list(front.__all__)
    if names != sorted(set(names), key=lambda n: (not (n.isupper() and len(n) > 1), not n[:1].isupper(), n)):
        yield "__all__ is not sorted, or names something twice"
    yield from (f"__all__ names {name}, which is not there" for name in names if not hasattr(front, name))


def check_lazy_names(front: Module, names: Iterable[str], module_of: Mapping[str, str]) -> Iterator[str]:
    """What type checkers see in the front door is what it loads, from there, and stands in `__all__`."""
    unreal = front.for_types_only()
    seen = {local: target for stmt, target, local in front.imports() if stmt in unreal}
    loaded = {name: f"{front.name}.{module}.{name}" for name, module in module_of.items()}
    listed = {name: seen.get(name) for name in names}
    for name in sorted({*seen, *loaded, *listed}):
        if not seen.get(name) == loaded.get(name) == listed.get(name):
            where = "stands" if name in listed else "does not stand"
            yield f"{name} is {seen.get(name)} for type checkers, {loaded.get(name)} at run time, and {where} in __all__"


def check_docstrings(tests: Path) -> Iterator[str]:
    """Every test says in a sentence what is true."""
    for path in sorted(tests.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("test") and not ast.get_docstring(node):
                yield f"{path.name}:{node.lineno} {node.name} has no docstring"


PACKAGE_CHECKS = (check_bands, check_cycles, check_owners, check_sizes_and_names)


@pytest.mark.parametrize("check", PACKAGE_CHECKS)
def test_package_keeps_its_map(check: Callable[[Path], Iterable[str]]) -> None:
    """The package is layered as its table says, one owner for each primitive, in files of a readable size."""
    complaints = "\n".join(check(PACKAGE))
    assert not complaints, complaints


def test_front_door_keeps_its_word() -> None:
    """Every name in `__all__` can be imported, and the list is sorted."""
    complaints = "\n".join(check_front_door(statefile))
    assert not complaints, complaints


def test_front_door_is_the_same_for_type_checkers() -> None:
    """Type checkers see the names of `__all__` in the modules that they are loaded from when the program runs."""
    complaints = "\n".join(check_lazy_names(modules(PACKAGE)["statefile"], statefile.__all__, statefile._MODULE_OF))
    assert not complaints, complaints


def in_a_new_process(program: str) -> list[str]:
    """What a program prints, which finds this package and nothing of it loaded."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_front_door_loads_what_is_asked_for() -> None:
    """`import statefile` loads no module but itself, an error no other package, and a model what it needs."""
    new = "print(*sorted(set(sys.modules) - before - sys.stdlib_module_names))"
    first, second, third = in_a_new_process(
        f"import importlib, sys, typing; before = set(sys.modules); import statefile; print(*set(sys.modules) - before)\n"
        f"statefile.NotFoundError; {new}\nstatefile.StateFile; print('pydantic' in sys.modules)"
    )
    assert set(first.split()) - {"__future__"} == {"statefile"}
    assert second == "statefile statefile.errors"
    assert third == "True"


def test_submodules_are_there_at_once() -> None:
    """After `import statefile` alone each public submodule is its attribute."""
    names = [path.stem for path in (*PACKAGE.glob("[a-z]*.py"), *PACKAGE.glob("[a-z]*/")) if path.stem not in OWN_DOORS]
    program = f"import statefile; [print(name, getattr(statefile, name).__name__) for name in {sorted(names)}]"
    assert in_a_new_process(program) == [f"{name} statefile.{name}" for name in sorted(names)]
    assert sorted(names) == sorted(statefile._SUBMODULES)


def test_front_door_shows_its_names() -> None:
    """`dir` shows the public names, loaded or not, and an unknown one is refused in Python's own words."""
    assert in_a_new_process("import statefile; print(*dir(statefile))") == [
        " ".join(sorted([*statefile.__all__, *statefile._SUBMODULES]))
    ]
    with pytest.raises(AttributeError, match=r"^module 'statefile' has no attribute 'no_such'$"):
        _ = statefile.no_such  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'NoSuch' from 'statefile'"):
        exec("from statefile import NoSuch")


def test_names_are_one_object() -> None:
    """A star import, a pickle and an import from the module itself all lead to the same class."""
    star: dict[str, object] = {}
    exec("from statefile import *", star)
    assert {name: star[name] for name in statefile.__all__} == {name: getattr(statefile, name) for name in statefile.__all__}
    assert pickle.loads(pickle.dumps(statefile.StateFile)) is star["StateFile"]
    assert in_a_new_process(f"import pickle; print(pickle.loads({pickle.dumps(statefile.Status.RUNNING)!r}))") == ["running"]


def test_threads_may_all_come_first() -> None:
    """Threads that ask for every name at once, before anything is loaded, all get theirs."""
    program = """
import sys, threading, statefile
sys.setswitchinterval(1e-5)
names = [*statefile.__all__]
together, failed = threading.Barrier(len(names)), []
def ask(name):
    together.wait()
    try:
        getattr(statefile, name)
    except BaseException as error:
        failed.append((name, error))
threads = [threading.Thread(target=ask, args=[name]) for name in names]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(failed)
"""
    assert in_a_new_process(program) == ["[]"]


def test_every_test_states_a_truth() -> None:
    """Every test function has a docstring."""
    complaints = "\n".join(check_docstrings(ROOT / "tests"))
    assert not complaints, complaints


def test_table_names_each_module_once() -> None:
    """No module stands in two bands."""
    assert len(LEVEL) == sum(len(names) for names in BANDS.values())


SOUND = {
    "__init__.py": "from statefile._state_file import StateFile\nfrom statefile import aio\n",
    "errors.py": "import os\nos.replace_me = 1\n",
    "_turn.py": "import fcntl\n",
    "_claim.py": "import portalocker.utils\nfrom statefile.errors import X\n",
    "_atomic.py": "import os as system\nsystem.replace(1, 2)\n",
    "_codec.py": "import orjson, pydantic\n",
    "_record.py": "import pydantic\n",
    "_state_file.py": "from . import _claim\nfrom ._record import dump\n'a'.replace('a', 'b')\n",
    "runtime.py": ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from statefile._container import Container\n"),
    "_container.py": "from statefile.runtime import Runtime\n",
    "aio.py": "import asyncio\nfrom statefile import _state_file\n",
    "process_runtime/__init__.py": "from statefile.process_runtime._monitor import run\n",
    "process_runtime/_monitor.py": "import os\nfrom ..errors import X\nos.unlink('x')\n",
    "testing/strategies.py": "import os, hypothesis\nos.unlink('x')\n",
}

BROKEN = [
    ("bands", "_extra.py", "", "_extra.py (_extra) stands in no row of BANDS"),
    ("bands", "extra/__init__.py", "", "__init__.py (extra) stands in no row"),
    ("bands", "errors.py", "from statefile._claim import lock\n", "errors.py:1 imports statefile._claim, which is in a"),
    ("bands", "errors.py", "import statefile._claim\n", "errors.py:1 imports statefile._claim"),
    ("bands", "errors.py", "from . import _claim as x\n", "errors.py:1 imports statefile._claim"),
    ("bands", "errors.py", "def f():\n    from .aio import x\n", "errors.py:2 imports statefile.aio"),
    ("bands", "aio.py", "from statefile import StateFile\n", "aio.py:1 imports statefile, which is in a later band"),
    ("bands", "aio.py", "import statefile\n", "aio.py:1 imports statefile, which is in a later band"),
    ("bands", "_lock.py", SOUND["runtime.py"], "_lock.py:3 imports statefile._container, which is in a later band"),
    ("cycles", "runtime.py", "from statefile._container import C\n", "import cycle: "),
    ("cycles", "runtime.py", "def f():\n    import statefile._container\n", "import cycle: "),
    ("cycles", "process_runtime/_monitor.py", "from statefile.process_runtime import run\n", "import cycle: "),
    ("owners", "aio.py", "import portalocker\n", "aio.py:1 uses portalocker: only _claim.py may"),
    ("owners", "aio.py", "def f():\n    from orjson import loads\n", "aio.py:2 uses orjson.loads: only _codec.py may"),
    ("owners", "aio.py", "import hypothesis\n", "aio.py:1 uses hypothesis: only testing.py may"),
    ("owners", "testing/strategies.py", "import psutil\n", "strategies.py:1 uses psutil: only _process.py may"),
    ("owners", "aio.py", "import requests\n", "aio.py:1 uses requests, which is no dependency"),
    ("owners", "_lock.py", "import os\nos.replace(1, 2)\n", "_lock.py:2 uses os.replace: only _atomic.py may"),
    ("owners", "_lock.py", "import os as o\nf = o.unlink\n", "_lock.py:2 uses os.unlink: only _atomic.py may"),
    ("owners", "_lock.py", "from os import rename as r\n", "_lock.py:1 uses os.rename: only _atomic.py may"),
    ("owners", "_record.py", "import signal\nsignal.pidfd_send_signal\n", "_record.py:2 uses signal.pidfd_send_signal"),
    ("owners", "process_runtime/_monitor.py", "import psutil\n", "_monitor.py:1 uses psutil: only _process.py may"),
    ("sizes_and_names", "aio.py", "\n" * (MAX_LINES + 1), f"aio.py has {MAX_LINES + 1} lines, over {MAX_LINES}"),
    ("sizes_and_names", "_utils.py", "", "_utils.py: _utils says nothing"),
    ("sizes_and_names", "process_runtime/helpers.py", "", "helpers.py: helpers says nothing"),
    ("sizes_and_names", "common/_x.py", "", "_x.py: common says nothing"),
]


def write(folder: Path, files: dict[str, str]) -> Path:
    """Lay the files out below the folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("check", PACKAGE_CHECKS)
def test_checks_accept_a_sound_package(check: Callable[[Path], Iterable[str]], tmp_path: Path) -> None:
    """What the rules allow, no check complains about, so that a complaint below is about the break alone."""
    assert list(check(write(tmp_path / "statefile", SOUND))) == []


@pytest.mark.parametrize(("check", "name", "text", "complaint"), BROKEN)
def test_checks_find_a_break(check: str, name: str, text: str, complaint: str, tmp_path: Path) -> None:
    """One file that breaks a rule gets exactly one complaint, which says where and what."""
    package = write(tmp_path / "statefile", SOUND | {name: text})
    (found,) = globals()[f"check_{check}"](package)
    assert complaint in found


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["B", "A"], "not sorted"),
        (["A", "A", "B"], "twice"),
        (["A", "CONSTANT"], "not sorted"),
        (["A", "B", "absent"], "absent, which is not there"),
    ],
)
def test_front_door_check_finds_a_break(names: list[str], complaint: str) -> None:
    """An unsorted, doubled or absent name in `__all__` gets a complaint."""
    front = ModuleType("front")
    vars(front).update(A=1, B=2, CONSTANT=3, function=4, __all__=["CONSTANT", "A", "B", "function"])
    assert list(check_front_door(front)) == []
    front.__all__ = names  # type: ignore[attr-defined]
    (found,) = check_front_door(front)
    assert complaint in found


@pytest.mark.parametrize(
    ("names", "module_of", "complaint"),
    [
        (
            ["A"],
            {"A": "_a", "B": "_b"},
            "B is front._b.B for type checkers, front._b.B at run time, and does not stand in __all__",
        ),
        (["A", "B"], {"A": "_a"}, "B is front._b.B for type checkers, None at run time, and stands in __all__"),
        (
            ["A", "B"],
            {"A": "_a", "B": "_a"},
            "B is front._b.B for type checkers, front._a.B at run time, and stands in __all__",
        ),
        (["A", "B", "C"], {"A": "_a", "B": "_b", "C": "_c"}, "C is None for type checkers, front._c.C at run time"),
    ],
    ids=["unlisted", "not loaded", "from elsewhere", "hidden from type checkers"],
)
def test_lazy_names_check_finds_a_break(names: list[str], module_of: dict[str, str], complaint: str) -> None:
    """A name that type checkers, the loader and `__all__` do not agree about gets a complaint, and others do not."""
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from front._a import A\n    from front._b import B\n"
    front = Module("front", Path("__init__.py"), ast.parse(text))
    assert list(check_lazy_names(front, ["A", "B"], {"A": "_a", "B": "_b"})) == []
    (found,) = check_lazy_names(front, names, module_of)
    assert found.startswith(complaint)


def test_docstring_check_finds_a_break(tmp_path: Path) -> None:
    """A test without a docstring is named, in a class, in a subfolder or async; a fixture is left alone."""
    text = (
        "class TestX:\n    def test_a(self): pass\nasync def test_b(): pass\ndef test_c():\n    'Holds.'\ndef fixture(): pass\n"
    )
    write(tmp_path, {"deep/test_x.py": text, "conftest.py": "def test_not_collected(): pass\n"})
    assert sorted(check_docstrings(tmp_path)) == [
        "test_x.py:2 test_a has no docstring",
        "test_x.py:3 test_b has no docstring",
    ]
