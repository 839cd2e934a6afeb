"""Every command of every program explains itself: --help, with an example that is right."""

import platform
import re
import subprocess
import unittest

from harness import program

# What each program must at least have; commands beyond these are found by themselves.
COMMANDS = {
    "migrate": {(), ("check",), ("states",), ("recover",), ("keys",), ("keys", "init"),
                ("keys", "issue"), ("checkpoint",), ("restore",), ("images", "verify"),
                ("images", "list"), ("images", "merge"), ("inspect",), ("core",)},
    "dest-agent": {(), ("restore",)},
    "page-server": {()},
}


def help_of(name, *words):
    """What a command says about itself."""
    return subprocess.run([program(name), *words, "--help"], text=True, capture_output=True,
                          timeout=10)


def commands_below(name, *words):
    """The command itself and all below it, as its own help tells them."""
    yield words
    _, _, listed = help_of(name, *words).stdout.partition("Subcommands:\n")
    for found in re.findall(r"^  (\w[\w-]*) ", listed.split("\n\n")[0], re.M):
        yield from commands_below(name, *words, found)


class HelpTest(unittest.TestCase):
    """--help of all that can be typed."""

    def test_every_command_is_found(self):
        """The walk sees what there is."""
        for name, least in COMMANDS.items():
            self.assertLessEqual(least, set(commands_below(name)), name)

    def test_every_command_has_an_example(self):
        """Exit code 0, on standard output, with an example of that very command."""
        for name in COMMANDS:
            for words in commands_below(name):
                with self.subTest(" ".join([name, *words])):
                    done = help_of(name, *words)
                    self.assertEqual(done.returncode, 0, done.stderr)
                    self.assertEqual(done.stderr, "")
                    self.assertIn("Example", done.stdout)
                    self.assertTrue(self.examples(name, words, done.stdout), done.stdout)
                    self.assertLessEqual(max(map(len, done.stdout.splitlines())), 110)

    def test_examples_are_understood(self):
        """Every option of an example is one of the command that it calls."""
        for name in COMMANDS:
            commands = sorted(commands_below(name), key=len, reverse=True)
            for words in commands:
                for example in self.examples(name, words, help_of(name, *words).stdout):
                    called = next(each for each in commands
                                  if example.split()[:1 + len(each)] == [name, *each])
                    text = help_of(name, *called).stdout
                    with self.subTest(example):
                        for option in re.findall(r"(?<= )--?[a-z-]+", example.split("|")[0]):
                            self.assertRegex(text, rf"(?m)^  [-\w,]*{option}\b", example)

    @staticmethod
    def examples(name, words, text):
        """The lines of examples that call this command."""
        lines = [line.strip() for line in text.partition("Example")[2].splitlines()]
        return [line for line in lines
                if line.split()[:1 + len(words)] == [name, *words]]

    def test_version(self):
        """Each says which program of which version it is, for which processor."""
        for name in COMMANDS:
            done = subprocess.run([program(name), "--version"], text=True, capture_output=True,
                                  timeout=10)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stdout, rf"^{name} \d+\.\d+\.\d+ \({platform.machine()}\)\n$")

    def test_wrong_usage(self):
        """It is explained on standard error, with an exit code that is not 0."""
        for name in COMMANDS:
            done = subprocess.run([program(name), "--nonsense"], text=True, capture_output=True,
                                  timeout=10)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("--help", done.stderr, name)
            self.assertEqual(done.stdout, "")


if __name__ == "__main__":
    unittest.main(verbosity=2)
