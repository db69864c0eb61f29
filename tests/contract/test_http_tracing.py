"""Traces as a receiver of OTLP gets them, and that none of its troubles reaches a request."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from service.errors import BadConfiguration
from service.observing.tracing.tracer import RequestTrace, Tracer
from tests.contract.otlp_receiver import OtlpReceiver, attributes_of, otlp_receiver
from tests.contract.test_http_metrics import value
from tests.contract.test_http_protocol import Wire, post, served
from tests.http_app import application_of, running_app, seed
from tests.waiting import until

pytestmark = pytest.mark.long

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SEARCH_STAGES = {"admission", "search_wait", "search", "encode"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[tuple[OtlpReceiver, str]]:
    with otlp_receiver() as made:
        yield made


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory, receiver: tuple[OtlpReceiver, str]) -> Iterator[Wire]:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver[1],
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20abc",
        "OTEL_SERVICE_NAME": "shop-search",
        "TRACE_PERCENT": "0",
    }
    with served(tmp_path_factory.mktemp("tracing"), environ) as made:
        seed(made.app)
        yield made


def traced(request_id: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-{PARENT}-{flags}", "x_request_id": request_id}


def arrived(receiver: OtlpReceiver, request_id: str) -> tuple[Span, dict[str, Span]]:
    until(lambda: receiver.root_of(request_id) is not None)
    root = receiver.root_of(request_id)
    assert root is not None
    return root, receiver.children_of(root)


def assert_inside(root: Span, stages: dict[str, Span]) -> None:
    slack = 2_000_000  # two clocks are read one after the other
    for stage in stages.values():
        assert stage.trace_id == root.trace_id and len(stage.span_id) == 8
        assert root.start_time_unix_nano - slack <= stage.start_time_unix_nano
        assert stage.start_time_unix_nano <= stage.end_time_unix_nano <= root.end_time_unix_nano + slack


def test_a_search_is_a_span_below_its_callers_with_its_stages(
    wire: Wire, receiver: tuple[OtlpReceiver, str]
) -> None:
    body = json.dumps({"query": "처음 보는 찌개", "top_k": 3}).encode()
    sent = post(body, **traced("by-text"))
    before = time.time_ns()
    assert wire.ask(sent[:40], sent[40:-10], sent[-10:]).status == 200  # head and body in pieces
    root, stages = arrived(receiver[0], "by-text")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert (root.name, root.kind) == ("POST /v1/search", Span.SPAN_KIND_SERVER)
    assert attributes_of(root) == {
        "http.request.method": "POST",
        "http.route": "/v1/search",
        "http.response.status_code": 200,
        "uhok.request_id": "by-text",
    }
    assert set(stages) == SEARCH_STAGES | {"head", "body", "embed_wait", "embed"}
    assert_inside(root, stages)
    assert stages["embed"].end_time_unix_nano > stages["embed"].start_time_unix_nano
    assert before <= root.start_time_unix_nano <= root.end_time_unix_nano <= time.time_ns()
    assert receiver[0].paths == {"/v1/traces"}
    assert receiver[0].fields[0]["authorization"] == "Bearer abc"
    assert receiver[0].resources[0]["service.name"] == "shop-search"


def test_a_search_on_the_short_way_and_a_write_have_theirs(
    wire: Wire, receiver: tuple[OtlpReceiver, str]
) -> None:
    vector = json.dumps({"collection": "recipes", "vector": [1.0] * 384}).encode()
    taken = wire.shortcut.taken
    assert wire.ask(post(vector, **traced("short"))).status == 200
    assert wire.shortcut.taken == taken + 1
    item = json.dumps({"items": [{"recipe_id": 77, "text": "새 국"}]}).encode()
    assert wire.ask(post(item, "/v1/upsert", **traced("write"))).status == 200
    assert wire.ask(post(b'{"query":""}', **traced("refused"))).status == 422
    root, stages = arrived(receiver[0], "short")
    assert set(stages) == SEARCH_STAGES
    assert_inside(root, stages)
    root, stages = arrived(receiver[0], "write")
    assert set(stages) == {"body", "commit"}
    assert_inside(root, stages)
    root, _ = arrived(receiver[0], "refused")
    assert attributes_of(root)["error.type"] == "invalid_request"


def test_whether_a_request_is_traced_is_its_callers_choice(
    wire: Wire, receiver: tuple[OtlpReceiver, str]
) -> None:
    assert wire.ask(post(**traced("not-sampled", "00"))).status == 200
    assert wire.ask(post(x_request_id="of-its-own")).status == 200
    assert wire.ask(post(**traced("sampled"))).status == 200
    arrived(receiver[0], "sampled")
    assert receiver[0].root_of("not-sampled") is None and receiver[0].root_of("of-its-own") is None


def test_a_receiver_that_is_stuck_or_refuses_costs_traces_and_no_request(
    wire: Wire, receiver: tuple[OtlpReceiver, str]
) -> None:
    taken, dropped = receiver[0].requests, value(wire.app, "uhok_traces_dropped_total")
    receiver[0].free.clear()
    try:
        assert wire.ask(post(**traced("stuck"))).status == 200
        until(lambda: receiver[0].requests > taken)  # the sender waits for an answer now
        for number in range(20):
            assert wire.ask(post(**traced(f"meanwhile-{number}"))).status == 200
        receiver[0].status = 503
    finally:
        receiver[0].free.set()
    until(lambda: value(wire.app, "uhok_traces_dropped_total") > dropped)
    receiver[0].status = 200
    assert wire.ask(post(**traced("back"))).status == 200
    arrived(receiver[0], "back")


def test_without_a_receiver_requests_are_answered_and_a_stop_is_quick(
    tmp_path: Path,
) -> None:
    with otlp_receiver() as (_, address):
        pass  # nobody listens there any more
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "TRACE_PERCENT": "100"}
    with running_app(tmp_path, environ) as app:
        assert app.post("/v1/search", {"vector": [1.0] * 384}).status_code == 200
        until(lambda: value(app, "uhok_traces_dropped_total") > 0)
        assert app.post("/v1/search", {"vector": [1.0] * 384}).status_code == 200
        tracer = application_of(app).middleware._tracer
        assert tracer is not None
        began = time.monotonic()
        tracer.close()
        assert time.monotonic() - began < 30


class _Kept:
    """Fits TraceSender."""

    def __init__(self) -> None:
        self.traces: list[RequestTrace] = []

    def send_trace(self, trace: RequestTrace) -> None:
        self.traces.append(trace)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("percent", "expected"), [(0, 0), (10, 10), (100, 100)])
def test_a_share_of_the_requests_without_a_caller_of_their_own_is_traced(percent: int, expected: int) -> None:
    numbers = iter(number / 100 for number in range(100))
    tracer = Tracer(_Kept(), lambda: next(numbers), percent=percent)
    begun = [tracer.begin_trace("", b"", 0.0) for _ in range(100)]
    traces = [each for each in begun if each is not None]
    assert len(traces) == expected
    assert len({each.trace_id for each in traces}) == expected
    assert all(len(each.trace_id) == 16 and each.parent_id == b"" for each in traces)


def test_nothing_of_it_is_imported_while_it_is_off() -> None:
    # The API alone is imported by the framework, where it is installed.
    program = (
        "import sys, service.wiring, service.http.app;"
        "unwanted = {'opentelemetry.proto', 'service.observing.tracing.otlp'};"
        "sys.exit(bool(unwanted & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0


def test_a_missing_extra_is_a_bad_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "service.observing.tracing.otlp", None)
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    with (
        pytest.raises(BadConfiguration, match="pip install"),
        running_app(tmp_path, environ),
    ):
        pass
