//! The arguments of the command line. The flags of settings come from the table of settings.

use clap::{Arg, ArgAction, Command};

use crate::settings::SPECS;

/// The definition of the command line.
pub(super) fn command() -> Command {
    let palisade = Command::new("palisade")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A clustered auth node: is this token good, may this user do that?")
        .after_help("Without a command it serves. Every setting can also be PALISADE_<NAME>, PALISADE_<NAME>_FILE, or a key of the file.")
        .arg(Arg::new("config").long("config").global(true).value_name("FILE").help("Settings in TOML"))
        .arg(Arg::new("json").long("json").global(true).action(ArgAction::SetTrue).help("Answer in JSON"))
        .subcommand(Command::new("serve").about("Run a node (the same as no command)"))
        .subcommand(quickstart())
        .subcommand(health())
        .subcommand(app())
        .subcommand(superuser())
        .subcommand(keys())
        .subcommand(limits())
        .subcommand(cluster())
        .subcommand(schema())
        .subcommand(store())
        .subcommand(Command::new("check-config").about("Check the settings as a node does when it starts, and create nothing"))
        .subcommand(Command::new("openapi").about("Print the OpenAPI document"))
        .subcommand(Command::new("settings").about("Print all settings, as Markdown"));
    SPECS.iter().filter(|spec| spec.flag).fold(palisade, |palisade, spec| {
        let default = spec.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        let flag = spec.flag_name();
        let arg = Arg::new(spec.name).long(flag.trim_start_matches('-').to_owned());
        palisade.arg(arg.global(true).value_name("VALUE").help(format!("{}{default}", spec.help)))
    })
}

fn group(name: &'static str, about: &'static str) -> Command {
    Command::new(name).about(about).subcommand_required(true).arg_required_else_help(true)
}

fn quickstart() -> Command {
    let quickstart = Command::new("quickstart")
        .about("Run a first node on this machine, with a superuser whose random password is shown once; later runs use the same data")
        .arg(switch("ask-password", "Ask for the superuser's password instead of generating one"));
    person(quickstart)
}

fn health() -> Command {
    Command::new("health")
        .about("Ask the node of this configuration whether it is ready; exit status 0 or 1")
        .arg(switch("live", "Ask only whether it is alive"))
}

fn app() -> Command {
    let init = Command::new("init")
        .about("Create the built-in permissions and the role superuser; can be repeated")
        .arg(switch("with-superuser", "Also create a superuser"))
        .arg(switch("promote", "Promote an existing user; the password stays"));
    group("app", "Set up").subcommand(person(init))
}

fn superuser() -> Command {
    let create = Command::new("create")
        .about("Create a superuser")
        .arg(switch("promote", "Promote an existing user; the password stays"));
    let delete = Command::new("delete")
        .about("Remove a superuser's privileges; the user stays")
        .arg(text("email", "The superuser's email"))
        .arg(switch("force", "Even if it is the last superuser"));
    group("superuser", "Create and delete superusers").subcommand(person(create)).subcommand(delete)
}

fn keys() -> Command {
    let retire = Command::new("retire")
        .about("Revoke a key: nodes refuse the tokens that it signed")
        .arg(Arg::new("kid").required(true).help("See `palisade keys list`"));
    group("keys", "Signing keys")
        .subcommand(Command::new("list").about("List the keys"))
        .subcommand(
            Command::new("rotate").about("Sign with the next key from now on; the old one only verifies"),
        )
        .subcommand(retire)
}

fn limits() -> Command {
    let clear = Command::new("clear").about("Lift the limits of an account or an address").arg(
        Arg::new("subject").required(true).value_name("ADDRESS|EMAIL").help("See `palisade limits list`"),
    );
    group("limits", "Accounts that failed log-ins have locked, and addresses that they have throttled")
        .subcommand(Command::new("list").about("List the limits that hold now"))
        .subcommand(clear)
}

fn cluster() -> Command {
    group("cluster", "The other nodes, as the node that runs here sees them")
        .subcommand(
            Command::new("status")
                .about("Show the other nodes, and how fresh this node's knowledge of them is"),
        )
        .subcommand(
            Command::new("leave").about("Drain the node and shut it down; the others learn that it left"),
        )
}

fn schema() -> Command {
    group("schema", "The tables of a CQL store, for operators who set STORE_MIGRATE to off")
        .subcommand(Command::new("status").about("List applied and pending migrations"))
        .subcommand(Command::new("migrate").about("Apply pending migrations; nodes may run meanwhile"))
}

fn store() -> Command {
    let check = Command::new("check")
        .about("List rows that today's rules of input would not accept; exit status 1 if there are any")
        .arg(switch("repair", "Repair rows that can be repaired without a loss"));
    let copy = Command::new("copy")
        .about("Copy a store into an empty one and compare them, while no node runs on either")
        .arg(text("from", "redb or cql://… [default: the setting STORE]"))
        .arg(text("to", "redb or cql://… [default: the setting STORE]"));
    group("store", "The rows of the store").subcommand(check).subcommand(copy)
}

fn person(command: Command) -> Command {
    command
        .arg(text("email", "The superuser's email"))
        .arg(text("first-name", "The superuser's first name"))
        .arg(text("last-name", "The superuser's last name"))
        .arg(text(
            "password",
            "The superuser's password; visible in ps, so prefer PALISADE_SUPERUSER_PASSWORD, PALISADE_SUPERUSER_PASSWORD_FILE or the prompt",
        ))
}

fn text(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("TEXT").help(help)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}
