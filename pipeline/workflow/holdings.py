"""Everything in COHORTLOOM_HOME that holds one person: deliveries, versions old and new, and what else lies there.

Raw tables and feature tables are looked into; everything else follows by lineage, from the hashes in `inputs`: what
was made from a version that holds the person holds them too. Nothing is changed here: `erasure.py` does that.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import StoreError
from pipeline.ingest.delivery import SUCCESS
from pipeline.ingest.erasure.taking_out import half_copied, look
from pipeline.ingest.events import subject_number
from pipeline.ingest.lines import CHUNK
from pipeline.store.backup import snapshots
from pipeline.store.collector import folders
from pipeline.store.keys import DRAFT, RECORD, TRASH, VERSION
from pipeline.store.version import Version
from pipeline.workflow.delivery_report import ASSET as REPORT
from pipeline.workflow.raw_rows import column_of, patients, person_rows
from pipeline.workflow.released import ASSET as RELEASE
from pipeline.workflow.resuming import states_left

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.features.source import SourceSpec
    from pipeline.features.spec import CohortBook
    from pipeline.ingest.erasure.person import Person
    from pipeline.ingest.erasure.tally import Tally, Unsearched
    from pipeline.store.lake import Lake, VersionStore

ABSENT, UNKNOWN = "absent", "unknown"
"""Parts of the split of somebody who is not among the subjects, and of somebody of whom that cannot be told."""
_SAMPLE = 50


@dataclass(frozen=True)
class Held:
    """One version that holds the person, or was made from one that does.

    Attributes:
        store: "lake", "models" or "reports".
        version: The version.
        part: Of `features`: the person's part of the split, `ABSENT` or `UNKNOWN`.
        certain: False where what it was made from is gone, so that it only may hold them.
    """

    store: str
    version: Version
    part: str = ""
    certain: bool = True

    @property
    def kind(self) -> str:
        """First part of the asset key; of features with the person's part of the split."""
        stage = self.version.asset.partition("/")[0]
        stage = f"report of {stage.removesuffix('_report')}" if self.store == "reports" else stage
        return f"{stage} ({self.part})" if self.part else stage

    @property
    def name(self) -> list[str]:
        """[store, label, version, sha256]: how it is entered in the journal."""
        return [self.store, self.version.label, self.version.version, self.version.sha256]


@dataclass
class Holdings:
    """What holds a person.

    Attributes:
        person: Who; with the identifiers that were found.
        deliveries: Key of each delivery in the landing folder that holds them, with counts.
        unfinished: Keys of deliveries that hold them and are still being written.
        versions: Versions, what was made first; purge them from the end.
        releases: Release id to whether its model was trained on them.
        elsewhere: Place to number of files in which the id stands (journal, reports, Dagster's folder). Nothing here
            can take it out of them: it is reported, and is no reason to begin or to fail.
        catalog: Does `catalog.duckdb` hold them?
        half_made: Drafts and states of killed runs, half-copied deliveries, snapshots of backups: nobody can say
            what they hold.
        unsearched: Tables without the person column, and files that no reader takes or nobody can look into.
        unread: Records of deliveries that nobody can read and that do not carry the id.
        mentions: Rows of others with the id in another column.
    """

    person: Person
    deliveries: dict[str, Tally] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    versions: list[Held] = field(default_factory=list)
    releases: dict[str, bool] = field(default_factory=dict)
    elsewhere: dict[str, int] = field(default_factory=dict)
    catalog: bool = False
    half_made: int = 0
    unsearched: list[Unsearched] = field(default_factory=list)
    unread: int = 0
    mentions: int = 0

    @property
    def found(self) -> bool:
        """Is the person anywhere where they can be erased?"""
        sure = any(held.certain for held in self.versions)
        return bool(self.deliveries or self.unfinished or sure or self.catalog)

    def counts(self) -> dict[str, int]:
        """Kind of thing to number; only what there is. Empty: nothing holds the person."""
        found = Counter(held.kind for held in self.versions if held.version.asset != RELEASE)
        rows = {
            "deliveries": len(self.deliveries) + len(self.unfinished),
            "records in deliveries": sum(tally.removed + tally.blotted for tally in self.deliveries.values()),
            **{f"{kind} versions": found[kind] for kind in sorted(found)},
            "releases": len(self.releases),
            "catalog": int(self.catalog),
            **{f"files in {place}": number for place, number in sorted(self.elsewhere.items())},
        }
        return {what: number for what, number in rows.items() if number}


def search(lake: Lake, source: SourceSpec, book: CohortBook, person: Person) -> Holdings:
    """Look for a person in everything that there is. Reads the deliveries of the source twice where FHIR records may
    name them by an identifier.

    Raises:
        StoreError: a version's record is broken, or something cannot be read.
    """
    found = Holdings(person)
    _search_landing(lake, source, found)
    known = set(found.person.identifiers)
    known.update(*(tally.identifiers for tally in found.deliveries.values()))
    if known != found.person.identifiers:
        found.person = replace(person, identifiers=frozenset(known))
        _search_landing(lake, source, found)
    _search_versions(lake, source, book, found)
    found.catalog = _in_catalog(lake, found.person)
    found.elsewhere = _elsewhere(lake, found.person)
    found.half_made = half_copied(lake.home.landing / source.name) + sum(map(len, snapshots(lake.home)))
    found.half_made += sum(
        name.startswith((DRAFT, TRASH))
        for _, store in stores(lake)
        for where in folders(store)
        for name in store.backend.list(where)
    )
    found.half_made += sum(1 for _ in (lake.home.cache / "drafts").glob(f"{DRAFT}*")) + len(states_left(lake.home))
    return found


def stores(lake: Lake) -> list[tuple[str, VersionStore]]:
    """The three stores by name."""
    return [("lake", lake.tables), ("models", lake.models), ("reports", lake.reports)]


def every_version(store: VersionStore) -> Iterator[Version]:
    """All versions of a store: current, retired, and those that a killed writer named but never pointed to.

    Raises:
        StoreError: a record is broken.
    """
    for where in sorted(folders(store)):
        for name in store.backend.list(where):
            if VERSION.fullmatch(name.rstrip("/")):
                stored = store.backend.get(f"{where}/{name}{RECORD}")
                if stored is not None:  # else purged meanwhile
                    yield Version.from_bytes(stored.data, where=where)


def _search_landing(lake: Lake, source: SourceSpec, found: Holdings) -> None:
    folder = lake.home.landing / source.name
    found.deliveries, found.unfinished, found.unsearched, found.mentions, found.unread = {}, [], [], 0, 0
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.is_dir() or path.name.startswith("."):
            continue
        tally = look(path, source, found.person)
        key = f"{source.name}--{path.name}"
        found.unsearched += [replace(one, file=f"{key}: {one.file}") for one in tally.unsearched]
        found.mentions += tally.mentions
        found.unread += tally.unread
        if tally.held and (path / SUCCESS).exists():
            found.deliveries[key] = tally
        elif tally.held:
            found.unfinished.append(key)


def _search_versions(lake: Lake, source: SourceSpec, book: CohortBook, found: Holdings) -> None:
    known = [(name, version) for name, store in stores(lake) for version in every_version(store)]
    ours = _cohorts(source, book, [version for _, version in known])
    there = {(version.label, version.sha256) for _, version in known}
    people = _People(lake, source, found.person, [version for _, version in known])
    held: dict[tuple[str, str, str], Held] = {}
    tainted: set[tuple[str, str]] = set()

    def take(one: Held) -> None:
        held[one.store, one.version.label, one.version.version] = one
        tainted.add((one.version.label, one.version.sha256))

    for name, version in known:
        delivered = version.partition.get("delivery", "").partition("--")[0] == source.name
        if delivered and (people.stand_in(version)):
            take(Held(name, version))
        elif version.asset.startswith(("raw/", REPORT)) and version.partition.get("delivery") in found.deliveries:
            # Only records that have no table, or the quarantine: nothing was made of them, but they are counted there.
            held[name, version.label, version.version] = Held(name, version)
        elif version.asset == "features" and version.partition.get("cohort") in ours:
            part = people.part(version)
            lost = not _traceable(version, known, there)
            if part not in (ABSENT, UNKNOWN) or (lost and part == UNKNOWN):
                take(Held(name, version, part, certain=part != UNKNOWN))
        elif version.partition.get("cohort") in ours and version.asset not in ("cohort_inputs", "features"):
            lost = any(pair not in there for pair in version.inputs.items())
            if lost:
                take(Held(name, version, certain=False))
    grew = True
    while grew:
        grew = False
        for name, version in known:
            place = (name, version.label, version.version)
            if place not in held and any(pair in tainted for pair in version.inputs.items()):
                take(Held(name, version, people.part(version) if version.asset == "features" else ""))
                grew = True
    found.versions = [*_in_order(list(held.values()))]
    found.releases = _releases(found.versions, known)


def _in_order(held: Sequence[Held]) -> list[Held]:
    """What was made first comes first: a version stands behind every one that it was made from."""
    labels = {(one.version.label, one.version.sha256) for one in held}
    ordered: list[Held] = []
    done: set[tuple[str, str]] = set()
    rest = list(held)
    while rest:
        ready = [h for h in rest if all(p in done or p not in labels for p in h.version.inputs.items())] or rest
        ordered += ready
        done |= {(h.version.label, h.version.sha256) for h in ready}
        rest = [h for h in rest if h not in ready]
    return ordered


def _cohorts(source: SourceSpec, book: CohortBook, versions: Sequence[Version]) -> set[str]:
    """The cohorts of a source, also those whose file is gone."""
    start = f"raw/{source.format}/delivery={source.name}--"
    made = {v.partition["cohort"] for v in versions if v.asset == "cohort_inputs" and _any_starts(v.inputs, start)}
    return made | {spec.name for spec in book.cohorts.values() if spec.source == source.name}


def _any_starts(labels: Mapping[str, str], start: str) -> bool:
    return any(label.startswith(start) for label in labels)


def _traceable(version: Version, known: Sequence[tuple[str, Version]], there: set[tuple[str, str]]) -> bool:
    """Are the raw tables that features were made from still there, so that lineage answers?"""
    made_of = [v for _, v in known if (v.label, v.sha256) in version.inputs.items()]
    return bool(made_of) and all(pair in there for v in made_of for pair in v.inputs.items())


def _releases(held: Sequence[Held], known: Sequence[tuple[str, Version]]) -> dict[str, bool]:
    """Releases among what is held: was the model behind each trained on the person? Yes, where it cannot be told."""
    parts = {(h.version.label, h.version.sha256): h.part for h in held if h.version.asset == "features"}
    by_name = {(v.label, v.sha256): v for _, v in known}

    def behind(version: Version) -> set[str]:
        found: set[str] = set()
        for pair in version.inputs.items():
            one = by_name.get(pair)
            if pair in parts:
                found.add(parts[pair])
            elif one is None:
                found.add(UNKNOWN)
            elif one.asset != "features":
                found |= behind(one)
        return found

    answer: dict[str, bool] = {}
    for one in held:
        if one.version.asset == RELEASE:
            trained = bool(behind(one.version) & {"train", UNKNOWN})
            answer[one.version.info["release_id"]] = answer.get(one.version.info["release_id"], False) or trained
    return answer


class _People:
    """Looks for the person in raw tables, events and feature tables."""

    def __init__(self, lake: Lake, source: SourceSpec, person: Person, versions: Sequence[Version]) -> None:
        self.lake, self.source, self.person, self.versions = lake, source, person, versions
        self._known: set[str] | None = None

    def stand_in(self, version: Version) -> bool:
        """Do raw tables or events hold the person?"""
        if version.asset.startswith("raw/"):
            return person_rows(self.lake, version, self.person) > 0
        if version.asset == "events" and "subjects" in version.files:
            return self.person.id in self.lake.tables.read(version, "subjects").column("source_id").to_pylist()
        return False

    def part(self, version: Version) -> str:
        """The person's part of the split of a feature table."""
        if "subjects" not in version.files:
            return UNKNOWN
        beside = self.lake.tables.read(version, "subjects")
        subjects = beside.column("subject").to_pylist()
        splits = beside.column("split").to_pylist() if "split" in beside.column_names else [UNKNOWN] * len(subjects)
        mine = sorted({split for s, split in zip(subjects, splits, strict=True) if s in self.person.subjects})
        if mine:
            return "train" if "train" in mine else mine[0]
        return ABSENT if self._are_people(subjects[:_SAMPLE]) else UNKNOWN

    def _are_people(self, subjects: Sequence[str]) -> bool:
        """Are these subjects people of the source, so that one who is not among them is not in the table?"""
        if self._known is None:
            column = column_of(self.source, self.person.column)
            mine = [v for v in self.versions if v.partition.get("delivery", "").startswith(f"{self.source.name}--")]
            ids = {i for v in mine if v.asset.startswith("raw/") for i in patients(self.lake, v, column)}
            self._known = {text for i in ids for text in (i, f"Patient/{i}", str(subject_number(self.source.name, i)))}
        return bool(subjects) and all(subject in self._known for subject in subjects)


def _in_catalog(lake: Lake, person: Person) -> bool:
    """Does the catalogue hold the person as a subject, or views over raw tables that do?"""
    import duckdb

    if not lake.home.catalog.is_file():
        return False
    try:
        with duckdb.connect(str(lake.home.catalog), read_only=True) as connection:
            tables = connection.execute(
                "SELECT table_schema, table_name FROM information_schema.columns WHERE column_name = '_subject'"
            ).fetchall()
            marks = ", ".join("?" for _ in person.subjects)
            return any(
                connection.execute(
                    f'SELECT count(*) FROM "{schema}"."{table}" WHERE _subject IN ({marks})', list(person.subjects)
                ).fetchall()[0][0]
                for schema, table in tables
            )
    except duckdb.Error:
        pass
    raise StoreError("The catalogue cannot be read.", where=lake.home.catalog.name, todo="Delete it; it is made again.")


def _elsewhere(lake: Lake, person: Person) -> dict[str, int]:
    """Files beside deliveries and tables in which the id stands; none are expected, and short ids cannot be told."""
    found: dict[str, int] = {}
    if person.distinctive:
        for name, folder in (
            ("journal", lake.home.journal),
            ("reports", lake.home.reports),
            ("dagster", lake.home.dagster),
        ):
            number = sum(_carries(path, person) for path in folder.rglob("*") if path.is_file())
            if number:
                found[name] = number
    return found


def _carries(path: Path, person: Person) -> bool:
    last = b""
    try:
        with path.open("rb") as file:
            while piece := file.read(CHUNK):
                if person.traced(last + piece):
                    return True
                last = piece[-200:]
    except FileNotFoundError:
        return False  # a log that was rotated away
    return person.traced(path.name.encode())


def as_rows(found: Holdings) -> list[dict[str, Any]]:
    """What holds the person, one row a delivery and a kind of version, to show; no id."""
    rows: list[dict[str, Any]] = [
        {"what": "delivery", "where": key, "number": t.removed + t.blotted, "unit": f"records in {t.in_files}"}
        for key, t in found.deliveries.items()
    ]
    rows += [
        {"what": "delivery", "where": f"{key} (being written)", "number": None, "unit": ""} for key in found.unfinished
    ]
    grouped = Counter((h.kind, h.version.label, h.certain) for h in found.versions if h.version.asset != RELEASE)
    for (kind, label, certain), number in grouped.items():
        asset = kind if certain else f"{kind}, of unknown origin"
        rows.append({"what": asset, "where": label, "number": number, "unit": "versions"})
    for release, trained in found.releases.items():
        rows.append(
            {
                "what": "release",
                "where": release,
                "number": 1,
                "unit": "trained on them" if trained else "not trained on them",
            }
        )
    if found.catalog:
        rows.append({"what": "catalog", "where": "catalog.duckdb", "number": 1, "unit": "file"})
    rows += [
        {"what": "id in files", "where": place, "number": n, "unit": "files"} for place, n in found.elsewhere.items()
    ]
    return [{**row, "where": found.person.mask(row["where"])} for row in rows]
