"""What tests of images share."""

from . import images
from .cases import MoveCase


class ImageCase(MoveCase):
    """Hosts without a destination agent: none is needed."""

    AGENTS = ()

    def setUp(self):
        super().setUp()
        self.images = self.folder / "images"
        self.images.mkdir()

    def save(self, moved, name, *extra):
        """A checkpoint that must work."""
        run = images.checkpoint(moved.host, moved.pid, self.images / name, *extra)
        self.assertEqual(run.code, 0, str(run))
        self.assertEqual(run.report["state"], "Completed", str(run))
        verified = images.look("images", "verify", self.images / name)
        self.assertEqual(verified.returncode, 0, verified.stderr)
        return run

    def bring_back(self, moved, host, name, *extra):
        """A restore that must work."""
        run = images.restore_moved(moved, host, self.images / name, *extra)
        self.assertEqual(run.code, 0, str(run))
        return run
