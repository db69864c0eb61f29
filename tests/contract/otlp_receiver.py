"""A receiver of traces: a small HTTP server that decodes OTLP by the published schema."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpReceiver:
    """What came. status: that it answers with. is_stuck: takes requests and answers none until `free`."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.fields: list[dict[str, str]] = []
        self.paths: set[str] = set()
        self.status = 200
        self.free = threading.Event()
        self.free.set()
        self.requests = 0

    def children_of(self, root: Span) -> dict[str, Span]:
        """The stages of one request by name, as far as they have come."""
        return {each.name: each for each in [*self.spans] if each.parent_span_id == root.span_id}

    def root_of(self, request_id: str) -> Span | None:
        """The span of one request."""
        for span in [*self.spans]:
            if attributes_of(span).get("uhok.request_id") == request_id:
                return span
        return None

    def take(self, path: str, fields: dict[str, str], body: bytes) -> int:
        self.requests += 1
        self.free.wait(60)
        if self.status != 200:
            return self.status
        self.paths.add(path)
        self.fields.append(fields)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append({each.key: each.value.string_value for each in group.resource.attributes})
            for scope in group.scope_spans:
                self.spans.extend(scope.spans)
        return 200


def attributes_of(span: Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


@contextmanager
def otlp_receiver() -> Iterator[tuple[OtlpReceiver, str]]:
    """Yield a receiver and its address."""
    receiver = OtlpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            fields = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(receiver.take(self.path, fields, body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver, f"http://127.0.0.1:{server.server_port}"
    finally:
        receiver.free.set()
        server.shutdown()
        server.server_close()
        thread.join()
