"""The first lines a newcomer sees."""

from __future__ import annotations

QUERY_PICTURE = "service/demo/query.jpg"
"""A blue striped mug: the demo has a blue mug and striped mugs, but not this one."""


def greeting(port: int) -> str:
    """Return the address of the page to look at and three commands to try, for a terminal."""
    address = f"http://localhost:{port}"
    return f"""
Ready at {address}/console  (open it in a browser; Ctrl+C stops). Or try:

  curl -s {address}/v1/search -H 'Content-Type: application/json' \\
    -d '{{"query": "겨울에 먹는 길거리 간식", "top_k": 3, "include": ["metadata"]}}'

  curl -s '{address}/search_similar?top_k=3' -F file=@{QUERY_PICTURE}

  curl -s {address}/health
"""
