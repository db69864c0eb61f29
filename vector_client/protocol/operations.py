"""Health, generations, jobs, and the proof of content."""

from __future__ import annotations

import binascii
import struct
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from vector_client.protocol.call import Call, base64, json_body, with_query
from vector_client.types import CollectionState, Digest, DigestRow, Generation, Health, Job, Keys


def health() -> Call[Health]:
    """Return the call of GET /health; 503 carries an answer too."""
    return Call(
        "GET",
        "/health",
        lambda a: Health(a["status"], a["ready"], a["model"], a["dim"], a["version"], a),
        also_answers=(503,),
    )


def status(keys: Keys) -> Call[dict[str, CollectionState]]:
    """Return the call of GET /v1/sync/status: the collections by name."""

    def read(answer: Any) -> dict[str, CollectionState]:
        store = str(answer.get("store", ""))
        return {
            name: CollectionState(
                name,
                row["embedding_version"] or None,
                row["seq"] or 0,
                row["cursors"],
                store,
                " ".join(filter(None, (row.get("problem"), row.get("hint")))),
                [_generation(each) for each in row.get("generations", ())],
            )
            for name, row in answer["collections"].items()
        }

    return Call("GET", "/v1/sync/status", read, key=keys.admin)


def generations(collection: str, keys: Keys) -> Call[list[Generation]]:
    """Return the call of GET /v1/collections/{c}/generations."""
    return Call(
        "GET",
        f"/v1/collections/{quote(collection, safe='')}/generations",
        lambda answer: [_generation(row) for row in answer["generations"]],
        key=keys.admin,
    )


def jobs(keys: Keys) -> Call[list[Job]]:
    """Return the call of GET /v1/jobs."""
    return Call("GET", "/v1/jobs", lambda answer: [_job(row) for row in answer["jobs"]], key=keys.admin)


def job(job_id: str, keys: Keys) -> Call[Job]:
    """Return the call of GET /v1/jobs/{id}."""
    return Call(
        "GET",
        f"/v1/jobs/{quote(job_id, safe='')}",
        lambda answer: _job(answer.get("job", answer)),
        key=keys.admin,
    )


def digest(collection: str, keys: Keys, embedding_version: str | None = None) -> Call[Digest]:
    """Return the call of GET /v1/collections/{c}/digest. embedding_version: of which generation; None: the
    current one."""

    def read(answer: Any) -> Digest:
        buckets = [int(value, 16) for value in answer["buckets"]]
        return Digest(answer["root"], buckets, answer["items"], answer["seq"])

    path = f"/v1/collections/{quote(collection, safe='')}/digest"
    return Call("GET", with_query(path, _of_version(embedding_version)), read, key=keys.admin)


def digest_rows(
    collection: str, buckets: Sequence[int], keys: Keys, embedding_version: str | None = None
) -> Call[list[DigestRow]]:
    """Return the call for the rows of these buckets of the digest."""
    path = f"/v1/collections/{quote(collection, safe='')}/digest"
    asked = {"bucket": ",".join(map(str, buckets)), **_of_version(embedding_version)}
    return Call(
        "GET",
        with_query(path, asked),
        lambda answer: [
            DigestRow(row["id"], int(row["sum"], 16), row["active"], row["has_vector"])
            for row in answer["rows"]
        ],
        key=keys.admin,
    )


def differing(
    collection: str, sums: bytes, first: int, keys: Keys, embedding_version: str | None = None
) -> Call[tuple[list[int], list[DigestRow], int | None]]:
    """One page: parts, their rows, and where to go on (None at the end)."""

    def read(answer: Any) -> tuple[list[int], list[DigestRow], int | None]:
        after = answer["next"]
        if after is not None and after <= first:
            raise ValueError(f"continues at {after} after {first}")
        return list(answer["parts"]), _columns(answer), after

    body = json_body({"sums": base64(sums), "first": first, **_of_version(embedding_version)})
    return Call("POST", f"/v1/collections/{quote(collection, safe='')}/digest", read, body, keys.admin)


def _generation(row: Any) -> Generation:
    return Generation(
        row["generation"],
        row["role"],
        row["embedding_version"],
        row["items"],
        row["live"],
        row["seq"],
        row.get("cursors") or {},
        row.get("contents", 0),
        row.get("awaiting", 0),
    )


def _job(row: Any) -> Job:
    return Job(row["id"], row["state"], row)


def _of_version(embedding_version: str | None) -> dict[str, str]:
    return {} if embedding_version is None else {"embedding_version": embedding_version}


def _columns(answer: Mapping[str, Any]) -> list[DigestRow]:
    ids, flags = answer["ids"], binascii.a2b_base64(answer["flags"])
    packed = binascii.a2b_base64(answer["sums"])
    sums = [share for (share,) in struct.iter_unpack("<Q", packed[: len(packed) // 8 * 8])]
    return [
        DigestRow(item_id, share, bool(flag & 1), bool(flag & 2))
        for item_id, share, flag in zip(ids, sums, flags, strict=True)
    ]
