//! What the services of the compose files may do.

use std::time::Duration;

use serde_json::Value;

use super::files::{compose_files, text, with_defaults, yaml};

/// Services whose images change their user and write their configuration when they start.
const AS_THEY_ARE: [&str; 1] = ["scylla"];
/// The longest time after the drain in which a node finishes requests and its journal.
const FINISH_TIME_MAX: Duration = Duration::from_secs(6);

/// The services of a file: names and definitions.
fn services(file: &str) -> Vec<(String, Value)> {
    let services = yaml(file)["services"].clone();
    let services = services.as_object().unwrap_or_else(|| panic!("{file} has no services")).clone();
    services.into_iter().collect()
}

fn service(file: &str, name: &str) -> Value {
    let found = services(file).into_iter().find(|(service, _)| service == name);
    found.unwrap_or_else(|| panic!("{file} has no {name}")).1
}

/// The names in a list, or the keys of a map.
fn names(value: &Value) -> Vec<String> {
    match value {
        Value::Array(list) => list.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
        Value::Object(map) => map.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

fn seconds(value: &Value) -> Duration {
    let text = with_defaults(value.as_str().expect("a duration"));
    Duration::from_secs(
        text.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("{text}: not in seconds")),
    )
}

#[test]
fn images_are_pinned() {
    let mut count = 0;
    for file in compose_files() {
        for (name, service) in services(&file) {
            let Some(image) = service["image"].as_str() else { continue };
            let image = with_defaults(image);
            let tag = image.rsplit_once(':').map(|(_, tag)| tag.to_owned());
            let tag = tag.unwrap_or_else(|| panic!("{file}: {name} has no tag: {image}"));
            assert!(!tag.is_empty() && tag != "latest" && !tag.contains('/'), "{file}: {name}: {image}");
            count += 1;
        }
    }
    assert!(count >= 6);
}

#[test]
fn services_have_no_rights_that_they_do_not_need() {
    for file in ["compose.yml", "compose.dev.yml"] {
        for (name, service) in services(file) {
            let of = format!("{file}: {name}");
            assert_eq!(names(&service["cap_drop"]), ["ALL"], "{of}");
            assert_eq!(names(&service["security_opt"]), ["no-new-privileges:true"], "{of}");
            assert!(service["privileged"].is_null() && service["network_mode"].is_null(), "{of}");
            assert!(!service.to_string().contains("docker.sock"), "{of}");
            if AS_THEY_ARE.contains(&name.as_str()) {
                continue;
            }
            assert_eq!(service["read_only"], true, "{of} can write its root file system");
            assert!(service["cap_add"].is_null(), "{of}");
            if file == "compose.yml" {
                let user =
                    with_defaults(service["user"].as_str().unwrap_or_else(|| panic!("{of} has no user")));
                assert!(!user.starts_with("0:") && !user.starts_with("root"), "{of}: {user}");
            }
        }
    }
}

#[test]
fn memory_and_logs_are_bounded() {
    for file in compose_files().iter().filter(|file| *file != "compose.cassandra.yml") {
        for (name, service) in services(file) {
            // A file that lies over another one changes some of its services.
            if service["image"].is_null() {
                continue;
            }
            let of = format!("{file}: {name}");
            let limit = &service["deploy"]["resources"]["limits"]["memory"];
            assert!(!service["mem_limit"].is_null() || !limit.is_null(), "{of} has no memory limit");
            let log = &service["logging"]["options"];
            assert!(log["max-size"].is_string() && log["max-file"].is_string(), "{of} has unbounded logs");
        }
    }
}

#[test]
fn only_nginx_is_published_beyond_this_machine() {
    for file in compose_files() {
        for (name, service) in services(&file) {
            for port in names(&service["ports"]) {
                let is_public = file == "compose.yml" && name == "nginx";
                assert!(is_public || port.starts_with("127.0.0.1:"), "{file}: {name} publishes {port}");
            }
        }
    }
    assert!(service("compose.yml", "palisade")["ports"].is_null());
    assert!(service("compose.yml", "nginx")["ports"].to_string().contains("${HTTP_PORT:-80}:"));
}

#[test]
fn nginx_shares_no_network_with_database_and_redis() {
    let nginx = names(&service("compose.yml", "nginx")["networks"]);
    for behind in ["scylla", "redis"] {
        let networks = names(&service("compose.yml", behind)["networks"]);
        assert!(!networks.is_empty(), "{behind} is in the default network");
        assert!(networks.iter().all(|network| !nginx.contains(network)), "{behind}: {networks:?}");
    }
    assert_eq!(yaml("compose.yml")["networks"]["data"]["internal"], true);
}

#[test]
fn replicas_have_a_volume_of_their_own() {
    let palisade = service("compose.yml", "palisade");
    // Without a name it is another one for each replica.
    assert_eq!(names(&palisade["volumes"]), ["/var/lib/palisade"]);
    assert_eq!(palisade["environment"]["PALISADE_DATA_DIR"], "/var/lib/palisade");
    assert!(palisade["tmpfs"].is_null());
    assert!(palisade["container_name"].is_null(), "replicas cannot share a name");
}

#[test]
fn node_starts_without_its_database() {
    assert!(service("compose.yml", "palisade")["depends_on"].is_null());
    assert_eq!(service("compose.yml", "palisade")["environment"]["PALISADE_LISTEN_WHEN"], "ready");
}

#[test]
fn stop_grace_period_is_longer_than_the_drain() {
    let palisade = service("compose.yml", "palisade");
    let drain = seconds(&palisade["environment"]["PALISADE_DRAIN_GRACE"]);
    assert!(seconds(&palisade["stop_grace_period"]) > drain + FINISH_TIME_MAX);
    let dev = service("compose.dev.yml", "palisade");
    assert!(seconds(&dev["stop_grace_period"]) > drain + FINISH_TIME_MAX);
    // An idle connection is closed by nginx before a node that drains closes it.
    let nginx = text("nginx/nginx.conf");
    let idle =
        nginx.split("upstream nodes {").nth(1).and_then(|rest| rest.split("keepalive_timeout ").nth(1));
    let idle = idle.and_then(|rest| rest.split(';').next()).expect("the upstream has keepalive_timeout");
    assert!(seconds(&idle.into()) < drain, "{idle}");
}

#[test]
fn secrets_are_files_with_the_names_of_init() {
    let init = text("init");
    let secrets = yaml("compose.yml")["secrets"].as_object().unwrap().clone();
    for name in ["master_key", "cluster_secret", "superuser_password", "database_password"] {
        assert!(secrets.contains_key(name), "{name}");
    }
    for (name, secret) in secrets {
        assert_eq!(secret["file"], format!("./secrets/{name}"));
        assert!(init.contains(&format!("make secrets/{name} ")), "init does not make {name}");
    }
    for (name, service) in services("compose.yml") {
        let environment = service["environment"].as_object().cloned().unwrap_or_default();
        for variable in environment.keys() {
            let is_secret = ["KEY", "SECRET", "PASSWORD", "STORE"].iter().any(|word| variable.contains(word));
            assert!(!is_secret || variable.ends_with("_FILE"), "{name}: {variable} is no file");
        }
    }
}
