"""The one bounded cache."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from index_store.lru import LruCache


def test_what_was_used_longest_ago_goes_first() -> None:
    cache: LruCache[str, int] = LruCache(2)
    cache.keep("a", 1)
    cache.keep("b", 2)
    assert cache.find("a") == 1
    cache.keep("c", 3)
    assert [cache.find(key) for key in "abc"] == [1, None, 3]
    cache.keep("a", 4)
    cache.keep("d", 5)
    assert [cache.find(key) for key in "acd"] == [4, None, 5]
    assert (cache.hits, cache.misses) == (5, 2)


def test_heavy_values_make_room_together() -> None:
    cache: LruCache[str, int] = LruCache(10)
    assert [cache.keep(key, 1, 4) for key in "abc"] == [0, 0, 1]
    assert [cache.find(key) for key in "abc"] == [None, 1, 1]
    assert cache.keep("b", 2, 11) == 0  # too heavy: not even the one before stays
    assert [cache.find(key) for key in "bc"] == [None, 1]
    assert cache.keep("d", 3, 10) == 1
    assert [cache.find(key) for key in "cd"] == [None, 3]


def test_many_threads_never_see_more_than_the_limit_or_a_wrong_value() -> None:
    cache: LruCache[int, int] = LruCache(8)

    def use(seed: int) -> bool:
        for number in range(2_000):
            key = (number * seed) % 20
            if cache.find(key) not in (None, key * key):
                return False
            cache.keep(key, key * key)
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(use, (1, 3, 7, 11)))
    assert sum(cache.find(key) is not None for key in range(20)) == 8
