"""Figures of disclosure: what is inferred better of training people, the risk of identity disclosure, and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.protocol import headline
from pipeline.evaluation.references import TITLES
from pipeline.evaluation.report.anchors import COLOURS
from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, Figure, Table, figure, table
from pipeline.evaluation.results import REFERENCE_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult

EXCESS, LEVEL, TCAP = "priv.aia.excess", "priv.aia.level", "priv.tcap"
IDENTITY, LIMIT = "priv.identity_disclosure", 0.09
MOST_SECRETS = 40
PARTS: tuple[tuple[str, str], ...] = (
    ("priv.rare_level", "levels and codes of fewer than 11 training people that come out (must be 0)"),
    ("priv.delta_presence", "combinations of known attributes: training people met more often than others (null 0)"),
    ("priv.k_map", "fewest training people behind a synthetic row (higher is better)"),
    ("priv.l_div", "fewest values of a secret in a group of synthetic rows (higher is better)"),
)
OPT_IN: tuple[tuple[str, str], ...] = (
    ("priv.giomi.so_uni", "singling out by one attribute"),
    ("priv.giomi.so_multi", "singling out by three attributes"),
    ("priv.giomi.link", "linkability"),
    ("priv.giomi.inf", "inference, worst secret"),
)


def secrets(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Forest of the excess of attribute inference, a line a secret, the headline on top."""
    rows = sorted(_columns(results, EXCESS), key=lambda r: r.value or 0.0)[-MOST_SECRETS:]
    head = headline(results, EXCESS)
    if not rows or head is None or head.value is None:
        return []
    shown = [*rows, head]
    names = [*(r.key1 for r in rows), "<b>mean of all secrets</b>"]
    data: list[Any] = [_dots(shown, names)]
    caught = [(n, r.ref_train) for n, r in zip(names, shown, strict=True) if r.ref_train is not None]
    if caught:
        data.append(
            {"type": "scatter", "mode": "markers", "name": TITLES["ref_train"], "x": [v for _, v in caught],
             "y": [n for n, _ in caught], "marker": {"color": COLOURS["ref_train"], "symbol": "square-open", "size": 8},
             "hovertemplate": "%{y}: %{x:.3f} if the training rows were published<extra></extra>"}
        )  # fmt: skip
    return [
        figure(
            "attribute-inference",
            "Secrets inferred better of training people than of others",
            "For each secret how much better an attacker who knows some facts guesses it of people in training than of "
            "people outside it (difference of scores from 0, guessing, to 1, always right), with intervals that allow for "
            "the choice among attackers. At 0 nothing leaks; to the right is leakage. With many secrets some lie beyond 0 by "
            "chance, so the mean at the top is what is judged; open squares are what a copy of the training rows gives.",
            data,
            {
                "xaxis": {"title": {"text": "training people minus others"}, "zeroline": True, "zerolinewidth": 2},
                "yaxis": {"automargin": True, "type": "category", "categoryorder": "array", "categoryarray": names},
                "margin": {"l": 150, "r": 12, "t": 8, "b": 48},
            },
            130 + 26 * len(shown),
        )
    ]


def identity(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """The risk of identity disclosure and that of the reference rows against 0.09."""
    row = headline(results, IDENTITY)
    if row is None or row.value is None:
        return []
    bars = [("this cohort", row.value, SYNTHETIC)]
    for name in REFERENCE_ROWS:
        value = getattr(row, name)
        if value is not None:
            bars.append((TITLES[name], value, COLOURS[name]))
    bars.reverse()
    low, high = row.value if row.ci_lo is None else row.ci_lo, row.value if row.ci_hi is None else row.ci_hi
    data = [
        {"type": "bar", "orientation": "h", "x": [v for _, v, _ in bars], "y": [n for n, _, _ in bars],
         "marker": {"color": [c for _, _, c in bars]}, "width": 0.55,
         "error_x": {"type": "data", "symmetric": False, "color": REAL, "thickness": 2,
                     "array": [0.0] * (len(bars) - 1) + [high - row.value],
                     "arrayminus": [0.0] * (len(bars) - 1) + [row.value - low]},
         "hovertemplate": "%{y}: %{x:.3f}<extra></extra>"},
        {"type": "scatter", "mode": "lines", "x": [LIMIT, LIMIT], "y": [bars[0][0], bars[-1][0]], "hoverinfo": "skip",
         "line": {"color": REAL, "dash": "dot", "width": 2}},
    ]  # fmt: skip
    return [
        figure(
            "identity-disclosure",
            "Risk of identity disclosure",
            "Average chance that a training person is matched correctly to a synthetic row and something new is learnt. "
            "Shorter is better; the dotted line is 0.09, the customary limit for releases of health data. "
            f"{_sentence(row.note)} {_chance(results)}",
            data,
            {
                "xaxis": {
                    "title": {"text": "risk"},
                    "range": [0, 1.1 * max(LIMIT, high, *(v for _, v, _ in bars))],
                    "tickformat": ".2f",
                },
                "yaxis": {"automargin": True, "type": "category"},
                "margin": {"l": 150, "r": 12, "t": 8, "b": 48},
            },
            150 + 34 * len(bars),
        )
    ]


def by_secret(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """What can be inferred of anybody, and what of training people alone."""
    levels = {r.key1: r for r in _columns(results, LEVEL)}
    groups = {r.key1: r for r in _columns(results, TCAP)}
    rows = sorted(_columns(results, EXCESS), key=lambda r: -(r.value or 0.0))
    if not rows:
        return []
    return [
        table(
            "attribute-inference",
            "Attribute inference by secret",
            "“Of anybody” is how well the secret is guessed of people who were never in training (0 guessing, 1 always "
            "right): science, not leakage. “Beyond that” is how much better it is guessed of training people: leakage, "
            "null 0. The last column counts training people about whom an attacker is sure and right by counting alone, "
            "minus others; null 0.",
            ["secret", "of anybody", "beyond that", "lower end", "upper end", "read off uniform groups"],
            [[r.key1, _value(levels.get(r.key1)), r.value, r.ci_lo, r.ci_hi, _value(groups.get(r.key1))] for r in rows],
        )
    ]


def syntactic(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """Checks by exact groups, and the attacks by anonymeter, which have to be asked for."""
    found = [(said, headline(results, metric)) for metric, said in PARTS]
    rows: list[list[Any]] = [[said, r.value, r.ci_lo, r.ci_hi, r.note] for said, r in found if r is not None]
    if not rows:
        return []
    for metric, said in OPT_IN:
        row = headline(results, metric)
        what = f"{said}, by anonymeter (opt-in, not gated; null 0)"
        if row is None:
            rows.append([what, None, None, None, "not run: belongs to the profile “full”"])
        else:
            rows.append([what, row.value, row.ci_lo, row.ci_hi, row.note])
    return [
        table(
            "disclosure-checks",
            "Checks by exact groups, and attacks that have to be asked for",
            "Groups are people or rows who agree in all that an attacker is taken to know. These figures describe the "
            "table; passing them is no protection by itself.",
            ["check", "value", "lower end", "upper end", "remark"],
            rows,
        )
    ]


def _columns(results: Sequence[MetricResult], metric: str) -> list[MetricResult]:
    return [
        r for r in results if r.metric == metric and r.replicate == -1 and r.scope == "column" and r.value is not None
    ]


def _value(row: MetricResult | None) -> float | None:
    return None if row is None else row.value


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}." if note else ""


def _chance(results: Sequence[MetricResult]) -> str:
    """What chance explains: strangers share combinations of facts with synthetic rows too."""
    row = headline(results, IDENTITY, key1="beyond strangers")
    if row is None or row.value is None or row.ci_lo is None or row.ci_hi is None:
        return ""
    return (
        "Synthetic rows agree with some people by chance: the risk of training people exceeds that of equally many people "
        f"outside training by {row.value:.3f} (95 % interval {row.ci_lo:.3f} to {row.ci_hi:.3f}; null 0)."
    )


def _dots(rows: Sequence[MetricResult], names: Sequence[str]) -> dict[str, Any]:
    """Dots with their intervals."""
    values = [r.value or 0.0 for r in rows]
    ends = [
        (v if r.ci_lo is None else r.ci_lo, v if r.ci_hi is None else r.ci_hi)
        for r, v in zip(rows, values, strict=True)
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "this cohort",
        "x": values,
        "y": list(names),
        "marker": {"color": SYNTHETIC, "size": [8] * (len(rows) - 1) + [11]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [hi - v for (_, hi), v in zip(ends, values, strict=True)],
            "arrayminus": [v - lo for (lo, _), v in zip(ends, values, strict=True)],
            "color": SYNTHETIC,
            "thickness": 1.6,
        },
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }


FIGURES: tuple[Draw, ...] = (secrets, identity)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = (by_secret, syntactic)
