"""Handing over again: the same is nothing new, another takes the place of the old one whole, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path

import pytest

from pipeline.errors import InputError, StoreError
from pipeline.features.source import SourceSpec
from pipeline.ingest import redelivery
from pipeline.ingest.delivery import content_hash, delivery, hand_over, landed
from pipeline.ingest.redelivery import replace_delivery
from pipeline.store.exchange import exchange
from pipeline.store.lake import Lake
from pipeline.workflow.compute import Compute
from pipeline.workflow.deliveries import take_in, taken_in
from pipeline.workflow.redelivering import replace

DAY = date(2026, 10, 31)
FILES = 20


def fill(folder: Path, mark: str, *, files: int = FILES) -> Path:
    """A delivery whose every file says which one it belongs to."""
    folder.mkdir(exist_ok=True)
    for number in range(files):
        (folder / f"part{number}.csv").write_text(f"mark\n{mark}\n")
    return folder


def marks(folder: Path) -> set[str]:
    return {path.read_text().split()[1] for path in folder.glob("*.csv")}


@pytest.fixture
def old(home, tmp_path):
    return hand_over(home, "clinic", fill(tmp_path / "old", "old"), as_of=DAY)


def test_another_content_takes_the_place_of_the_old_one(home, tmp_path, old):
    new = fill(tmp_path / "new", "new")
    with pytest.raises(InputError, match=r"other content; nothing was changed.*--replace"):
        hand_over(home, "clinic", new, as_of=DAY)
    assert marks(old.folder) == {"old"}
    told = []
    replaced = replace_delivery(home, "clinic", new, as_of=DAY, note=lambda *both: told.append(both))
    assert (replaced.old, marks(replaced.delivery.folder)) == (old, {"new"})
    assert [(o.content, n.content) for o, n in told] == [(old.content, content_hash(new))]
    assert landed(home) == [replaced.delivery]
    assert [path.name for path in (home.landing / "clinic").iterdir()] == [old.name]
    again = replace_delivery(home, "clinic", new, as_of=DAY, note=lambda *both: told.append(both))
    assert (again.old, again.delivery, len(told)) == (None, replaced.delivery, 1)


def test_another_date_is_a_replacement_too(home, tmp_path, old):
    same, day = tmp_path / "old", date(2026, 9, 30)
    with pytest.raises(InputError, match="other date"):
        hand_over(home, "clinic", same, as_of=day, name=old.name)
    replaced = replace_delivery(home, "clinic", same, as_of=day, name=old.name)
    assert (replaced.delivery.as_of, replaced.delivery.content) == (day, old.content)
    assert replace_delivery(home, "clinic", same, as_of=None, name=old.name).old is None
    undated = replace_delivery(home, "clinic", fill(tmp_path / "new", "new"), as_of=None, name=old.name)
    assert undated.delivery.as_of == day  # what is not asked for stays as it was


def test_replacing_nothing_hands_over_and_half_a_delivery_is_left_alone(home, tmp_path):
    made = replace_delivery(home, "clinic", fill(tmp_path / "new", "new"), as_of=DAY)
    assert (made.old, landed(home)) == (None, [made.delivery])
    (home.landing / "clinic" / "half").mkdir()
    with pytest.raises(InputError, match="still being written"):
        replace_delivery(home, "clinic", tmp_path / "new", as_of=DAY, name="half")


def test_where_something_fails_the_old_one_stays(home, tmp_path, old, monkeypatch):
    new = fill(tmp_path / "new", "new")

    def refuse(*_):
        raise StoreError("The journal cannot be written.")

    with pytest.raises(StoreError, match="journal"):
        replace_delivery(home, "clinic", new, as_of=DAY, note=refuse)

    def unable(*_):
        raise NotImplementedError

    monkeypatch.setattr(redelivery, "exchange", unable)
    with pytest.raises(StoreError, match="cannot exchange two folders"):
        replace_delivery(home, "clinic", new, as_of=DAY)
    assert landed(home) == [old]
    assert marks(old.folder) == {"old"}
    assert [path.name for path in (home.landing / "clinic").iterdir()] == [old.name]


def test_folders_are_exchanged_or_nothing_happens(tmp_path):
    one, two = fill(tmp_path / "one", "one"), fill(tmp_path / "two", "two")
    exchange(one, two)
    assert (marks(one), marks(two)) == ({"two"}, {"one"})
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "three")
    assert marks(one) == {"two"}


def test_whoever_looks_finds_one_whole_delivery(home, tmp_path, old):
    folders = [fill(tmp_path / f"new{n}", f"new{n}") for n in range(4)]
    errors, seen, done = [], [], threading.Event()

    def swap(folder: Path) -> None:
        try:
            for _ in range(5):
                replace_delivery(home, "clinic", folder, as_of=DAY)
        except Exception as error:
            errors.append(error)

    def look() -> None:
        while not done.is_set():
            seen.append([found.key for found in landed(home)])
            delivery(home, old.key)

    writers = [threading.Thread(target=swap, args=(folder,)) for folder in folders]
    reader = threading.Thread(target=look)
    reader.start()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert errors == []
    assert len(seen) > 5
    assert all(keys == [old.key] for keys in seen)
    assert len(marks(old.folder)) == 1
    assert content_hash(old.folder) == delivery(home, old.key).content
    assert [path.name for path in (home.landing / "clinic").iterdir()] == [old.name]


SWAP = """
import sys, itertools
from datetime import date
from pathlib import Path
from pipeline.ingest.redelivery import replace_delivery
from pipeline.store.home import Home
home, folders = Home(Path(sys.argv[1])), [Path(p) for p in sys.argv[2:]]
print("ready", flush=True)
for folder in itertools.cycle(folders):
    replace_delivery(home, "clinic", folder, as_of=date(2026, 10, 31))
"""


def test_a_kill_leaves_one_whole_delivery(home, tmp_path, old):
    folders = [str(fill(tmp_path / mark, mark)) for mark in ("one", "two")]
    left = 0
    for round_ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", SWAP, str(home.root), *folders], stdout=subprocess.PIPE, env={**os.environ}
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.011 * (round_ + 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        (found,) = landed(home)
        assert len(marks(found.folder)) == 1
        assert len(list(found.folder.glob("*.csv"))) == FILES
        assert content_hash(found.folder) == found.content
        left += len(list((home.landing / "clinic").glob(".tmp-*")))
    assert left > 0  # else nothing was ever killed half-way
    replace_delivery(home, "clinic", fill(tmp_path / "last", "last"), as_of=DAY)
    assert marks(old.folder) == {"last"}


@pytest.fixture
def taking(home, tmp_path):
    """A lake in which a delivery was taken in."""
    lake, source = Lake(home), SourceSpec(name="clinic", format="table")
    made = hand_over(home, "clinic", fill(tmp_path / "old", "7", files=1), as_of=DAY)
    take_in(lake, made, source, "table", Compute())
    return lake, source, made


def test_what_was_taken_in_is_known_by_its_bytes_and_its_day(taking, tmp_path):
    lake, source, made = taking
    assert taken_in(lake, made, source)
    assert taken_in(lake, hand_over(lake.home, "clinic", tmp_path / "old", as_of=DAY), source)
    later = replace(lake, "clinic", tmp_path / "old", as_of=date(2026, 11, 30), name=made.name).delivery
    assert not taken_in(lake, later, source)
    take_in(lake, later, source, "table", Compute())
    assert taken_in(lake, later, source)
    other = replace(lake, "clinic", fill(tmp_path / "new", "8", files=1), as_of=None, name=made.name).delivery
    assert not taken_in(lake, other, source)
    entries = list(lake.journal.entries("operations"))
    assert [(e["operation"], e["delivery"]) for e in entries] == [("replace", made.key)] * 2
    assert (entries[1]["old"]["content"], entries[1]["new"]["content"]) == (made.content, other.content)
    assert not any("part0" in str(entry) for entry in entries)


def test_the_same_bytes_give_the_same_version(taking, tmp_path):
    lake, source, made = taking
    first = lake.tables.resolve("raw/table", {"delivery": made.key})
    version, _ = take_in(lake, made, source, "table", Compute())
    assert version.sha256 == first.sha256
    dropped = lake.home.landing / "clinic" / "by-hand"
    fill(dropped, "7", files=1)
    (dropped / "_SUCCESS").touch()
    by_hand = delivery(lake.home, "clinic--by-hand")
    take_in(lake, by_hand, source, "table", Compute())
    assert not taken_in(lake, by_hand, source)  # nobody knows what it was made of, so it is taken in again


def test_a_delivery_that_is_replaced_while_it_is_read_is_not_committed(taking, tmp_path, monkeypatch):
    lake, source, made = taking
    from pipeline.ingest import readers

    new = fill(tmp_path / "new", "8", files=1)
    real = readers.read_delivery

    def read(*arguments, **named):
        account = real(*arguments, **named)
        replace_delivery(lake.home, "clinic", new, as_of=DAY)
        return account

    monkeypatch.setattr(readers, "read_delivery", read)
    before = lake.tables.resolve("raw/table", {"delivery": made.key})
    with pytest.raises(StoreError, match="replaced while it was read"):
        take_in(lake, made, source, "table", Compute())
    assert lake.tables.resolve("raw/table", {"delivery": made.key}) == before
