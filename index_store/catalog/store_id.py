"""The name of a data directory: what its feeders keep at a source belongs to it, not to the source."""

from __future__ import annotations

import contextlib
import logging
import uuid
from pathlib import Path

FILE = "store.id"

log = logging.getLogger(__name__)


def store_id(data_dir: Path) -> str:
    """Return the name, which is given when it is first asked for. Safe from any thread and process: the first
    name stays. Empty while the disk takes no new file."""
    path = data_dir / FILE
    try:
        if not path.exists():
            name = uuid.uuid4().hex
            ours = data_dir / f"{FILE}.tmp-{name}"
            ours.write_text(name, encoding="ascii")
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(ours)
            ours.unlink()
        return path.read_text(encoding="ascii").strip()
    except OSError as exc:
        log.warning("store_not_named", extra={"file": str(path), "error": str(exc)})
        return ""
