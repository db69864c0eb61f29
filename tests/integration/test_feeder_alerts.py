"""A feeder that is stopped is missed, and one that goes on again is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.processes import free_port
from tests.integration.databases import PostgresServer
from tests.integration.feeding import Service, feeder_process
from tests.integration.product_shop import COLLECTIONS
from tests.integration.prometheus_process import Prometheus, until_firing
from tests.integration.test_feeder_sync_tiers import end, make_shop, prepare
from tests.prometheus_programs import needs_prometheus
from tests.waiting import until

pytestmark = needs_prometheus


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, COLLECTIONS)
    service.process.start()
    yield service
    service.close()


def test_a_stopped_feeder_is_missed_until_it_goes_on(
    postgres: PostgresServer, tmp_path: Path, service: Service
) -> None:
    shop = make_shop(postgres, None, tmp_path)
    port = free_port()
    environ = prepare("triggers", shop, service) | {"FEEDER_METRICS_PORT": str(port)}
    prometheus = Prometheus(tmp_path, {"uhok": service.process.port, "uhok-feeder": port}).start()
    feeder = feeder_process(environ, "sync")
    try:
        until(lambda: bool(prometheus.query("feeder_equal == 1 and feeder_following == 1")), "a comparison")
        until(lambda: bool(prometheus.query("uhok_sync_in_sync == 1")), "its report")
        until_firing(prometheus, "FeederDown", fires=False)
        assert prometheus.firing() == set()
        assert "sync_ended exit_code=0" in end(feeder)
        until_firing(prometheus, "FeederDown")
        feeder = feeder_process(environ, "sync")
        until_firing(prometheus, "FeederDown", fires=False)
    finally:
        end(feeder)
        prometheus.stop()
        shop.drop()
