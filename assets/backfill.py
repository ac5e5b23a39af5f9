"""Backfills through a running UI: a client of its GraphQL over HTTP, with the standard library.

Such a backfill is one run a cell, the whole chain of a cohort-month at a time, queued and watched by Dagster's daemon.
Plans are made in `backfill_plan.py`; backfills without a UI are in `local_backfill.py`; what the command line prints is
in `cli/backfill.py`.
"""

import ipaddress
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from assets.backfill_plan import ENDED, BackfillError, Plan, Progress, State, state_of
from assets.run import assets_of, preset_config
from pipeline.errors import ConfigError
from pipeline.store.home import Home
from pipeline.workflow.housekeeping import operator

BACKFILL_TAG = "dagster/backfill"
PARENT_TAG = "dagster/parent_backfill_id"
PARTITION_TAG = "dagster/partition"
_PAGE = 200


@dataclass(frozen=True)
class RunningUI:
    """The GraphQL side of a running `cohortloom ui`.

    Attributes:
        url: Its address, e.g. http://127.0.0.1:3000.
        timeout: Seconds to wait for an answer.
    """

    url: str
    timeout: float = 60.0

    def check_serves(self, home: Home) -> None:
        """Make sure that this UI works on this home, and that its daemon runs.

        Raises:
            BackfillError: nothing answers, it is another home's, or nobody would start the runs.
        """
        health = 'daemonHealth{ daemonStatus(daemonType: "BACKFILL"){ healthy } }'
        instance = self._ask(f"{{ instance {{ info {health} }} }}")["instance"]
        serves = _folder(instance["info"])
        if serves is None:
            raise BackfillError(
                f"The server at {self.url} does not say which COHORTLOOM_HOME it serves.",
                todo="Start it with `cohortloom ui`, or leave it out with --local.",
            )
        if serves.resolve() != home.dagster.resolve():
            raise BackfillError(
                f"The UI at {self.url} serves {serves.parent}, not {home.root}.",
                todo="Give the --url of this home's UI, set COHORTLOOM_HOME to the other, or leave the UI out: --local.",
            )
        if not instance["daemonHealth"]["daemonStatus"]["healthy"]:
            raise BackfillError(
                f"The UI at {self.url} answers, but its daemon does not run: nothing would start.",
                todo="Wait some seconds if it has just been started, restart it (`make ui`), or leave it out: --local.",
            )

    def launch(self, plan: Plan, *, who: str | None = None) -> str:
        """Ask for a backfill of the plan's cells; gives its id.

        Raises:
            BackfillError: the UI does not know a cohort, month or asset of the plan, or refuses.
        """
        self._check_knows(plan)
        asked: dict[str, Any] = {
            "assetSelection": [{"path": list(key.path)} for key in assets_of(plan.generators)],
            "partitionNames": plan.keys,
            "title": plan.title,
            "tags": [{"key": "who", "value": who or operator()}],
        }
        if plan.preset is not None:
            asked["runConfigData"] = preset_config(assets_of(plan.generators), plan.preset)
        return self._launched(_LAUNCH, "launchPartitionBackfill", p=asked)

    def resume(self, backfill: str) -> str:
        """Ask for what a backfill that is over did not make; gives the id of the new backfill.

        Raises:
            BackfillError: it is not over yet, or nothing is missing.
        """
        if self.progress(backfill).status not in ENDED:
            raise BackfillError(
                f"Backfill '{backfill}' is not over yet as far as Dagster knows.",
                todo="It looks every half minute; try again in a minute, or --cancel it first.",
            )
        return self._launched(_RESUME, "reexecutePartitionBackfill", i=backfill)

    def cancel(self, backfill: str) -> None:
        """Stop a backfill: queued runs are dropped, running ones are told to stop.

        Raises:
            BackfillError: there is no such backfill, or the UI refuses.
        """
        self.progress(backfill)
        answer = self._ask(_CANCEL, i=backfill)["cancelPartitionBackfill"]
        if answer["__typename"] != "CancelBackfillSuccess":
            raise BackfillError(f"The backfill could not be cancelled: {_words(answer)}")

    def progress(self, backfill: str) -> Progress:
        """The state of every cell of a backfill, from its runs.

        Raises:
            BackfillError: there is no such backfill.
        """
        found = self._ask(_STATUS, i=backfill)["partitionBackfillOrError"]
        if found["__typename"] != "PartitionBackfill":
            raise BackfillError(
                f"The UI at {self.url} has no backfill '{backfill}'.", todo=f"Its list: {self.url}/runs?view=backfills"
            )
        cells: dict[str, State] = dict.fromkeys(_targets(found), "waiting")
        runs: dict[str, str] = {}
        # Newest first: what a second attempt gave counts.
        for run in self._runs(backfill):
            key = next((t["value"] for t in run["tags"] if t["key"] == PARTITION_TAG), None)
            if key is not None and key not in runs:
                runs[key] = run["id"]
                cells[key] = state_of(run["status"])
        reason = ((found.get("error") or {}).get("message") or "").strip().splitlines()
        rest = any(tag["key"] == PARENT_TAG for tag in found.get("tags", []))
        return Progress(found["status"], cells, runs, reason[0] if reason else "", rest)

    def page(self, backfill: str) -> str:
        """Where people watch a backfill."""
        return f"{self.url}/runs/b/{backfill}"

    def _runs(self, backfill: str) -> Iterable[dict[str, Any]]:
        cursor = None
        while True:
            page = self._ask(_RUNS, i=backfill, cursor=cursor, limit=_PAGE)["runsOrError"].get("results", [])
            yield from page
            if len(page) < _PAGE:
                return
            cursor = page[-1]["id"]

    def _check_knows(self, plan: Plan) -> None:
        """The UI read the cohorts when it was started; what was added since it does not know."""
        node = self._ask(_KEYS)["assetNodeOrError"]
        known = {d["name"]: d["partitionKeys"] for d in node.get("partitionKeysByDimension", [])}
        todo = "Press Reload under Deployment in the UI, or restart it with the same COHORTLOOM_COHORTS."
        for at, name in enumerate(("cohort", "month")):
            strange = sorted({cell[at] for cell in plan.cells} - set(known.get(name, [])))
            if strange:
                raise BackfillError(f"The UI at {self.url} knows no {name} '{strange[0]}'.", todo=todo)
        assets = {
            "/".join(n["assetKey"]["path"]) for n in self._ask("{ assetNodes { assetKey { path } } }")["assetNodes"]
        }
        missing = [k.to_user_string() for k in assets_of(plan.generators) if k.to_user_string() not in assets]
        if missing:
            raise BackfillError(f"The UI at {self.url} knows no asset '{missing[0]}'.", todo=todo)

    def _launched(self, query: str, mutation: str, **variables: Any) -> str:
        answer = self._ask(query, **variables)[mutation]
        if answer["__typename"] != "LaunchBackfillSuccess":
            raise BackfillError(f"The UI refused the backfill: {_words(answer)}")
        return str(answer["backfillId"])

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """One GraphQL question.

        Raises:
            BackfillError: nobody answers, or it is no Dagster.
        """
        body = json.dumps({"query": query, "variables": variables}).encode()
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"'{self.url}' is no address.", todo="Write it as http://127.0.0.1:3000.")
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        try:
            with _opener(self.url).open(request, timeout=self.timeout) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            try:
                found = json.load(error)
            except ValueError:
                found = {}
            # Refusals come with this code too, as an answer like any other.
            if not {"errors", "data"} & set(found):
                raise BackfillError(f"What answers at {self.url} is no Dagster (HTTP {error.code}).") from error
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise BackfillError(
                f"No UI answers at {self.url}.", todo="Start it with `make ui`, give its --url, or do without: --local."
            ) from error
        except ValueError as error:
            raise BackfillError(f"What answers at {self.url} is no Dagster.") from error
        if found.get("errors") or "data" not in found:
            raise BackfillError(f"The UI at {self.url} does not understand: {_words(found)}")
        return found["data"]


def _opener(url: str) -> urllib.request.OpenerDirector:
    """What asks an address: by the proxy of the environment, except for this machine, which no proxy can reach."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if here else []))


def _folder(info: str | None) -> Path | None:
    """DAGSTER_HOME of an instance, from what it says of itself."""
    said = yaml.safe_load(info) if info else None
    try:
        return Path(said["local_artifact_storage"]["config"]["base_dir"]) if said else None
    except (KeyError, TypeError):
        return None


def _targets(backfill: Mapping[str, Any]) -> list[str]:
    """The cells of a backfill. One that makes what another left names only some of them, but the chain's end has all."""
    last = (backfill.get("partitionsTargetedForAssetKey") or {}).get("partitionKeys") or []
    return list(dict.fromkeys([*(backfill.get("partitionNames") or []), *last]))


def _words(answer: Mapping[str, Any]) -> str:
    """The first line of what Dagster said."""
    errors = answer.get("errors")
    text = answer.get("message") or (errors[0].get("message") if errors else None) or answer.get("__typename", "")
    line = str(text).strip().splitlines()[0][:300] if str(text).strip() else "it gave no reason."
    return re.sub(r"^[\w.]+(Error|Exception): ", "", line)


_ANSWER = """__typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  ... on PartitionSetNotFoundError { message } ... on InvalidSubsetError { message } ... on UnauthorizedError { message }"""
_LAUNCH = f"mutation($p: LaunchBackfillParams!) {{ launchPartitionBackfill(backfillParams: $p) {{ {_ANSWER} }} }}"
_RESUME = f"""mutation($i: String!) {{ reexecutePartitionBackfill(
  reexecutionParams: {{ parentRunId: $i, strategy: FROM_FAILURE }}) {{ {_ANSWER} }} }}"""
_CANCEL = """mutation($i: String!) { cancelPartitionBackfill(backfillId: $i) {
  __typename ... on PythonError { message } ... on UnauthorizedError { message } } }"""
_STATUS = """query($i: String!) { partitionBackfillOrError(backfillId: $i) { __typename ... on PartitionBackfill {
  status partitionNames tags { key value } error { message }
  partitionsTargetedForAssetKey(assetKey: { path: ["leaderboard"] }) { partitionKeys } } } }"""
_RUNS = f"""query($i: String!, $cursor: String, $limit: Int!) {{
  runsOrError(filter: {{ tags: [{{ key: "{BACKFILL_TAG}", value: $i }}] }}, cursor: $cursor, limit: $limit) {{
    ... on Runs {{ results {{ id status tags {{ key value }} }} }} }} }}"""
_KEYS = """{ assetNodeOrError(assetKey: { path: ["cohort_inputs"] }) {
  ... on AssetNode { partitionKeysByDimension { name partitionKeys } } } }"""
