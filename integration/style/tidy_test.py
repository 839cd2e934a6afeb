"""The shape of the source tree: who may include whom, equal stems for each kind, sizes, words."""

import ast
import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500
CPP = (".cc", ".h")
CODE = (*CPP, ".S", ".py", ".sh", ".proto", ".cmake")

# A file under the first path may not include anything under the others. A file that matches
# several rows obeys all of them.
LAYERS = {
    "source-agent": ("dest-agent", "page-server", "integration"),
    "dest-agent": ("source-agent", "page-server", "integration"),
    "page-server": ("source-agent", "dest-agent", "integration"),
    "common": ("source-agent", "dest-agent", "page-server", "integration"),
    "common/base": ("common/kernel", "common/remote", "common/model", "common/wire",
                    "common/network", "common/tracking", "common/image", "arch", "proto"),
    "common/kernel": ("common/remote", "common/model", "common/wire", "common/network",
                      "common/tracking"),
    "common/image": ("common/kernel", "common/remote", "common/model", "common/network",
                     "common/tracking", "common/wire"),
    "arch": ("common", "proto", "source-agent", "dest-agent", "page-server", "integration"),
    "integration/workloads": ("common", "arch", "proto", "source-agent", "dest-agent",
                              "page-server"),
    "integration/clients": ("common", "arch", "proto", "source-agent", "dest-agent",
                            "page-server"),
}
# Tests of restore look at what they restored with the capture of the same kind.
LAYER_EXCEPTIONS = [
    (re.compile(r"dest-agent/.*_(test\.cc|fixture\.h)"), "source-agent/capture/"),
    (re.compile(r"common/.*_test\.cc"), "common/"),
]

# Kinds of object that are described; the other files in proto/ are conversations.
NOT_KINDS = {"addresses", "control", "image", "page_service", "recovery", "snapshot"}
# (kind, place): why there is no file of that stem. An entry that is not needed any more fails.
KIND_EXCEPTIONS = {
    ("task_identity", "restore"): "applied by the nursery: ids are given at clone3 and never changed",
    ("task_identity", "workload"): "every workload checks its ids at each turn (selfcheck.h)",
    ("fd_table", "workload"): "numbers, duplicates and flags are checked by the kinds of files",
    ("tcp_sockets", "workload"): "tcp_server: it needs clients outside, client_tcp_stream",
    ("udp_sockets", "workload"): "udp_server: it needs clients outside, client_udp",
}
PLACES = {
    "capture": ("source-agent/capture/{}.h", "source-agent/capture/{}.cc"),
    "restore": ("dest-agent/restore/{}.h", "dest-agent/restore/{}.cc"),
    "workload": ("integration/workloads/{}.cc",),
}

# Where the ids of refusals and warnings are made, and where operators look them up.
ID_MAKERS = ("source-agent/", "dest-agent/", "common/", "page-server/")
ID_TABLES = "docs/operations.md"
# Words with hyphens in the programs that are no ids. An entry that is not needed any more fails.
NOT_IDS = {
    "write-protect": "a tracker", "soft-dirty": "a tracker", "page-server": "a program",
    "dest-agent": "a program", "godwit-init": "a program", "godwit-pages": "a user",
    "godwit-source": "a role", "eventfd-count": "a line of fdinfo",
    "eventfd-id": "a line of fdinfo",
    "eventfd-semaphore": "a line of fdinfo",
}

# Patterns, in pieces, so that this file does not find itself.
FORBIDDEN = {
    r"\bTO" r"DO\b": "do it or refuse it by name",
    r"\bFIX" r"ME\b": "fix it",
    r"\bXX" r"X\b": "say what it is",
    r"/(work|root|home)/[a-z]": "a path of one machine",
    r"using namespace " r"std;": "name what is used",
}
# Only in the agents and what they share.
FORBIDDEN_IN_AGENTS = {
    r"throw std::runtime_" r"error": "throw Error: it says what failed, on which object, why",
    r"(?<![\w.>])abort" r"\(\)": "a tracee may be borrowed: throw",
}


def tracked_files():
    """Every file of the project, new ones included, ignored ones left out."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "--cached", "--others",
                             "--exclude-standard"], capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        names = listed.stdout.splitlines()
    else:  # an exported tree
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")
                 if "build" not in path.relative_to(ROOT).parts]
    return sorted(name for name in names if (ROOT / name).is_file())


def code_files(*suffixes):
    """Names of files with one of the suffixes, relative to the root."""
    return [name for name in tracked_files() if name.endswith(suffixes)]


def text_of(name):
    """The content of a file."""
    return (ROOT / name).read_text(encoding="utf-8", errors="replace")


def without_comments_and_strings(text):
    """C++ with comments, strings and characters blanked; the lines stay where they are."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|'
                         r"(?<![0-9A-Fa-f])'(?:\\.|[^'\\\n])+'", re.S)
    return pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


CONTROL = re.compile(r"\b(if|for|while|switch|do|else|try|catch|return)\b")
HEADER_END = re.compile(r"\)\s*(const|noexcept(\([^)]*\))?|override|final|&|&&|\s)*(->\s*[\w:<>,&*\s]+)?$")


def functions_of(text):
    """(first line, number of lines, head) of every function outside of functions."""
    text = re.sub(r"(?m)^\s*#(.*\\\n)*.*$", lambda found: re.sub(r"[^\n]", " ", found[0]),
                  without_comments_and_strings(text))
    found, open_braces, start = [], [], 0
    for place in re.finditer(r"[{};]|(public|private|protected):", text):
        token = place[0]
        if token == "{":
            head = text[start:place.start()].strip()
            inside = any(kind == "function" for kind, *_ in open_braces)
            kind = "function" if not inside and is_function(head) else "other"
            before = text[:place.start()].rstrip()
            if before.endswith(("=", ",", "(", "return")) or text[place.start() - 1] not in " \n":
                kind = "braces"
            open_braces.append((kind, start + len(text[start:]) - len(text[start:].lstrip()), head))
            if kind != "braces":
                start = place.end()
        elif token == "}":
            if not open_braces:
                break
            kind, begin, head = open_braces.pop()
            if kind == "function":
                first = text.count("\n", 0, begin) + 1
                last = text.count("\n", 0, place.start()) + 1
                found.append((first, last - first + 1, head))
            if kind != "braces":
                start = place.end()
        else:
            start = place.end()
    return found


def is_function(head):
    """True when what stands before a brace is the head of a function."""
    if "(" not in head or CONTROL.match(head):
        return False
    # A constructor's list of initial values stands between the head and the brace.
    return bool(HEADER_END.search(head)) or bool(re.search(r"\)\s*(noexcept)?\s*:\s", head))


class TidyTest(unittest.TestCase):
    """Every rule names the file, and what to do."""

    def report(self, problems):
        """Fails with all problems at once."""
        if problems:
            self.fail("\n" + "\n".join(problems))

    def test_layers(self):
        """A lower layer never includes a higher one; the agents never include each other."""
        problems = []
        for name in code_files(*CPP):
            forbidden = {other for folder, others in LAYERS.items()
                         if name.startswith(folder + "/") for other in others}
            for number, line in enumerate(text_of(name).splitlines(), 1):
                found = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                if found and any(found[1].startswith(other + "/") for other in forbidden) \
                        and not self.excepted(name, found[1]):
                    problems.append(f"{name}:{number}: may not include {found[1]}")
        self.report(problems)

    @staticmethod
    def excepted(name, include):
        """Whether an exception allows this include."""
        return any(pattern.fullmatch(name) and include.startswith(prefix)
                   for pattern, prefix in LAYER_EXCEPTIONS)

    def test_includes_from_the_root(self):
        """Own headers are included by their path from the root."""
        problems = []
        for name in code_files(*CPP):
            for number, line in enumerate(text_of(name).splitlines(), 1):
                found = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                if found and not found[1].endswith(".pb.h") and not (ROOT / found[1]).is_file():
                    problems.append(f"{name}:{number}: no {found[1]} below the root")
        self.report(problems)

    def test_kinds(self):
        """Each kind has a description, a capture, a restore and a workload of the same stem."""
        problems, needed = [], set()
        kinds = {pathlib.Path(name).stem for name in code_files(".proto")} - NOT_KINDS
        for kind in sorted(kinds):
            for place, patterns in PLACES.items():
                missing = [pattern.format(kind) for pattern in patterns
                           if not (ROOT / pattern.format(kind)).exists()]
                if missing and (kind, place) not in KIND_EXCEPTIONS:
                    problems.append(f"kind {kind}: no {', '.join(missing)}")
                if missing:
                    needed.add((kind, place))
        for entry in sorted(KIND_EXCEPTIONS.keys() - needed):
            problems.append(f"KIND_EXCEPTIONS: {entry} is not needed any more")
        self.report(problems)

    def test_file_sizes(self):
        """A file has one subject and can be read at once."""
        problems = []
        for name in code_files(*CODE):
            lines = text_of(name).count("\n")
            if lines > FILE_LINES_MAX:
                problems.append(f"{name}: {lines} lines, {FILE_LINES_MAX} at most: split it")
        self.report(problems)

    def test_function_sizes(self):
        """A function fits on a screen."""
        problems = []
        for name in code_files(*CPP):
            for first, lines, head in functions_of(text_of(name)):
                if lines > FUNCTION_LINES_MAX:
                    title = " ".join(head.split())[:60]
                    problems.append(f"{name}:{first}: {lines} lines: {title}")
        for name in code_files(".py") + ["integration/bench"]:
            for node in ast.walk(ast.parse(text_of(name))):
                if isinstance(node, ast.FunctionDef) \
                        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX:
                    problems.append(f"{name}:{node.lineno}: {node.name} is too long")
        self.report(problems)

    def test_ids_are_documented(self):
        """Each id of a refusal stands in a table of the operator's guide, and no other does."""
        found, problems = {}, []
        for name in code_files(*CPP):
            if not name.startswith(ID_MAKERS) or name.endswith(("_test.cc", "_bench.cc")):
                continue
            for number, line in enumerate(text_of(name).splitlines(), 1):
                for word in re.findall(r'"([a-z0-9]+(?:-[a-z0-9{}]+)+)"', line):
                    found.setdefault(word, f"{name}:{number}")
        ids = {cell for line in text_of(ID_TABLES).splitlines() if line.startswith("| `")
               for cell in re.findall(r"`([a-z0-9]+(?:-[a-z0-9]+)+)`", line.split("|")[1])}
        for word in sorted(found.keys() - NOT_IDS.keys() - ids):
            if "{" not in word:
                problems.append(f"{found[word]}: {word} stands in no table of {ID_TABLES}")
        for word in sorted(ids - found.keys()):
            problems.append(f"{ID_TABLES}: no program says {word}")
        for word in sorted(NOT_IDS.keys() - found.keys()):
            problems.append(f"NOT_IDS: {word} is not needed any more")
        self.report(problems)

    def test_words(self):
        """Nothing is left for later; no path of one machine."""
        problems = []
        for name in tracked_files():
            if not name.endswith((*CODE, ".txt", ".json", ".md")) and "deploy/" not in name:
                continue
            agents = name.split("/")[0] in ("common", "arch", "source-agent", "dest-agent",
                                            "page-server")
            words = FORBIDDEN | (FORBIDDEN_IN_AGENTS if agents else {})
            for number, line in enumerate(text_of(name).splitlines(), 1):
                problems += [f"{name}:{number}: {word}: {why}" for word, why in words.items()
                             if re.search(word, line)]
        self.report(problems)

    def test_headers(self):
        """Headers are guarded and say what they are for; so do scripts."""
        problems = []
        for name in code_files(".h"):
            lines = text_of(name).splitlines()
            if "#pragma once" not in lines:
                problems.append(f"{name}: no #pragma once")
            if not lines or not lines[0].startswith("//"):
                problems.append(f"{name}: does not begin with what it is for")
        for name in code_files(".py"):
            if ast.get_docstring(ast.parse(text_of(name))) is None:
                problems.append(f"{name}: no docstring that says what it is for")
        for name in [*code_files(".sh"), "deploy/setup", "deploy/check", "deploy/demo",
                     "deploy/kernel-upgrade-demo", ".ci/run"]:
            lines = text_of(name).splitlines()
            if len(lines) < 2 or not lines[0].startswith("#!") or not lines[1].startswith("# "):
                problems.append(f"{name}: the second line does not say what it is for")
        self.report(problems)

    def test_sizes_are_measured(self):
        """The measurement of functions itself sees what it must."""
        body = "  x();\n" * 80
        for head in ("int f(int a) {\n", "Foo::Foo(int a)\n    : a_(a), b_{a} {\n",
                     "class C {\n  void f() const {\n", "auto f() -> int {\n"):
            text = head + body + "}\n" * head.count(" {\n") + "int after;\n"
            self.assertEqual([lines > FUNCTION_LINES_MAX for _, lines, _ in functions_of(text)],
                             [True], head)
        self.assertEqual(functions_of("namespace a {\n" + "int x = 1;\n" * 80 + "}\n"), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
