"""The HTTP client of the JDK, which Spring's RestClient and Ktor use: every POST of it offers HTTP/2."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.service_process import Connection, ServiceProcess

PROGRAM = """
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Ask {
    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 0; i < 3; i++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(given[0]))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(given[1])).build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body());
        }
    }
}
"""


@pytest.fixture
def java() -> str:
    """A JDK of at least 11: it runs a source file as it is. In CI one must be installed."""
    found = shutil.which("java") if shutil.which("javac") else None
    if found is None:
        reason = "no JDK (apt-get install openjdk-17-jdk-headless)"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; CI runs every test", pytrace=False)
        pytest.skip(reason)
    return found


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_jdk_client_gets_its_answer(tmp_path: Path, java: str, workers: str) -> None:
    source = tmp_path / "Ask.java"
    source.write_text(PROGRAM)
    service = ServiceProcess(tmp_path / "data", {"WORKERS": workers}).start()
    try:
        connection = Connection(service.port)
        items = [{"recipe_id": 1, "text": "갈비탕"}, {"recipe_id": 2, "text": "김치찌개"}]
        assert connection.post("/v1/upsert", {"items": items})[0] == 200
        body = '{"query": "갈비탕", "top_k": 1}'
        url = f"http://127.0.0.1:{service.port}/v1/search"
        done = subprocess.run(
            [java, "-Xmx64m", "-Dfile.encoding=UTF-8", str(source), url, body],
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 3
        for line in lines:
            assert line.startswith("200 HTTP_1_1 "), line
            assert '"recipe_id":1' in line
    finally:
        service.stop()
