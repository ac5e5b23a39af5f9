"""`release`: the cohort that leaves the house, or what it waits for. Partition: cohort x month.

Checks of earlier assets hold nothing back here, however they were selected: the body reads and judges everything
again (`pipeline/workflow/releasing.py`) and publishes only what has passed and was signed.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.guard import guarded
from assets.instance import PUBLISH_POOL
from assets.partitions import key_of, one_to_one
from assets.reporting import markdown_table, plain
from pipeline.errors import CohortLoomError
from pipeline.features.spec import load_book
from resources.lake import LakeResource

if TYPE_CHECKING:
    from pipeline.store.lake import Lake
    from pipeline.workflow.releasing import Released, ReleaseState

GROUP = "release"
OWNERS = ["team:privacy"]
SEAL_SHOWN = 12
KEPT_BACK = ("withheld", "rejected", "withdrawn")
CHECKS = {
    "gate": "The candidate passes its gate, with waivers, and nobody objects. Blocks nothing: the body decides.",
    "signed": "Everybody has signed who must.",
}


def build_release(cells: dg.MultiPartitionsDefinition, generators: list[str]) -> dg.AssetsDefinition:
    """`release` over the leaderboard, the ledger and the evaluations of all generators."""

    @dg.asset(
        key="release",
        deps=one_to_one(["leaderboard"], ["privacy_ledger"], *(["evaluation", name] for name in generators)),
        partitions_def=cells,
        group_name=GROUP,
        kinds={"csv", "parquet"},
        owners=OWNERS,
        tags={"phi": "false"},
        description="One published cohort a cohort and month: the rows of the candidate that its file names, with schema, data "
        "card and checksums; or, where it is not published, the state it is in and why.",
        code_version="1",
        pool=PUBLISH_POOL,
        check_specs=[
            dg.AssetCheckSpec(name, asset="release", partitions_def=cells, description=words)
            for name, words in CHECKS.items()
        ],
    )
    @guarded
    def release(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from pipeline.workflow.cell import Cell
        from pipeline.workflow.releasing import release_step
        from pipeline.workflow.report_index import publish_index

        book, store = load_book(), lake.open()
        try:
            done = release_step(store, Cell.of(book, **key_of(context)), run_id=context.run.run_id)
        except CohortLoomError as error:  # changed by hand, or broken: a second attempt would find the same
            raise dg.Failure(description=str(error), allow_retries=False) from None
        publish_index(store, book)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(_data_version(done)),
            metadata=plain(_metadata(store, done)),
            check_results=[_gate(done.state), _signed(done.state)],
        )

    return release


def _data_version(done: "Released") -> str:
    """The hash of what is published; else of the state, which is all there is."""
    from pipeline.store.hashing import sha256_json

    state = done.state
    return done.version.sha256 if done.version is not None else sha256_json([state.state, state.seal, state.reasons])


def _metadata(store: "Lake", done: "Released") -> dict[str, Any]:
    """State, reasons in words of rules, verdict, signatures, seal; of what is published its id, place and card."""
    from pipeline.release.cards import rules_table

    state = done.state
    facts: dict[str, Any] = {
        "state": state.state,
        "reasons": "; ".join(state.reasons) or None,
        "note": state.waiting or None,
        "generator": state.generator or None,
        "seal": state.seal[:SEAL_SHOWN] or None,
        "lacking_roles": ", ".join(state.lacking_roles) or None,
        "launchpad_overrides": ", ".join(sorted(state.overrides)) or None,
    }
    if state.verdict is not None:
        facts["verdict"] = markdown_table(rules_table(state.verdict.rules, state.waivers))
    if state.signatures:
        facts["signatures"] = "; ".join(f"{s.name} ({s.role})" for s in state.signatures)
    if done.version is not None:
        card = store.tables.path(done.version, "card.md")
        facts |= {
            "release_id": state.release_id,
            "dagster/row_count": done.version.info["rows"],
            "path": dg.MetadataValue.path(str(card.parent)),
            "card": dg.MetadataValue.md(card.read_text(encoding="utf-8")),
        }
    return facts


def _gate(state: "ReleaseState") -> dg.AssetCheckResult:
    kept_back = state.state in KEPT_BACK
    words = "; ".join(state.reasons[:3]) or (state.state if kept_back else state.waiting)
    more = f" and {len(state.reasons) - 3} more" if len(state.reasons) > 3 else ""
    return dg.AssetCheckResult(
        check_name="gate",
        passed=not kept_back and state.state != "missing",
        severity=dg.AssetCheckSeverity.ERROR if kept_back else dg.AssetCheckSeverity.WARN,
        description=f"{words}{more}" or None,
        metadata={"state": state.state},
    )


def _signed(state: "ReleaseState") -> dg.AssetCheckResult:
    waits = state.state == "awaiting_signature"
    return dg.AssetCheckResult(
        check_name="signed",
        passed=not waits,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Not yet: {', '.join(state.lacking_roles) or 'a role is to be named'}" if waits else None,
        metadata={"signatures": len(state.signatures)},
    )
