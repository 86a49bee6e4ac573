"""Runs the commands of the documents; see ../docs.sh.

Each fenced block `sh` of a document runs in one shell, in order, in an empty folder, and each block `sql` by psql. A comment directly above a block
changes that:

    <!-- run in the background -->       until the end of the document. The next block waits until the service is ready
    <!-- run for 2 s -->                 a stream without an end, in a shell of its own: it has to print something, and is ended
    <!-- not run here: PATH … -->        the checkers that cover it: scripts or tests that CI or .ci/long runs
    <!-- not run here: reason: TEXT -->  nothing can run it: the text says why. Of a load test the options are checked, of a script its syntax

A mark `<!-- below: not run here: PATH -->` holds up to the next heading of the same or a higher level. Only ports and folders are replaced, and
`cargo run` is the binary of this build. Curl fails on an error of HTTP.
"""
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

BINARY, LOADTEST = os.environ["BINARY"], os.environ["LOADTEST"]
# Of each document two ports: its service's and its pages'.
FIRST_PORT = int(os.environ.get("DOCS_PORT", "3830"))
# Documents that run at once.
AT_ONCE = 3
# A document with commands: the settings of the service that it expects to run; None: it starts one itself, or needs none.
DOCUMENTS = {
    "README.md": None,
    "CONTRIBUTING.md": None,
    "docs/START.md": None,
    "docs/USE.md": {"FAULTS": "on"},
    "docs/OPERATE.md": {"MODULES": "all"},
    "docs/ROUTES.md": {},
    "docs/POCKETBASE.md": None,
    "docs/RECIPES.md": {},
    "docs/BENCHMARKS.md": None,
    "docs/UNDERSTAND.md": None,
    "docs/REFERENCE.md": None,
    "clients/python/README.md": None,
}
# Tables that statements name.
TABLES = {
    "docs/USE.md": "create schema app; create table app.orders (id int primary key, state text); create table orders (id int primary key, state text)",
}
# Files that commands read.
FILES = {
    "events.jsonl": '{"a":1}\n{"a":2}\n',
    "export.ndjson": '{"b":1}\n{"b":2}\n',
    "app-logs/app.log": "a line\nanother line\n",
    "password.txt": "correct horse battery\n",
    "orders.csv": "id,total\n1,12\n",
    "photo.png": "\x89PNG",
}
SHELL = """set -eo pipefail
curl() { command curl --fail-with-body --max-time 30 "$@"; }
export -f curl
"""


class Failed(Exception):
    pass


def blocks(path):
    """The blocks of a document: line, info string, text, the mark above."""
    with open(path) as file:
        lines = file.read().split("\n")
    found, sections, mark, start = [], [], None, None
    for number, line in enumerate(lines, 1):
        fence = re.match(r"\s*(`{3,})(.*)$", line)
        if start is not None:
            if fence and fence[1] == start[2] and not fence[2].strip():
                found.append((start[0], start[1], "\n".join(lines[start[0]:number - 1]) + "\n", start[3]))
                start, mark = None, None
            continue
        if fence:
            start = (number, fence[2].strip(), fence[1], mark or (sections[-1][1] if sections else None))
        elif heading := re.match(r"(#+) ", line):
            sections = [section for section in sections if section[0] < len(heading[1])]
            level, mark = len(heading[1]), None
        elif below := re.match(r"<!-- below: (.*) -->$", line):
            sections.append((level, below[1]))
        elif above := re.match(r"<!-- ((?:run|not run).*) -->$", line):
            mark = above[1]
        elif line.strip():
            mark = None
    if start is not None:
        raise Failed(f"{path}:{start[0]}: a block without an end")
    return found


def covered(path, line, by):
    """The checkers of a block exist, and CI or .ci/long runs them."""
    if by.startswith("reason: "):
        return
    runs = "".join(open(each).read() for each in (".ci/run", ".ci/long"))
    for checker in by.split():
        if not os.path.exists(checker):
            raise Failed(f"{path}:{line}: there is no checker {checker}")
        is_test = re.match(r"tests/([a-z_]+)\.rs$", checker)
        if is_test:
            named = re.search(rf"^mod {is_test[1]};", open("tests/main.rs").read(), re.M)
        else:
            named = checker in runs or checker in (".ci/run", ".ci/long", ".github/workflows/release.yml")
        if not named:
            raise Failed(f"{path}:{line}: {checker} is not run by .ci/run and .ci/long")


def environment(folder, port):
    tools = os.path.join(folder, "bin")
    os.makedirs(tools)
    os.symlink(BINARY, os.path.join(tools, "tidegate"))
    with open(os.path.join(tools, "cargo"), "w") as file:
        file.write("""#!/bin/sh
# `cargo run` is the binary of this build.
[ "$1" = run ] || { echo "not for this test: cargo $*" >&2; exit 1; }
shift
while [ $# -gt 0 ]; do case $1 in -q|--release) shift ;; --) shift; break ;; *) echo "not for this test: cargo run $*" >&2; exit 1 ;; esac; done
exec tidegate "$@"
""")
    os.chmod(os.path.join(tools, "cargo"), 0o755)
    psql = shutil.which("psql") or sorted(subprocess.check_output("ls /usr/lib/postgresql/*/bin/psql", shell=True, text=True).split())[-1]
    path = f"{tools}:{os.environ['PATH']}:{os.path.dirname(psql)}"
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PATH": path, "PORT": str(port), "TIDEGATE_URL": f"http://127.0.0.1:{port}", "PGCONNECT_TIMEOUT": "10",
            "JOURNAL_MIN_FREE": "0", "JOURNAL_MAX_BYTES": "33554432", "PAGER": "cat"}


def check_options(path, line, text):
    """The load test of this build takes the options of a block's commands, and scripts of the repository are there."""
    for command in text.replace("\\\n", " ").splitlines():
        command = re.sub(r"\s#.*", "", command)
        options = re.search(r"(?:-p loadtest -- |target/release/loadtest )(.*)", command)
        if options:
            # What a shell would insert is a number.
            words = shlex.split(re.sub(r'"\$\([^)]*\)"', "1", options[1]))
            done = subprocess.run([LOADTEST, *words, "--help"], text=True, capture_output=True)
            if done.returncode != 0:
                raise Failed(f"{path}:{line}: loadtest {options[1]}\n{done.stderr}")
        for script in re.findall(r"\bloadtest/[a-z_]+\.sh\b", command):
            if not os.access(script, os.X_OK) or subprocess.run(["bash", "-n", script]).returncode != 0:
                raise Failed(f"{path}:{line}: {script} cannot be run")


class Document:
    """One document's shell, folder and background processes."""

    def __init__(self, port, settings):
        self.port, self.pages = port, port + 1
        self.root = tempfile.mkdtemp(prefix="tidegate-docs-")
        # The private Postgres runs as another user, who has to reach its folder.
        os.chmod(self.root, 0o755)
        self.folder = os.path.join(self.root, "work")
        os.mkdir(self.folder)
        self.environment = {**environment(self.root, port), **(settings or {})}
        self.background, self.log = [], open(os.path.join(self.root, "log"), "w+")
        for name, text in FILES.items():
            os.makedirs(os.path.dirname(os.path.join(self.folder, name)), exist_ok=True)
            with open(os.path.join(self.folder, name), "w", encoding="latin-1") as file:
                file.write(text)
        subprocess.run(["gzip", "-kf", "export.ndjson"], cwd=self.folder, check=True)
        os.rename(os.path.join(self.folder, "export.ndjson.gz"), os.path.join(self.folder, "old.ndjson.gz"))
        self.shell = subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=self.log, stderr=self.log, text=True, cwd=self.folder,
                                      env=self.environment, start_new_session=True)
        self.shell.stdin.write(SHELL)
        self.shell.stdin.flush()
        self.number = 0

    def replaced(self, text):
        """A block with the document's own ports and folders."""
        for old, new in [("localhost:3000", f"localhost:{self.port}"), ("127.0.0.1:3000", f"127.0.0.1:{self.port}"),
                         ("localhost:8000", f"localhost:{self.pages}"), ("http.server 8000", f"http.server {self.pages} --bind 127.0.0.1"),
                         ("/var/log/app", "app-logs")]:
            text = text.replace(old, new)
        return text

    def start(self, text):
        """Runs a block in the background."""
        process = subprocess.Popen(["bash", "-c", SHELL.replace("--max-time 30", "--max-time 600") + text], stdout=self.log, stderr=self.log,
                                   cwd=self.folder, env=self.environment, start_new_session=True)
        self.background.append(process)
        if "tidegate" in text or "cargo run" in text:
            self.wait_for_service(process)

    def wait_for_service(self, process):
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=2):
                    return
            except OSError:
                pass
            if process.poll() is not None:
                raise Failed("the service ended")
            time.sleep(0.1)
        raise Failed("the service is not ready after a minute")

    def run(self, text, limit=60):
        """Runs a block in the document's shell."""
        self.number += 1
        block, done = (os.path.join(self.root, f"{self.number}.{name}") for name in ("sh", "done"))
        with open(block, "w") as file:
            file.write(text)
        self.shell.stdin.write(f"source {block}\ntouch {done}\n")
        self.shell.stdin.flush()
        for _ in range(int(limit / 0.02)):
            if os.path.exists(done):
                return
            if self.shell.poll() is not None:
                raise Failed("it failed")
            time.sleep(0.02)
        raise Failed(f"it took more than {limit} s")

    def run_for(self, text, seconds):
        """Runs a stream for a moment, in a shell of its own."""
        with open(os.path.join(self.root, "stream"), "w+") as out:
            process = subprocess.Popen(["bash", "-c", SHELL + text], stdout=out, stderr=self.log, cwd=self.folder, env=self.environment, start_new_session=True)
            time.sleep(seconds)
            ended = process.poll()
            if ended is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            out.seek(0)
            printed = out.read()
        self.log.write(printed)
        if ended not in (None, 0) or not printed.strip():
            raise Failed(f"it printed nothing in {seconds} s, or failed ({ended})")

    def printed(self):
        self.log.flush()
        with open(self.log.name) as file:
            return file.read()

    def end(self):
        for process in [self.shell, *reversed(self.background)]:
            try:
                os.killpg(process.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        for process in [self.shell, *self.background]:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)


class Browser:
    """Chromium, driven by a pipe (DevTools protocol)."""

    def __init__(self, folder):
        (self.theirs_in, self.out), (self.incoming, self.theirs_out) = os.pipe(), os.pipe()

        def pipes():
            # Chromium reads from 3 and writes to 4.
            first, second = os.dup(self.theirs_in), os.dup(self.theirs_out)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self.process = subprocess.Popen(
            ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe",
             "--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder}/profile"],
            preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(self.theirs_in), os.close(self.theirs_out)
        self.number, self.buffer = 0, b""

    def call(self, method, session=None, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                self.buffer += os.read(self.incoming, 65536)
            answer, self.buffer = self.buffer.split(b"\0", 1)
            answer = json.loads(answer)
            if answer.get("id") == self.number:
                return answer["result"]

    def until(self, url, expression, seconds=40):
        target = self.call("Target.createTarget", url=url)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for _ in range(seconds * 5):
            value = self.call("Runtime.evaluate", session=session, expression=expression, returnByValue=True)["result"].get("value")
            if value is True:
                return
            time.sleep(0.2)
        raise Failed(f"{url}: not true after {seconds} s: {expression}, but {value!r}")

    def end(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def chart(document, found):
    """The chart of START.md moves."""
    (page,) = [text for _, info, text, _ in found if info == "html chart.html"]
    with open(os.path.join(document.folder, "chart.html"), "w") as file:
        file.write(document.replaced(page))
    browser = Browser(document.root)
    try:
        browser.until(f"http://localhost:{document.pages}/chart.html", "document.querySelector('polyline').points.numberOfItems >= 10 "
                      "&& document.querySelector('output').value > 14")
    finally:
        browser.end()


def rows(document, _):
    """The table of README.md has the export."""
    count = subprocess.run(["bash", "-c", 'psql -At "$(tidegate url)" -c "select count(*) from app.users"'], cwd=document.folder,
                           env=document.environment, text=True, capture_output=True, check=True).stdout.strip()
    if count != "500":
        raise Failed(f"app.users has {count} rows, and not 500")


AFTER = {"docs/START.md": chart, "README.md": rows}


def psql(text):
    """Statements as a command."""
    return f"psql -X -v ON_ERROR_STOP=1 \"$(tidegate url)\" <<'SQL'\n{text}\nSQL\n"


def check(path, settings, port):
    """Runs a document's commands; the line for its end."""
    found = blocks(path)
    commands = [block for block in found if re.match(r"(sh|bash|shell|console|sql)\b", block[1])]
    # Blocks with a file's name are files of recipes.
    commands = [block for block in commands if len(block[1].split()) == 1]
    document, ran, left = None, 0, 0
    started = time.monotonic()
    try:
        for line, language, text, mark in commands:
            if mark and mark.startswith("not run here: "):
                covered(path, line, mark.removeprefix("not run here: "))
                check_options(path, line, text)
                left += 1
                continue
            if document is None:
                document = Document(port, settings)
                if settings is not None:
                    document.start("exec tidegate")
                    if path in TABLES:
                        document.run(psql(TABLES[path]))
            try:
                text = psql(text) if language == "sql" else document.replaced(text)
                if mark == "run in the background":
                    document.start(text)
                elif mark and (seconds := re.fullmatch(r"run for (\d+) s", mark)):
                    document.run_for(text, int(seconds[1]))
                elif mark:
                    raise Failed(f"an unknown mark: {mark}")
                else:
                    document.run(text)
                ran += 1
            except Failed as failed:
                raise Failed(f"{path}:{line}: {failed}\n{text}\n--- printed, at the end:\n{document.printed()[-3000:]}") from None
        if path in AFTER:
            AFTER[path](document, found)
    finally:
        if document:
            document.end()
    return f"{path}: {ran} blocks ran, {left} are covered elsewhere ({time.monotonic() - started:.1f} s)"


def slugs(path):
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"```.*?\n```", "", open(path).read(), flags=re.S)
    made = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        made.add(slug if slug not in made else f"{slug}-1")
    return made


def links(documents):
    """Every link within the repository leads to a file, and to a heading of it."""
    wrong = []
    for path in documents:
        text = re.sub(r"```.*?\n```", "", open(path).read(), flags=re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"", text):
            target = link[0] or link[1]
            if re.match(r"[a-z]+:", target) or target.startswith("/"):
                continue
            file, _, anchor = target.partition("#")
            file = os.path.normpath(os.path.join(os.path.dirname(path), file)) if file else path
            if not os.path.exists(file):
                wrong.append(f"{path}: {target}: there is no {file}")
            elif anchor and file.endswith(".md") and anchor not in slugs(file):
                wrong.append(f"{path}: {target}: there is no such heading")
    if wrong:
        raise Failed("\n".join(wrong))


def main():
    documents = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "*.md"], text=True).split()
    unknown = [path for path in documents if path not in DOCUMENTS and path not in ("CHANGELOG.md",)]
    with_commands = [path for path in unknown if any(re.match(r"(sh|bash|sql)\b", info) for _, info, _, _ in blocks(path))]
    if with_commands:
        raise Failed(f"documents with commands that DOCUMENTS of tests/outside/docs/run.py does not list: {with_commands}")
    links(documents)
    chosen = sys.argv[1:] or list(DOCUMENTS)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [pool.submit(check, path, DOCUMENTS[path], FIRST_PORT + 2 * number) for number, path in enumerate(chosen)]
        errors = []
        for each in running:
            try:
                print(each.result(), flush=True)
            except Failed as failed:
                errors.append(str(failed))
    if errors:
        raise Failed("\n\n".join(errors))


try:
    main()
except Failed as failed:
    sys.exit(str(failed))
