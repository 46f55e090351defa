//! `palisade store check`: step by step, through the running node, else on the store itself.

use std::{path::PathBuf, sync::Arc};

use store::check::{Finding, State, Step};

use super::{
    Failure,
    output::{say, show},
    require_store, require_tables,
};
use crate::{
    app::{App, Purpose},
    metrics::Metrics,
    operator::{
        Command, Done,
        control::{self, Answer},
    },
    settings::{Settings, StoreSetting},
    storage::data_dir,
};

/// Checks all rows and reports those that today's rules would not accept.
pub(super) async fn run(settings: Settings, repair: bool, json: bool) -> Result<(), Failure> {
    let directory = data_dir::locate(&settings.data_dir);
    let checked = Checker { settings, directory, own: None }.all(repair, json).await?;
    let left = checked.findings.iter().filter(|finding| finding.state != State::Mended).count();
    let mendable = checked.findings.iter().any(|finding| finding.state == State::Mendable);
    let msg = format!("users checked: {}, rows found: {}", checked.users, checked.findings.len());
    show(&Done { msg, result: serde_json::to_value(checked)? }, json)?;
    if left == 0 {
        return Ok(());
    }
    let how = if mendable { "--repair mends some of them" } else { "change or delete what they belong to" };
    Err(Failure::Failed(format!("rows that today's rules would not accept: {left}; {how}")))
}

/// Runs the steps of a check.
struct Checker {
    settings: Settings,
    directory: PathBuf,
    /// The store itself, if no node runs here.
    own: Option<Arc<App>>,
}

impl Checker {
    async fn all(mut self, repair: bool, json: bool) -> Result<Step, Failure> {
        let mut all = Step { findings: Vec::new(), users: 0, next: None };
        loop {
            let done = self.step(&Command::StoreCheck { repair, after: all.next }).await?;
            let Step { findings, users, next } = serde_json::from_value(done.result)?;
            if !json {
                findings.iter().try_for_each(|finding| say(&line(finding)))?;
            }
            all.findings.extend(findings);
            all.users += users;
            all.next = next;
            if all.next.is_none() {
                return Ok(all);
            }
        }
    }

    async fn step(&mut self, command: &Command) -> Result<Done, Failure> {
        if let Some(app) = &self.own {
            return Ok(app.operate(command.clone()).await?);
        }
        match control::ask(&self.directory, command).await {
            Ok(Some(Answer::Done(done))) => Ok(done),
            Ok(Some(Answer::Failed(msg))) => Err(Failure::Failed(msg)),
            Ok(None) => {
                let app = self.open().await?;
                let done = app.operate(command.clone()).await?;
                self.own = Some(app);
                Ok(done)
            }
            Err(error) => Err(Failure::Failed(format!(
                "the node that runs here does not answer: {error}; look at its log"
            ))),
        }
    }

    /// Opens the store itself. Fails if there is none.
    async fn open(&self) -> Result<Arc<App>, Failure> {
        let mut settings = self.settings.clone();
        require_store(&settings)?;
        if let StoreSetting::Cql(config) = &settings.store {
            require_tables(config).await?;
        }
        settings.store_migrate = false;
        let app = App::start(settings, Metrics::new([])).await?;
        app.data_dir.give_to_owner();
        app.backend.await_up().await?;
        app.bootstrap(Purpose::Operate).await?;
        Ok(app)
    }
}

/// A line for a finding. Names of roles are quoted; nothing else is text that users chose.
fn line(finding: &Finding) -> String {
    let Finding { table, id, field, why, state } = finding;
    let state = match state {
        State::Mendable => "--repair mends it",
        State::Mended => "mended",
        State::Stays => "stays",
    };
    format!("{table}  {id}  {field}  {why}  ({state})")
}
