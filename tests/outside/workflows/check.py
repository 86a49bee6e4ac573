"""Checks of .github/workflows beyond their schema; see ../workflows.sh."""
import glob
import os
import re
import subprocess
import tempfile

import yaml


def workflows():
    for path in glob.glob(".github/workflows/*.yml"):
        with open(path) as file:
            yield path, yaml.safe_load(file)


def steps(workflow):
    for name, job in workflow["jobs"].items():
        for step in job["steps"]:
            yield name, job, step


def pinned(path, workflow):
    """Actions and images have a full version, jobs a limit of time, tokens no right that is not named."""
    assert workflow["permissions"] == {"contents": "read"}, path
    for name, job in workflow["jobs"].items():
        assert "timeout-minutes" in job, f"{path}: {name} has no limit of time"
        container = job.get("container", {})
        image = container if isinstance(container, str) else container.get("image")
        assert image is None or re.search(r":\d[\w.-]+$", image), f"{path}: {image} has no version"
    for name, _, step in steps(workflow):
        if "uses" in step:
            assert re.search(r"@(v\d+\.\d+\.\d+|[0-9a-f]{40})$", step["uses"]), f"{path}: {step['uses']} is not pinned"
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, f"{path}: {name} keeps its credentials"
        # Values of others are no part of a command's text.
        assert not re.search(r"\$\{\{\s*(github\.(event|head_ref|ref_name)|inputs)", step.get("run", "")), f"{path}: {step}"


def shellcheck(path, workflow):
    for name, _, step in steps(workflow):
        if "run" in step:
            text = "#!/usr/bin/env bash\nset -eo pipefail\n" + re.sub(r"\$\{\{.*?\}\}", "value", step["run"])
            # 2154: variables of the step's environment.
            done = subprocess.run(["shellcheck", "--severity=warning", "--exclude=SC2154,SC2046", "-"], input=text, text=True, capture_output=True)
            assert done.returncode == 0, f"{path}: {name}:\n{done.stdout}"


def run(workflow, job, name, **environment):
    """Runs one step of a job here, and returns its code, its output and what it set."""
    (step,) = [step for _, each, step in steps(workflow) if each is workflow["jobs"][job] and step.get("name") == name]
    with tempfile.NamedTemporaryFile("r") as output:
        done = subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]], text=True, capture_output=True,
                              env={"PATH": os.environ["PATH"], "GITHUB_OUTPUT": output.name, **environment})
        return done.returncode, done.stdout, dict(line.split("=", 1) for line in output.read().splitlines())


def versions(workflow):
    name = "The tag, Cargo.toml and CHANGELOG.md name one version"
    by_hand = {"GITHUB_REF": "refs/heads/main", "GITHUB_REF_NAME": "main", "GITHUB_REPOSITORY": "Some/Where"}
    code, text, found = run(workflow, "version", name, **by_hand)
    assert code == 0, text
    with open("Cargo.lock") as file:
        locked = re.search(r'name = "tidegate"\nversion = "(.+)"', file.read())[1]
    build = subprocess.run(["git", "log", "-1", "--format=%h %cs"], text=True, capture_output=True, check=True).stdout.strip()
    assert found == {"version": locked, "build": build, "image": "ghcr.io/some/where"}, found
    code, text, _ = run(workflow, "version", name, **by_hand | {"GITHUB_REF": "refs/tags/v99.0.0", "GITHUB_REF_NAME": "v99.0.0"})
    assert code == 1 and "v99.0.0" in text, text


for path, workflow in workflows():
    pinned(path, workflow)
    shellcheck(path, workflow)
    if path.endswith("/release.yml"):
        versions(workflow)
print("workflows: pinned, checked")
