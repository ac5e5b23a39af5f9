"""The landing folder: what counts as a delivery, how one is handed over, and what is refused."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, InputError, NotFoundError, StoreError
from pipeline.ingest.delivery import content_hash, delivery, hand_over, landed, waiting


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "export"
    (path / "sub").mkdir(parents=True)
    (path / "a.ndjson").write_text("{}\n")
    (path / "sub" / "b.csv").write_text("x\n1\n")
    (path / ".hidden").write_text("no")
    (path / "_SUCCESS").touch()
    return path


def test_hand_over_copies_whole_and_marks_last(home, folder):
    made = hand_over(home, "clinic", folder, as_of=date(2026, 10, 31))
    assert made.key == "clinic--2026-10-31"
    assert [name for name, _ in made.files()] == ["a.ndjson", "sub/b.csv"]
    assert made.as_of == date(2026, 10, 31)
    assert landed(home) == [made] == [delivery(home, made.key)]
    told = json.loads((made.folder / "_DELIVERY.json").read_text())
    assert told == {"as_of": "2026-10-31", "source": "clinic", "content": content_hash(made.folder)}
    assert not list(home.landing.rglob(".tmp-*"))


def test_same_content_again_is_the_same_delivery_and_other_content_is_refused(home, folder):
    made = hand_over(home, "clinic", folder, as_of=date(2026, 10, 31))
    assert hand_over(home, "clinic", folder, as_of=date(2026, 10, 31)) == made
    (folder / "a.ndjson").write_text('{"x":1}\n')
    with pytest.raises(InputError, match="there already with other content"):
        hand_over(home, "clinic", folder, as_of=date(2026, 10, 31))
    assert (made.folder / "a.ndjson").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("name", "as_of", "key", "day"),
    [
        ("2026-09-30-full", None, "clinic--2026-09-30-full", date(2026, 9, 30)),
        ("first", date(2026, 8, 1), "clinic--first", date(2026, 8, 1)),
    ],
)
def test_names_and_days(home, folder, name, as_of, key, day):
    made = hand_over(home, "clinic", folder, as_of=as_of, name=name)
    assert (made.key, made.as_of) == (key, day)


@pytest.mark.parametrize("name", ["first", None, "2026-13-01"])
def test_a_delivery_that_tells_no_day_is_of_today(home, folder, name):
    # The day is read before and after: the test may run over midnight.
    before = datetime.now(UTC).date()
    made = hand_over(home, "clinic", folder, as_of=None, name=name)
    after = datetime.now(UTC).date()
    assert made.as_of in (before, after)
    assert made.key == f"clinic--{made.as_of if name is None else name}"


def test_a_dated_folder_or_file_gives_name_and_day(home, folder, tmp_path):
    dated = folder.rename(tmp_path / "2026-07-31")
    assert hand_over(home, "clinic", dated, as_of=None).key == "clinic--2026-07-31"
    made = hand_over(home, "clinic", dated / "a.ndjson", as_of=date(2026, 6, 30))
    assert (made.key, [name for name, _ in made.files()]) == ("clinic--2026-06-30", ["a.ndjson"])


@pytest.mark.parametrize(
    ("source", "name"),
    [("a-b", "x"), ("", "x"), (".a", "x"), ("a", "../x"), ("a", "x/y"), ("a", "x y"), ("a", "x" * 98), ("a", "..")],
)
def test_names_the_store_would_refuse(home, folder, source, name):
    with pytest.raises(ConfigError, match="delivery key"):
        hand_over(home, source, folder, as_of=None, name=name)
    assert list(home.landing.iterdir()) == []


def test_nothing_to_hand_over(home, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "void.csv").touch()
    for path in (tmp_path / "empty", tmp_path / "void.csv"):
        with pytest.raises(InputError, match="empty"):
            hand_over(home, "clinic", path, as_of=None)
    with pytest.raises(InputError, match="no such"):
        hand_over(home, "clinic", tmp_path / "nowhere", as_of=None)


def test_folders_dropped_by_people(home):
    dropped = home.landing / "clinic" / "2026-05-31"
    dropped.mkdir(parents=True)
    (dropped / "x.csv").write_text("x\n1\n")
    assert (landed(home), waiting(home)) == ([], ["clinic--2026-05-31"])
    with pytest.raises(NotFoundError, match="still being written"):
        delivery(home, "clinic--2026-05-31")
    with pytest.raises(InputError, match="still being written"):
        hand_over(home, "clinic", dropped, as_of=date(2026, 5, 31))
    (dropped / "_SUCCESS").touch()
    assert (delivery(home, "clinic--2026-05-31").as_of, waiting(home)) == (date(2026, 5, 31), [])
    plain = dropped.rename(home.landing / "clinic" / "may")
    os.utime(plain / "_SUCCESS", (1_780_000_000, 1_780_000_000))
    assert delivery(home, "clinic--may").as_of == datetime.fromtimestamp(1_780_000_000, UTC).date()


def test_a_broken_manifest_blocks_no_other_delivery(home, folder):
    good = hand_over(home, "clinic", folder, as_of=None, name="2026-01-31")
    bad = hand_over(home, "clinic", folder, as_of=None, name="2026-02-28")
    (bad.folder / "_DELIVERY.json").write_text('{"as_of": "soon"}')
    assert [found.key for found in landed(home)] == [good.key, bad.key]
    with pytest.raises(InputError, match="as_of"):
        delivery(home, bad.key)


def test_unknown_delivery_names_the_nearest(home, folder):
    hand_over(home, "clinic", folder, as_of=None, name="2026-01-31")
    with pytest.raises(NotFoundError, match="Did you mean 'clinic--2026-01-31'"):
        delivery(home, "clinic--2026-01-30")
    for key in ("clinic", "clinic--../../etc", "--", ""):
        with pytest.raises(NotFoundError):
            delivery(home, key)


def test_two_at_once_make_one(home, folder):
    made, errors = [], []

    def go() -> None:
        try:
            made.append(hand_over(home, "clinic", folder, as_of=date(2026, 10, 31)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(made)) == 1
    assert [p.name for p in (home.landing / "clinic").iterdir()] == ["2026-10-31"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_landing_folder_that_cannot_be_written(home, folder):
    home.landing.chmod(0o500)
    with pytest.raises(StoreError, match="cannot be written"):
        hand_over(home, "clinic", folder, as_of=None)


def test_what_would_be_passed_over_in_silence_is_refused(home, tmp_path):
    for number, make in enumerate(
        (
            lambda folder: (folder / "gone.ndjson").symlink_to("/nowhere/at/all"),
            lambda folder: (folder / "there").symlink_to(home.root, target_is_directory=True),
            lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.ndjson")).touch(),
        )
    ):
        folder = tmp_path / f"odd{number}"
        folder.mkdir()
        (folder / "good.ndjson").write_text("{}\n")
        make(folder)
        with pytest.raises(InputError, match=r"lead to no file|not UTF-8"):
            hand_over(home, "clinic", folder, as_of=None)
        assert not list(home.landing.glob("*/*"))
