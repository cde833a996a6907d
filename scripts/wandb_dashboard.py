"""Make the W&B dashboard and report of a project, or of one sweep: Pareto front, tokens by layer, method × budget.

    python scripts/wandb_dashboard.py --entity TEAM --project saintprune
    python scripts/wandb_dashboard.py --entity TEAM --group 2026-11-22/14-02-11      one sweep
    python scripts/wandb_dashboard.py --dry-run                                      show what would be made

Needs the extra `dashboards`. The runs are those of `logger=wandb`; offline ones are synced first: wandb sync DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from saintprune.errors import SaintpruneError
from saintprune.reporting.loggers import key_present

METHOD, TARGET = "method", "target"  # in the runs' configs
LEGEND = f"${{config:{METHOD}}} ${{config:{TARGET}}}"
ACROSS = {"delta/speedup": "speed-up over unpruned", "delta/gflops_ratio": "share of the unpruned FLOPs"}
UP = {"pruned/accuracy": "accuracy", "agreement": "same answer as unpruned"}
TOKENS = ("tokens", "image_tokens", "tower_tokens")


def main(arguments: list[str] | None = None) -> int:
    """Make or show the dashboard and the report; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("--entity", default="", help="user or team; the default is that of the key")
    parser.add_argument("--project", default="saintprune", help="of the runs (saintprune)")
    parser.add_argument("--group", help="only the runs of this sweep; the default is all of the project")
    parser.add_argument("--dry-run", action="store_true", help="print both as JSON, and reach for nothing")
    chosen = parser.parse_args(arguments)
    try:
        if not (chosen.dry_run or key_present()):
            raise SaintpruneError("no W&B key: set WANDB_API_KEY or run `wandb login`, or look with --dry-run")
        entity = chosen.entity if chosen.entity or chosen.dry_run else default_entity()
        made = {
            "dashboard": dashboard(entity, chosen.project, chosen.group),
            "report": report(entity, chosen.project, chosen.group),
        }
        if chosen.dry_run:
            print(json.dumps({name: specification(one) for name, one in made.items()}, indent=2))
            return 0
        for name, one in made.items():
            print(f"{name}: {saved(one)}")
    except SaintpruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def dashboard(entity: str, project: str, group: str | None) -> Any:
    """Return the workspace; nothing is sent.

    Raises:
        SaintpruneError: wandb-workspaces is not installed.
    """
    ws, _, expr = libraries()
    settings = ws.RunsetSettings(
        filters=expr.And(expr.Metric("Group") == group) if group else "",
        pinned_columns=[f"config:{METHOD}", f"config:{TARGET}", *(f"summary:{name}" for name in (*UP, *ACROSS))],
    )
    return ws.Workspace(
        entity=entity,
        project=project,
        name=title(group),
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections().items()],
        runset_settings=settings,
    )


def report(entity: str, project: str, group: str | None) -> Any:
    """Return the report; nothing is sent.

    Raises:
        SaintpruneError: wandb-workspaces is not installed.
    """
    _, wr, expr = libraries()
    runs = wr.Runset(  # of the report's own project; naming it would ask the server for its number
        name="runs",
        filters=expr.And(expr.Metric("Group") == group) if group else "",
        groupby=[f"config.{METHOD}", f"config.{TARGET}"],
    )
    blocks: list[Any] = [
        wr.TableOfContents(),
        wr.P("Unpruned and pruned networks side by side. Each run holds its record as an artifact; no figure stands"
             " here that no record holds."),
    ]  # fmt: skip
    for name, panels in sections().items():
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(entity=entity, project=project, title=title(group), blocks=blocks, width="fluid")


def sections() -> dict[str, list[Any]]:
    """Return name -> panels; the dashboard and the report show the same."""
    _, wr, _ = libraries()
    front = [
        wr.ScatterPlot(
            title=f"{y_title} against {x_title}",
            x=wr.SummaryMetric(x),
            y=wr.SummaryMetric(y),
            legend_template=LEGEND,
        )
        for y, y_title in UP.items()
        for x, x_title in ACROSS.items()
    ]
    layers = [
        wr.LinePlot(title=f"{kind.replace('_', ' ')} that leave each layer", x="tokens/layer", title_x="layer",
                    y=[f"tokens/{kind}_unpruned", f"tokens/{kind}_pruned"], smoothing_factor=0)
        for kind in TOKENS
    ]  # fmt: skip
    cells = [
        wr.BarPlot(title=f"{name} by method and budget", metrics=[wr.SummaryMetric(metric)], legend_template=LEGEND)
        for metric, name in {**UP, "delta/speedup": "speed-up"}.items()
    ]
    budgets = wr.ParallelCoordinatesPlot(
        title="method × budget",
        columns=[
            wr.ParallelCoordinatesPlotColumn(metric=metric)
            for metric in (wr.Config(METHOD), wr.Config(TARGET), *map(wr.SummaryMetric, (*ACROSS, *UP)))
        ],
    )
    return {
        "Pareto front": front,
        "Tokens by layer": layers,
        "Method × budget": [budgets, *cells, wr.WeavePanelSummaryTable(table_name="comparison")],
        "Patches that survive": [
            wr.MediaBrowser(media_keys=["pictures/survivors_vision", "pictures/survivors_language"])
        ],
    }


def title(group: str | None) -> str:
    """Return what both are called."""
    return "Token pruning" + (f": {group}" if group else "")


def specification(made: Any) -> Any:
    """Return what would be sent, as plain data."""
    return json.loads(made._to_model().model_dump_json(by_alias=True, exclude_none=True))


def saved(made: Any) -> str:
    """Send a dashboard or report, and return its address.

    Raises:
        SaintpruneError: the server refused, or cannot be reached.
    """
    return reached(lambda: str(made.save().url))


def default_entity() -> str:
    """Return the user or team that the key belongs to.

    Raises:
        SaintpruneError: the server refused, or cannot be reached.
    """
    import wandb

    return reached(lambda: wandb.Api().default_entity)


def reached(action: Callable[[], Any]) -> Any:
    """Do what needs the server."""
    try:
        return action()
    except Exception as error:  # wandb has one for each layer below it
        reason = next(iter(str(error).splitlines()), "")
        raise SaintpruneError(f"W&B did not answer as it should: {type(error).__name__}: {reason}") from error


def libraries() -> tuple[Any, Any, Any]:
    """Return the modules for workspaces, for reports and for filters.

    Raises:
        SaintpruneError: wandb-workspaces is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of pydantic, about what is not ours
            import wandb_workspaces.reports.v2 as wr
            import wandb_workspaces.workspaces as ws
            from wandb_workspaces import expr
    except ModuleNotFoundError as error:
        raise SaintpruneError("dashboards need wandb-workspaces: pip install 'saintprune[dashboards]'") from error
    return ws, wr, expr


if __name__ == "__main__":
    os.environ.setdefault("WANDB_QUIET", "true")
    sys.exit(main())
