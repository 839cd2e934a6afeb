"""The report of many scenarios: scenario, kernels, blackout, pages, tracker, verdict."""

from dataclasses import dataclass

from .scenarios import Outcome

COLUMNS = ("scenario", "kernels", "blackout", "pages", "tracker", "verdict", "notes")


@dataclass
class Row:
    """One scenario between one pair of kernels."""

    scenario: str
    kernels: str
    outcome: Outcome | None = None
    failure: str | None = None
    seconds: float = 0

    @property
    def verdict(self) -> str:
        """One word."""
        return "FAIL" if self.failure else "PASS"

    def cells(self) -> tuple[str, ...]:
        """The texts of the columns."""
        outcome = self.outcome or Outcome()
        blackout = f"{outcome.blackout_ms:.0f} ms" if outcome.runs else "-"
        notes = self.failure.splitlines()[0][:80] if self.failure else outcome.notes
        return (self.scenario, self.kernels, blackout, str(outcome.pages or "-"),
                outcome.tracker or "-", self.verdict, notes)

    def line(self) -> str:
        """As it is told when it ends."""
        return f"{' | '.join(cell for cell in self.cells() if cell)} | {self.seconds:.0f} s"

    def as_json(self) -> dict:
        """Everything, with the reports of the moves."""
        outcome = self.outcome or Outcome()
        return dict(zip(COLUMNS, self.cells())) | {
            "seconds": self.seconds, "failure": self.failure,
            "reports": [run.report for run in outcome.runs]}


def markdown(rows: list[Row]) -> str:
    """All rows, with columns of equal width."""
    cells = [COLUMNS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |"
             for line in cells]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
