"""What is known of a generator without importing it: title, version, kinds, and its settings with their types.

The code location needs this of every generator, but a generator's module imports PyTorch or scikit-learn, and
nothing heavier than Dagster may be imported while it loads. So the cards are made once in a process of their own
and kept beside the compiled modules (`__pycache__`), like them derived from the source and valid as long as it is
unchanged. Which generators exist is in `pipeline.generators.registry`; their launchpad forms in `assets/`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.generators.registry import generator_paths
from pipeline.store.disk import write_over
from pipeline.tuning.spaces import search_space

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.generators.base import Generator

LIBRARY = Path(__file__).resolve().parents[1]
CACHE = LIBRARY / "generators" / "__pycache__" / "cards.json"
_FORMAT = "1"
_TYPES = {"integer": "int", "number": "float", "boolean": "bool", "string": "str"}


@dataclass(frozen=True)
class Setting:
    """One setting of a generator.

    Attributes:
        name: Field of its `Config`.
        type: "int", "float", "bool", "str", "choice", "list[int]" and so on, or "any".
        description: What it does, with default and limits.
        choices: Admissible texts of a "choice".
    """

    name: str
    type: str
    description: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """What is known of a generator without importing it.

    Attributes:
        name: Standard name.
        title: One line for people.
        code_version: The class's version and a hash over the defaults of its settings: what it gives for the same
            data, settings of the cohort and seed can only change when this does.
        uses_gpu: Does it train faster on a GPU?
        kinds: Libraries it is made with.
        settings: Its settings, in order.
        presets: Names of its presets.
        publishable: May what it draws leave the house? False of controls that must fail privacy.
        private: Can it train with differential privacy?
        tunes: Names of the settings that a search varies; empty where there is nothing to tune.
        broken: Why its module cannot be imported; empty if it can.
    """

    name: str
    title: str = ""
    code_version: str = "unknown"
    uses_gpu: bool = False
    kinds: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    presets: tuple[str, ...] = ("default",)
    publishable: bool = True
    private: bool = False
    tunes: tuple[str, ...] = ()
    broken: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Card:
        """The card that `to_dict` gave."""
        settings = tuple(Setting(**{**s, "choices": tuple(s["choices"])}) for s in content["settings"])
        return cls(
            **{
                **content,
                "kinds": tuple(content["kinds"]),
                "presets": tuple(content["presets"]),
                "tunes": tuple(content["tunes"]),
                "settings": settings,
            }
        )


@dataclass
class _Cache:
    """Cards by name, each with the hash of the source that it was made from."""

    file: Path
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> _Cache:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return cls(file)
        return cls(file, content if isinstance(content, dict) else {})

    def write(self) -> None:
        """Keep the cards; where the folder is read-only they are simply made again next time."""
        try:
            self.file.parent.mkdir(exist_ok=True)
            write_over(self.file, json.dumps(self.entries, sort_keys=True).encode())
        except OSError as error:
            warnings.warn(f"The cards of the generators could not be kept: {error.strerror}.", stacklevel=2)


def cards(names: Iterable[str] | None = None, *, cache: Path = CACHE) -> dict[str, Card]:
    """The card of every generator in `names` (default: of all that are registered), sorted by name.

    A generator whose module cannot be imported still has a card, with the reason in `broken`: it must not take the
    whole code location down. Classes whose module is loaded already are read directly.
    """
    paths = generator_paths()
    wanted = sorted(paths if names is None else names)
    kept, made, missing = _Cache.read(cache), dict[str, Card](), list[str]()
    library = _library_hash()
    sources = {name: _source_hash(paths[name], library) for name in wanted}
    for name in wanted:
        entry = kept.entries.get(name)
        if paths[name].partition(":")[0] in sys.modules:
            made[name] = describe(name)
        elif entry is not None and entry.get("source") == sources[name]:
            made[name] = Card.from_dict(entry["card"])
        else:
            missing.append(name)
    if missing:
        fresh = _describe_elsewhere({name: paths[name] for name in missing})
        made.update(fresh)
        kept.entries.update({n: {"source": sources[n], "card": c.to_dict()} for n, c in fresh.items() if not c.broken})
        kept.write()
    return {name: made[name] for name in wanted}


def describe(name: str) -> Card:
    """The card of one generator, from its class (imports its module)."""
    return _describe(name, generator_paths()[name])


def _describe(name: str, path: str) -> Card:
    module, _, attribute = path.partition(":")
    try:
        made: type[Generator] = getattr(import_module(module), attribute)
        return Card(
            name=name,
            title=made.title,
            code_version=_code_version(made),
            uses_gpu=made.uses_gpu,
            kinds=tuple(made.kinds),
            settings=tuple(_settings(made)),
            presets=tuple(made.Config.presets),
            publishable=made.publishable,
            private=made.private,
            tunes=tuple(search_space(made)),
        )
    except Exception as error:  # another package's module may fail in any way; its text may hold anything
        return Card(name=name, broken=f"{type(error).__name__} while importing {path}")


def _describe_elsewhere(paths: Mapping[str, str]) -> dict[str, Card]:
    """Cards made in a process of their own, so that no heavy module stays behind in this one."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.workflow.cards", json.dumps(dict(paths))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    if done.returncode != 0:
        return {name: Card(name=name, broken=f"its card could not be made (exit {done.returncode})") for name in paths}
    return {c["name"]: Card.from_dict(c) for c in json.loads(done.stdout.splitlines()[-1])}


def _code_version(made: type[Generator]) -> str:
    defaults = {
        "default": made.Config().model_dump(mode="json"),
        "presets": {k: dict(v) for k, v in made.Config.presets.items()},
    }
    text = json.dumps(defaults, sort_keys=True, default=str)
    return f"{made.code_version}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _settings(made: type[Generator]) -> Iterable[Setting]:
    schema = made.Config.model_json_schema()
    for name, entry in schema.get("properties", {}).items():
        kind, choices = _type(entry, schema.get("$defs", {}))
        limits = [f"{w} {entry[k]}" for k, w in _LIMITS.items() if k in entry]
        facts = "; ".join([*([f"default {json.dumps(entry['default'])}"] if "default" in entry else []), *limits])
        text = entry.get("description", "")
        yield Setting(name=name, type=kind, description=f"{text} ({facts})" if facts else text, choices=choices)


_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def _type(entry: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Our word for a property of a JSON schema, and its choices."""
    if "$ref" in entry:
        return _type(known.get(entry["$ref"].rsplit("/", 1)[-1], {}), known)
    options = [o for o in entry.get("anyOf", entry.get("allOf", [])) if o.get("type") != "null"]
    if len(options) == 1:
        return _type(options[0], known)
    values = entry.get("enum", [entry["const"]] if "const" in entry else [])
    if values and all(isinstance(v, str) for v in values):
        return "choice", tuple(values)
    if entry.get("type") == "array":
        inner, _ = _type(entry.get("items", {}), known)
        return (f"list[{inner}]", ()) if inner in _TYPES.values() else ("any", ())
    return _TYPES.get(entry.get("type", ""), "any"), ()


def _library_hash() -> str:
    """One hash over the source of the library: a generator's defaults may come from any module of it."""
    digest = hashlib.sha256(f"{_FORMAT} {sys.version}".encode())
    for file in sorted(LIBRARY.rglob("*.py")):
        digest.update(file.relative_to(LIBRARY).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _source_hash(path: str, library: str) -> str:
    """Hash of the source that a card was made from: the library's, and for other packages that of their module."""
    module = path.partition(":")[0]
    digest = hashlib.sha256(f"{library} {path}".encode())
    if not module.startswith("pipeline."):
        file = _module_file(module)
        digest.update(file.read_bytes() if file is not None and file.is_file() else b"")
    return digest.hexdigest()


def _module_file(module: str) -> Path | None:
    """Source file of a module, found without running the packages around it (as `find_spec` would)."""
    places: Any = None
    found = None
    parts = module.split(".")
    for i in range(len(parts)):
        found = PathFinder.find_spec(".".join(parts[: i + 1]), places)
        if found is None:
            return None
        places = found.submodule_search_locations
    return Path(found.origin) if found is not None and found.origin else None


if __name__ == "__main__":
    # Read by the parent process; modules may print while they are imported, so the cards are the last line.
    print(json.dumps([_describe(n, path).to_dict() for n, path in json.loads(sys.argv[1]).items()]))  # noqa: T201
