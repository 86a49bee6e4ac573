"""Starts the command of a unit as systemd would, as far as that goes without it; see ../debian.sh. Argument: the unit's file."""
import configparser
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


unit = Unit(strict=False)
unit.read(sys.argv[1])
service = dict(unit["Service"])
assert service["Type"] == "notify" and service["KillMode"] == "mixed", service
user = pwd.getpwnam(service["User"])

# StateDirectory
state = f"/var/lib/{service['StateDirectory']}"
os.makedirs(state, exist_ok=True)
os.chmod(state, int(service["StateDirectoryMode"], 8))
os.chown(state, user.pw_uid, user.pw_gid)

environment = {"PATH": os.environ["PATH"], "HOME": user.pw_dir, "USER": user.pw_name, "PORT": "3894", "JOURNAL_MIN_FREE": "0"}
environment |= dict([service["Environment"].split("=", 1)])
with open(service["EnvironmentFile"]) as file:
    environment |= dict(line.rstrip("\n").split("=", 1) for line in file if re.match(r"[A-Z_]+=", line))

folder = tempfile.mkdtemp()
os.chmod(folder, 0o755)
path = f"{folder}/notify"
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
os.chmod(path, 0o777)
notify.settimeout(60)
environment |= {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "500000"}


def until(word):
    """Waits for a notification."""
    while word not in notify.recv(4096).decode().split():
        pass


process = subprocess.Popen(shlex.split(service["ExecStart"]), env=environment, cwd=service["WorkingDirectory"], user=user.pw_uid,
                           group=user.pw_gid, extra_groups=[], umask=int(service["UMask"], 8))
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
