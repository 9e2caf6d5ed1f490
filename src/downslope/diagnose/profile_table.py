"""A profile as it looks in a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from downslope.diagnose.profile import LayerTime, Memory, PartTime, Profile, WhatIf, left_out
from downslope.drawing import Console, Group, RenderableType, Table, Text
from downslope.words import many

WIDTH = 78
COLOURS = {
    "data": "bright_black",
    "forward": "blue",
    "backward": "cyan",
    "exchange": "magenta",
    "muon": "green",
    "adamw": "yellow",
}
OTHERS = ("red", "bright_blue", "bright_magenta", "white")
WORDS = {
    "zero_grad": "zero_grad",
    "check": "check of the gradients",
    "optimizer": "optimizer, the rest",
    "between parts": "between the parts",
}
MOST_LAYERS = 12


def text(profile: Profile, width: int = 80) -> str:
    """Return the profile as plain text."""
    console = Console(file=StringIO(), width=width, highlight=False)
    console.print(shown(profile))
    return str(console.file.getvalue()).rstrip()  # type: ignore[attr-defined]


def shown(profile: Profile) -> RenderableType:
    """Return everything a terminal shows of a profile."""
    pieces: list[RenderableType] = [Text(headline(profile), style="bold"), bar(profile), Text()]
    pieces += [parts_table(profile), Text(footnote(profile), style="dim")]
    if profile.versus is not None:
        pieces += [Text(), Text(versus(profile), style="bold"), bar(profile.versus)]
    if profile.layers:
        pieces += [Text(), layers_table(profile.layers)]
    if profile.memory is not None:
        pieces += [Text(), memory_table(profile.memory)]
    if profile.what_ifs:
        pieces += [Text(), what_if_lines(profile.what_ifs)]
        if note := left_out([w.name for w in profile.what_ifs]):
            pieces += [Text(note, style="dim")]
    return Group(*pieces)


def heads(parts: Sequence[PartTime]) -> list[tuple[str, float, list[PartTime]]]:
    """Return (name, share, parts inside) of the outermost parts, in order."""
    found: dict[str, list[PartTime]] = {}
    for part in parts:
        found.setdefault(part.path[0], []).append(part)
    return [(name, sum(p.share for p in own), own) for name, own in found.items()]


def headline(profile: Profile) -> str:
    """Return the answer in a sentence.

    >>> step = PartTime(("muon", "orthogonalise"), 7.6, 0.76), PartTime(("forward",), 2.4, 0.24)
    >>> headline(Profile("digits", "Muon", "cpu", 1, 100, 9, 10.0, 9.9, 10.2, step, 1.0, 0.0))
    'digits with Muon: 10.0 ms a step; muon is 76 % of it, most of that orthogonalise'

    """
    name, share, own = max(heads(profile.parts), key=lambda head: head[1])
    inner = max(own, key=lambda part: part.share)
    most = f", most of that {inner.name}" if len(inner.path) > 1 and inner.share > share / 2 else ""
    time = milliseconds(profile.milliseconds)
    said = WORDS.get(name, name)
    step = f"{profile.name} with {profile.optimizer}: {time} ms a step"
    return f"{step}; {said} is {percent(share)} of it{most}"


def bar(profile: Profile) -> RenderableType:
    """Return the step as one bar with a legend of the parts of 1 % and more."""
    line, marked = Text(), []
    others = iter(OTHERS)
    rest = 0.0
    for name, share, own in heads(profile.parts):
        if share < 0.01 and name not in ("data", "forward", "backward"):
            rest += share
            continue
        colour = COLOURS.get(name) or next(others, "white")
        line.append("█" * max(1, round(WIDTH * share)), style=colour)
        inner = [p.name for p in sorted(own, key=lambda p: -p.share) if len(p.path) > 1 and p.share >= 0.01]
        marked.append(Text.assemble(("■ ", colour), f"{name} {100 * share:.0f}"))
        if inner:
            marked[-1].append(f" ({', '.join(inner)})")
    if rest:
        marked.append(Text.assemble(("■ ", "dim"), f"rest {100 * rest:.0f}"))
    line.truncate(WIDTH)
    return Group(line, *_in_lines(marked))


def _in_lines(pieces: Sequence[Text], between: int = 2) -> list[Text]:
    """Return pieces beside each other in as many lines as they take, each of them whole."""
    lines: list[Text] = []
    for piece in pieces:
        if lines and lines[-1].cell_len + between + piece.cell_len <= WIDTH:
            lines[-1].append(" " * between).append_text(piece)
        else:
            lines.append(piece.copy())
    return lines


def parts_table(profile: Profile) -> Table:
    """Return the parts with milliseconds and shares."""
    table = _table(("part", "left"), ("ms", "right"), ("share", "right"))
    for name, share, own in heads(profile.parts):
        whole = sum(p.milliseconds for p in own)
        table.add_row(WORDS.get(name, name), milliseconds(whole), percent(share))
        if len(own) > 1:
            for part in own:
                said = part.name if len(part.path) > 1 else "the rest"
                table.add_row(f"  {said}", milliseconds(part.milliseconds), percent(part.share), style="dim")
    return table


def footnote(profile: Profile) -> str:
    """Return how it was measured, and what measuring cost."""
    busy = ""
    if abs(profile.closure - 1) > 0.05:
        busy = " That is more than 5 % apart: the machine was busy, or the marks cost that much."
    threads = many(profile.threads, "thread")
    return (
        f"{profile.device}, {threads}, {many(profile.parameters, 'parameter')}. Windows from "
        f"{milliseconds(profile.low)} to {milliseconds(profile.high)} ms a step. The parts of "
        f"{profile.steps} synchronised steps add up to {100 * profile.closure:.1f} % of that step; "
        f"measuring them took {100 * profile.overhead:+.1f} % of time.{busy}"
    )


def versus(profile: Profile) -> str:
    """Return the comparison with the other optimizer in a sentence."""
    other = profile.versus
    assert other is not None
    ratio = profile.versus_ratio or profile.milliseconds / other.milliseconds
    word = "slower" if ratio >= 1 else "faster"
    times = ratio if ratio >= 1 else 1 / ratio
    return (
        f"{profile.name} with {other.optimizer}: {milliseconds(other.milliseconds)} ms a step; "
        f"{profile.optimizer} is {times:.2f} times {word}"
    )


def layers_table(layers: Sequence[LayerTime]) -> Table:
    """Return the slowest layers."""
    ordered = sorted(layers, key=lambda x: -(x.forward + x.backward))
    table = _table(("layer", "left"), ("", "left"), ("forward ms", "right"), ("backward ms", "right"))
    for x in ordered[:MOST_LAYERS]:
        table.add_row(
            Text(x.name, overflow="fold"), x.kind, milliseconds(x.forward), milliseconds(x.backward)
        )
    if rest := ordered[MOST_LAYERS:]:
        sums = [milliseconds(sum(getattr(x, k) for x in rest)) for k in ("forward", "backward")]
        table.add_row(f"{len(rest)} more", "", *sums, style="dim")
    return table


def memory_table(memory: Memory) -> Table:
    """Return what the memory holds."""
    table = _table(("memory", "left"), ("", "right"))
    for name in ("parameters", "buffers", "gradients", "state", "activations"):
        table.add_row(name, size(getattr(memory, name)))
    table.add_row(f"peak, in {memory.peak_in}", size(memory.peak), style="bold")
    return table


def what_if_lines(tried: Sequence[WhatIf]) -> Text:
    """Return the changes that were tried, one a line, each with its price beneath it."""
    lines = Text("what if\n", style="dim")
    for w in tried:
        if w.ratio is None or w.before is None or w.after is None:
            lines.append(Text(f"{w.change}: {w.note}\n", style="not dim"))
            continue
        times = f"{milliseconds(w.after)} ms instead of {milliseconds(w.before)}"
        lines.append(Text(f"{w.change}: {1 / w.ratio:.2f} × as fast, {times}\n", style="not dim"))
        if w.note:
            lines.append(f"  {w.note}\n")
    lines.rstrip()
    return lines


def milliseconds(value: float) -> str:
    """Return milliseconds to three digits, small ones to a hundredth.

    >>> milliseconds(0.0123), milliseconds(12.34), milliseconds(1234.5)
    ('0.01', '12.3', '1,234')

    """
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def percent(share: float) -> str:
    """Return a share in percent.

    >>> percent(0.004), percent(0.76)
    ('0.4 %', '76 %')

    """
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def size(count: int) -> str:
    """Return bytes as people read them.

    >>> size(512), size(407592), size(3 << 30)
    ('512 B', '398 KiB', '3.00 GiB')

    """
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1024, units[1:]
    if units[0] == "B":
        return f"{count} B"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {units[0]}"


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head, side in columns:
        table.add_column(head, justify="right" if side == "right" else "left", overflow="fold")
    return table
