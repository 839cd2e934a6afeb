"""Figures of several runs: smallest, median and largest, as numbers and as a table."""

import statistics


def spread(values: list) -> dict:
    """min, median and max; a value that is not known (None) is left out."""
    known = [value for value in values if value is not None]
    if not known:
        return {"min": None, "median": None, "max": None}
    return {"min": min(known), "median": statistics.median(known), "max": max(known)}


def summary_of(runs: list[dict], names: tuple[str, ...]) -> dict:
    """The spread of each figure over the runs."""
    return {name: spread([run.get(name) for run in runs]) for name in names}


def median_phases(runs: list[dict]) -> dict[str, float]:
    """The median of each part of the blackout, in their order; 0 in a run that did not have it."""
    names: dict[str, None] = {}
    for run in runs:
        names |= dict.fromkeys(run.get("blackout_phases_ms") or {})
    return {name: round(statistics.median((run.get("blackout_phases_ms") or {}).get(name, 0)
                                          for run in runs), 3) for name in names}


def print_summary(summary: dict) -> None:
    """One line for each figure."""
    print(f"\n{'':<28}{'min':>10}{'median':>10}{'max':>10}")
    for name, values in summary.items():
        if values["median"] is not None:
            print(f"{name:<28}" + "".join(f"{values[key]:>10.2f}"
                                          for key in ("min", "median", "max")))


def print_phases(phases: dict[str, float], blackout_ms: float) -> None:
    """What the blackout is spent on: medians, which need not add up to the median of the sum."""
    print(f"\n{'blackout by phase':<28}{'median ms':>10}{'share':>10}")
    for name, ms in phases.items():
        print(f"  {name:<26}{ms:>10.2f}{100 * ms / (blackout_ms or 1):>9.0f}%")


def phases_line(phases: dict[str, float], least_ms: float = 0.05) -> str:
    """The phases that matter, the longest first."""
    ordered = sorted(phases.items(), key=lambda phase: -phase[1])
    return ", ".join(f"{name} {ms:.2f}" for name, ms in ordered if ms >= least_ms)
