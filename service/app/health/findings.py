"""What keeps a collection from full service, in one form for /health, /readyz, the log and the metrics."""

from __future__ import annotations

from dataclasses import dataclass

from index_store.errors import IndexStoreError, StoreDamaged, Unavailable
from index_store.types import CollectionStatus
from service.app.encoders import Slot
from service.app.generations.serving import ModelChange
from service.errors import DeadlineExceeded, ModelUnavailable, Overloaded, ServiceError, Starting

STARTING = "starting"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. collection: None when it concerns all. code: for programs. reason: a sentence.
    hint: the command or the setting that helps, or an empty string. blocks: the collection's main kind of
    query can't be answered."""

    collection: str | None
    code: str
    reason: str
    hint: str = ""
    blocks: bool = False

    def document(self) -> dict[str, str | None]:
        """Return it as /health and /readyz show it; `hint` only where there is one."""
        told: dict[str, str | None] = {
            "collection": self.collection,
            "code": self.code,
            "reason": self.reason,
        }
        return {**told, "hint": self.hint} if self.hint else told


def of_error(collection: str, error: ServiceError | IndexStoreError) -> Finding:
    """Return the finding for the error of a query or a status.

    Overload does not make an instance unready: some queries are answered, and a load balancer that removed
    every overloaded instance would leave none.
    """
    if isinstance(error, Overloaded | DeadlineExceeded):
        return Finding(collection, "overloaded", str(error), "fewer callers, or more WORKERS and cores")
    if isinstance(error, StoreDamaged):
        code = "store_damaged"
    elif isinstance(error, Unavailable):
        code = "store_unavailable"
    elif isinstance(error, Starting):
        code = STARTING
    elif isinstance(error, ModelUnavailable):
        code = "model_unavailable"
    else:
        code = "query_failed"
    return Finding(collection, code, str(error), error.hint, blocks=True)


def of_troubles(collection: str, status: CollectionStatus) -> list[Finding]:
    """Return what the stores report; searches are still answered."""
    return [Finding(collection, each.code, each.reason, each.hint) for each in status.troubles]


def of_model(collection: str, slot: Slot, status: CollectionStatus) -> Finding | None:
    """Return why the model answers no query, or that it is not the configured one; else None."""
    if slot.info is None:
        return of_error(collection, slot.unavailable())
    current = status.current
    if current is not None and not fits(slot, status):
        return Finding(
            collection,
            "embedding_version_mismatch",
            f"the collection serves {current.embedding_version}, the model is {slot.info.embedding_version}",
            "no model here gives the serving version: bring its files and configure it again, or fill a "
            "generation of the configured model and POST /v1/promote",
            blocks=True,
        )
    if slot.info.is_placeholder and slot.reason:
        reason = f"a placeholder serves, its vectors carry no meaning: {slot.reason}"
        return Finding(collection, "placeholder_serves", reason, slot.hint)
    return None


def of_change(collection: str, change: ModelChange, slot: Slot, status: CollectionStatus) -> Finding | None:
    """The configuration asks for another model than the one that made the current generation, which goes on
    serving. None once the generation of the configured model is current, and where another finding tells why
    the model in `slot` does not serve."""
    current = status.current
    if current is None or current.embedding_version == change.embedding_version or not fits(slot, status):
        return None
    wanted, served = change.configured, slot.reference
    has_template = wanted.modality != "text" or wanted.text_template == slot.text_template
    if wanted.model == served and wanted.dim == current.dim and has_template:
        return None  # its files are gone, or are others now
    if slot.info is not None and slot.info.is_placeholder and slot.reason:
        return None
    what = f"the model {wanted.model}" if wanted.model != served else "another text template or dim"
    reason = (
        f"{what} is configured ({change.embedding_version or 'its version is not known'}), the collection "
        f"goes on under {current.embedding_version}, made by {served}"
    )
    if change.problem:
        reason = f"{reason}; the configured model can't be used: {change.problem}"
    hint = f"`python -m service rebuild {collection}`, then promote; or configure {served} again"
    return Finding(collection, "model_change_pending", reason, change.hint or hint)


def fits(slot: Slot, status: CollectionStatus | None) -> bool:
    """Whether the model's vectors may meet the ones that serve."""
    current = status.current if status else None
    return current is None or slot.info is None or current.embedding_version == slot.info.embedding_version
