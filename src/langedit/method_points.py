"""Where each method is, by name; nothing of torch is imported, so that the command line can ask."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

GROUP = "langedit.methods"
"""Entry point group in which a plug-in names its `Method` classes."""

BUILT_IN = tuple(
    EntryPoint(name=name, value=f"langedit.editing.methods.{value}", group=GROUP)
    for name, value in (
        ("langedit", "langedit:LangEdit"),
        ("alphaedit", "alphaedit:AlphaEdit"),
        ("memit", "memit:Memit"),
        ("memit-seq", "memit_seq:MemitSeq"),
        ("rome", "rome:Rome"),
        ("rect", "rect:Rect"),
        ("prune", "prune:Prune"),
        ("ft", "fine_tuning:FineTuning"),
        ("ft-l", "fine_tuning:ConstrainedFineTuning"),
    )
)


def method_points() -> tuple[EntryPoint, ...]:
    """All methods, ours first. Plug-ins are looked up at each call, not loaded."""
    return (*BUILT_IN, *entry_points(group=GROUP))


def method_names() -> tuple[str, ...]:
    """Names of all methods, ours first."""
    return tuple(point.name for point in method_points())
