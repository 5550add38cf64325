"""Requests of the real client to a local server; every failure is one line without the token."""

import datetime
import ipaddress
import logging
import socket
import subprocess
import sys

import pytest
import yaml
from kfp_server import kfp_server

from recpolicy.core.errors import ConfigError, DataError, MissingExtraError, SubmitError
from recpolicy.core.optional_deps import require_extra
from recpolicy.pipelines.package import package_to_upload, read_package
from recpolicy.pipelines.submit import TOKEN_VARIABLE, read_token, submit_to_kubeflow

TOKEN = "s3cret-abcdef"
PARAMETERS = {"agent": "lints", "rounds": 200, "alpha": 0.5, "explore": True, "seeds": [1, 2], "grid": {"alpha": [1.0]}}

COMPILE = """
import sys
from kfp import compiler, dsl

@dsl.component(base_image="python:3.11", install_kfp_package=False)
def count(n: int) -> int:
    return n + 1

@dsl.pipeline(name="two-steps")
def two_steps(
    agent: str, rounds: int = 1, alpha: float = 1.0, explore: bool = False, seeds: list = [0], grid: dict = {},
):
    first = count(n=rounds)
    with dsl.If(first.output > 1):
        count(n=first.output)

compiler.Compiler().compile(two_steps, sys.argv[1])
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A pipeline of two steps, the second in a branch; compiled in another process."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "write.py").write_text(COMPILE)
    command = [sys.executable, "-W", "ignore", str(folder / "write.py"), str(folder / "two.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "two.yaml"


@pytest.fixture(autouse=True)
def isolate_from_this_machine(monkeypatch, tmp_path):
    import kfp

    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    for name in (TOKEN_VARIABLE, "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cluster():
    with kfp_server() as running:
        yield running


def send(package, cluster, **more):
    return submit_to_kubeflow(package, PARAMETERS, **{"host": cluster.url, "name": "train", **more})


def message_of(error):
    """Return the message of a SubmitError; fails unless it is one line."""
    text = str(error.value)
    assert "\n" not in text
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None
    return text


def test_pipeline_is_uploaded_and_run(package, cluster, capsys):
    submitted = send(package, cluster)
    (pipeline,), (version,), (run,) = cluster.pipelines, cluster.versions, cluster.runs
    assert pipeline["display_name"] == "train"
    assert version["pipeline_spec"] == yaml.safe_load(package.read_text())
    expected = {"pipeline_id": pipeline["pipeline_id"], "pipeline_version_id": version["pipeline_version_id"]}
    assert run["pipeline_version_reference"] == expected
    assert (submitted.platform, submitted.id, submitted.name, submitted.recurring) == (
        "kubeflow",
        run["run_id"],
        run["display_name"],
        False,
    )
    assert submitted.url == f"{cluster.url}/#/runs/details/{submitted.id}"
    assert capsys.readouterr() == ("", "")


def test_parameters_arrive_with_their_types(package, cluster):
    send(package, cluster, pipeline_root="s3://bucket/root")
    config = cluster.runs[0]["runtime_config"]
    assert config == {"parameters": PARAMETERS, "pipeline_root": "s3://bucket/root"}
    assert [type(value) for value in config["parameters"].values()] == [type(value) for value in PARAMETERS.values()]


def test_second_submission_uploads_and_runs_a_new_version(package, cluster):
    first, second = send(package, cluster), send(package, cluster)
    assert len(cluster.pipelines) == 1
    assert len({version["display_name"] for version in cluster.versions}) == 2
    used = [run["pipeline_version_reference"]["pipeline_version_id"] for run in cluster.runs]
    assert used == [version["pipeline_version_id"] for version in cluster.versions]
    assert first.id != second.id
    assert first.name != second.name


def test_experiment_is_created_once(package, cluster):
    for _ in range(2):
        send(package, cluster, experiment="weekly")
    (experiment,) = cluster.experiments
    assert experiment["display_name"] == "weekly"
    assert {run["experiment_id"] for run in cluster.runs} == {experiment["experiment_id"]}


def test_schedule_creates_a_recurring_run(package, cluster):
    submitted = send(package, cluster, cron="0 1 * * MON")
    (recurring,) = cluster.recurring_runs
    assert recurring["trigger"] == {"cron_schedule": {"cron": "0 0 1 * * MON"}}
    assert (recurring["mode"], recurring["max_concurrency"], recurring["no_catchup"]) == ("ENABLE", 1, True)
    assert recurring["runtime_config"]["parameters"] == PARAMETERS
    assert (submitted.id, submitted.name, submitted.recurring) == (recurring["recurring_run_id"], "train", True)
    assert submitted.url == f"{cluster.url}/#/recurringrun/details/{submitted.id}"
    assert cluster.runs == []


def test_pipelines_and_experiments_are_created_in_the_namespace(package, cluster):
    cluster.multi_user = True
    for _ in range(2):
        send(package, cluster, namespace="team")
    assert [item["namespace"] for item in (*cluster.pipelines, *cluster.experiments)] == ["team", "team"]
    assert len(cluster.versions) == 2


def test_namespace_can_come_from_the_settings_of_the_client(package, cluster, tmp_path):
    cluster.multi_user = True
    (tmp_path / "context.json").write_text('{"namespace": "team"}')
    send(package, cluster)
    assert [item["namespace"] for item in (*cluster.pipelines, *cluster.experiments)] == ["team", "team"]


def test_multi_user_cluster_needs_a_namespace(package, cluster):
    cluster.multi_user = True
    with pytest.raises(SubmitError) as error:
        send(package, cluster)
    assert "--namespace" in message_of(error)
    assert cluster.pipelines == []


def test_caching_is_as_compiled_unless_switched_off(package, cluster):
    send(package, cluster)
    send(package, cluster, caching=False)
    as_compiled, without = ([task["cachingOptions"] for task in tasks(v["pipeline_spec"])] for v in cluster.versions)
    assert as_compiled.count({"enableCache": True}) == 2
    assert len(without) == len(as_compiled) == 3  # the branch counts too
    assert without == [{}] * 3


def tasks(spec):
    bodies = [spec["root"], *spec["components"].values()]
    return [{"cachingOptions": {}} | task for body in bodies for task in body.get("dag", {}).get("tasks", {}).values()]


def test_copy_without_caching_differs_in_nothing_else(package):
    with package_to_upload(read_package(package), caching=False) as file:
        changed = yaml.safe_load(file.read_text())
    whole = yaml.safe_load(package.read_text())
    for task in (task for spec in (changed, whole) for task in [*spec["root"]["dag"]["tasks"].values()]):
        task.pop("cachingOptions", None)
    for spec in (changed, whole):
        for body in spec["components"].values():
            for task in body.get("dag", {}).get("tasks", {}).values():
                task.pop("cachingOptions", None)
    assert changed == whole
    assert not file.exists()


def test_token_is_sent_and_never_logged(package, cluster, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    cluster.token = TOKEN
    submitted = send(package, cluster, token=TOKEN)
    assert len(cluster.runs) == 1
    output = capfd.readouterr()
    assert TOKEN not in caplog.text + output.out + output.err + repr(submitted)


@pytest.mark.parametrize("given", ["wr0ng-token", None])
def test_wrong_token_is_one_line_after_one_request(package, cluster, given, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    cluster.token = TOKEN
    with pytest.raises(SubmitError) as error:
        send(package, cluster, token=given)
    text = message_of(error)
    assert "401" in text
    assert TOKEN_VARIABLE in text
    assert cluster.requests == ["GET /healthz"]  # no second try
    output = capfd.readouterr()
    everything = text + caplog.text + output.out + output.err
    assert TOKEN not in everything
    if given:
        assert given not in everything


def test_unreachable_host_is_one_line(package, cluster, caplog):
    with socket.create_server(("127.0.0.1", 0)) as other:
        host = f"http://127.0.0.1:{other.getsockname()[1]}"
    with pytest.raises(SubmitError) as error:
        send(package, cluster, host=host, token=TOKEN)
    text = message_of(error)
    assert text.startswith(f"{host} cannot be reached")
    assert caplog.text == ""  # urllib3 would warn of each of three retries


@pytest.mark.parametrize(
    ("path", "status", "body", "message"),
    [
        ("/healthz", 404, b"<html>", "/pipeline"),
        ("/pipelines/upload", 403, b'{"message": "no rights in namespace team"}', "no rights in namespace team"),
        ("/runs", 400, b'{"error": "parameter x is wrong"}', "parameter x is wrong"),
        ("/runs", 400, b'["odd"]', "rejects this pipeline"),
        ("/runs", 503, b"", "try again"),
        ("/pipelines/upload", 200, b"<html>log in</html>", "login page"),
        ("/runs", 200, b"{}", "login page"),
    ],
)
def test_errors_of_the_cluster_are_one_line(package, cluster, path, status, body, message):
    cluster.broken = {path: (status, body)}
    with pytest.raises(SubmitError) as error:
        send(package, cluster)
    assert message in message_of(error)


def test_rejected_parameter_is_named(package, cluster):
    with pytest.raises(SubmitError) as error:
        submit_to_kubeflow(package, PARAMETERS | {"rounds": "many"}, host=cluster.url, name="train")
    assert "parameter rounds of type NUMBER_INTEGER got 'many'" in message_of(error)


@pytest.mark.parametrize("host", ["kubeflow.example.com", "ftp://x", "", "https://", "http://h:99999", "https://[x"])
def test_malformed_host_is_rejected_before_any_request(package, cluster, host):
    with pytest.raises(ConfigError, match=r"--host: expected an address such as https"):
        send(package, cluster, host=host)


def test_secrets_in_the_host_are_not_repeated(package, cluster):
    with pytest.raises(ConfigError) as error:
        send(package, cluster, host="https://me:pa55@kubeflow.example.com")
    assert "pa55" not in str(error.value)


def test_token_over_plain_http_to_another_machine_is_a_warning(package, cluster, caplog, monkeypatch):
    monkeypatch.setattr("recpolicy.pipelines.submit._connect", lambda *_: pytest.fail("enough", pytrace=False))
    with pytest.raises(pytest.fail.Exception):
        send(package, cluster, host="http://kubeflow.example.com", token=TOKEN)
    assert "unencrypted" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "more", [{"cron": "every monday"}, {"cron": "0 25 * * *"}, {"ca": "nowhere.pem"}, {"host": "kubeflow"}]
)
def test_settings_are_checked_before_any_request(package, cluster, more, tmp_path):
    more = {name: tmp_path / value if name == "ca" else value for name, value in more.items()}
    with pytest.raises(ConfigError):
        send(package, cluster, **more)
    assert cluster.requests == []


@pytest.mark.parametrize("text", [None, "", "- 1", "a: b", "{", "root: {}\npipelineInfo: {}", "\x00"])
def test_other_files_are_rejected_before_any_request(cluster, tmp_path, text):
    file = tmp_path / "train.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=r"train\.yaml: .*"):
        send(file, cluster)
    assert cluster.requests == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate of 127.0.0.1 and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("certificate")
    (folder / "chain.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder / "chain.pem", folder / "key.pem"


def test_private_ca_is_trusted_only_if_given(package, certificate):
    with kfp_server(certificate) as cluster:
        with pytest.raises(SubmitError) as error:
            send(package, cluster, token=TOKEN)
        assert "--ca" in message_of(error)
        assert cluster.requests == []
        send(package, cluster, ca=certificate[0])
        assert len(cluster.runs) == 1


def test_token_file_wins_over_the_environment(monkeypatch, tmp_path, caplog):
    assert read_token() is None
    monkeypatch.setenv(TOKEN_VARIABLE, f" {TOKEN}\n")
    assert read_token() == TOKEN
    file = tmp_path / "token"
    file.write_text("other\r\n")
    file.chmod(0o640)  # Kubernetes lets the group of the pod read a mounted secret
    assert read_token(file) == "other"
    assert caplog.text == ""


def test_token_file_readable_by_everyone_is_a_warning(tmp_path, caplog):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o644)
    assert read_token(file) == TOKEN
    assert "chmod 600" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("text", ["", " \n", f"{TOKEN} {TOKEN}", f"{TOKEN}\nx", "tökén", "x" * 70_000])
def test_malformed_token_is_rejected_and_not_repeated(monkeypatch, tmp_path, text):
    file = tmp_path / "token"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ConfigError) as error:
        read_token(file)
    assert str(error.value).startswith(str(file))
    assert TOKEN not in str(error.value)
    if len(text) < 70_000:
        monkeypatch.setenv(TOKEN_VARIABLE, text)
        with pytest.raises(ConfigError, match=TOKEN_VARIABLE):
            read_token()


def test_missing_token_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"token: cannot read the token: No such file"):
        read_token(tmp_path / "token")


def test_missing_kfp_is_an_error_with_the_command_to_install_it(package, cluster, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"recpolicy\[pipelines\]"):
        require_extra("pipelines", "recpolicy pipeline submit")
    with pytest.raises(MissingExtraError):
        send(package, cluster)
