"""DuckDB connections see exactly the files they are given, spill at home, and fetch nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, NotFoundError, StoreError
from pipeline.store.connection import connect
from pipeline.store.home import Home
from pipeline.store.lake import Lake


def parquet(path: Path, **columns: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_views_join_exactly_the_given_files(tmp_path: Path) -> None:
    one = parquet(tmp_path / "delivery=a" / "data.parquet", n=[1, 2])
    two = parquet(tmp_path / "delivery=b" / "data.parquet", n=[3], extra=["x"])
    parquet(tmp_path / "delivery=c" / "data.parquet", n=[99])
    with closing(connect({"patient": [one, two], 'odd "name"': [two]})) as connection:
        rows = connection.execute("SELECT * FROM patient ORDER BY n").fetchall()
        assert rows == [(1, None), (2, None), (3, "x")]
        assert [column[0] for column in connection.execute("DESCRIBE patient").fetchall()] == ["n", "extra"]
        connection.execute("SELECT 1").fetchall()
        assert connection.execute('SELECT count(*) FROM "odd ""name"""').fetchall() == [(1,)]


def test_paths_with_quotes_and_patterns_mean_themselves(tmp_path: Path) -> None:
    odd = parquet(tmp_path / "it's [a] *?" / "da'ta[1]*.parquet", n=[1])
    parquet(tmp_path / "it's [a] *?" / "da'ta1x.parquet", n=[2])
    parquet(tmp_path / "it's [a] *?" / "da'ta[1]x.parquet", n=[3])
    with closing(connect({"t": [odd]})) as connection:
        assert connection.execute("SELECT n FROM t").fetchall() == [(1,)]


def test_the_session_is_utc_limited_and_offline(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", n=[1])
    with closing(connect({"t": [path]}, threads=1, memory_limit="300MB", spill=tmp_path / "spill")) as connection:

        def setting(name: str) -> str:
            return str(connection.execute(f"SELECT current_setting('{name}')").fetchall()[0][0])

        assert setting("TimeZone") == "UTC"
        assert setting("threads") == "1"
        assert setting("memory_limit") == "286.1 MiB"
        assert setting("autoinstall_known_extensions").lower() == "false"
        assert setting("autoload_known_extensions").lower() == "false"
        assert setting("enable_progress_bar").lower() == "false"
        assert setting("temp_directory").startswith(str(tmp_path / "spill"))
        assert connection.execute("SELECT current_database()").fetchall() == [("memory",)]


def test_missing_files_and_bad_settings(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", n=[1])
    with pytest.raises(NotFoundError, match="'patient'"):
        connect({"patient": []})
    with pytest.raises(StoreError, match="gone"):
        connect({"patient": [path, tmp_path / "absent.parquet"]})
    (tmp_path / "broken.parquet").write_text("nothing")
    with pytest.raises(StoreError, match=r"patient: A file .* Parquet"):
        connect({"patient": [tmp_path / "broken.parquet"]})
    with pytest.raises(ConfigError, match="memory_limit='much'"):
        connect({}, memory_limit="much")


def test_what_does_not_fit_spills_below_home_and_is_swept(home: Home, tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from pipeline.store.home import Home
from pipeline.store.lake import Lake
home = Home(Path(sys.argv[1]))
con = Lake(home).connect({}, threads=1, memory_limit="60MB")
con.execute("CREATE TABLE t AS SELECT i, hash(i) h, repeat('x', 20) || i s FROM range(1500000) r(i) ORDER BY h").fetchall()
print(sum(p.stat().st_size for p in home.spill.rglob("*") if p.is_file()))
if sys.argv[2] == "die":
    sys.stdout.flush(); os.kill(os.getpid(), signal.SIGKILL)
"""
    for way in ("live", "die"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(home.root), way],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert int(done.stdout) > 1_000_000, done.stderr
        assert bool(list(home.spill.iterdir())) == (way == "die")
    assert not (tmp_path / ".tmp").exists()
    with closing(Lake(home).connect({})):
        mine = list(home.spill.iterdir())
        assert len(mine) == 1  # this process's own; the dead one's is gone
        assert not list(mine[0].rglob("*.tmp"))
    assert home.spill.stat().st_mode & 0o077 == 0


def test_importing_the_store_is_light() -> None:
    """Without opening anything, neither the engine nor the numeric libraries are imported."""
    code = (
        "import sys, pipeline.store.lake, pipeline.store.bundles, pipeline.store.collector\n"
        "print([m for m in ('pandas', 'numpy', 'pyarrow', 'duckdb', 'torch', 'dagster') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "[]"
