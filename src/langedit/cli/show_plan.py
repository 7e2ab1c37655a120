"""What the user reads of a plan."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from langedit.editing.planning import (
    MAP_FILE,
    Choice,
    MemoryPlan,
    Quantisation,
    Rates,
    device_map,
)


def show_plan(
    plan: MemoryPlan,
    asked: Choice,
    rates: Rates,
    *,
    limit: int | None,
    advice: tuple[Choice, MemoryPlan] | None,
    measured_on: str | None,
    quantised: Quantisation | None = None,
) -> None:
    """Print a table of stages, what is largest in the worst one, and what to do about it."""
    console = Console()
    console.print(stage_table(plan, rates))
    for line in summary(
        plan, asked, limit=limit, advice=advice, measured_on=measured_on, quantised=quantised
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def stage_table(plan: MemoryPlan, rates: Rates) -> Table:
    """One row a stage: memory where the model computes, main memory beside it, time."""
    table = Table(title="A run, stage by stage")
    table.add_column("stage")
    columns = ("memory", "largest part", "time") if plan.cpu else (
        "device memory", "largest part", "main memory", "time"
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "largest part" else "right")
    for stage in plan.stages:
        parts = {**stage.device, **(stage.host if plan.cpu else {})}
        name = max(parts, key=lambda part: parts[part])
        cells = [gigabytes(stage.bytes(shared=plan.cpu)), f"{name} {gigabytes(parts[name])}"]
        if not plan.cpu:
            cells.append(gigabytes(sum(stage.host.values())))
        table.add_row(stage.name, *cells, duration(rates.seconds(stage)))
    return table


def summary(
    plan: MemoryPlan,
    asked: Choice,
    *,
    limit: int | None,
    advice: tuple[Choice, MemoryPlan] | None,
    measured_on: str | None,
    quantised: Quantisation | None = None,
) -> list[str]:
    """Lines under the table."""
    peak = plan.peak_stage
    parts = sorted(peak.device.items(), key=lambda part: -part[1])
    named = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts if size)
    precision = str(asked.dtype).removeprefix("torch.")
    products = asked.dtype if quantised is None else quantised.products(asked.dtype)
    stored = precision if quantised is None else f"{quantised.name}, the rest as {precision}"
    lines = [
        f"{plan.parameters:,} parameters, {gigabytes(plan.stored)} as {stored}; "
        f"{asked.work.edits:,} edits in {asked.work.batches} batches.",
        f"Peak {gigabytes(plan.peak)} at {peak.name}: {named}.",
        "Times are arithmetic at "
        + (
            "the rate given, float64 at a 16th and eigendecompositions at a 640th of it"
            if measured_on is None
            else f"the rates measured on this {measured_on}, matrix products in "
            f"{str(products).removeprefix('torch.')}"
        )
        + "; reading, writing and scoring come on top.",
    ]
    if asked.config.null_share is None and asked.config.null_threshold is not None:
        lines.append("null_threshold needs real moments: half of the directions is assumed open.")
    if limit is None:
        return lines
    if plan.peak <= limit:
        return [*lines, f"It fits into {gigabytes(limit)}."]
    late = [stage.name for stage in plan.stages if stage.bytes(shared=plan.cpu) > limit]
    lines.append(f"It does not fit into {gigabytes(limit)}: {', '.join(late)}.")
    if advice is None:
        return [*lines, "No option makes it fit: edit fewer layers, or take larger devices."]
    choice, other = advice
    each = " on each device" if choice.cards > 1 else ""
    lines.append(f"It fits with {', '.join(choice.changes)}: peak {gigabytes(other.peak)}{each}.")
    placed = device_map(choice, other, limit)
    return lines if placed is None else [*lines, f"{MAP_FILE}: {json.dumps(placed)}"]


def gigabytes(size: float) -> str:
    """Bytes for people: `16.1 GB`, `640 MB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
