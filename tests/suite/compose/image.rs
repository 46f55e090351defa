//! The Dockerfile.

use super::files::text;

/// The instructions of a stage, one a line, with continued lines joined.
fn stage(name: &str) -> Vec<String> {
    let dockerfile = text("Dockerfile").replace("\\\n", " ");
    let is_instruction = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let mut stages = dockerfile.lines().filter(is_instruction);
    let start = |line: &&str| line.starts_with("FROM ") && line.ends_with(&format!(" AS {name}"));
    let from = stages.find(start).unwrap_or_else(|| panic!("there is no stage {name}"));
    let rest = stages.take_while(|line| !line.starts_with("FROM "));
    std::iter::once(from).chain(rest).map(str::to_owned).collect()
}

fn has(stage: &[String], start: &str) -> bool {
    stage.iter().any(|line| line.starts_with(start))
}

#[test]
fn image_runs_as_a_fixed_user() {
    for name in ["runtime", "palisade"] {
        let stage = stage(name);
        let user = stage.iter().rfind(|line| line.starts_with("USER ")).expect("a user");
        assert_eq!(user, "USER 10001:10001", "{name}");
    }
    assert!(!has(&stage("films"), "USER "), "films has the user of the stage before it");
}

#[test]
fn image_has_a_health_check() {
    let palisade = stage("palisade");
    let check = palisade.iter().find(|line| line.starts_with("HEALTHCHECK ")).expect("a health check");
    assert!(check.contains("--start-interval="), "{check}");
    assert!(check.ends_with(r#"CMD ["palisade", "health"]"#), "{check}");
}

#[test]
fn image_is_labelled_and_pinned() {
    let labels = stage("runtime").join("\n") + &stage("palisade").join("\n");
    for label in ["title", "description", "version", "revision", "licenses"] {
        assert!(labels.contains(&format!("org.opencontainers.image.{label}=")), "{label}");
    }
    assert!(has(&stage("runtime"), "ARG VERSION"));
    let dockerfile = text("Dockerfile");
    assert!(!dockerfile.contains("# syntax="), "a syntax line asks a registry");
    for line in dockerfile.lines().filter(|line| line.contains("_IMAGE=")) {
        let (_, tag) = line.rsplit_once(':').unwrap_or_else(|| panic!("{line} has no tag"));
        assert!(tag != "latest", "{line}");
    }
    for from in dockerfile.lines().filter(|line| line.starts_with("FROM ")) {
        let image = from.split_whitespace().nth(1).expect("an image");
        let is_stage = dockerfile.contains(&format!(" AS {image}\n"));
        assert!(is_stage || image.starts_with("${"), "{from}");
    }
}

#[test]
fn dependencies_are_built_from_the_manifests_only() {
    let dependencies = stage("dependencies");
    let copies: Vec<_> = dependencies.iter().filter(|line| line.starts_with("COPY ")).collect();
    assert_eq!(copies, ["COPY --from=manifests /source ."]);
    assert_eq!(stage("build")[0], "FROM dependencies AS build");
    for name in ["build", "films-build"] {
        // Sources that dependencies generated are in `target`: touched, they would be compiled again.
        let touch = stage(name).into_iter().find(|line| line.contains("touch")).expect("sources are touched");
        assert!(touch.contains("find . -path ./target -prune -o -name '*.rs'"), "{touch}");
    }
    // The node's image does not wait for the films.
    for name in ["palisade", "build", "dependencies", "manifests"] {
        assert!(!stage(name).join("\n").contains("films"), "{name}");
    }
}
