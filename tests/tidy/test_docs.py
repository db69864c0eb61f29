"""The pages say what the project does: commands exist, both READMEs agree, decisions are whole."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import pytest

from tests.tidy.source import ROOT, Finding, read, tracked_paths
from tests.tidy.tables import code_blocks, headings

PAGES = [path for path in tracked_paths() if path.endswith(".md")]
NOTES = [path for path in PAGES if re.fullmatch(r"docs/decisions/\d{4}-[a-z0-9-]+\.md", path)]
NOTE_PARTS = ("Context", "Options", "Choice")
SHELLS = {"sh", "bash", "shell", "powershell", "console"}

NAMED_BY_THE_USER = {
    "fastapi", "uvicorn", "numpy", "faiss-cpu", "hnswlib", "sentence-transformers", "torch", "torchvision",
    "open-clip-torch", "pillow", "psycopg", "pymysql", "httpx", "pytest", "mypy", "ruff",
}  # fmt: skip


def make_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z]+):(?!=)", makefile, flags=re.MULTILINE))


def unknown_commands(path: str, text: str, targets: set[str], present: set[str]) -> Iterator[Finding]:
    """`make X` and `python -m ours` in shell blocks that do not exist, and links to files that do not."""
    for block in code_blocks(text):
        if block.language not in SHELLS:
            continue
        for offset, line in enumerate(block.lines, start=1):
            at = block.line + offset
            if (match := re.match(r"\s*(?:[A-Z_]+=\S+\s+)*make\s+([a-z]+)", line)) and match[
                1
            ] not in targets:
                yield Finding(path, at, f"make {match[1]}: there is no such target")
            for module in re.findall(
                r"python[\d.]* -m ((?:service|feeder|index_store|benchmarks)[\w.]*)", line
            ):
                file = module.replace(".", "/")
                if not {f"{file}.py", f"{file}/__main__.py"} & present:
                    yield Finding(path, at, f"python -m {module}: there is no such program")
    for number, line in enumerate(text.splitlines(), start=1):
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", line):
            folder = (ROOT / path).parent
            if not (folder / target).resolve().exists():
                yield Finding(path, number, f"links to {target}, which is not there")


def missing_parts(path: str, text: str) -> Iterator[Finding]:
    number = path.rsplit("/", 1)[-1][:4]
    if not re.match(rf"# {number} [A-Z0-9a-z]", text):
        yield Finding(path, 1, f"its title does not begin with '# {number} '")
    titles = [title for level, title in headings(text) if level == 2]
    for part in NOTE_PARTS:
        if part not in titles:
            yield Finding(path, 0, f"has no section '## {part}'")


def structure(text: str) -> tuple[list[int], list[tuple[str, list[str]]]]:
    """Heading levels, and each code block's language and lines without comments."""
    blocks = []
    for block in code_blocks(text):
        bare = [re.sub(r"(^|\s\s+)#.*", "", line).rstrip() for line in block.lines]
        blocks.append((block.language, [line for line in bare if line]))
    return [level for level, _ in headings(text)], blocks


def test_every_command_and_link_exists() -> None:
    targets, present = make_targets(read("Makefile")), set(tracked_paths())
    findings = [found for page in PAGES for found in unknown_commands(page, read(page), targets, present)]
    assert not findings, "\n" + "\n".join(map(str, findings))


def test_an_unknown_command_is_found() -> None:
    for line in ("make fly", "PORT=1 make fly", "python -m service.fly"):
        assert list(unknown_commands("README.md", f"```sh\n{line}\n```\n", {"run"}, set()))
    assert list(unknown_commands("README.md", "[a](docs/NOWHERE.md)\n", set(), set()))
    assert not list(unknown_commands("README.md", "```sh\nmake run\n```\n", {"run"}, set()))


def test_both_readmes_have_the_same_parts() -> None:
    english, korean = structure(read("README.md")), structure(read("README.ko.md"))
    assert english[0] == korean[0], "heading levels differ"
    assert english[1] == korean[1], "code blocks differ"


def test_a_difference_between_readmes_is_found() -> None:
    page = "# A\n```sh\nmake run  \n```\n"
    assert structure(page) != structure(page.replace("run", "test"))
    assert structure(page) != structure("#" + page)
    assert structure("# A\n```sh\n# 설명\nmake  # 끝\n```\n") == structure("# B\n```sh\nmake\n```\n")


@pytest.mark.parametrize("path", NOTES)
def test_every_decision_is_whole(path: str) -> None:
    findings = list(missing_parts(path, read(path)))
    assert not findings, "\n" + "\n".join(map(str, findings))


def test_a_decision_without_options_or_number_is_found() -> None:
    whole = "# 0000 A\n## Context\n## Options\n## Choice\n"
    assert list(missing_parts("docs/decisions/0000-a.md", whole.replace("## Options\n", "")))
    assert list(missing_parts("docs/decisions/0001-a.md", whole))
    assert not list(missing_parts("docs/decisions/0000-a.md", whole))


def test_decisions_are_numbered_once() -> None:
    stray = [page for page in PAGES if page.startswith("docs/decisions/") and page not in NOTES]
    numbers = [note.split("/")[-1][:4] for note in NOTES]
    assert not stray, f"not named NNNN-title.md: {stray}"
    assert len(numbers) == len(set(numbers)), f"a number is used twice: {sorted(numbers)}"


def test_every_dependency_was_decided() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = [
        *project["dependencies"],
        *(d for group in project["optional-dependencies"].values() for d in group),
    ]
    names = {re.split(r"[\s\[;=<>~!]", line, maxsplit=1)[0].lower().replace("_", "-") for line in wanted}
    noted = " ".join(read(note) for note in NOTES).lower().replace("_", "-")
    undecided = sorted(
        name for name in names - NAMED_BY_THE_USER if not re.search(rf"`{re.escape(name)}`", noted)
    )
    assert not undecided, f"no decision note names them in backquotes: {undecided}"


CHANGE_KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def wrong_changelog(text: str, version: str) -> Iterator[str]:
    """What keeps a changelog from the usual form, or from naming `version` as its newest one."""
    heads = [title for level, title in headings(text) if level == 2]
    if heads[:1] != ["Unreleased"]:
        yield "begins with no section 'Unreleased'"
    dated = [re.fullmatch(r"(\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})", head) for head in heads[1:]]
    if not all(dated) or not dated:
        yield f"a version is 'N.N.N - YYYY-MM-DD': {heads[1:]}"
    elif dated[0] and dated[0][1] != version:
        yield f"its newest version is {dated[0][1]}, pyproject.toml has {version}"
    kinds = {title for level, title in headings(text) if level == 3 and not title.startswith("Before you ")}
    if kinds - CHANGE_KINDS:
        yield f"no kinds of change: {sorted(kinds - CHANGE_KINDS)}"


def test_the_changelog_has_the_usual_form_and_version() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert list(wrong_changelog(read("CHANGELOG.md"), version)) == []
    assert f"\n  version: {version}\n" in read("openapi.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "# C\n## 1.0.0 - 2026-01-01\n",
        "# C\n## Unreleased\n## 1.0.0\n",
        "# C\n## Unreleased\n",
        "# C\n## Unreleased\n## 0.9.0 - 2026-01-01\n",
        "# C\n## Unreleased\n### News\n## 1.0.0 - 2026-01-01\n",
    ],
)
def test_a_changelog_of_another_form_is_found(text: str) -> None:
    assert list(wrong_changelog(text, "1.0.0"))
    assert not list(wrong_changelog("# C\n## Unreleased\n### Fixed\n## 1.0.0 - 2026-01-01\n", "1.0.0"))


def test_help_lists_every_target() -> None:
    makefile = read("Makefile")
    described = set(re.findall(r"^([a-z]+):.*## ", makefile, flags=re.MULTILINE))
    assert described == make_targets(makefile)
