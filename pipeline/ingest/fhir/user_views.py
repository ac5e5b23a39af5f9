"""The user's own views: ViewDefinitions in `views/` beside their cohorts become raw tables of FHIR deliveries.

Every table carries `key`, `patient` and `last_updated` in front, so that the versions of several deliveries can be told
apart (`features/newest.py`). A type that has no built-in table gets a small one of its own, `resource_<type>`, which
holds every key. A view that some resources do not fit is made without them; that is counted, and costs nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import ConfigError, nearest
from pipeline.ingest.account import BESIDE_THE_DATA
from pipeline.ingest.fhir.columns import TYPES, ResourceType
from pipeline.ingest.viewdefinition.columns import MOMENT_TAG, TOKEN_TAG
from pipeline.ingest.viewdefinition.compile import CompiledView, compile_view
from pipeline.ingest.viewdefinition.definition import Column, Select, Tag, ViewDefinition, ViewError, load_view
from pipeline.ingest.viewdefinition.elements import elements

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.features.source import SourceSpec
    from pipeline.ingest.account import Account

FOLDER: Final = "views"
OWN_COLUMNS: Final = ("key", "patient", "last_updated")
_PATIENTS: Final = ("patient", "subject", "beneficiary", "individual")
"""Elements that say whose a resource is, the first that a type has."""
_UNFORESEEN: Final = (AssertionError, LookupError, RecursionError, TypeError, ValueError)
"""Faults of the compiler's own: they cost the view that met them, and no other."""
_RESERVED: Final = frozenset({"month_end", "events", "subjects", *BESIDE_THE_DATA})
_PRIMARY: Final = "resource_"


@dataclass(frozen=True)
class UserView:
    """A view of the user's, ready to run.

    Attributes:
        name: Of the raw table.
        compiled: The SQL, with the three columns in front.
        path: Its file.
    """

    name: str
    compiled: CompiledView
    path: Path

    @property
    def primary(self) -> str:
        """The raw table that has a row for every resource that this one is made from."""
        return primary_table(self.compiled.resource)


@dataclass
class UserViews:
    """All views that were found, and the files that cannot be used with the reason."""

    views: dict[str, UserView] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def of(self, source: SourceSpec) -> list[UserView]:
        """The views that a source asks for; without those that are broken.

        Raises:
            ConfigError: It names a view that there is not.
        """
        if source.views is None:
            return list(self.views.values())
        known = [*self.views, *self.broken]
        for name in source.views:
            if name not in known:
                raise ConfigError(
                    f"The source asks for the view '{name}', which there is not.",
                    where=f"source {source.name}",
                    todo=nearest(name, known),
                )
        return [self.views[name] for name in source.views if name in self.views]


def load_user_views(folders: Iterable[Path]) -> UserViews:
    """Read and compile the ViewDefinitions in `views/` of these folders. A broken file is listed and hides no other."""
    found = UserViews()
    paths = [path for folder in folders for path in sorted((folder / FOLDER).glob("*.json"))]
    if not paths:
        return found
    from pipeline.ingest.viewdefinition.run import check_view, prepare
    from pipeline.store.connection import connect

    with connect({}) as connection:
        prepare(connection)
        for path in paths:
            try:
                view = _user_view(path)
                if view.name in found.views:
                    raise ViewError(f"There are two views called '{view.name}'.", where=path.name)
                check_view(view.compiled, connection)
                found.views[view.name] = view
            except ViewError as error:
                found.broken[path.stem] = str(error)
            except _UNFORESEEN:
                found.broken[path.stem] = f"{path.name}: The view cannot be compiled."
    return found


def views_of(source: SourceSpec) -> list[UserView]:
    """The views that become raw tables of a source's deliveries.

    Raises:
        ConfigError: The source names a view that there is not.
    """
    from pipeline.features.spec import cohort_folders

    return load_user_views(cohort_folders()[1:]).of(source)


def view_sentences(account: Account) -> list[str]:
    """What became of the views of a delivery, in words."""
    told = []
    for name, found in account.info.get("views", {}).items():
        if found["rows"] is None:
            told.append(f"view {name}: no table, too many {found['resource']} resources do not fit it")
        else:
            left = f", {found['left_out']:,} {found['resource']} resources left out that do not fit it"
            told.append(f"view {name}: {found['rows']:,} rows{left if found['left_out'] else ''}")
    return told


def primary_table(kind: str) -> str:
    """The raw table with a row for every resource of a type."""
    known = TYPES.get(kind)
    return known.table if known else _PRIMARY + re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()


def kinds_with(views: Iterable[UserView]) -> Mapping[str, ResourceType]:
    """The resource types that are taken: the built-in ones, and those of the views."""
    kinds = dict(TYPES)
    for view in views:
        compiled = view.compiled
        known = kinds.get(compiled.resource) or _primary(compiled.resource)
        references = tuple(dict.fromkeys((*known.references, *compiled.references)))
        kinds[compiled.resource] = replace(known, references=references)
    return kinds


def _user_view(path: Path) -> UserView:
    view = load_view(path)
    name = view.name or path.stem
    tables = {known.table for known in TYPES.values()}
    if name in tables or name in _RESERVED or name.startswith(_PRIMARY):
        raise ViewError(
            f"'{name}' is the name of a table of our own.", where=path.name, todo="Give the view another name."
        )
    if name != name.lower():
        raise ViewError("Raw tables are called in lower case.", where=path.name, todo=f"Call the view {name.lower()}.")
    compile_view(view, where=path.name)  # by itself first: errors then name places in the file
    own = Select(column=_own_columns(view.resource))
    compiled = compile_view(view.model_copy(update={"select": [own, *view.select]}), where=path.name)
    return UserView(name, compiled, path)


def _own_columns(kind: str) -> list[Column]:
    return [
        Column(name="key", path="getResourceKey()", type="string"),
        Column(name="patient", path=_patient(kind), type="string"),
        Column(name="last_updated", path="meta.lastUpdated", tag=[Tag(name=MOMENT_TAG, value="timestamp")]),
    ]


def _patient(kind: str) -> str:
    if kind == "Patient":
        return "getResourceKey()"
    there: Mapping[str, Any] = elements(kind) or {}
    for name in _PATIENTS:
        element = there.get(name)
        if element is not None and "Reference" in element.types:
            steps = f"{name}.ofType(Reference)" if element.choice else name
            return f"{steps}.first().getReferenceKey(Patient)"
    return "{}"


def _primary(kind: str) -> ResourceType:
    """The small table of a type that has no built-in one."""
    key, *others = _own_columns(kind)
    own = Column(name="id", path="id", type="id", tag=[Tag(name=TOKEN_TAG, value="true")])
    table = primary_table(kind)
    view = compile_view(ViewDefinition(resource=kind, name=table, select=[Select(column=[key, own, *others])]))
    return ResourceType(kind, table, view.shape, view.select, view.references)
