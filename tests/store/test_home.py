"""COHORTLOOM_HOME is made ready by many threads and processes at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.store.disk import write_over
from pipeline.store.home import Home


def test_threads_of_one_process_make_a_home_ready_at_once(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: home.ensure(), range(400)))
    assert set(made) == {home}
    assert sorted(p.name for p in home.root.iterdir()) == sorted(p.name for p in home.parts)


def test_threads_of_one_process_replace_a_file_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "settings.json"
    texts = [str(n).encode() * 1000 for n in range(10)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: write_over(target, texts[n % 10]), range(400)))
    assert target.read_bytes() in texts
    assert [p.name for p in tmp_path.iterdir()] == ["settings.json"]
    assert target.stat().st_mode & 0o077 == 0
