"""The compose file and the Kubernetes manifests, read by the tools that know them, and by our own command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from bottlekit.cli.main import app
from bottlekit.serving.triton_pool import addresses_from_text

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
COMPOSE = DEPLOY / "compose.yaml"


def documents() -> list[dict[str, Any]]:
    return [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def document(kind: str, name: str) -> Any:
    (found,) = [one for one in documents() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def option(arguments: list[str], name: str) -> str:
    (found,) = [one for one in arguments if one.startswith(name + "=")]
    return found.partition("=")[2]


def compose_problems(path: Path) -> str:
    """What check-jsonschema says against its copy of the Compose specification; "" when all is well."""
    command = [sys.executable, "-W", "ignore", "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.yaml")), ids=lambda path: path.name)
def test_yaml_is_clean(path: Path) -> None:
    config = YamlLintConfig((DEPLOY / ".yamllint.yaml").read_text(encoding="utf-8"))
    assert list(linter.run(path.read_text(encoding="utf-8"), config)) == []


def test_kubernetes_knows_every_field() -> None:
    assert len(documents()) == 9
    for one in documents():
        kubernetes_validate.validate(one, "1.37", strict=True)


def test_the_validator_finds_a_wrong_field() -> None:
    wrong = document("StatefulSet", "triton")
    wrong["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_compose_knows_every_field(tmp_path: Path) -> None:
    assert compose_problems(COMPOSE) == ""
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text(encoding="utf-8").replace("restart:", "restarts:"), encoding="utf-8")
    assert "restarts" in compose_problems(wrong)


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_the_front_ends_command_is_one_of_ours_and_names_every_triton(where: str) -> None:
    if where == "compose":
        services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
        arguments = services["front"]["command"]
        tritons = [f"{name}:8001" for name in services if name.startswith("triton")]
        assert "ports" not in services["triton-0"]
    else:
        (container,) = document("Deployment", "bottlekit")["spec"]["template"]["spec"]["containers"]
        arguments = container["args"]
        stateful = document("StatefulSet", "triton")["spec"]
        service = stateful["serviceName"]
        tritons = [f"triton-{number}.{service}:8001" for number in range(stateful["replicas"])]
    command: Any = typer.main.get_command(app)
    verb, *rest = arguments
    command.commands[verb].make_context(verb, list(rest))  # an unknown option ends the test
    assert addresses_from_text(option(rest, "--triton"))[0] == tritons
    assert option(rest, "--tls") == "/tls"


def test_selectors_find_their_pods_and_probes_their_ports() -> None:
    for kind, name in (("StatefulSet", "triton"), ("Deployment", "bottlekit")):
        spec = document(kind, name)["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels
        assert document("Service", name)["spec"]["selector"] == labels
        assert document("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"] == labels
        assert document("NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"] == labels
        (container,) = spec["template"]["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    front = document("Deployment", "bottlekit")["spec"]["template"]["metadata"]["labels"]
    (rule,) = document("NetworkPolicy", "triton")["spec"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": front}}]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8001}]


def test_images_are_made_of_files_that_exist() -> None:
    lines = (DEPLOY / "front.Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    for service in yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"].values():
        context = (DEPLOY / service["build"]["context"]).resolve()
        assert (context / service["build"]["dockerfile"]).is_file()
