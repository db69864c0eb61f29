"""Models in the form that this machine computes with, on disk: processes that map it share one copy.

ONNX Runtime rearranges the weights for the processor when it opens a model, into memory of its own: a copy in
each process. Written out once and mapped, they are shared, and opening takes a third of the time. The files
fit one processor type and one version of the runtime, so both are in their name; they are a cache, made again
when they are missing or damaged, and nobody carries them elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from service.embedding.manifest import Manifest, mark

log = logging.getLogger(__name__)
FOLDER = ".prepared"
_MODEL, _VALUES, _MARKS = "model.onnx", "model.onnx_data", "marks.json"
_KEPT_MAX = 4  # of one model file: other processors on a shared disk, former versions
_LAYOUT = 2
_CPU_FILE = Path("/proc/cpuinfo")


def open_session(directory: Path, manifest: Manifest, key: str, threads: int) -> Any:
    """Return a session over the file of a verified directory that `manifest.interface` names under `key`.

    Runs are safe from any thread. Where the prepared form can't be kept, the session has a copy of its own.
    """
    source = directory / manifest.interface[key]
    if not manifest.files:  # not published yet: nothing to name the prepared form by
        return _open(source, threads)
    stem = f"{directory.name}.{source.stem}"
    place = directory.parent / FOLDER / f"{stem}.{_fingerprint(manifest)}"
    try:
        with _alone(place.parent):
            is_fit = _is_fit(place)
            if is_fit is None:
                is_fit = _prepare(source, place)
                _drop_old(place.parent, stem)
        return _open(place / _MODEL, threads, is_prepared=True) if is_fit else _open(source, threads)
    except OSError as exc:  # a read-only or a full disk
        log.info("weights_not_shared", extra={"model": manifest.name, "reason": str(exc)})
        return _open(source, threads)


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads would steal the cores that search needs between two queries.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _open(path: Path, threads: int, *, is_prepared: bool = False) -> Any:
    options = _options(threads)
    if is_prepared:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _prepare(source: Path, place: Path) -> bool:
    """Write the optimised graph and the rearranged weights of `source` to `place`, whole or not at all.

    Returns whether they compute what the source does. The runtime writes some operators' weights (8-bit
    products are such) so that it reads them back wrong, and says nothing: such models are opened as they are.
    """
    work = Path(tempfile.mkdtemp(prefix=".work.", dir=place.parent))
    try:
        options = _options(1)
        options.optimized_model_filepath = str(work / _MODEL)
        for name, value in (
            ("session.optimized_model_external_initializers_file_name", _VALUES),
            ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
            ("session.save_external_prepacked_constant_initializers", "1"),
        ):
            options.add_session_config_entry(name, value)
        session = onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        if not (work / _MODEL).is_file():
            raise OSError(f"{work} can't be written")
        is_fit = _is_alike(session, _open(work / _MODEL, 1, is_prepared=True))
        kept = [path for path in work.iterdir() if is_fit]
        marks = {path.name: asdict(mark(path)) for path in kept}
        for path in set(work.iterdir()) - set(kept):
            path.unlink()
        (work / _MARKS).write_text(json.dumps(marks), "utf-8")
        shutil.rmtree(place, ignore_errors=True)
        work.replace(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return is_fit


def _is_alike(session: Any, other: Any) -> bool:
    """Whether both answer the same to made-up input: token ids of 1, grey pixels."""
    feeds = {}
    for given in session.get_inputs():
        shape = [size if isinstance(size, int) else 2 for size in given.shape]
        feeds[given.name] = np.ones(shape, np.int64 if "int64" in given.type else np.float32)
    outputs = zip(session.run(None, feeds), other.run(None, feeds), strict=True)
    return all(np.allclose(one, two, rtol=1e-3, atol=1e-4) for one, two in outputs)


def _is_fit(place: Path) -> bool | None:
    """Whether `place` can be served from; False: it was tried and can't; None: missing or damaged."""
    try:
        marks = json.loads((place / _MARKS).read_text("utf-8"))
        is_whole = all(asdict(mark(place / name)) == known for name, known in marks.items())
    except (OSError, ValueError, AttributeError):
        return None
    return bool(marks) if is_whole else None


def _drop_old(folder: Path, stem: str) -> None:
    found = sorted(folder.glob(f"{stem}.*"), key=lambda path: path.stat().st_mtime)
    for path in found[:-_KEPT_MAX]:
        shutil.rmtree(path, ignore_errors=True)


def _fingerprint(manifest: Manifest) -> str:
    processor = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = _CPU_FILE.read_text("utf-8", "replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        processor += "".join(sorted({line for line in lines if line.startswith(wanted)}))
    files = sorted(each.sha256 for each in manifest.files.values())
    told = json.dumps([_LAYOUT, onnxruntime.__version__, processor, files])
    return hashlib.sha256(told.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Workers that start together must not all prepare: the others wait and take what the first made."""
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
