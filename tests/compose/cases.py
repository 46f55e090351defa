"""What holds with containers. Each case gets the running stack and returns its figures in a line."""

import base64
import concurrent.futures
import json
import secrets
import time
import urllib.parse

from load import Load, request, summary
from stack import EMAIL, call, is_problem, log_in, must

API = "/api/v1"
RATE = 500


def log_in_root(stack):
    return log_in(stack.url, EMAIL, stack.secret("superuser_password"))[0]


def validations(stack):
    """Validations only: what needs nothing but a node."""
    one = request("GET", f"{API}/auth_token/validation", log_in_root(stack))
    return Load("127.0.0.1", stack.port, RATE, [("GET", 1, one)])


def load(stack):
    """Validations, a few other GETs, and POSTs: batches and log-ins."""
    token = log_in_root(stack)
    login = json.dumps({"email": EMAIL, "password": stack.secret("superuser_password")}).encode()
    batch = json.dumps({"tokens": [token]}).encode()
    mix = [
        ("GET", 190, request("GET", f"{API}/auth_token/validation", token)),
        ("GET", 4, request("GET", f"{API}/users/me", token)),
        ("POST", 5, request("POST", f"{API}/auth_token/validation/batch", token, batch)),
        ("POST", 1, request("POST", f"{API}/auth_token", None, login)),
    ]
    return Load("127.0.0.1", stack.port, RATE, mix)


def figures(sent):
    kinds = {kind: [one for one in sent if one.kind == kind] for kind in ("GET", "POST")}
    return "; ".join(f"{kind}: {summary(ones)}" for kind, ones in kinds.items() if ones)


def failed(sent, kind=None):
    return [one for one in sent if one.status != 200 and kind in (None, one.kind)]


def show(ones):
    return [(one.kind, one.status, round(one.took, 2), one.body[:120]) for one in ones[:5]]


def wait_until(timeout_s, what, holds):
    deadline = time.monotonic() + timeout_s
    while not holds():
        must(time.monotonic() < deadline, f"not within {timeout_s} s: {what}")
        time.sleep(0.05)


# --- a newcomer's first minutes


def superuser(stack):
    """`app init --with-superuser` of the README, and `superuser create` beside it."""
    exec_in = ["exec", "-T", "palisade", "palisade"]
    stack.compose(*exec_in, "app", "init", "--with-superuser", "--email", EMAIL)
    stack.compose(*exec_in, "superuser", "create", "--email", "second@example.org")
    log_in(stack.url, "second@example.org", stack.secret("superuser_password"))
    token = log_in_root(stack)
    status, _, body = call(stack.url, "GET", f"{API}/auth_token/validation", token)
    must(status == 200 and body["msg"] == "Token is valid", f"{status} {body}")
    return "both log in over nginx"


def walk(stack):
    """Registration to deletion over nginx, so that each step may be answered by another node."""
    ask = lambda *request: call(stack.url, *request)
    step = lambda what, got, status: must(got[0] == status, f"{what}: {got[0]} instead of {status}: {got[2]}") or got
    email, password = f"ann-{secrets.token_hex(4)}@example.org", secrets.token_urlsafe(16)
    permission = f"walk_{secrets.token_hex(4)}"
    user = step("register", ask("POST", f"{API}/users", None, {"email": email, "password": password}), 201)[2]["uuid"]
    step("register again", ask("POST", f"{API}/users", None, {"email": email.upper(), "password": password}), 409)
    wrong = ask("POST", f"{API}/auth_token", None, {"email": email, "password": "not this one"})
    must(is_problem(step("wrong password", wrong, 401), 401), "an error in another form")
    access, refresh = log_in(stack.url, email, password)
    query = urllib.parse.quote(json.dumps({"any": [permission, {"all": ["nobody.has.this"]}]}))
    may = lambda: ask("GET", f"{API}/users/me/combined_permissions/validation?permissions={query}", access)[2]
    root = log_in_root(stack)
    must(may() == {"valid": False}, "a permission that nobody gave")
    step("make a permission", ask("POST", f"{API}/permissions", root, {"name": permission}), 201)
    step("give it", ask("POST", f"{API}/users/{user}/permissions", root, {"name": permission}), 200)
    must(may() == {"valid": True}, "the permission is not seen by the next check")
    step("take it", ask("DELETE", f"{API}/users/{user}/permissions/{permission}", root), 200)
    must(may() == {"valid": False}, "the permission is still there")
    step("refresh", ask("POST", f"{API}/auth_token/token_refresh", refresh), 200)
    gone = step("log out", ask("DELETE", f"{API}/auth_token", access), 204)
    must(is_problem(ask("GET", f"{API}/auth_token/validation", access), 401), "the token is not refused after the logout")
    third = log_in(stack.url, email, password)[0]
    step("delete the user", ask("DELETE", f"{API}/users/me", third), 204)
    step("clean up", ask("DELETE", f"{API}/permissions/{permission}", root), 204)
    return f"Palisade-Visible: {gone[1]['Palisade-Visible']}"


def logout(stack):
    """After a logout is answered, each replica refuses the token."""
    stack.wait_linked()
    names = stack.replicas()
    for _ in range(10):
        token = log_in_root(stack)
        before = [stack.ask_replica(name, token) for name in names]
        must(before == [200] * len(names), f"before the logout: {before}")
        status, headers, body = call(stack.url, "DELETE", f"{API}/auth_token", token)
        must(status == 204, f"log out: {status} {body}")
        seen = headers["Palisade-Visible"]
        must(seen == f"{len(names) - 1}/{len(names) - 1}", f"Palisade-Visible: {seen}")
        after = [stack.ask_replica(name, token) for name in names]
        must(after == [401] * len(names), f"after the logout: {after}")
    return f"10 log-outs, each refused by {len(names)} replicas"


# --- what nginx does


def paths(stack):
    """Aliases of earlier services, and what is for those inside only."""
    token = log_in_root(stack)
    for path in ("/auth/v1/auth_token/validation", "/auth/api/v1/auth_token/validation"):
        must(call(stack.url, "GET", path, token)[0] == 200, path)
    must(call(stack.url, "GET", "/auth/apidocs/")[0] == 200, "/auth/apidocs/")
    for path in ("/metrics", "/auth_request", "/ext_authz/x", "/auth/other"):
        must(is_problem(call(stack.url, "GET", path, token), 404), path)
    sent_id = call(stack.url, "GET", "/metrics", headers={"X-Request-Id": "of-the-caller"})[1]["X-Request-Id"]
    must(sent_id == "of-the-caller", f"the id of the request became {sent_id}")
    return "aliases answer, inner paths do not"


def guards(stack):
    """What knows nothing of Palisade is guarded: 401, 403, then 200."""
    root = log_in_root(stack)
    guarded = {"files.read": "/files/readme.txt", "admin.enter": "/backoffice/"}
    me = call(stack.url, "GET", f"{API}/users/me", root)[2]["uuid"]
    for permission, path in guarded.items():
        nobody = call(stack.url, "GET", path)
        must(is_problem(nobody, 401) and nobody[1]["WWW-Authenticate"].startswith("Bearer"), f"{path}: {nobody[0]}")
        must(is_problem(call(stack.url, "GET", path, root), 403), f"{path} without {permission}")
        call(stack.url, "POST", f"{API}/permissions", root, {"name": permission})
        call(stack.url, "POST", f"{API}/users/{me}/permissions", root, {"name": permission})
        forged = {"X-Auth-User": "somebody-else"}
        status, _, body = call(stack.url, "GET", path, root, headers=forged)
        must(status == 200 and "somebody-else" not in str(body), f"{path} with {permission}: {status} {body}")
    must(me in body, f"the back office does not know the user: {body}")
    return f"{', '.join(guarded.values())}"


def limits(stack):
    """600 log-ins at once are limited; validations and a batch of 1,000 tokens are not."""
    token = log_in_root(stack)
    nobody = {"email": "nobody@example.org", "password": "not a password"}
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        ask = lambda _: call(stack.url, "GET", f"{API}/auth_token/validation", token)[0]
        validations = list(pool.map(ask, range(300)))
        answers = list(pool.map(lambda _: call(stack.url, "POST", f"{API}/auth_token", None, nobody), range(600)))
    must(validations == [200] * 300, f"validations: {set(validations)}")
    refused = [got for got in answers if got[0] == 429]
    by_nginx = [got for got in refused if is_problem(got, 429, "too_many_requests")]
    must(all(is_problem(got, 429) for got in refused), "a 429 in another form")
    must(len(by_nginx) >= 60, f"{len(by_nginx)} of 600 log-ins were limited by nginx")
    status, _, body = call(stack.url, "POST", f"{API}/auth_token/validation/batch", token, {"tokens": [token] * 1000})
    must(status == 200 and len(body) == 1000, f"the batch: {status}")
    for container in stack.replicas()[:1]:
        stack.run("docker", "exec", container, "palisade", "limits", "clear", "nobody@example.org", check=False)
    return f"of 600 log-ins {len(by_nginx)} got 429 from nginx; of 300 validations none"


# --- changes under load


def ready_and_stop(stack):
    """A replica starts within 3 s, and stops within its drain."""
    name = stack.replicas()[-1]
    began = time.monotonic()
    stack.run("docker", "stop", name)
    stopped = time.monotonic() - began
    stack.run("docker", "start", name)
    ready = stack.wait_ready(name)
    stack.wait_linked()
    must(stopped < 5, f"docker stop took {stopped:.1f} s")
    must(ready < 3, f"ready after {ready:.1f} s")
    return f"docker stop {stopped:.1f} s (drain 3 s), ready {ready:.1f} s after docker start"


def scale(stack):
    """1 to 5 to 2 replicas: no request fails."""
    stack.up(1)
    with load(stack) as running:
        time.sleep(2)
        for replicas in (5, 2):
            stack.up(replicas)
            time.sleep(3)
    stack.up(3)
    bad = failed(running.sent)
    must(not bad, f"{figures(running.sent)}; {show(bad)}")
    return figures(running.sent)


def roll(stack):
    """All replicas restarted under load, then replaced by new settings: no request fails."""
    lines = []
    for what, settings in (("restarted", {}), ("replaced", {"PALISADE_LOG": "warn"})):
        before = stack.replicas()
        stack.environment.update(settings)
        with load(stack) as running:
            time.sleep(2)
            began = time.monotonic()
            stack.run("./roll")
            took = time.monotonic() - began
            time.sleep(3)
        bad = failed(running.sent)
        must(not bad, f"{what}: {figures(running.sent)}; {show(bad)}")
        must((before == stack.replicas()) == (what == "restarted"), f"the replicas are {stack.replicas()}")
        lines.append(f"{what} in {took:.0f} s: {figures(running.sent)}")
    return "\n       ".join(lines)


def roll_fails(stack):
    """A replica that does not come back ends the roll; the others serve on."""
    with load(stack) as running:
        time.sleep(1)
        done = stack.run("./roll", check=False, PALISADE_DRAIN_GRACE="never", ROLL_TIMEOUT="10")
        time.sleep(1)
    must(done.returncode == 1 and "did not come up" in done.stderr, f"{done.returncode}: {done.stdout}{done.stderr}")
    bad = failed(running.sent)
    must(not bad, f"{figures(running.sent)}; {show(bad)}")
    must(len(stack.replicas()) == 2, f"the replicas are {stack.replicas()}")
    # As the message says.
    advice = done.stderr.strip().splitlines()[-1].partition("undo: ")[2]
    stack.run("sh", "-c", advice)
    for name in stack.replicas():
        stack.wait_ready(name)
    stack.wait_linked()
    nothing = stack.run("./roll", check=False, COMPOSE_PROJECT_NAME=f"{stack.name}-none")
    must(nothing.returncode == 1 and "no container" in nothing.stderr, f"nothing runs: {nothing.stderr}")
    return done.stderr.strip().splitlines()[-1]


def rotate_secret(stack):
    """The cluster secret is replaced in three rolls: nodes stay linked, and no request fails."""
    secret = lambda name: stack.folder / "secrets" / name
    for name in ("cluster_secret", "master_key"):
        stack.run("cp", "-p", secret(name), secret(f"{name}_accepted"))
    secret("cluster_secret_accepted").write_text(base64.b64encode(secrets.token_bytes(32)).decode())
    files = stack.environment["COMPOSE_FILE"]
    with load(stack) as running:
        stack.environment["COMPOSE_FILE"] = f"{files}:compose.rotate.yml"
        stack.run("./roll")
        for before, after in (("", "_old"), ("_accepted", ""), ("_old", "_accepted")):
            secret(f"cluster_secret{before}").rename(secret(f"cluster_secret{after}"))
        stack.run("./roll")
        stack.environment["COMPOSE_FILE"] = files
        stack.run("./roll")
    stack.wait_linked()
    bad = failed(running.sent)
    must(not bad, f"{figures(running.sent)}; {show(bad)}")
    return figures(running.sent)


def disturb(stack, begin, end, settle_s=2.0):
    """Something happens to one replica under load. Returns the failures, and those later than `settle_s`."""
    victim = stack.replicas()[-1]
    with load(stack) as running:
        time.sleep(2)
        began = time.monotonic()
        begin(victim)
        time.sleep(8)
        ended = time.monotonic()
        end(victim)
        stack.wait_ready(victim)
        time.sleep(3)
    bad = failed(running.sent)
    late = [one for one in bad if one.at > began + settle_s]
    must(not late, f"{len(late)} failed later than {settle_s} s: {show(late)}; {figures(running.sent)}")
    slow = [one for one in running.sent if one.kind == "GET" and began + 4 < one.at < ended and one.took > 1]
    stack.wait_linked()
    return bad, f"{figures(running.sent)}; {len(slow)} GETs above 1 s after the first 4 s"


def kill(stack):
    """kill -9: at most the requests in flight fail, none after two seconds."""
    docker = lambda *command: lambda name: stack.run("docker", *command, name)
    bad, line = disturb(stack, docker("kill", "--signal", "KILL"), docker("start"))
    must(len(bad) <= 48, f"{len(bad)} failed: {show(bad)}")
    return line


def pause(stack):
    """A replica that hangs: GETs go to another node, and POSTs fail only in the first moment."""
    docker = lambda *command: lambda name: stack.run("docker", *command, name)
    bad, line = disturb(stack, docker("pause"), docker("unpause"))
    must(not failed(bad, "GET"), f"GETs failed: {show(bad)}")
    return line


def disconnect(stack):
    """A replica that nginx cannot reach."""
    network = f"{stack.name}_front"
    cut = lambda name: stack.run("docker", "network", "disconnect", network, name)
    join = lambda name: stack.run("docker", "network", "connect", "--alias", "palisade", network, name)
    bad, line = disturb(stack, cut, join)
    must(not failed(bad, "GET"), f"GETs failed: {show(bad)}")
    return line


# --- what is behind the nodes


def database_and_redis(stack):
    """Both restarted under validations: none fails. Log-ins come back."""
    with validations(stack) as running:
        time.sleep(1)
        stack.compose("restart", "redis")
        stack.compose("stop", "scylla")
        time.sleep(3)
        unknown = call(stack.url, "POST", f"{API}/auth_token", None, {"email": EMAIL, "password": "not this one"})
        must(is_problem(unknown, 503), f"a log-in without a database: {unknown}")
        stack.compose("start", "scylla")
        began = time.monotonic()
        attempt = {"email": EMAIL, "password": stack.secret("superuser_password")}
        while call(stack.url, "POST", f"{API}/auth_token", None, attempt)[0] != 200:
            must(time.monotonic() - began < 90, "log-ins do not come back")
            time.sleep(0.5)
        back = time.monotonic() - began
    bad = failed(running.sent)
    must(not bad, f"{figures(running.sent)}; {show(bad)}")
    return f"log-ins are back {back:.0f} s after the database's start; {figures(running.sent)}"


def start_without_database(stack):
    """A node starts while the database hangs, does not wait for it, and is ready when it is back."""
    name = stack.replicas()[-1]
    stack.run("docker", "stop", name)
    stack.compose("pause", "scylla")
    began = time.monotonic()
    stack.compose("start", "palisade", timeout=60)
    took = time.monotonic() - began
    time.sleep(2)
    must(stack.run("docker", "exec", name, "palisade", "health", check=False).returncode == 1, "ready without a database")
    stack.compose("unpause", "scylla")
    ready = stack.wait_ready(name)
    stack.wait_linked()
    must(took < 10, f"docker compose start took {took:.0f} s")
    return f"docker compose start {took:.1f} s; ready {ready:.1f} s after the database was back"


def no_node(stack):
    """Without any node: 503 in the form of the API, also where nginx guards."""
    token = log_in_root(stack)
    stack.compose("stop", "palisade")
    for method, path in (("GET", f"{API}/auth_token/validation"), ("POST", f"{API}/auth_token"), ("GET", "/files/readme.txt")):
        body = {"email": EMAIL, "password": "x"} if method == "POST" else None
        got = call(stack.url, method, path, token, body)
        must(is_problem(got, 503), f"{method} {path}: {got[0]} {got[2]}")
    stack.compose("start", "palisade")
    for name in stack.replicas():
        stack.wait_ready(name)
    validates = lambda: call(stack.url, "GET", f"{API}/auth_token/validation", token)[0] == 200
    wait_until(5, "nginx finds the nodes again", validates)
    stack.wait_linked()
    return "503 with Retry-After, and 200 when the nodes are back"


def ask_films(stack, token=None):
    """The answer, whether it is degraded, and how long it took."""
    began = time.monotonic()
    status, headers, body = call(stack.url, "GET", f"{API}/films?limit=200", token)
    took = time.monotonic() - began
    must(status == 200, f"films: {status} {body}")
    return body, headers.get("X-Auth-Degraded") == "true", took


def films(stack):
    """The example of a consumer: it sees a permission, degrades without nodes, and recovers."""
    if not stack.has_films():
        return "not run: there is no image of films"
    root = log_in_root(stack)
    some, is_degraded, _ = ask_films(stack, root)
    me = call(stack.url, "GET", f"{API}/users/me", root)[2]["uuid"]
    must(not is_degraded, "films is degraded with all nodes up")
    must(is_problem(call(stack.url, "GET", "/gated/films", root), 403), "/gated/films without pro_read")
    call(stack.url, "POST", f"{API}/permissions", root, {"name": "pro_read"})
    call(stack.url, "POST", f"{API}/users/{me}/permissions", root, {"name": "pro_read"})
    must(call(stack.url, "GET", "/gated/films", root)[0] == 200, "/gated/films with pro_read")
    wait_until(10, "all films are seen", lambda: ask_films(stack, root)[0] != some)
    nodes = stack.replicas()
    lines = []
    for away, back in (("pause", "unpause"), ("stop", "start")):
        stack.run("docker", away, *nodes)
        began, slowest = time.monotonic(), 0.0
        while not (answer := ask_films(stack, root))[1]:
            slowest = max(slowest, answer[2])
            must(time.monotonic() - began < 8, f"not degraded 8 s after {away}")
        degraded = time.monotonic() - began
        slowest = max([slowest, answer[2]] + [ask_films(stack, root)[2] for _ in range(20)])
        must(answer[0] == some, "a degraded answer is not that for everybody")
        must(slowest < 0.3, f"{away}: an answer took {slowest:.2f} s")
        stack.run("docker", back, *nodes)
        for name in nodes:
            stack.wait_ready(name)
        began = time.monotonic()
        wait_until(2, "it recovers", lambda: ask_films(stack, root)[0] != some)
        recovered = time.monotonic() - began
        lines.append(f"{away}: degraded after {degraded:.1f} s, at most {1000 * slowest:.0f} ms, back after {recovered:.1f} s")
    stack.wait_linked()
    return "; ".join(lines)


def data_survive(stack):
    """`down` and `up`: users, and log-outs of the last moment."""
    token, kept = log_in_root(stack), log_in_root(stack)
    must(call(stack.url, "DELETE", f"{API}/auth_token", token)[0] == 204, "log out")
    stack.remember_volumes()
    stack.compose("down")
    stack.up(3)
    after = [call(stack.url, "GET", f"{API}/auth_token/validation", one)[0] for one in (kept, token)]
    must(after == [200, 401], f"the kept token and the one that was logged out: {after}")
    log_in_root(stack)
    return "the session is there, and the logout too"


CASES = [
    superuser, walk, logout, paths, guards, limits, ready_and_stop, roll, roll_fails, rotate_secret, scale, kill, pause, disconnect,
    database_and_redis, start_without_database, no_node, films, data_survive,
]  # fmt: skip
