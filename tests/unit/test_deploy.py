"""What deploy/ says agrees with what the server takes. The tools themselves are asked where they are installed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from hetal import limits
from hetal._version import __version__
from hetal.cli.main import EXIT_ERROR, build_parser
from hetal.server.config import ServerConfig
from hetal.server.settings import PREFIX, Settings, load, options, to_toml, variable

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "hetal.service"
CONTAINERFILE = DEPLOY / "container" / "Containerfile"
CHART = DEPLOY / "helm" / "hetal"
VARIABLES = {variable(option.name) for option in options()}
NOWHERE = Path(os.devnull)


def loaded(environment: Mapping[str, str], file: Path = NOWHERE) -> Settings:
    """The configuration, without a variable that is no option."""
    settings = load({}, file=file, environment=environment)
    assert settings.strangers == ()
    return settings


def reachable_with_tls(config: ServerConfig) -> bool:
    return config.host == "0.0.0.0" and config.tls() is not None and not config.allow_plaintext


def extras() -> set[str]:
    """Names of the project's optional dependencies."""
    block = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    return set(re.findall(r"^(\w+) = \[", block, re.MULTILINE))


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


class TestConfigurationFile:
    def test_it_loads_and_serves_other_machines_with_tls(self) -> None:
        config = loaded({}, DEPLOY / "hetal.toml").config
        assert reachable_with_tls(config)
        assert config.port == 7443


class TestSystemd:
    def settings(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for line in UNIT.read_text().splitlines():
            name, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                found.setdefault(name, []).append(value)
        return found

    def test_the_command_parses_and_names_the_file_that_is_shipped(self) -> None:
        (command,) = self.settings()["ExecStart"]
        args = build_parser().parse_args(command.split()[1:])
        assert args.config == Path("/etc/hetal/hetal.toml")

    def test_the_environment_holds_options(self) -> None:
        environment = dict(value.split("=", 1) for value in self.settings()["Environment"])
        assert set(environment) <= VARIABLES
        assert environment["HETAL_DATA_DIR"] == "%S/" + self.settings()["StateDirectory"][0]

    def test_the_gpu_file_chooses_devices(self) -> None:
        text = (DEPLOY / "systemd" / "gpu.conf").read_text()
        assert loaded(dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE))).config.device == "auto"

    def test_it_waits_for_the_drain_and_spares_the_workers(self) -> None:
        settings = self.settings()
        assert int(settings["TimeoutStopSec"][0]) > limits.SHUTDOWN_GRACE_S
        assert settings["KillMode"] == ["mixed"]
        assert settings["OOMPolicy"] == ["continue"]
        assert settings["RestartPreventExitStatus"] == [str(EXIT_ERROR)]

    def test_systemd_finds_nothing_to_complain_about(self, tmp_path: Path) -> None:
        analyze = tool("systemd-analyze")
        unit = tmp_path / "hetal.service"
        text = UNIT.read_text().replace("/usr/local/bin/hetal", sys.executable)
        # The user need not exist on the machine that runs the tests.
        unit.write_text(re.sub(r"^(User|Group)=hetal$", r"\1=root", text, flags=re.MULTILINE))
        (tmp_path / "hetal.service.d").mkdir()
        shutil.copy(DEPLOY / "systemd" / "gpu.conf", tmp_path / "hetal.service.d")
        done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60)
        complaints = [line for line in done.stderr.splitlines() if "hetal.service" in line]
        assert complaints == []

    def test_its_exposure_is_low(self) -> None:
        analyze = tool("systemd-analyze")
        command = [analyze, "security", "--offline=true", "--threshold=25", str(UNIT)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout[-300:] + done.stderr


class TestContainer:
    def instructions(self) -> list[tuple[str, str]]:
        text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE))
        return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word]

    def environment(self) -> dict[str, str]:
        words = [word for name, rest in self.instructions() if name == "ENV" for word in rest.split()]
        return {k: v for k, v in (word.split("=", 1) for word in words) if k.startswith(PREFIX)}

    def test_no_registry_is_named(self) -> None:
        images = [rest.split()[0] for name, rest in self.instructions() if name == "FROM"]
        assert set(images) == {"${BASE_IMAGE}"}
        assert ("ARG", "BASE_IMAGE") in self.instructions()

    def test_what_is_copied_is_there_and_not_ignored(self) -> None:
        kept = (DEPLOY / "container" / "Containerfile.dockerignore").read_text().splitlines()
        for name, rest in self.instructions():
            if name == "COPY" and not rest.startswith("--from"):
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists(), source
                    assert f"!{source}" in kept, source

    def test_it_does_not_start_without_certificates(self) -> None:
        with pytest.raises(Exception, match="PLAINTEXT_REFUSED"):
            loaded(self.environment())

    def test_ports_user_and_signal_agree(self) -> None:
        instructions = dict(self.instructions())
        environment = self.environment()
        assert instructions["EXPOSE"] == environment["HETAL_PORT"]
        assert f"http://{environment['HETAL_HTTP_ADDRESS']}/healthz" in instructions["HEALTHCHECK"]
        assert instructions["USER"] == "10001:10001"
        assert instructions["VOLUME"] == environment["HETAL_DATA_DIR"]
        assert instructions["ENTRYPOINT"] == '["hetal", "serve"]'

    def test_compose_gives_it_certificates(self) -> None:
        compose = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())
        service = compose["services"]["hetal"]
        context = (DEPLOY / "container" / service["build"]["context"]).resolve()
        assert context == ROOT
        assert (context / service["build"]["dockerfile"]).resolve() == CONTAINERFILE
        config = loaded(self.environment() | service["environment"]).config
        assert reachable_with_tls(config)
        mounts = dict(volume.rsplit(":ro", 1)[0].rsplit(":", 1)[::-1] for volume in service["volumes"])
        assert mounts[str(config.data_dir)] in compose["volumes"]
        assert str(config.tls_cert.parent if config.tls_cert else "") in mounts
        assert service["ports"] == [f"{config.port}:{config.port}"]
        assert int(service["stop_grace_period"].removesuffix("s")) > limits.SHUTDOWN_GRACE_S

    def test_the_gpu_file_adds_a_device_to_the_same_service(self) -> None:
        extra = yaml.safe_load((DEPLOY / "container" / "compose.gpu.yaml").read_text())
        (device,) = extra["services"]["hetal"]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        assert loaded(extra["services"]["hetal"]["environment"]).config.device == "auto"
        assert extra["services"]["hetal"]["build"]["args"]["EXTRAS"] in extras()
        assert ("ARG", "EXTRAS=") in self.instructions()

    def test_docker_compose_accepts_the_files(self) -> None:
        docker = tool("docker")
        if subprocess.run([docker, "compose", "version"], capture_output=True, timeout=60).returncode:
            pytest.skip("docker has no compose")
        files = [f"--file={DEPLOY}/container/{name}" for name in ("compose.yaml", "compose.gpu.yaml")]
        environment = os.environ | {"BASE_IMAGE": "base"}
        done = subprocess.run(
            [docker, "compose", *files, "config", "--quiet"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )
        assert done.returncode == 0, done.stderr


class Template:
    """The part of Helm's template language that the chart uses."""

    ACTION = re.compile(r"[ \t]*{{-?\s*(if [^}]+?|end)\s*-?}}[ \t]*\n|{{-?\s*(.+?)\s*}}")

    def __init__(self, values: Mapping[str, Any]) -> None:
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self._scope = {
            "Values": values,
            "Release": {"Name": "crypt"},
            "Chart": {"AppVersion": chart["appVersion"]},
        }

    def render(self, name: str) -> Any:
        out: list[str] = []
        shown = [True]
        text = (CHART / "templates" / name).read_text()
        at = 0
        for match in self.ACTION.finditer(text):
            piece = text[at : match.start()]
            at = match.end()
            if match.group(2) and match.group(0).startswith("{{-"):
                piece = piece.rstrip()
            if all(shown):
                out.append(piece)
            if match.group(1) == "end":
                shown.pop()
            elif match.group(1):
                shown.append(bool(self._value(match.group(1).removeprefix("if "))))
            elif all(shown):
                out.append(self._pipeline(match.group(2)))
        out.append(text[at:])
        assert shown == [True]
        return yaml.safe_load("".join(out))

    def _pipeline(self, text: str) -> str:
        first, *filters = [part.strip() for part in text.split("|")]
        function, _, argument = first.rpartition(" ")
        value = self._value(argument)
        if function == "toYaml":
            value = yaml.safe_dump(value, default_flow_style=False).rstrip("\n")
        elif function == "toToml":
            value = "\n".join(f"{key} = {toml(entry)}" for key, entry in value.items())
        else:
            assert function == ""
        for name, _, operand in (part.partition(" ") for part in filters):
            match name:
                case "nindent":
                    value = "\n" + "\n".join(" " * int(operand) + line for line in str(value).splitlines())
                case "sha256sum":
                    value = hashlib.sha256(str(value).encode()).hexdigest()
                case "default":
                    value = value or self._value(operand)
                case _:
                    raise AssertionError(name)
        return str(value)

    def _value(self, path: str) -> Any:
        value: Any = self._scope
        for part in path.removeprefix(".").split("."):
            assert part in value, f"{path} is not in values.yaml"
            value = value[part]
        return value


def toml(value: object) -> str:
    """As Helm writes it: every number of a values file is a float."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(float(value))
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return f'"{value}"'


class TestChart:
    def values(self, **changes: Any) -> dict[str, Any]:
        found = yaml.safe_load((CHART / "values.yaml").read_text())
        assert isinstance(found, dict)
        return found | changes

    def pod(self, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        found = Template(self.values(**changes)).render("statefulset.yaml")["spec"]["template"]["spec"]
        return found, found["containers"][0]

    def test_the_chart_is_of_this_version(self) -> None:
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        assert chart["appVersion"] == __version__

    def test_every_value_is_used(self) -> None:
        templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
        for name, value in self.values().items():
            below = (
                value if isinstance(value, dict) and name not in ("config", "podAnnotations", "nodeSelector") else {}
            )
            for path in [f"{name}.{key}" for key in below] or [name]:
                assert f".Values.{path}" in templates, path

    def test_configuration_and_environment_make_a_server(self, tmp_path: Path) -> None:
        _, container = self.pod()
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert set(environment) <= VARIABLES
        every = {"retention_s": 86400, "owner_bytes_max": limits.OWNER_BYTES_MAX, "operators": ["cn:ops"]}
        for config in (self.values()["config"], self.values()["config"] | every):
            data = Template(self.values(config=config)).render("configmap.yaml")["data"]
            (tmp_path / "hetal.toml").write_text(data["hetal.toml"])
            settings = loaded(environment, tmp_path / "hetal.toml")
            assert reachable_with_tls(settings.config)
            for name, value in config.items():
                found = getattr(settings.config, name)
                assert (list(found) if isinstance(found, tuple) else found) == value
                assert settings.origins[name].startswith("file")
        build_parser(["serve"]).parse_args(["serve", *container["args"]])

    def test_ports_probes_mounts_and_names_agree(self) -> None:
        pod, container = self.pod()
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert str(ports["grpc"]) == environment["HETAL_PORT"]
        assert environment["HETAL_HTTP_ADDRESS"].endswith(f":{ports['http']}")
        probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert {probe["port"] for probe in probes.values()} == {"http"}
        assert (probes["livenessProbe"]["path"], probes["readinessProbe"]["path"]) == ("/healthz", "/readyz")
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]} | {"data"}
        assert mounts["data"] == environment["HETAL_DATA_DIR"]
        assert container["args"] == ["--config", f"{mounts['config']}/hetal.toml"]
        assert environment["HETAL_TLS_KEY"] == f"{mounts['tls']}/tls.key"
        assert container["image"] == f"hetal:{__version__}"
        service = Template(self.values()).render("service.yaml")
        labels = Template(self.values()).render("statefulset.yaml")["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"] == labels

    def test_it_waits_for_the_drain_and_is_not_confused_by_service_variables(self) -> None:
        pod, container = self.pod()
        assert pod["terminationGracePeriodSeconds"] > limits.SHUTDOWN_GRACE_S
        assert pod["enableServiceLinks"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["securityContext"]["runAsNonRoot"] is True

    def test_a_gpu_is_asked_for_where_it_is_wanted(self) -> None:
        _, without = self.pod()
        gpu = self.values()["gpu"] | {"enabled": True, "runtimeClassName": "nvidia"}
        pod, container = self.pod(gpu=gpu)
        assert "nvidia.com/gpu" not in without["resources"]["limits"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert pod["runtimeClassName"] == "nvidia"
        assert {"name": "HETAL_DEVICE", "value": "auto"} in container["env"]
        assert all(entry["name"] != "HETAL_DEVICE" for entry in without["env"])

    def test_the_status_page_is_open_to_named_peers_alone(self) -> None:
        closed = Template(self.values()).render("networkpolicy.yaml")["spec"]
        assert closed["ingress"] == [{"ports": [{"port": "grpc"}]}]
        policy = {"enabled": True, "metricsFrom": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]}
        opened = Template(self.values(networkPolicy=policy)).render("networkpolicy.yaml")["spec"]
        assert opened["ingress"][1] == {"from": policy["metricsFrom"], "ports": [{"port": "http"}]}
        without = Template(self.values(networkPolicy=policy | {"enabled": False})).render("networkpolicy.yaml")
        assert without is None
        labels = Template(self.values()).render("statefulset.yaml")["spec"]["template"]["metadata"]["labels"]
        assert opened["podSelector"]["matchLabels"] == labels

    def test_optional_parts_render(self) -> None:
        changes: dict[str, Any] = {
            "imagePullSecrets": [{"name": "registry"}],
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "podAnnotations": {"team": "a"},
        }
        stateful = Template(self.values(**changes)).render("statefulset.yaml")["spec"]["template"]
        assert all(stateful["spec"][name] == value for name, value in changes.items() if name != "podAnnotations")
        assert stateful["metadata"]["annotations"]["team"] == "a"

    def test_helm_accepts_it_and_renders_the_same(self) -> None:
        helm = tool("helm")
        assert subprocess.run([helm, "lint", "--strict", str(CHART)], timeout=60).returncode == 0
        done = subprocess.run([helm, "template", "crypt", str(CHART)], capture_output=True, text=True, timeout=60)
        rendered = {entry["kind"]: entry for entry in yaml.safe_load_all(done.stdout)}
        assert rendered["Service"] == Template(self.values()).render("service.yaml")


def test_a_configuration_of_every_option_is_shown_in_the_documents() -> None:
    text = to_toml(load({}, file=NOWHERE, environment={}))
    assert all(f"{option.name} =" in text for option in options())
