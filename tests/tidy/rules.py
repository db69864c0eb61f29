"""The house rules over one Python file. Each rule is a function: SourceFile -> findings.

What is banned has its replacement in the message. The exceptions stand here, each with its reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

from tests.tidy.source import Finding, SourceFile

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400
PORT_METHODS_MAX = 8

BANNED_MODULE_NAMES = {"utils", "util", "common", "manager", "base", "helpers", "misc"}
CODE_LOADERS = {"pickle", "cPickle", "dill", "shelve", "marshal", "joblib", "cloudpickle"}
WALL_CLOCKS = {
    "time.time",
    "time.time_ns",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
}
ENVIRONMENT = {"os.environ", "os.getenv", "os.putenv", "os.unsetenv", "os.environb"}

MAY_LOAD_CODE: dict[str, str] = {
    "service/embedding/convert/torch_file.py": (
        "reads one .pth out of a hash-checked wheel, by an unpickler that allows four names and no more"
    ),
    "tests/unit/test_embedding_convert.py": "writes the hostile file that the reader above must refuse",
}
"""path -> why this file may name a loader that can run code."""
MAY_READ_THE_ENVIRONMENT: dict[str, str] = {
    "vector_client/settings.py": "`from_env()`: the program around it is a backend of others",
}
"""path -> why this file may read the environment though it is no `__main__`."""
MAY_READ_THE_CLOCK: dict[str, str] = {
    "service/observing/request_log.py": "stamps log lines past `logging`, which reads the clock itself too",
}
"""path -> why this file may ask for the time of day."""
MAY_PRINT: dict[str, str] = {}
"""path -> why this file may print though it is no `__main__`."""

Rule = Callable[[SourceFile], Iterator[Finding]]


def functions_are_short(source: SourceFile) -> Iterator[Finding]:
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield Finding(
                    source.path, node.lineno, f"{node.name} has {lines} lines, {FUNCTION_LINES_MAX} at most"
                )


def files_are_short(source: SourceFile) -> Iterator[Finding]:
    lines = source.text.count("\n")
    if lines > FILE_LINES_MAX:
        yield Finding(source.path, 0, f"{lines} lines, {FILE_LINES_MAX} at most: split by responsibility")


def ports_are_narrow(source: SourceFile) -> Iterator[Finding]:
    for node in source.nodes:
        if isinstance(node, ast.ClassDef) and any(
            source.dotted(b).endswith("typing.Protocol") for b in node.bases
        ):
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
            if len(methods) > PORT_METHODS_MAX:
                yield Finding(
                    source.path,
                    node.lineno,
                    f"port {node.name} has {len(methods)} methods, {PORT_METHODS_MAX} at most",
                )


def annotations_are_postponed(source: SourceFile) -> Iterator[Finding]:
    if all(isinstance(node, ast.Expr) for node in source.tree.body):
        return  # nothing but a docstring
    futures = [n for n in source.tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    if not any(alias.name == "annotations" for node in futures for alias in node.names):
        yield Finding(source.path, 1, "needs `from __future__ import annotations`")


def module_names_say_something(source: SourceFile) -> Iterator[Finding]:
    for part in source.module.split("."):
        if part in BANNED_MODULE_NAMES:
            yield Finding(
                source.path, 0, f"the name {part!r} says nothing: name the file after what it holds"
            )


def no_code_loaders(source: SourceFile) -> Iterator[Finding]:
    """Nothing that can run code out of a data file."""
    if source.path in MAY_LOAD_CODE:
        return
    for node in source.nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for module in modules:
                if module.split(".", 1)[0] in CODE_LOADERS:
                    yield Finding(source.path, node.lineno, f"{module} runs code on load: use JSON or .npy")
        elif isinstance(node, ast.Call):
            name = source.dotted(node.func)
            if name in {"eval", "exec", "compile", "__import__"}:
                yield Finding(source.path, node.lineno, f"{name}() runs data as code")
            elif name == "torch.load":
                yield Finding(source.path, node.lineno, "torch.load unpickles: use safetensors")
            elif name == "numpy.load" and _keyword_is(node, "allow_pickle", True):
                yield Finding(source.path, node.lineno, "np.load(allow_pickle=True) runs code on load")


def only_programs_read_the_environment(source: SourceFile) -> Iterator[Finding]:
    if not source.is_product or source.is_program or source.path in MAY_READ_THE_ENVIRONMENT:
        return
    for node in source.nodes:
        if isinstance(node, ast.Attribute | ast.Name) and source.dotted(node) in ENVIRONMENT:
            yield Finding(
                source.path, node.lineno, f"{source.dotted(node)}: only __main__ reads the environment"
            )


def clock_and_chance_are_passed_in(source: SourceFile) -> Iterator[Finding]:
    """A name passed on (`clock=time.time`) is fine, a call is not: a test could not replace it."""
    if not source.is_product or source.is_program:
        return
    for node in source.nodes:
        if not isinstance(node, ast.Call) or not source.is_from_import(node.func):
            continue
        name = source.dotted(node.func)
        if name in WALL_CLOCKS and source.path not in MAY_READ_THE_CLOCK:
            yield Finding(source.path, node.lineno, f"{name}(): take a clock as an argument")
        elif name.startswith("random."):
            yield Finding(source.path, node.lineno, f"{name}(): take a seeded generator as an argument")
        elif name.startswith("numpy.random.") and not (name.endswith("default_rng") and node.args):
            yield Finding(source.path, node.lineno, f"{name}(): use numpy.random.default_rng(seed)")


def only_programs_print(source: SourceFile) -> Iterator[Finding]:
    if not source.is_product or source.is_program or source.path in MAY_PRINT:
        return
    for node in source.nodes:
        if isinstance(node, ast.Call) and source.dotted(node.func) == "print":
            yield Finding(source.path, node.lineno, "print(): log an event, or print in __main__")


def no_module_state(source: SourceFile) -> Iterator[Finding]:
    """Module level holds constants, types, functions and one logger named `log`."""
    for node in source.nodes:
        if isinstance(node, ast.Global):
            yield Finding(source.path, node.lineno, f"global {', '.join(node.names)}: pass the value instead")
    if not source.is_product:
        return
    for statement in source.tree.body:
        for target in _targets(statement):
            if not re.fullmatch(r"log|__\w+__|_?[A-Z]\w*", target):
                yield Finding(source.path, statement.lineno, f"module state {target!r}: no constant, no type")


def broad_excepts_speak(source: SourceFile) -> Iterator[Finding]:
    """`except Exception` may raise, hand the error on, or log it with its traceback; nothing else."""
    if not source.is_product:
        return
    for node in source.nodes:
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = source.dotted(node.type) if node.type else "everything"
        if caught in {"everything", "Exception", "BaseException"} and not _speaks(node):
            yield Finding(source.path, node.lineno, f"catches {caught} in silence: name the error, or log it")


def no_mocks(source: SourceFile) -> Iterator[Finding]:
    for node in source.nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names]
            whole = names if isinstance(node, ast.Import) else [f"{node.module}.{n}" for n in names]
            for name in whole:
                if re.match(r"(unittest\.mock|mock|pytest_mock)\b", name):
                    yield Finding(source.path, node.lineno, f"{name}: write an honest small fake instead")
        elif isinstance(node, ast.Attribute) and source.dotted(node) == "monkeypatch.setattr":
            yield Finding(
                source.path, node.lineno, "monkeypatch.setattr patches code: pass a fake in instead"
            )
        elif isinstance(node, ast.arg) and node.arg == "mocker":
            yield Finding(source.path, node.lineno, "mocker: write an honest small fake instead")


def stands_alone(source: SourceFile) -> Iterator[Finding]:
    """The product knows no folder outside itself."""
    if not source.is_product:
        return
    for number, line in enumerate(source.text.splitlines(), start=1):
        if re.search(r"\.\./shared|/work/|\bshared/(data|research|seeds)\b", line):
            yield Finding(source.path, number, "refers to a folder outside the project")


def _keyword_is(call: ast.Call, name: str, value: object) -> bool:
    return any(
        k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is value for k in call.keywords
    )


def _targets(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.Assign):
        targets: list[ast.expr] = list(statement.targets)
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    else:
        return
    for target in targets:
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                yield node.id


def _speaks(handler: ast.ExceptHandler) -> bool:
    for node in ast.walk(handler):
        if isinstance(node, ast.Raise):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in {"exception", "set_exception"}:
                return True
            if any(k.arg == "exc_info" for k in node.keywords):
                return True
        if isinstance(node, ast.Call) and not _is_log_line(node) and _is_given(node, handler.name):
            return True  # handed on: another thread raises it
    return False


def _is_given(call: ast.Call, name: str | None) -> bool:
    return any(isinstance(argument, ast.Name) and argument.id == name for argument in call.args)


def _is_log_line(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr in {"debug", "info", "warning", "error"}


RULES: tuple[Rule, ...] = (
    functions_are_short,
    files_are_short,
    ports_are_narrow,
    annotations_are_postponed,
    module_names_say_something,
    no_code_loaders,
    only_programs_read_the_environment,
    clock_and_chance_are_passed_in,
    only_programs_print,
    no_module_state,
    broad_excepts_speak,
    no_mocks,
    stands_alone,
)
