"""deploy/ says what this code understands (flags, variables, metrics, versions), and passes other programs' linters."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from cloud_trainer.service import metrics
from gymnast_cli.main import parser_for
from gymnast_cli.service_flags import config_from, variable_of
from gymnast_ros.bringup import EXIT_ARM
from gymnast_ros.processes import ESCALATE_AFTER_S
from tests.installed import ROOT
from tests.test_packaging import pinned

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERAY = list(yaml.safe_load_all((DEPLOY / "kuberay" / "gymnast.yaml").read_text()))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def tool(name: str, *words: object) -> str:
    """What a linter of the registry prints; it comes with the extra dev."""
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        pytest.skip(f"{name} is not installed; make test installs it")
    done = subprocess.run([path, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def served(words: list[str], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """The settings of gymnast serve with these words and variables; secrets' files are written first."""
    for name, value in variables.items():
        for secret in re.findall(r"@/run/secrets/(\w+)", value):
            (folder / secret).write_text(f"the {secret}\n")
        monkeypatch.setenv(name, value.replace("/run/secrets", str(folder)))
    return config_from(parser_for(words).parse_args(words))


def test_dockerfiles_pass_hadolint() -> None:
    assert tool("hadolint", *DEPLOY.glob("*.Dockerfile")) == ""


def test_compose_files_keep_the_specification() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *DEPLOY.glob("compose*.yaml"))


def test_kubernetes_manifests_keep_its_schemas(tmp_path: Path) -> None:
    """Ray's own kind is not Kubernetes'; its pods are."""
    (ray,) = [one for one in KUBERAY if one["kind"] == "RayCluster"]
    pods = [group["template"] for group in (ray["spec"]["headGroupSpec"], *ray["spec"]["workerGroupSpecs"])]
    known = [one for one in KUBERAY if one is not ray]
    known += [{"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": pod} for pod in pods]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(known))
    tool("kubernetes-validate", "--strict", "--quiet", tmp_path / "all.yaml")
    assert ray["spec"]["rayVersion"] == pinned("3.11")["ray"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_are_understood_by_systemd(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    here = unit.read_text().replace("/opt/gymnast/bin/gymnast", shutil.which("true") or "/bin/true")
    (tmp_path / unit.name).write_text(here)
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / unit.name], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if unit.name in line]
    assert ours == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_start_what_the_command_line_knows(unit: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = dict(line.split("=", 1) for line in unit.read_text().splitlines() if re.match(r"[A-Z]\w+=", line))
    assert (settings["Type"], settings["Restart"]) == ("notify", "on-failure")
    assert re.fullmatch(r"\d+s", settings["WatchdogSec"])
    command = re.search(r"gymnast ((?:serve|up)[^']*)", settings["ExecStart"])
    assert command is not None
    words = shlex.split(command[1])
    if words[0] == "serve":
        variables = dict(word.split("=", 1) for word in settings["Environment"].split() if word.startswith("GYMNAST"))
        assert served(words, variables, monkeypatch, tmp_path).port == 50051
    else:
        assert parser_for(words).parse_args(words).robot == "widowx"
        assert int(settings["TimeoutStopSec"].removesuffix("s")) > 2 * ESCALATE_AFTER_S["real"]
        assert str(EXIT_ARM) in settings["RestartPreventExitStatus"].split()


def test_compose_gives_the_trainer_settings_that_it_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trainer = COMPOSE["services"]["trainer"]
    given = {
        name: value.replace("${TRAINER_NAME:-trainer.lab}", "a.lab") for name, value in trainer["environment"].items()
    }
    config = served(trainer["command"], given, monkeypatch, tmp_path)
    assert config.names == ("a.lab",)
    assert config.database_url == "the database_url"
    assert config.blob_options == {
        "endpoint": "http://store:9000", "region": "us-east-1", "access_key_id": "the s3_access_key",
        "secret_access_key": "the s3_secret_key",
    }  # fmt: skip
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0][
        "targets"
    ]
    assert scraped == [f"127.0.0.1:{config.metrics_port}"]
    assert COMPOSE["services"]["prometheus"]["network_mode"] == "service:trainer", "metrics are for their machine alone"


def test_every_secret_that_is_named_is_made_by_the_lines_above() -> None:
    words = (DEPLOY / "compose.yaml").read_text().partition("name: gymnast")[0]
    assert all(re.search(rf"\b{name}\b", words) for name in COMPOSE["secrets"])
    used = {name for service in COMPOSE["services"].values() for name in service.get("secrets", ())}
    assert used == set(COMPOSE["secrets"])


def test_the_cluster_gives_the_trainer_settings_that_it_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (deployment,) = [one for one in KUBERAY if one["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert served(container["args"], variables, monkeypatch, tmp_path).folder == Path("/data/trainer")
    assert variables.keys() <= {variable_of(name) for name in ("folder", "host", "port", "names")}


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "trainer.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for one in panel["targets"]
        for name in re.findall(r"gymnast_\w+", one["expr"])
    }
    known = {name for metric in REGISTRY.collect() for name in names_of(metric) if name.startswith("gymnast_")}
    assert asked <= known
    used = {name.removesuffix("_total").removesuffix("_count").removesuffix("_bucket") for name in asked}
    mine = {one._name for one in vars(metrics).values() if hasattr(one, "_name")}
    assert used == mine, "every metric has a panel"


def names_of(metric: Any) -> set[str]:
    """As Prometheus stores them; a metric with labels has none until it was used."""
    ends = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    return {metric.name + end for end in ends.get(metric.type, ())}


def test_the_dashboards_source_is_the_prometheus_that_is_provisioned() -> None:
    folder = DEPLOY / "grafana"
    (source,) = yaml.safe_load((folder / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    board = json.loads((folder / "dashboards" / "trainer.json").read_text())
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    assert source["url"] == "http://trainer:9090", "it stands in the trainer's network"


def test_images_install_the_tested_versions() -> None:
    text = (DEPLOY / "trainer.Dockerfile").read_text()
    assert "pip install --no-cache-dir --constraint /opt/constraints.txt" in text
    assert "scripts/robot_env.sh" in (DEPLOY / "robot.Dockerfile").read_text()
