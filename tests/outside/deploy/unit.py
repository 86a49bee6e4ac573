"""Starts the command of a unit as systemd would, as far as that goes without it; see ../debian.sh. Argument: the unit's file.

The command gets the unit's user, environment and state directory, its file system (all of it read-only but the state directory, empty temporary and home
folders), and its filters of system calls and of socket families.
"""
import configparser
import errno
import os
import pwd
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request


class Unit(configparser.RawConfigParser):
    optionxform = staticmethod(str)


def all_of(path, name):
    """The values of a setting that a unit has several times."""
    with open(path) as file:
        return re.findall(rf"^{name}=(.*)$", file.read(), re.M)


def calls(groups, known):
    """The system calls of systemd's groups, such as @system-service."""
    found = set()
    for each in groups:
        found |= calls(known[each], known) if each.startswith("@") else {each}
    return found


def confine(path, service, user, state):
    """Takes from this process what the unit denies, and becomes its user. In a mount namespace of its own."""
    import seccomp

    filters = all_of(path, "SystemCallFilter")

    def mount(*arguments):
        subprocess.run(["mount", *arguments], check=True)

    assert service["ProtectSystem"] == "strict" and service["PrivateTmp"] == service["ProtectHome"] == "yes", service
    mount("--bind", state, state)
    mount("-o", "remount,bind,ro", "/")
    for folder in ("/tmp", "/var/tmp"):
        mount("-t", "tmpfs", "tmpfs", folder)
    for folder in ("/home", "/root"):
        mount("-t", "tmpfs", "-o", "mode=000,ro", "tmpfs", folder)

    known = {}
    for line in subprocess.run(["systemd-analyze", "syscall-filter"], text=True, capture_output=True, check=True).stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            own = known.setdefault(word, [])
        elif word and not word.startswith("#"):
            own.append(word)
    denied = calls([name for each in filters if each.startswith("~") for name in each[1:].split()], known)
    allowed = calls([name for each in filters if not each.startswith("~") for name in each.split()], known) - denied
    families = service["RestrictAddressFamilies"].split()
    assert len(allowed) > 200 and families, (filters, families)

    rules = seccomp.SyscallFilter(defaction=seccomp.ERRNO(errno.EPERM))
    for name in allowed - {"socket"}:
        try:
            rules.add_rule(seccomp.ALLOW, name)
        except RuntimeError:
            pass    # of another architecture
    for family in families:
        rules.add_rule(seccomp.ALLOW, "socket", seccomp.Arg(0, seccomp.EQ, getattr(socket, family)))
    os.umask(int(service["UMask"], 8))
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.chdir(service["WorkingDirectory"])
    rules.load()
    # The limits hold: a call, a family and a file that the unit denies.
    for denied_step in (lambda: os.chown(state, user.pw_uid, user.pw_gid), lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
                        lambda: open("/var/lib/unit-test", "w"), lambda: os.listdir("/root")):
        try:
            denied_step()
        except OSError:
            continue
        raise SystemExit("the unit's limits do not hold here")


unit = Unit(strict=False)
unit.read(sys.argv[1])
service = dict(unit["Service"])
assert service["Type"] == "notify" and service["KillMode"] == "mixed", service
user = pwd.getpwnam(service["User"])

state = f"/var/lib/{service['StateDirectory']}"
command = shlex.split(service["ExecStart"])
if sys.argv[2:] == ["--confined"]:
    confine(sys.argv[1], service, user, state)
    os.execv(command[0], command)

# StateDirectory
os.makedirs(state, exist_ok=True)
os.chmod(state, int(service["StateDirectoryMode"], 8))
os.chown(state, user.pw_uid, user.pw_gid)

environment = {"PATH": os.environ["PATH"], "HOME": user.pw_dir, "USER": user.pw_name, "PORT": "3894", "JOURNAL_MIN_FREE": "0"}
environment |= dict([service["Environment"].split("=", 1)])
with open(service["EnvironmentFile"]) as file:
    environment |= dict(line.rstrip("\n").split("=", 1) for line in file if re.match(r"[A-Z_]+=", line))

folder = tempfile.mkdtemp(dir="/run")
os.chmod(folder, 0o755)
path = f"{folder}/notify"
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
os.chmod(path, 0o777)
notify.settimeout(1)
environment |= {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "500000"}


def until(word):
    """Waits for a notification."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if word in notify.recv(4096).decode().split():
                return
        except TimeoutError:
            if process.poll() is not None:
                raise SystemExit(f"the command ended with {process.returncode}") from None
    raise SystemExit(f"no {word} within a minute")


# One process: each program becomes the next. Debian's Python has the library of seccomp.
process = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "/usr/bin/python3", __file__, sys.argv[1], "--confined"], env=environment)
try:
    until("READY=1")
    request = urllib.request.Request("http://127.0.0.1:3894/api/v1/events?ack=committed", data=b'{"unit":true}')
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 201, answer.status
    until("WATCHDOG=1")
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    until("STOPPING=1")
    assert process.wait(timeout=int(service["TimeoutStopSec"])) == 0, process.returncode
    print(f"ready, one event stored, stopped in {time.monotonic() - started:.1f} s")
finally:
    if process.poll() is None:
        process.kill()
    os.remove(path)
    os.rmdir(folder)
