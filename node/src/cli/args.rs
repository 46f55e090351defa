//! What can be typed. The flags of settings come from the table of settings.

use clap::{Arg, ArgAction, Command};

use crate::settings::{SPECS, source};

/// The whole command line.
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
        .subcommand(Command::new("check-config").about("Check the settings as the start of a node does, and make nothing"))
        .subcommand(Command::new("openapi").about("Print the OpenAPI document"));
    SPECS.iter().filter(|spec| spec.flag).fold(palisade, |palisade, spec| {
        let default = spec.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        let flag = source::flag(spec);
        let arg = Arg::new(spec.name).long(flag.trim_start_matches('-').to_owned());
        palisade.arg(arg.global(true).value_name("VALUE").help(format!("{}{default}", spec.help)))
    })
}

fn group(name: &'static str, about: &'static str) -> Command {
    Command::new(name).about(about).subcommand_required(true).arg_required_else_help(true)
}

fn quickstart() -> Command {
    let quickstart = Command::new("quickstart")
        .about("Run a first node on this machine, with a superuser whose random password is shown once; again, it goes on with what is there")
        .arg(switch("ask-password", "Ask for the superuser's password instead of making a random one"));
    person(quickstart)
}

fn health() -> Command {
    Command::new("health")
        .about("Ask the node of this configuration whether it is ready; exit status 0 or 1")
        .arg(switch("live", "Only whether it lives"))
}

fn app() -> Command {
    let init = Command::new("init")
        .about("Make the built-in permissions and the role superuser; doing it again is no error")
        .arg(switch("with-superuser", "Make a superuser too"))
        .arg(switch("promote", "An email that exists becomes superuser; the password stays"));
    group("app", "Set up").subcommand(person(init))
}

fn superuser() -> Command {
    let create = Command::new("create")
        .about("Make a superuser")
        .arg(switch("promote", "An email that exists becomes superuser; the password stays"));
    let delete = Command::new("delete")
        .about("Take a superuser's power; the user stays")
        .arg(text("email", "Whose"))
        .arg(switch("force", "Also the last one's"));
    group("superuser", "Make and unmake superusers").subcommand(person(create)).subcommand(delete)
}

fn keys() -> Command {
    let retire = Command::new("retire")
        .about("What this key signed is refused from now on")
        .arg(Arg::new("kid").required(true).help("See `palisade keys list`"));
    group("keys", "Signing keys")
        .subcommand(Command::new("list").about("List them"))
        .subcommand(Command::new("rotate").about("The next key signs from now on, the old one only verifies"))
        .subcommand(retire)
}

fn limits() -> Command {
    let clear = Command::new("clear").about("Lift the limits of an account or an address").arg(
        Arg::new("subject").required(true).value_name("ADDRESS|EMAIL").help("See `palisade limits list`"),
    );
    group("limits", "Accounts that are locked and addresses that are slowed, by failed log-ins")
        .subcommand(Command::new("list").about("List them"))
        .subcommand(clear)
}

fn cluster() -> Command {
    group("cluster", "The other nodes, as the node that runs here sees them")
        .subcommand(
            Command::new("status").about("Show them, and how well this node knows what they take away"),
        )
        .subcommand(Command::new("leave").about("Drain the node and end it; the others know that it left"))
}

fn schema() -> Command {
    group("schema", "The tables of a CQL store, for operators who set STORE_MIGRATE to off")
        .subcommand(Command::new("status").about("Say which migrations are applied and which are not"))
        .subcommand(Command::new("migrate").about("Make what is missing; nodes may run meanwhile"))
}

fn store() -> Command {
    let check = Command::new("check")
        .about("Name the rows that today's rules of input would not accept; status 1 when there are some")
        .arg(switch("repair", "Mend what can be mended without a loss"));
    group("store", "The rows of the store").subcommand(check)
}

fn person(command: Command) -> Command {
    command
        .arg(text("email", "Of the superuser"))
        .arg(text("first-name", "Of the superuser"))
        .arg(text("last-name", "Of the superuser"))
        .arg(text(
            "password",
            "Of the superuser; shows in ps, so better PALISADE_SUPERUSER_PASSWORD, PALISADE_SUPERUSER_PASSWORD_FILE or the prompt",
        ))
}

fn text(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("TEXT").help(help)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}
