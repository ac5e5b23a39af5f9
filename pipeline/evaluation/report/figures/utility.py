"""Figures and tables of utility: tasks, rankings of models and features, effects, survival."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, Figure, Table, chance, figure, table
from pipeline.evaluation.report.words import tasks_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult

TRAINED_ON_REAL = "#009E73"
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
FORM = {"logistic": "log odds ratio", "cox": "log hazard ratio", "poisson": "log rate ratio", "linear": "difference"}


def dumbbells(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """AUROC trained on real and on synthetic rows, for each task and model."""
    names = {"hgb": "boosting", "lr": "logistic", "rf": "random forest", "mlp": "neural network"}
    labels: list[str] = []
    data: list[Any] = []
    points: dict[str, list[MetricResult]] = {"util.trtr_auroc": [], "util.tstr_auroc": []}
    for task in tasks_of(results):
        for model, title in names.items():
            pair = {
                m: next((r for r in results if (r.metric, r.key1, r.key2, r.replicate) == (m, task, model, -1)), None)
                for m in points
            }
            if any(r is None or r.value is None for r in pair.values()):
                continue
            label = f"{task}, {title}"
            labels.append(label)
            for metric, row in pair.items():
                if row is not None:
                    points[metric].append(row)
            data.append(
                {"type": "scatter", "mode": "lines", "y": [label, label], "hoverinfo": "skip",
                 "x": [r.value for r in pair.values() if r is not None], "line": {"color": REAL, "width": 3},
                 "showlegend": False}
            )  # fmt: skip
    if not labels:
        return []
    for metric, title, colour, symbol in (
        ("util.trtr_auroc", "trained on real", TRAINED_ON_REAL, "circle-open"),
        ("util.tstr_auroc", "trained on synthetic", SYNTHETIC, "circle"),
    ):
        rows = points[metric]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": title,
                "x": [r.value for r in rows],
                "y": labels,
                "marker": {"color": colour, "size": 12, "symbol": symbol, "line": {"width": 2.5, "color": colour}},
                "showlegend": True,
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [(r.ci_hi or 0.0) - (r.value or 0.0) if r.ci_hi is not None else 0 for r in rows],
                    "arrayminus": [(r.value or 0.0) - (r.ci_lo or 0.0) if r.ci_lo is not None else 0 for r in rows],
                    "color": colour,
                    "thickness": 1.4,
                },
                "hovertemplate": "%{y}<br>AUROC %{x:.3f}<extra>" + title + "</extra>",
            }
        )
    return [
        figure(
            "utility-dumbbell",
            "Trained on real against trained on synthetic",
            "AUROC on real holdout people with 95 % intervals. Further right is better; 0.5 is chance. A short bar between "
            "the two dots means that little is lost.",
            data,
            {
                "showlegend": True,
                "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
                "xaxis": {"title": {"text": "AUROC on real people"}},
                "yaxis": {"automargin": True, "type": "category", "autorange": "reversed"},
                "margin": {"l": 20, "r": 12, "t": 36, "b": 44},
            },
            170 + 44 * len(labels),
        )
    ]


def task_curves(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Precision against recall, and observed against predicted, for each task."""
    found = []
    for i, task in enumerate(details.get("task_curves") or []):
        recall, right = task["precision_recall"], task["calibration"]
        if any(recall[side]["recall"] for side in ("real", "synthetic")):
            found.append(
                figure(
                    f"precision-recall-{i}",
                    f"{task['task']}: precision and recall",
                    "Of the real people called positive, the share that is, for each share of positives that is found. "
                    "Further up is better; the dashed line is the prevalence: what calling people by lot gives. First seed.",
                    [
                        {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [task["prevalence"]] * 2,
                         "hoverinfo": "skip", "showlegend": False, "line": {"color": REAL, "dash": "dash", "width": 1.4}},
                        *_pair(recall, "recall", "precision", "recall %{x:.0%}<br>precision %{y:.1%}", "lines"),
                    ],
                    _shares("positives found (recall)", "precision"),
                )
            )  # fmt: skip
        if any(right[side]["predicted"] for side in ("real", "synthetic")):
            found.append(
                figure(
                    f"calibration-{i}",
                    f"{task['task']}: are the predicted probabilities right?",
                    "Observed share of real people with the outcome, by predicted probability, in groups of at least 22. On "
                    "the dashed diagonal predictions are right; a flatter line means that they are too extreme. First seed.",
                    [
                        {**chance([0, 1]), "showlegend": False},
                        *_pair(
                            right, "predicted", "observed", "predicted %{x:.1%}<br>observed %{y:.1%}", "lines+markers"
                        ),
                    ],
                    _shares("predicted probability", "observed share"),
                )
            )
    return found


def _pair(sides: Mapping[str, Any], x: str, y: str, hover: str, mode: str) -> list[dict[str, Any]]:
    """The same curve trained on real and on synthetic rows; told apart by dashes and shapes too."""
    styles = (
        ("real", "trained on real", TRAINED_ON_REAL, "dot", "circle-open"),
        ("synthetic", "trained on synthetic", SYNTHETIC, "solid", "circle"),
    )
    return [
        {
            "type": "scatter",
            "mode": mode,
            "name": name,
            "x": sides[side][x],
            "y": sides[side][y],
            "showlegend": True,
            "line": {"color": colour, "width": 2.4, "dash": dash},
            "marker": {"color": colour, "size": 9, "symbol": symbol},
            "hovertemplate": f"{hover}<extra>{name}</extra>",
        }
        for side, name, colour, dash, symbol in styles
    ]


def _shares(x: str, y: str) -> dict[str, Any]:
    return {
        "showlegend": True,
        "legend": LEGEND,
        "xaxis": {"title": {"text": x}, "tickformat": ".0%", "range": [0, 1.02]},
        "yaxis": {"title": {"text": y}, "tickformat": ".0%", "range": [0, 1.02]},
        "margin": {"l": 52, "r": 12, "t": 36, "b": 44},
    }


def rankings(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """AUROC of each model trained on real against trained on synthetic rows."""
    found = []
    for i, task in enumerate(details.get("ranking") or []):
        ends = [min(*task["real"], *task["synthetic"]) - 0.02, max(*task["real"], *task["synthetic"]) + 0.02]
        found.append(
            figure(
                f"ranking-{i}",
                f"{task['task']}: would one choose the same model?",
                "Each dot is a model: its AUROC on real people trained on real rows (across) and on synthetic rows (up). Where "
                "dots rise from left to right, whoever chooses by synthetic rows chooses as by real ones; on the dashed "
                "diagonal nothing is lost. First seed.",
                [
                    chance(ends),
                    {"type": "scatter", "mode": "markers+text", "x": task["real"], "y": task["synthetic"],
                     "text": task["models"], "textposition": _around(task["real"]), "textfont": {"size": 10},
                     "cliponaxis": False, "marker": {"color": SYNTHETIC, "size": 10},
                     "hovertemplate": "%{text}<br>real %{x:.3f}<br>synthetic %{y:.3f}<extra></extra>"},
                ],
                {"xaxis": {"title": {"text": "AUROC, trained on real"}},
                 "yaxis": {"title": {"text": "AUROC, trained on synthetic"}}},
                360,
            )
        )  # fmt: skip
    return found


def _around(places: Sequence[float]) -> list[str]:
    """Where each dot's name goes: neighbours from left to right in turn, so that names do not lie on one another."""
    sides = ("top center", "bottom center", "middle left", "middle right")
    order = sorted(range(len(places)), key=lambda i: places[i])
    turn = {i: sides[k % len(sides)] for k, i in enumerate(order)}
    return [turn[i] for i in range(len(places))]


def feature_ranks(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Slopes between the rank of each top feature trained on real and on synthetic rows."""
    found = []
    for i, task in enumerate(details.get("features") or []):
        data: list[Any] = []
        for name, real, made in zip(task["names"], task["real"], task["synthetic"], strict=True):
            kept = abs(real - made) <= 3
            colour = SYNTHETIC if kept else "#D55E00"
            data.append(
                {"type": "scatter", "mode": "lines+markers+text", "x": [0, 1], "y": [real, made],
                 "text": [f"{name}  ", f"  {name}"], "textposition": ["middle left", "middle right"],
                 "textfont": {"size": 10}, "cliponaxis": False, "line": {"color": colour, "width": 2,
                 "dash": "solid" if kept else "dash"}, "marker": {"color": colour, "size": 7},
                 "hovertemplate": f"{name}<br>rank %{{y}}<extra></extra>"}
            )  # fmt: skip
        depth = max([*task["real"], *task["synthetic"]])
        found.append(
            figure(
                f"features-{i}",
                f"{task['task']}: does the model rest on the same features?",
                f"Rank of the top features (of {task['features']}) in the model trained on real (left) and on synthetic rows "
                "(right). Flat lines are right; dashed lines move by more than three places. First seed.",
                data,
                {
                    "xaxis": {"range": [-0.9, 1.9], "tickvals": [0, 1], "ticktext": ["real", "synthetic"]},
                    "yaxis": {"autorange": "reversed", "title": {"text": "rank"}, "rangemode": "tozero"},
                },
                220 + 14 * min(depth, 40),
            )
        )
    return found


def forests(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Effects with their intervals on real and on synthetic rows, for each analysis."""
    found = []
    for i, analysis in enumerate(details.get("inference") or []):
        if analysis["reason"] and not any(v is not None for v in analysis["real"]["value"]):
            continue
        names = analysis["names"]
        data: list[Any] = []
        for side, title, colour, symbol, shift in (
            ("real", "real", TRAINED_ON_REAL, "circle-open", -0.14), ("synthetic", "synthetic", SYNTHETIC, "circle", 0.14),
        ):  # fmt: skip
            given = analysis[side]
            places = [k for k, v in enumerate(given["value"]) if v is not None]
            value = [given["value"][k] for k in places]
            data.append(
                {"type": "scatter", "mode": "markers", "name": title, "x": value, "y": [k + shift for k in places],
                 "text": [names[k] for k in places], "showlegend": True,
                 "marker": {"color": colour, "size": 10, "symbol": symbol, "line": {"width": 2, "color": colour}},
                 "error_x": {"type": "data", "symmetric": False, "color": colour, "thickness": 1.6,
                             "array": [given["hi"][k] - given["value"][k] for k in places],
                             "arrayminus": [given["value"][k] - given["lo"][k] for k in places]},
                 "hovertemplate": "%{text}<br>%{x:.3f}<extra>" + title + "</extra>"}
            )  # fmt: skip
        found.append(
            figure(
                f"forest-{i}",
                f"{analysis['analysis']}: do the effects survive?",
                f"{analysis['description']} ".lstrip() + f"Each effect ({FORM[analysis['kind']]}) with its 95 % interval on "
                f"{analysis['rows']['real']:,} real and {analysis['rows']['synthetic']:,} synthetic rows"
                f"{_left_out(analysis)}. Dots of a pair on the same side of 0 agree; the more their intervals overlap, the "
                "better. Intervals on synthetic rows are too narrow: they take them for people.",
                data,
                {
                    "showlegend": True,
                    "legend": LEGEND,
                    "xaxis": {"title": {"text": FORM[analysis["kind"]]}, "zeroline": True, "zerolinewidth": 1.6},
                    "yaxis": {"tickvals": list(range(len(names))), "ticktext": names, "automargin": True,
                              "range": [len(names) - 0.5, -0.5], "zeroline": False},
                    "margin": {"l": 20, "r": 12, "t": 36, "b": 44},
                },
                130 + 34 * len(names),
            )
        )  # fmt: skip
    return found


def _left_out(analysis: Mapping[str, Any]) -> str:
    left = analysis["left_out"]
    if not left["real"] and not left["synthetic"]:
        return ""
    return f" ({left['real']:,} and {left['synthetic']:,} rows with a missing cell are left out)"


def survival(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Kaplan-Meier curves of real and synthetic people with the real one's band."""
    found = []
    for i, curve in enumerate(details.get("survival") or []):
        steps = {"shape": "hv"}
        data = [
            {"type": "scatter", "mode": "lines", "x": curve["time"], "y": curve["lo"], "hoverinfo": "skip",
             "line": {"width": 0, **steps}, "showlegend": False},
            {"type": "scatter", "mode": "lines", "x": curve["time"], "y": curve["hi"], "hoverinfo": "skip",
             "fill": "tonexty", "fillcolor": "rgba(0,158,115,0.18)", "line": {"width": 0, **steps}, "showlegend": False},
            {"type": "scatter", "mode": "lines", "x": curve["time"], "y": curve["real"], "name": "real", "showlegend": True,
             "line": {"color": TRAINED_ON_REAL, "width": 2.4, "dash": "dot", **steps},
             "hovertemplate": "%{x}<br>alive %{y:.1%}<extra>real</extra>"},
            {"type": "scatter", "mode": "lines", "x": curve["time"], "y": curve["synthetic"], "name": "synthetic",
             "showlegend": True, "line": {"color": SYNTHETIC, "width": 2.4, **steps},
             "hovertemplate": "%{x}<br>alive %{y:.1%}<extra>synthetic</extra>"},
        ]  # fmt: skip
        group = f", {curve['group']}" if curve["group"] else ""
        found.append(
            figure(
                f"survival-{i}",
                f"{curve['analysis']}{group}: survival",
                "Share of people still free of the event (Kaplan-Meier), with the 95 % band of the real holdout people. A "
                "synthetic line inside the band cannot be told from real people there. Between two steps at least 11 real people "
                "have the event.",
                data,
                {
                    "showlegend": True,
                    "legend": LEGEND,
                    "xaxis": {"title": {"text": "time of follow-up"}, "rangemode": "tozero"},
                    "yaxis": {"title": {"text": "free of the event"}, "tickformat": ".0%", "range": [0, 1.02]},
                    "margin": {"l": 52, "r": 12, "t": 36, "b": 44},
                },
            )
        )
    return found


def false_positives(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """How often naive tests on synthetic rows find what is not there, for 1, 2 and 5 times as many rows."""
    rows = details.get("false_positives") or []
    if not rows:
        return []
    ratio = next((r for r in results if r.metric == "util.inference.variance_ratio" and r.replicate == -1), None)
    caption = (
        "Share of effects for which a test that takes synthetic rows for people finds them different from people outside "
        "training. Each is a false positive, for both stand for one population. Real people would give the last column; the "
        "more synthetic rows an analyst draws, the surer of wrong results he is."
    )
    if ratio is not None and ratio.value is not None and ratio.note:
        caption += f" Here {ratio.note}."
    return [
        table(
            "false-positives",
            "False positives of an analyst who takes synthetic rows for people",
            caption,
            ["synthetic rows, times the training rows", "false positives", "effects", "real people would give"],
            [[r["rows"], r["share"], r["effects"], r["null"]] for r in rows],
        )
    ]


def task_table(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """Every figure of every task's headline model, trained on synthetic and on real rows."""
    names = {
        "util.auprc": "AUPRC", "util.accuracy": "accuracy", "util.balanced_accuracy": "balanced accuracy",
        "util.precision": "precision", "util.recall": "recall", "util.f1": "F1", "util.macro_f1": "F1, mean of classes",
        "util.brier": "Brier score", "util.calibration_slope": "calibration slope",
        "util.calibration_intercept": "calibration in the large", "util.ece": "calibration error",
    }  # fmt: skip
    pooled = {(r.metric, r.key1, r.key2): r for r in results if r.replicate == -1 and r.metric in names}
    rows: list[list[Any]] = []
    for task in tasks_of(results):
        for metric, title in names.items():
            made, real = pooled.get((metric, task, "")), pooled.get((metric, task, "trtr"))
            if made is not None and real is not None and (made.value is not None or real.value is not None):
                rows.append([task, title, made.value, made.ci_lo, made.ci_hi, real.value, made.null_value])
    if not rows:
        return []
    caption = (
        "On real holdout people, with 95 % intervals. The threshold of accuracy, precision, recall and F1 is the one that "
        "maximises F1 out of fold on the rows that the model was trained on. A calibration slope of 1 and 0 in the large are "
        "right; Brier score and calibration error are better when low, all else when high. The last column is what "
        "predictions without any skill (of calibration: right ones) give."
    )
    columns = ["task", "figure", "trained on synthetic", "from", "to", "trained on real", "without skill"]
    return [table("tasks", "Tasks: all figures", caption, columns, rows)]


FIGURES: tuple[Draw, ...] = (dumbbells, task_curves, rankings, feature_ranks, forests, survival)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = (task_table, false_positives)
