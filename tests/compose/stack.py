"""A Compose project of its own for the tests: started, changed and ended by its name."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = ["compose.yml", "compose.cassandra.yml"]
# The superuser of the test.
EMAIL = "root@example.org"


class Failed(Exception):
    """What a case did not find as it must be."""


def must(holds, what):
    if not holds:
        raise Failed(what)


def engine():
    """Why there is no usable Docker engine, or None."""
    if shutil.which("docker") is None:
        return "there is no docker"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            return f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}"
    return None


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Stack:
    """The project. `compose/` is copied, so that its secrets and `.env` are the test's own."""

    def __init__(self, image=None):
        self.name = f"palisade-test-{os.getpid()}"
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="palisade-compose-"))
        # As deep as in the checkout, whose root is the context of the build.
        self.folder = self.home / "compose"
        shutil.copytree(ROOT / "compose", self.folder, ignore=shutil.ignore_patterns("secrets", ".env", "films"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = dict(
            os.environ,
            COMPOSE_PROJECT_NAME=self.name,
            COMPOSE_FILE=":".join(FILES),
            HTTP_PORT=f"127.0.0.1:{self.port}",
            PALISADE_REPLICAS="3",
            ROLL_TIMEOUT="60",
        )
        self.services = []
        self.volumes = set()
        if image:
            self.environment["PALISADE_IMAGE"], _, self.environment["PALISADE_VERSION"] = image.rpartition(":")

    def run(self, *command, timeout=900, check=True, **more):
        done = subprocess.run(
            command, cwd=self.folder, env=dict(self.environment, **more), capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode != 0:
            raise Failed(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done

    def compose(self, *arguments, **more):
        return self.run("docker", "compose", *arguments, **more)

    def build(self):
        """The images, from the checkout."""
        for target, name in (("palisade", "palisade"), ("films", "palisade-films")):
            if target == "films" and not (ROOT / "compose/films").exists():
                continue
            version = self.environment.get("PALISADE_VERSION", "0.1.0")
            self.run(
                "docker", "build", "--file", str(ROOT / "compose/Dockerfile"), "--target", target,
                "--tag", f"{name}:{version}", str(ROOT), timeout=3600,
            )  # fmt: skip

    def has_films(self):
        version = self.environment.get("PALISADE_VERSION", "0.1.0")
        return self.run("docker", "image", "inspect", f"palisade-films:{version}", check=False).returncode == 0

    def up(self, replicas=3, check=True):
        self.remember_volumes()
        scale = ["--scale", f"palisade={replicas}"]
        self.compose("up", "--detach", "--wait", "--no-build", *scale, *self.services, check=check)

    def remember_volumes(self):
        """Replicas that go leave their anonymous volumes behind; the test deletes them at its end."""
        project = f"label=com.docker.compose.project={self.name}"
        containers = self.run("docker", "ps", "--all", "--quiet", "--filter", project).stdout.split()
        if containers:
            form = '{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}} {{end}}{{end}}'
            self.volumes.update(self.run("docker", "inspect", "--format", form, *containers).stdout.split())

    def replicas(self):
        """The names of the nodes' containers that run, in the order of their numbers."""
        listed = self.compose("ps", "--format", "json", "--status", "running", "palisade").stdout
        names = [json.loads(line)["Name"] for line in listed.splitlines()]
        return sorted(names, key=lambda name: int(name.rpartition("-")[2]))

    def address(self, container):
        template = "{{json .NetworkSettings.Networks}}"
        networks = json.loads(self.run("docker", "inspect", "--format", template, container).stdout)
        return networks[f"{self.name}_front"]["IPAddress"]

    def wait_ready(self, container, timeout_s=60.0):
        """Waits until the node is ready, and returns how long that took."""
        began = time.monotonic()
        while self.run("docker", "exec", container, "palisade", "health", check=False).returncode != 0:
            must(time.monotonic() - began < timeout_s, f"{container} is not ready after {timeout_s:.0f} s")
            time.sleep(0.1)
        return time.monotonic() - began

    def wait_linked(self, timeout_s=30.0):
        """Waits until each node is linked with all others."""
        names = self.replicas()
        deadline = time.monotonic() + timeout_s
        while True:
            states = [self.run("docker", "exec", name, "palisade", "cluster", "status", "--json", check=False) for name in names]
            linked = [state.stdout.replace(" ", "").count('"linked":true') for state in states]
            if all(count >= len(names) - 1 for count in linked):
                return
            must(time.monotonic() < deadline, f"of {len(names)} nodes, each is linked with {linked}")
            time.sleep(0.3)

    def ask_replica(self, container, token):
        """The status of a validation by this replica, asked from the network of the containers."""
        url = f"http://{self.address(container)}:8080/api/v1/auth_token/validation"
        curl = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "5"]
        done = self.compose("exec", "-T", "nginx", *curl, "--header", f"Authorization: Bearer {token}", url, check=False)
        return int(done.stdout or 0)

    def secret(self, name):
        return (self.folder / "secrets" / name).read_text().strip()

    def end(self):
        self.remember_volumes()
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "10", check=False)
        for volume in self.volumes:
            self.run("docker", "volume", "rm", volume, check=False)
        shutil.rmtree(self.home, ignore_errors=True)


def call(url, method, path, token=None, body=None, headers=None):
    """One request: status, headers, and the JSON of the answer or None."""
    request = urllib.request.Request(url + path, method=method, headers=headers or {})
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if body is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode()
    try:
        answer = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    raw = answer.read()
    try:
        return answer.status, answer.headers, json.loads(raw) if raw else None
    except ValueError:
        return answer.status, answer.headers, raw.decode(errors="replace")


def is_problem(got, status, code=None):
    """Whether an answer is an error in the form of the API."""
    actual, headers, body = got
    formed = isinstance(body, dict) and {"msg", "code", "request_id"} <= set(body)
    waits = status not in (429, 503) or headers.get("Retry-After", "").isdigit()
    same_id = formed and headers.get("X-Request-Id") == body["request_id"]
    return actual == status and same_id and waits and (code is None or body["code"] == code)


def log_in(url, email, password):
    status, _, body = call(url, "POST", "/api/v1/auth_token", body={"email": email, "password": password})
    must(status == 200, f"log-in of {email}: {status} {body}")
    return body["access_token"], body["refresh_token"]
