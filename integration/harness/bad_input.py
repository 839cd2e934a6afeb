"""The base of cases about what is wrong from the beginning or comes in from outside."""

from .cases import MoveCase


class BadInputCase(MoveCase):
    """A small workload that nothing of this may disturb."""

    AGENTS = ("b",)

    def setUp(self):
        super().setUp()
        self.moved = self.workload("memory_checker", "8", "1", "100")

    def assert_untouched(self):
        """It runs on host a, passes, and nothing was left on either host."""
        self.assert_nothing_left(running=(self.moved,))
        self.assert_passes(self.moved)

    def assert_refused(self, run, *words):
        """Exit code 2, and every word among the ids or in what was said."""
        self.assertEqual(run.code, 2, f"{run}\n{self.agent_logs()}")
        said = (" ".join(run.finding_ids()) + " " + run.said).lower()
        for word in words:
            self.assertIn(word.lower(), said, str(run))

    def assert_serves(self):
        """The daemon takes a migration: the workload moves and passes there."""
        self.assert_moved(self.moved.move(self.b))
        self.assert_passes(self.moved)
        self.assert_nothing_left(service_on=None)
