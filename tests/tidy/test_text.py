"""Rules over every file that git holds, whatever its language."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.tidy.source import ROOT, Finding, tracked_paths

BINARY = {".jpg", ".jpeg", ".png", ".webp", ".npy", ".npz", ".onnx", ".gz", ".sqlite", ".safetensors", ".bin"}
GOLDEN = ("tests/fixtures/",)

HOSTS = (
    r"localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\]|uhok-ml-inference|ml|service"  # ourselves
    r"|(?:[\w-]+\.)*example(?:\.(?:com|org|net))?|[\w.-]+\.(?:test|invalid|example)"  # reserved names
    r"|\w*(?:10|169|172|192|203|198)\.\d+\.\d+\.\d+"  # private and documentation addresses
    r"|json-schema\.org|www\.w3\.org|spdx\.org|spec\.openapis\.org|www\.rfc-editor\.org|keepachangelog\.com"
)
URL = re.compile(r"https?://([^\s/:\"'`)>\]}\\,]+)")
INDEX_OPTION = re.compile(
    r"(?:^|[\s\"'])(--(?:extra-)?index-url|--find-links|--trusted-host|--index|--registry)\b|\bpip\b.*\s-[if]\s"
)


def strange_hosts(path: str, text: str) -> Iterator[Finding]:
    """Where packages come from is the reader's own setting: no file names a registry or an index."""
    for number, line in enumerate(text.splitlines(), start=1):
        for host in URL.findall(line):
            if not re.fullmatch(HOSTS, host.split("@")[-1]) and not re.match(r"[{$<%]", host):
                yield Finding(path, number, f"names the host {host}")
        if match := INDEX_OPTION.search(line):
            yield Finding(path, number, f"chooses a package index: {match[0].strip()}")


def untidy_lines(path: str, text: str) -> Iterator[Finding]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line != line.rstrip() and not path.endswith(".md"):
            yield Finding(path, number, "ends in blanks")
        if re.search(r"\b(?:TODO|FIXME|XXX)\b", line) and not path.startswith("tests/tidy/"):
            yield Finding(path, number, "open question left in the file")
        if re.match(r"(<{7}|>{7}|={7})( |$)", line):
            yield Finding(path, number, "merge mark")
    if text and not text.endswith("\n"):
        yield Finding(path, 0, "has no newline at its end")


def texts() -> list[tuple[str, str]]:
    kept = [
        path
        for path in tracked_paths()
        if not path.startswith(GOLDEN) and not any(path.endswith(ending) for ending in BINARY)
    ]
    return [(path, (ROOT / path).read_text("utf-8")) for path in kept]


TEXTS = texts()


@pytest.mark.parametrize("rule", [strange_hosts, untidy_lines], ids=lambda rule: rule.__name__)
def test_every_text_keeps_the_rule(rule: type) -> None:
    findings = [
        finding for path, text in TEXTS for finding in rule(path, text) if path != "tests/tidy/test_text.py"
    ]
    assert not findings, "\n" + "\n".join(map(str, findings))


@pytest.mark.parametrize(
    "line",
    [
        "see https://packages.somewhere.io/simple\n",
        "RUN pip install --index-url $INDEX torch\n",
        "pip install -i $INDEX torch\n",
        "npm install --registry $REGISTRY\n",
    ],
)
def test_a_strange_host_is_found(line: str) -> None:
    assert list(strange_hosts("Dockerfile", line))


@pytest.mark.parametrize(
    "line",
    [
        "curl http://localhost:8080/health\n",
        "ML_INFERENCE_URL=http://uhok-ml-inference:8080\n",
        'url = f"http://{host}:{port}"\n',
        "https://images.example.com/a.jpg\n",
    ],
)
def test_our_own_hosts_pass(line: str) -> None:
    assert not list(strange_hosts("README.md", line))


@pytest.mark.parametrize("text", ["x = 1 \n", "# TODO later\n", "<<<<<<< HEAD\n", "x = 1"])
def test_an_untidy_line_is_found(text: str) -> None:
    assert list(untidy_lines("service/a.py", text))


def test_no_large_file_slips_in() -> None:
    sizes = {path: (ROOT / path).stat().st_size for path in tracked_paths()}
    assert {path: size for path, size in sizes.items() if size > 3_000_000} == {}
