"""Checks deploy/ beyond its schemas; see ../deploy.sh. Writes the environments and Prometheus' configuration into a folder."""
import json
import os
import re
import sys

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard as grafana, stat, timeseries

OUT = sys.argv[1]
SETTINGS = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", open(".env.example").read(), re.M))
# Parts of a dashboard that Grafana reads and its published model leaves out.
UNMODELLED = {"builtIn", "step", "titleFormat", "textFormat", "definition"}
problems = []


def check(condition, text):
    if not condition:
        problems.append(text)


def read(path):
    with open(path) as file:
        return list(yaml.safe_load_all(file))


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def environment(name, values):
    """Writes an environment, without the database, which here is a private one."""
    for key in values:
        check(key in SETTINGS, f"{name}: {key} is no setting")
    with open(os.path.join(OUT, name + ".env"), "w") as file:
        for key, value in values.items():
            if key not in ("DATABASE_URL", "HOST", "PORT", "DATA_DIR"):
                file.write(f"{key}={value}\n")


def without_variables(text):
    """A value of a compose file as it is without a .env file."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text))
    return re.sub(r"\$\{(\w+):\?[^}]*\}", "0123456789abcdef0123456789abcdef", text)


def compose():
    base, monitoring = read("docker-compose.yml")[0], read("deploy/monitoring.yml")[0]
    services = base["services"] | monitoring["services"]
    defined = {kind: set(base.get(kind, {})) | set(monitoring.get(kind, {})) for kind in ("volumes", "configs", "secrets")}
    check(not set(base["services"]) & set(monitoring["services"]), "monitoring.yml redefines a service")
    published = set()
    for name, service in services.items():
        for other in service.get("depends_on", []):
            check(other in services, f"{name} depends on {other}, which is not defined")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                check(os.path.isfile(source), f"{name} mounts {source}, which is not there")
            else:
                check(source in defined["volumes"], f"{name}: no volume {source}")
        for kind in ("configs", "secrets"):
            for entry in service.get(kind, []):
                source = entry if isinstance(entry, str) else entry["source"]
                check(source in defined[kind], f"{name}: no {kind[:-1]} {source}")
        for port in service.get("ports", []):
            port = without_variables(port)
            check(port.startswith("127.0.0.1:"), f"{name} is published beyond this machine: {port}")
            check(port.split(":")[1] not in published, f"{name}: {port} is published twice")
            published.add(port.split(":")[1])
        check(name == "tidegate" or re.search(r":v?\d+[\w.-]*$", service["image"]), f"{name}: the image has no version")
        check("mem_limit" in service, f"{name}: no limit of memory")
    for secret in monitoring["secrets"].values():
        path = secret["file"].removeprefix("./")
        check(f"/{path}" in open(".gitignore").read().split(), f"{path} is not ignored by git")
    tidegate = services["tidegate"]
    values = {key: without_variables(value) for key, value in tidegate["environment"].items()}
    check(seconds(tidegate["stop_grace_period"]) > int(values["SHUTDOWN_TIMEOUT_S"]), "compose kills a service that stops in time")
    environment("compose", values)

    config = monitoring["configs"]["prometheus"]["content"]
    check("$" not in config, "compose would replace a variable in Prometheus' configuration")
    inline, single = yaml.safe_load(config), read("deploy/prometheus.yml")[0]
    for key in ("global", "rule_files"):
        check(inline[key] == single[key], f"{key} of Prometheus differs between prometheus.yml and monitoring.yml")
    job = inline["scrape_configs"][0]
    check(job["static_configs"][0]["targets"] == [f"tidegate:{values['PORT']}"], "Prometheus scrapes another target")
    # promtool wants the key and the rules to be there.
    open(os.path.join(OUT, "tidegate.key"), "w").close()
    job["authorization"]["credentials_file"] = os.path.join(OUT, "tidegate.key")
    inline["rule_files"] = [os.path.abspath("deploy/alerts.yml")]
    with open(os.path.join(OUT, "prometheus.yml"), "w") as file:
        yaml.safe_dump(inline, file)
    return services, inline


def kubernetes():
    objects = read("deploy/kubernetes.yaml")
    by_kind = {}
    for each in objects:
        by_kind.setdefault(each["kind"], {})[each["metadata"]["name"]] = each
    state = by_kind["StatefulSet"]["tidegate"]["spec"]
    pod = state["template"]["spec"]
    container = pod["containers"][0]
    labels = state["template"]["metadata"]["labels"]
    with open("Cargo.lock") as file:
        version = re.search(r'name = "tidegate"\nversion = "(.+)"', file.read())[1]
    check(container["image"].endswith(f":{version}"), f"the image is not of version {version}")
    with open("deploy/kubernetes.yaml") as file:
        head = file.read()
    check(f"docker build -f deploy/Dockerfile -t {container['image']} ." in head, "the head builds another image")
    check(f"registry.example/{container['image']}" in head, "the head names another image of a registry")
    with open("deploy/prometheus.yml") as file:
        discovery = re.search(r"^ +# (dns_sd_configs: .*)$", file.read(), re.M)[1]
    config = read("deploy/prometheus.yml")[0]
    config["scrape_configs"][0] = {"job_name": "tidegate", **yaml.safe_load(discovery)}
    config["rule_files"] = []
    (name,) = config["scrape_configs"][0]["dns_sd_configs"][0]["names"]
    check(name.split(".")[0] == state["serviceName"], "Prometheus asks for another Service")
    with open(os.path.join(OUT, "kubernetes.yml"), "w") as file:
        yaml.safe_dump(config, file)
    config = by_kind["ConfigMap"]["tidegate"]["data"]
    environment("kubernetes", config | {"JWT_SECRET": "0123456789abcdef0123456789abcdef"})

    selectors = [state["selector"]["matchLabels"], by_kind["PodDisruptionBudget"]["tidegate"]["spec"]["selector"]["matchLabels"],
                 by_kind["NetworkPolicy"]["tidegate"]["spec"]["podSelector"]["matchLabels"]]
    selectors += [service["spec"]["selector"] for service in by_kind["Service"].values()]
    selectors += [c["labelSelector"]["matchLabels"] for c in pod["topologySpreadConstraints"]]
    for selector in selectors:
        check(selector.items() <= labels.items(), f"{selector} does not select the pods")
    check(state["serviceName"] in by_kind["Service"], "the StatefulSet's Service is not there")
    check(by_kind["Service"][state["serviceName"]]["spec"]["clusterIP"] == "None", "the StatefulSet's Service has an address")
    check(pod["serviceAccountName"] in by_kind["ServiceAccount"], "the service account is not there")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    check(int(config["PORT"]) in ports.values(), "PORT is not the container's port")
    used = [container[p]["httpGet"]["port"] for p in ("startupProbe", "livenessProbe", "readinessProbe")]
    used += [port["targetPort"] for service in by_kind["Service"].values() for port in service["spec"]["ports"]]
    check(set(used) <= set(ports), f"a port of {used} is not there")
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    claims = {claim["metadata"]["name"]: claim["spec"] for claim in state["volumeClaimTemplates"]}
    check(mounts.get(config["DATA_DIR"]) in claims, "DATA_DIR is on no volume")
    for source in container["envFrom"]:
        check(source.get("configMapRef", source.get("secretRef"))["name"] == "tidegate", f"{source} is not there")
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    check(pod["terminationGracePeriodSeconds"] > sleep + int(config["SHUTDOWN_TIMEOUT_S"]), "Kubernetes kills a service that stops in time")
    probe = container["readinessProbe"]
    check(sleep > probe["periodSeconds"] * probe["failureThreshold"], "the pod stops before it has left its Services")
    room = int(config["JOURNAL_MAX_BYTES"]) + 268435456 + 3 * 67108864 + 536870912
    storage = int(re.fullmatch(r"(\d+)Gi", claims["data"]["resources"]["requests"]["storage"])[1]) << 30
    check(storage > room, "the journal does not fit on its volume")


def lost(source, kept, path=""):
    """Parts of a document that a model did not know."""
    if isinstance(source, dict):
        for key, value in source.items():
            if key in UNMODELLED or value in (None, [], {}, ""):
                continue
            if not isinstance(kept, dict) or key not in kept:
                yield f"{path}.{key}"
            else:
                yield from lost(value, kept[key], f"{path}.{key}")
    elif isinstance(source, list):
        for index, (left, right) in enumerate(zip(source, kept or [])):
            yield from lost(left, right, f"{path}[{index}]")
    elif source != kept:
        yield path


def modelled(model, source, path):
    kept = json.loads(JSONEncoder().encode(model.from_json(source)))
    for part in lost(source, kept, path):
        check(False, f"dashboard: Grafana has no {part}")


def dashboard(services, prometheus):
    with open("deploy/grafana/tidegate.json") as file:
        document = json.load(file)
    modelled(grafana.Dashboard, document, "dashboard")
    taken, ids, titles = set(), set(), set()
    variables = {"${" + variable["name"] + "}" for variable in document["templating"]["list"]}
    for panel in document["panels"]:
        title = panel["title"]
        check(panel["id"] not in ids, f"{title}: its id is taken")
        ids.add(panel["id"])
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        check(not cells & taken and at["x"] + at["w"] <= 24, f"{title}: overlaps another panel")
        taken |= cells
        if panel["type"] == "row":
            continue
        check((title, panel["type"]) not in titles, f"{title}: there twice")
        titles.add((title, panel["type"]))
        check(panel.get("description"), f"{title}: no description")
        check(panel["datasource"]["uid"] in variables, f"{title}: the data source is no variable")
        check(panel["fieldConfig"]["defaults"].get("unit"), f"{title}: no unit")
        module = {"stat": stat, "timeseries": timeseries}[panel["type"]]
        modelled(module.Options, panel["options"], title)
        if panel["type"] == "timeseries":
            modelled(common.GraphFieldConfig, panel["fieldConfig"]["defaults"]["custom"], title)
        letters = [target["refId"] for target in panel["targets"]]
        check(len(set(letters)) == len(letters), f"{title}: two queries with one letter")

    source = read("deploy/grafana/datasource.yml")[0]["datasources"][0]
    port = prometheus["scrape_configs"] and services["prometheus"]["ports"][0].split(":")[-1]
    check(source["url"] == f"http://prometheus:{port}", "Grafana's data source is not the Prometheus of monitoring.yml")
    check(source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"], "Grafana assumes another interval of scrapes")
    folder = read("deploy/grafana/dashboards.yml")[0]["providers"][0]["options"]["path"]
    targets = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    check(home in targets and os.path.dirname(home) == folder, "Grafana's dashboards are mounted elsewhere")


services, prometheus = compose()
kubernetes()
dashboard(services, prometheus)
if problems:
    sys.exit("\n".join(problems))
print("deploy: compose, kubernetes and dashboard agree")
