"""A report as it looks in a terminal."""

from __future__ import annotations

from downslope.drawing import Console, Padding, Table, Text
from downslope.gradients.check.result import Finding, GradientReport, Verdict
from downslope.gradients.check.words import short

STYLES = {Verdict.PASS: "bold green", Verdict.FAIL: "bold red", Verdict.INCONCLUSIVE: "bold yellow"}
SHOWN = 20


def show(report: GradientReport, console: Console) -> None:
    """Print a report: verdict, wrong entries as a table, what kept it from deciding, what was covered."""
    console.print(Text(report.verdict.name, STYLES[report.verdict]) + Text(f"  {report.headline}", "bold"))
    if report.findings:
        console.print(Padding(_findings(report), (0, 0, 0, 2), expand=False))
        for f in report.findings[:SHOWN]:
            said = "; ".join(part for part in (f.where if f.entries > 1 else "", f.hint) if part)
            if said:
                console.print(Padding(Text(f"{f.name}: {said}"), (0, 0, 0, 2)))
        if len(report.findings) > SHOWN:
            console.print(f"  and {len(report.findings) - SHOWN} more (--json lists them)", highlight=False)
    if not report.complete:
        console.print("  More entries may be wrong than are listed.")
    for said in report.reasons:
        console.print(Padding(Text(said), (0, 0, 0, 2)))
    if report.coverage is not None:
        console.print(Padding(Text(f"Covered: {report.coverage}.", "dim"), (0, 0, 0, 2)))
    for note in report.notes:
        console.print(Padding(Text(f"Note: {note}", "dim"), (0, 0, 0, 2)))
    console.print(Text(f"  {report.evaluations:,} evaluations, {short(report.seconds)} s.", "dim"))


def _findings(report: GradientReport) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("entry", overflow="fold")
    for head in ("analytic", "numeric", "±", "ratio"):
        table.add_column(head, justify="right", no_wrap=True)
    for f in report.findings[:SHOWN]:
        table.add_row(Text(f.name), *cells(f))
    return table


def cells(f: Finding) -> tuple[str, str, str, str]:
    """Return claimed, measured, error and ratio as they are shown."""
    return f"{f.analytic:.6g}", f"{f.numeric:.6g}", f"{f.error:.0e}", f.ratio_text
