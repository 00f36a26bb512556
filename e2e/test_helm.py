# SPDX-License-Identifier: Apache-2.0
"""The chart without a cluster: rendered by helm, held to Kubernetes' own schemas and to ours.

Each set of values is one installation that somebody may want; the laws hold for all of them.
"""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from headrace.topics import INFERENCE_REQUESTS
from headrace_inference.app import REQUESTS_GROUP
from headrace_kit.settings import ServiceSettings

pytestmark = pytest.mark.e2e

CHART = Path(__file__).resolve().parents[1] / "deploy/helm/headrace"
SERVICES = ("ingest", "feature", "trainer", "registry", "inference", "monitor")
KUBERNETES = ("1.32", "1.37")
RENDER_TIMEOUT_S = 60.0
AUTHORITIES = "SSL_CERT_FILE"
OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"
LEAST: dict[str, Any] = {
    "image": {"registry": "registry.example.org/team"},
    "kafka": {"bootstrap": "kafka:9092"},
    "postgres": {"address": "postgres:5432", "existingSecret": "headrace-postgres"},
    "s3": {
        "endpoint": "http://s3:7070",
        "uri": "s3://headrace/headrace",
        "existingSecret": "headrace-s3",
    },
    "tokens": {"existingSecret": "headrace-tokens"},
}
WIDE: dict[str, Any] = {
    **LEAST,
    "kafka": {"bootstrap": "kafka-0.example.org:9092,kafka-1.example.org:9093"},
    "services": {
        "feature": {"replicas": 2},
        "registry": {"replicas": 2},
        "trainer": {"replicas": 2, "settings": {"TRAINER_RUN_DURATION_S_MAX": "600"}},
        "inference": {"replicas": 3, "settings": {"INFERENCE_PROCESSES": "2"}},
    },
}
CLOSED: dict[str, Any] = {
    **LEAST,
    "image": {"registry": "registry.example.org/team", "pullSecrets": ["pull"]},
    "s3": {
        **LEAST["s3"],
        "endpoint": "https://s3.example.org",
        "authoritiesConfigMap": "headrace-authorities",
        "region": "eu-central-1",
    },
    "traces": {"endpoint": "http://collector:4318"},
    "signers": {"existingConfigMap": "headrace-signers"},
    "services": {name: {"digest": f"sha256:{'a' * 64}"} for name in SERVICES},
    "networkPolicy": {
        "clients": [{"podSelector": {"matchLabels": {"app": "shop"}}}],
        "scrapers": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "kafka": [{"ipBlock": {"cidr": "192.0.2.0/28"}}],
        "postgres": [{"ipBlock": {"cidr": "192.0.2.16/32"}}],
        "s3": [{"ipBlock": {"cidr": "192.0.2.17/32"}}],
        "traces": [{"podSelector": {"matchLabels": {"app": "collector"}}}],
    },
}
MORE_DOORS = {"inference": ["rest"], "monitor": ["http"], "registry": ["rest"]}
LARGE: dict[str, Any] = {
    **LEAST,
    "image": {"registry": "registry.example.org/team", "tag": "0.2.0"},
    "services": {
        "feature": {"storage": {"size": "200Gi", "className": "fast"}},
        "monitor": {"storage": {"size": "50Gi", "className": "fast"}},
        "trainer": {
            "resources": {
                "requests": {"cpu": 8, "memory": "16Gi"},
                "limits": {"cpu": 16, "memory": "64Gi"},
            }
        },
    },
}
SCALED: dict[str, Any] = {
    **LEAST,
    "services": {
        "inference": {
            "replicas": 2,
            "autoscaling": {
                "endpoints": ["delay", "price-eu"],
                "replicasMax": 8,
                "lagRecords": 1_000_000,
            },
        }
    },
}
SCALED_FROM_ONE = {"autoscaling": SCALED["services"]["inference"]["autoscaling"]}
INSTALLATIONS = {"least": LEAST, "wide": WIDE, "closed": CLOSED, "large": LARGE, "scaled": SCALED}
# What KEDA takes of what the chart says: https://keda.sh/docs/latest/reference/scaledobject-spec/;
# https://keda.sh/docs/latest/scalers/apache-kafka/, where all values are strings.
TRIGGER = [
    *("bootstrapServers", "consumerGroup", "topic", "lagThreshold"),
    *("offsetResetPolicy", "version"),
]
SCALED_OBJECT: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["scaleTargetRef", "triggers"],
    "properties": {
        "scaleTargetRef": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name"],
            "properties": {"name": {"type": "string"}},
        },
        "minReplicaCount": {"type": "integer", "minimum": 1},
        "maxReplicaCount": {"type": "integer", "minimum": 1},
        "triggers": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "metadata"],
                "properties": {
                    "type": {"const": "kafka"},
                    "metadata": {
                        "type": "object",
                        "propertyNames": {"enum": TRIGGER},
                        "additionalProperties": {"type": "string"},
                    },
                },
            },
        },
    },
}
# A release name of the longest kind that Helm takes.
RELEASE = "headrace-" + "x" * 44
Document = dict[str, Any]


def run_helm(helm: Path, values: Document, folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return subprocess.run(
        [helm, "template", RELEASE, CHART, "--namespace", "ml", "--values", file],
        capture_output=True,
        text=True,
        timeout=RENDER_TIMEOUT_S,
    )


@pytest.fixture(scope="module", params=INSTALLATIONS)
def installation(request: pytest.FixtureRequest) -> Document:
    return INSTALLATIONS[request.param]


@pytest.fixture(scope="module")
def documents(
    installation: Document, helm: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Document]:
    return rendered(helm, installation, tmp_path_factory.mktemp("values"))


def rendered(helm: Path, installation: Document, folder: Path) -> list[Document]:
    done = run_helm(helm, installation, folder)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    return [each for each in documents if each["kind"] in kinds]


def component(document: Document) -> str:
    return str(document["metadata"]["labels"].get("app.kubernetes.io/component", ""))


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """The component and the pod spec of everything that runs."""
    for each in of_kind(documents, "Deployment", "StatefulSet", "Job"):
        yield component(each), each["spec"]["template"]["spec"]


def policies(documents: list[Document]) -> dict[str, Document]:
    """The NetworkPolicies by the last part of their name."""
    return {
        each["metadata"]["name"].removeprefix(RELEASE[:40] + "-"): each["spec"]
        for each in of_kind(documents, "NetworkPolicy")
    }


def settings_of(service: str) -> set[str]:
    module = import_module(f"headrace_{service}.settings")
    (settings,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, ServiceSettings)
        and each.__module__ == module.__name__
    )
    prefix = settings.model_config["env_prefix"]
    return {f"{prefix}{field}".upper() for field in settings.model_fields}


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_document(documents: list[Document], version: str) -> None:
    for each in documents:
        if each["kind"] != "ScaledObject":
            kubernetes_validate.validate(each, version, strict=True)


def test_schemas_refuse_a_misspelt_field(documents: list[Document]) -> None:
    broken = copy.deepcopy(of_kind(documents, "Deployment")[0])
    broken["spec"]["template"]["spec"]["automountServiceAcountToken"] = False

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[-1], strict=True)


def test_names_are_short_enough_and_unique(documents: list[Document]) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in documents]

    assert len(set(names)) == len(names)
    for kind, name in names:
        # A StatefulSet's revisions add 11 characters, and become labels.
        assert len(name) <= (52 if kind == "StatefulSet" else 63), name


def test_each_service_runs_and_is_found_at_its_ports(documents: list[Document]) -> None:
    running = {component(each) for each in of_kind(documents, "Deployment", "StatefulSet")}
    named = {
        component(each): each["spec"]["ports"]
        for each in of_kind(documents, "Service")
        if not headless(each)
    }

    assert set(SERVICES) == running == set(named)
    for service, pod in pods(documents):
        if service in named:
            listening = {
                port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]
            }
            assert listening == {port["name"]: port["port"] for port in named[service]}


def test_environment_is_of_the_services_settings(documents: list[Document]) -> None:
    for service, pod in pods(documents):
        names = [each["name"] for each in pod["containers"][0].get("env", ())]
        allowed = settings_of(service) if service in SERVICES else set()

        assert len(set(names)) == len(names)
        assert set(names) - allowed <= {"POD_IP", OTLP, AUTHORITIES}


def headless(service: Document) -> bool:
    return "None" == service["spec"].get("clusterIP")


@pytest.mark.parametrize(
    ("values", "several"),
    [
        (LEAST, set()),
        (WIDE, {"feature", "registry", "trainer", "inference"}),
        (SCALED, {"inference"}),
        ({**LEAST, "services": {"inference": SCALED_FROM_ONE}}, {"inference"}),
    ],
    ids=["least", "wide", "scaled", "scaled from one"],
)
def test_each_of_several_replicas_is_found_by_name(
    helm: Path, tmp_path: Path, values: Document, several: set[str]
) -> None:
    documents = rendered(helm, values, tmp_path)
    found = {component(each): each for each in of_kind(documents, "Service") if headless(each)}
    whole = {component(each): each for each in of_kind(documents, "Service") if not headless(each)}

    assert several == set(found)
    for name, service in found.items():
        assert whole[name]["spec"]["selector"] == service["spec"]["selector"]
        assert whole[name]["spec"]["ports"][:1] == service["spec"]["ports"]
    called = {
        each["value"].partition(":")[0]
        for _, pod in pods(documents)
        for each in pod["containers"][0].get("env", ())
        if each["name"].endswith(("_FEATURE_ADDRESS", "_REGISTRY_ADDRESS"))
    }
    peers = {name: found.get(name, whole[name]) for name in ("feature", "registry")}
    assert {each["metadata"]["name"] for each in peers.values()} == called


def test_peers_are_addressed_by_services_that_exist(documents: list[Document]) -> None:
    addresses = {
        f"{each['metadata']['name']}:{port['port']}"
        for each in of_kind(documents, "Service")
        for port in each["spec"]["ports"]
    }
    called = {
        each["value"]
        for _, pod in pods(documents)
        for each in pod["containers"][0].get("env", ())
        if each["name"].endswith("_ADDRESS") and "POD_IP" not in each["value"]
    }

    assert 2 == len(called)
    assert called <= addresses


def test_replicas_that_ask_each_other_are_reached_at_their_pods(documents: list[Document]) -> None:
    (container,) = next(pod for name, pod in pods(documents) if name == "feature")["containers"]
    environment = {each["name"]: each for each in container["env"]}
    address = {"fieldRef": {"fieldPath": "status.podIP"}}
    assert address == environment["POD_IP"]["valueFrom"]
    assert "$(POD_IP):7102" == environment["FEATURE_PEER_ADDRESS"]["value"]
    assert "peer-token" == environment["FEATURE_TOKEN"]["valueFrom"]["secretKeyRef"]["key"]
    # Kubernetes puts in only what stands before.
    assert list(environment).index("POD_IP") < list(environment).index("FEATURE_PEER_ADDRESS")


def test_secrets_come_from_secrets(documents: list[Document]) -> None:
    for _, pod in pods(documents):
        for each in pod["containers"][0].get("env", ()):
            secret = each["name"].endswith(
                ("_PASSWORD", "_S3_ACCESS_KEY", "_S3_SECRET_KEY", "_TOKEN")
            )
            assert secret == ("secretKeyRef" in each.get("valueFrom", {})), each["name"]


def test_services_know_who_calls(documents: list[Document]) -> None:
    for name, pod in pods(documents):
        if name in SERVICES:
            (container,) = pod["containers"]
            environment = {each["name"]: each.get("value") for each in container["env"]}
            (mount,) = (each for each in container["volumeMounts"] if each["name"] == "tokens")
            file = f"{mount['mountPath']}/tokens.json"
            assert file == environment[f"{name.upper()}_TOKENS_FILE"]
            assert mount["readOnly"]


def test_registry_alone_knows_whose_signatures_count(
    documents: list[Document], installation: Document
) -> None:
    name = installation.get("signers", {}).get("existingConfigMap")
    for service, pod in pods(documents):
        (container,) = pod["containers"]
        environment = {each["name"]: each.get("value") for each in container.get("env", ())}
        mounts = {each["name"]: each for each in container["volumeMounts"]}
        named = [each["configMap"]["name"] for each in pod["volumes"] if each["name"] == "signers"]
        if service != "registry" or name is None:
            assert (False, []) == ("signers" in mounts, named)
            assert "REGISTRY_TRUSTED_SIGNERS_FILE" not in environment
            continue
        assert [name] == named
        assert mounts["signers"]["readOnly"]
        file = f"{mounts['signers']['mountPath']}/signers.pem"
        assert file == environment["REGISTRY_TRUSTED_SIGNERS_FILE"]


def test_services_that_use_s3_know_its_authority_and_region(
    documents: list[Document], installation: Document
) -> None:
    name = installation["s3"].get("authoritiesConfigMap")
    region = installation["s3"].get("region", "us-east-1")
    for service, pod in pods(documents):
        (container,) = pod["containers"]
        environment = {each["name"]: each.get("value") for each in container.get("env", ())}
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        volumes = {each["name"]: each for each in pod["volumes"]}
        stores = f"{service.upper()}_S3_ENDPOINT" in environment
        assert (region if stores else None) == environment.get(f"{service.upper()}_S3_REGION")
        if not stores or name is None:
            assert not {"authorities"} & {*mounts, *volumes}
            assert AUTHORITIES not in environment
            continue
        assert name == volumes["authorities"]["configMap"]["name"]
        assert f"{mounts['authorities']}/authorities.pem" == environment[AUTHORITIES]


def test_clients_of_mlflow_find_the_registry(documents: list[Document]) -> None:
    (container,) = next(pod for name, pod in pods(documents) if name == "registry")["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    (rest,) = (each for each in container["ports"] if each["name"] == "rest")

    assert str(rest["containerPort"]) == environment["REGISTRY_REST_PORT"]


def test_pods_are_restricted(documents: list[Document]) -> None:
    """Pod Security Standards, profile `restricted`, and more than it asks."""
    for name, pod in pods(documents):
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert "RuntimeDefault" == pod["securityContext"]["seccompProfile"]["type"], name
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod), name
        volumes = {each["name"]: each.keys() - {"name"} for each in pod["volumes"]}
        assert {"secret"} == volumes.pop("tokens", {"secret"}), name
        for public in ("signers", "authorities"):
            assert {"configMap"} == volumes.pop(public, {"configMap"}), name
        assert all({"emptyDir"} == kind for kind in volumes.values()), name
        (container,) = pod["containers"]
        assert {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        } == container["securityContext"], name
        assert all("hostPort" not in port for port in container.get("ports", ())), name
        for bound in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][bound]), name
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, name  # noqa: S108


def test_services_are_probed_and_end_gently(documents: list[Document]) -> None:
    for name, pod in pods(documents):
        if name not in SERVICES:
            continue
        (container,) = pod["containers"]
        assert 60 == pod["terminationGracePeriodSeconds"], name
        assert 5 <= container["lifecycle"]["preStop"]["sleep"]["seconds"] <= 15, name
        assert "/health/live" == container["livenessProbe"]["httpGet"]["path"], name
        assert "/health/ready" == container["readinessProbe"]["httpGet"]["path"], name
        assert "http" == container["readinessProbe"]["httpGet"]["port"], name


def test_state_outlives_its_pod(documents: list[Document]) -> None:
    kept = {
        component(each): [
            claim["metadata"]["name"] for claim in each["spec"]["volumeClaimTemplates"]
        ]
        for each in of_kind(documents, "StatefulSet")
    }

    assert {"feature": ["data"], "monitor": ["data"]} == kept


def test_replicas_have_a_disruption_budget(documents: list[Document]) -> None:
    several = {
        component(each)
        for each in of_kind(documents, "Deployment", "StatefulSet", "ScaledObject")
        if each["spec"].get("replicas", 1) > 1 or each["spec"].get("minReplicaCount", 1) > 1
    }

    assert several == {component(each) for each in of_kind(documents, "PodDisruptionBudget")}


def test_replicas_follow_the_requests_that_wait_where_endpoints_are_named(
    documents: list[Document], installation: Document
) -> None:
    asked = installation.get("services", {}).get("inference", {}).get("autoscaling")
    scaled = of_kind(documents, "ScaledObject")
    (inference,) = (
        each for each in of_kind(documents, "Deployment") if component(each) == "inference"
    )
    assert ("replicas" in inference["spec"]) == (asked is None)
    if asked is None:
        assert [] == scaled
        return
    (scaler,) = scaled
    jsonschema.validate(scaler["spec"], SCALED_OBJECT)
    assert "keda.sh/v1alpha1" == scaler["apiVersion"]
    assert inference["metadata"]["name"] == scaler["spec"]["scaleTargetRef"]["name"]
    assert (2, 8) == (scaler["spec"]["minReplicaCount"], scaler["spec"]["maxReplicaCount"])
    told = [trigger["metadata"] for trigger in scaler["spec"]["triggers"]]
    wanted = [INFERENCE_REQUESTS.of(endpoint) for endpoint in asked["endpoints"]]
    assert wanted == [each["topic"] for each in told]
    assert {REQUESTS_GROUP} == {each["consumerGroup"] for each in told}
    assert {"1000000"} == {each["lagThreshold"] for each in told}
    assert {installation["kafka"]["bootstrap"]} == {each["bootstrapServers"] for each in told}


def test_more_replicas_at_least_than_at_most_are_refused(helm: Path, tmp_path: Path) -> None:
    values = copy.deepcopy(SCALED)
    values["services"]["inference"]["replicas"] = 9
    done = run_helm(helm, values, tmp_path)

    assert done.returncode != 0
    assert "replicasMax is below" in done.stderr


def test_everything_is_denied_that_no_policy_opens(documents: list[Document]) -> None:
    deny = policies(documents)["default-deny"]

    assert {"podSelector", "policyTypes"} == set(deny)
    assert ["Ingress", "Egress"] == deny["policyTypes"]
    for each in of_kind(documents, "Deployment", "StatefulSet"):
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert deny["podSelector"]["matchLabels"].items() <= labels.items()


def test_policies_open_what_the_services_call(documents: list[Document]) -> None:
    """Both ends of each call: out of the caller, into the called."""
    opened = policies(documents)
    calls = {"trainer": ("feature", "registry"), "inference": ("feature", "registry")}
    for caller, called in (calls | {"feature": ("feature",)}).items():
        out = [
            rule["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for rule in opened[caller]["egress"]
        ]
        assert set(called) <= set(out)
        for each in called:
            into = opened[each]["ingress"][0]["from"][0]["podSelector"]["matchExpressions"][0]
            assert caller in into["values"]


def test_policies_open_the_stores_at_their_ports(
    documents: list[Document], installation: Document
) -> None:
    opened = policies(documents)
    kafka = [int(each.rpartition(":")[2]) for each in installation["kafka"]["bootstrap"].split(",")]
    s3 = 443 if installation["s3"]["endpoint"].startswith("https") else 7070

    assert kafka == [port["port"] for port in opened["kafka"]["egress"][1]["ports"]]
    assert kafka == [port["port"] for port in opened["topics"]["egress"][1]["ports"]]
    assert [5432] == [port["port"] for port in opened["postgres"]["egress"][0]["ports"]]
    assert [s3] == [port["port"] for port in opened["s3"]["egress"][0]["ports"]]
    peers = installation.get("networkPolicy", {})
    for store, rule in (("kafka", 1), ("postgres", 0), ("s3", 0)):
        assert peers.get(store) == opened[store]["egress"][rule].get("to")


def test_services_send_spans_where_a_collector_is_named(
    documents: list[Document], installation: Document
) -> None:
    endpoint = installation.get("traces", {}).get("endpoint")
    told = {
        next((each["value"] for each in pod["containers"][0]["env"] if each["name"] == OTLP), None)
        for name, pod in pods(documents)
        if name in SERVICES
    }

    assert {endpoint} == told
    opened = policies(documents).get("traces")
    if endpoint is None:
        assert opened is None
    else:
        (rule,) = opened["egress"]
        assert [{"protocol": "TCP", "port": 4318}] == rule["ports"]
        assert installation["networkPolicy"]["traces"] == rule["to"]


def test_clients_reach_the_doors_only_when_named(
    documents: list[Document], installation: Document
) -> None:
    clients = installation.get("networkPolicy", {}).get("clients")
    for service in SERVICES:
        rules = policies(documents)[service].get("ingress", [])
        named = [
            [port["port"] for port in rule["ports"]]
            for rule in rules
            if clients and rule["from"] == clients
        ]
        doors = ["grpc", *MORE_DOORS.get(service, ())]
        assert ([doors] if clients else []) == named, service


def test_image_is_of_the_digest_when_there_is_one(
    documents: list[Document], installation: Document
) -> None:
    for name, pod in pods(documents):
        service = name if name in SERVICES else "registry"
        digest = installation.get("services", {}).get(service, {}).get("digest")
        version = f"@{digest}" if digest else f":{installation['image'].get('tag', '0.1.0')}"
        expected = f"registry.example.org/team/headrace-{service}{version}"
        assert expected == pod["containers"][0]["image"], name


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (("image", "registry"), "image.registry is required"),
        (("kafka", "bootstrap"), "kafka.bootstrap is required"),
        (("postgres", "address"), "postgres.address is required"),
        (("postgres", "existingSecret"), "postgres.existingSecret is required"),
        (("s3", "endpoint"), "s3.endpoint is required"),
        (("s3", "uri"), "s3.uri is required"),
        (("s3", "existingSecret"), "s3.existingSecret is required"),
        (("tokens", "existingSecret"), "tokens.existingSecret is required"),
    ],
)
def test_missing_value_is_asked_for(
    helm: Path, tmp_path: Path, path: tuple[str, str], sentence: str
) -> None:
    values = copy.deepcopy(LEAST)
    del values[path[0]][path[1]]
    done = run_helm(helm, values, tmp_path)

    assert done.returncode != 0
    assert sentence in done.stderr


@pytest.mark.parametrize(
    ("services", "word"),
    [
        ({"inference": {"replica": 2}}, "replica"),
        ({"monitor": {"replicas": 2}}, "replicas"),
        ({"trainer": {"settings": {"REGISTRY_LOG_LEVEL": "DEBUG"}}}, "REGISTRY_LOG_LEVEL"),
        ({"registry": {"digest": "latest"}}, "digest"),
        ({"inference": {"autoscaling": {"endpoints": ["Delay"]}}}, "endpoints"),
    ],
)
def test_wrong_value_is_refused(helm: Path, tmp_path: Path, services: Document, word: str) -> None:
    done = run_helm(helm, {**LEAST, "services": services}, tmp_path)

    assert done.returncode != 0
    assert word in done.stderr
