"""A profile as a chapter: where a step's time and memory go, layer by layer, and what would change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from downslope.diagnose.profile import left_out
from downslope.report.numbers import column, count, counted, number
from downslope.report.parts import (
    Cell,
    Chapter,
    Code,
    Column,
    Facts,
    Fold,
    Note,
    Part,
    Section,
    Share,
    Shares,
    Table,
)

WORDS = {
    "check": "check of the gradients",
    "optimizer": "optimizer, the rest",
    "between parts": "between the parts",
}
MOST_LAYERS = 15
BUSY = 0.05
"""How far the parts may be from the whole before the page says so."""


def chapter(profile: Mapping[str, Any]) -> Chapter:
    """Return the chapter of a profile, a dict as `downslope profile --json` prints it."""
    head, share = max(_heads(profile), key=lambda h: h[1])[:2]
    versus = profile.get("versus")
    sections = [_time(profile), _layers(profile), _memory(profile), _what_ifs(profile), _setup(profile)]
    return Chapter(
        name=f"{profile['name']}, {profile['optimizer']}",
        headline=f"{number(profile['milliseconds'])} ms a step:",
        evidence=f"{_word(head)} is {100 * share:.0f}\N{NO-BREAK SPACE}% of it.{_against(profile, versus)}",
        eyebrow=[
            str(profile["name"]),
            f"profile of {profile['optimizer']}",
            str(profile["device"]),
            counted(profile["threads"], "thread"),
            f"{count(profile['parameters'])} parameters",
        ],
        notes=_notes(profile),
        sections=[s for s in sections if s is not None],
    )


def _against(profile: Mapping[str, Any], versus: Mapping[str, Any] | None) -> str:
    if versus is None:
        return ""
    ratio = profile.get("versus_ratio") or 1.0
    times, word = (ratio, "slower") if ratio >= 1 else (1 / ratio, "faster")
    return f" {profile['optimizer']} is {times:.2f} times {word} than {versus['optimizer']}."


def _notes(profile: Mapping[str, Any]) -> list[Note]:
    if abs(profile["closure"] - 1) <= BUSY:
        return []
    return [
        Note(
            f"The parts add up to {100 * profile['closure']:.0f} % of a step: the machine was busy while it "
            "was measured, or parts overlap on the device. Read the shares with care.",
            "warning",
        )
    ]


def _heads(profile: Mapping[str, Any]) -> list[tuple[str, float, list[Mapping[str, Any]]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for part in profile["parts"]:
        found.setdefault(part["path"][0], []).append(part)
    return [(name, sum(p["share"] for p in own), own) for name, own in found.items()]


def _word(name: str) -> str:
    return WORDS.get(name, name)


def _shares(profile: Mapping[str, Any], label: str) -> Shares:
    pieces = [
        Share(
            _word(name), share, f"{100 * share:.{0 if share >= 0.0995 else 1}f} %", f"s{i}" if i < 8 else ""
        )
        for i, (name, share, _) in enumerate(_heads(profile))
    ]
    return Shares(label, pieces)


def _time(profile: Mapping[str, Any]) -> Section:
    cells = column([p["milliseconds"] for p in profile["parts"]], 2)
    texts = dict(zip(map(_key, profile["parts"]), cells, strict=True))
    rows = []
    for i, (name, share, own) in enumerate(_heads(profile)):
        whole = number(sum(p["milliseconds"] for p in own))
        only = texts[_key(own[0])] if len(own) == 1 else whole
        mark = i if i < 8 else None
        rows.append([Cell(_word(name), series=mark), Cell(only, tone="strong"), Cell(_percent(share))])
        for part in own if len(own) > 1 else ():
            inner = part["path"][-1] if len(part["path"]) > 1 else "the rest"
            rows.append(
                [Cell(f"\N{EM SPACE}{inner}"), Cell(texts[_key(part)]), Cell(_percent(part["share"]))]
            )
    label = f"{profile['name']} with {profile['optimizer']}"
    parts: list[Part] = [_shares(profile, label)]
    if profile.get("versus"):
        other = profile["versus"]
        said = f"{other['name']} with {other['optimizer']}, {number(other['milliseconds'])} ms a step"
        parts.append(_shares(other, said))
    heads = [Column("part"), Column("ms", "number"), Column("share", "number")]
    parts.append(Table("Parts of a step", heads, rows))
    caption = (
        f"The time of a step is the median of windows in which nothing was measured but their length "
        f"({number(profile['low'])} to {number(profile['high'])} ms). Its parts come from "
        f"{profile['steps']} steps, in turns with these, that waited for the device at every part; "
        f"they add up to {100 * profile['closure']:.1f} % of the step. "
        f"Measuring them took {100 * profile['overhead']:+.1f} % of time."
    )
    return Section("Where the time goes", parts, caption)


def _key(part: Mapping[str, Any]) -> str:
    return "/".join(part["path"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _layers(profile: Mapping[str, Any]) -> Section | None:
    layers = sorted(profile.get("layers") or [], key=lambda x: -(x["forward"] + x["backward"]))
    if not layers:
        return None
    parts: list[Part] = [_layer_table(layers[:MOST_LAYERS])]
    if rest := layers[MOST_LAYERS:]:
        parts.append(Fold(f"The other {len(rest)}", [_layer_table(rest)]))
    caption = "Slowest first, each without the layers inside it; medians of steps in which every layer waits."
    return Section("Layers, forward and backward", parts, caption, half=True)


def _layer_table(layers: Sequence[Mapping[str, Any]]) -> Table:
    forward, backward = (column([x[k] for x in layers], 2) for k in ("forward", "backward"))
    rows = [
        [Cell(x["name"], x["kind"]), Cell(f), Cell(b), Cell(count(x["parameters"]))]
        for x, f, b in zip(layers, forward, backward, strict=True)
    ]
    heads = [
        Column("layer", "code"),
        *(Column(h, "number") for h in ("forward ms", "backward ms", "parameters")),
    ]
    return Table("Layers", heads, rows)


def _memory(profile: Mapping[str, Any]) -> Section | None:
    memory = profile.get("memory")
    if not memory:
        return None
    names = ("parameters", "gradients", "state", "activations", "buffers")
    shares = Shares(
        "What a step holds",
        [Share(n, memory[n], _mebibytes(memory[n]), f"s{i}") for i, n in enumerate(names)],
    )
    rows = [[Cell(n), Cell(_mebibytes(memory[n]))] for n in names]
    rows.append([Cell(f"peak, in {memory['peak_in']}"), Cell(_mebibytes(memory["peak"]), tone="strong")])
    table = Table("Memory", [Column("of"), Column("MiB", "number")], rows, leads=(len(rows) - 1,))
    caption = (
        "Activations: what the forward pass keeps for the backward pass. Peak: the most held at a time, "
        "with what operations need for a moment."
    )
    return Section("Memory", [shares, table], caption, half=True)


def _mebibytes(size: int) -> str:
    return f"{number(size / 2**20)} MiB"


def _what_ifs(profile: Mapping[str, Any]) -> Section | None:
    tried = profile.get("what_ifs") or []
    if not tried:
        return None
    rows = []
    for w in tried:
        if w["ratio"] is None:
            rows.append([Cell(w["change"]), Cell("–"), Cell("–"), Cell("–"), Cell(w["note"], tone="quiet")])
            continue
        faster = w["ratio"] < 0.97
        rows.append(
            [
                Cell(w["change"]),
                Cell(number(w["after"])),
                Cell(number(w["before"])),
                Cell(f"{1 / w['ratio']:.2f} ×", tone="strong" if faster else ""),
                Cell(w["note"], tone="quiet"),
            ]
        )
    heads = [
        Column("change"),
        Column("ms a step", "number"),
        Column("instead of", "number"),
        Column("speed", "number"),
        Column("at what price"),
    ]
    caption = "Each change was tried on the same step, in turns with the step as it is. "
    caption += left_out([w["name"] for w in tried])
    return Section("What if", [Table("Changes that were tried", heads, rows)], caption)


def _setup(profile: Mapping[str, Any]) -> Section:
    environment = dict(profile.get("environment") or {})
    command = environment.pop("command", "")
    parts: list[Part] = [Code("Command", command)] if command else []
    facts = [(k, str(v)) for k, v in environment.items()]
    said = [
        ("device", str(profile["device"])),
        ("threads", str(profile["threads"])),
        ("steps", str(profile["steps"])),
    ]
    parts.append(Facts("How it was measured", [("Environment", [*said, *facts])]))
    return Section("How it was measured", parts)
