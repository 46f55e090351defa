//! `palisade store check`: step by step, through the node that runs, else on the store itself.

use std::sync::Arc;

use schema::check::{Finding, State, Step};

use super::{Failure, say};
use crate::{
    app::{App, Purpose},
    control::{self, Answer},
    operator::{Command, Done},
    settings::{Settings, StoreSetting},
};

/// Looks at all rows and says which are not as they should be.
pub(super) async fn run(settings: Settings, repair: bool, json: bool) -> Result<(), Failure> {
    let checked = Checker { settings, own: None }.all(repair, json).await?;
    let left = checked.findings.iter().filter(|finding| finding.state != State::Mended).count();
    if json {
        say(&serde_json::to_string(&checked)?);
    } else {
        say(&format!("users checked: {}, rows found: {}", checked.users, checked.findings.len()));
    }
    if left == 0 {
        return Ok(());
    }
    let mendable = checked.findings.iter().any(|finding| finding.state == State::Mendable);
    let how = if mendable { "--repair mends some of them" } else { "change or delete what they belong to" };
    Err(Failure::Failed(format!("rows that today's rules would not accept: {left}; {how}")))
}

/// Who looks.
struct Checker {
    settings: Settings,
    /// When no node runs here.
    own: Option<Arc<App>>,
}

impl Checker {
    async fn all(mut self, repair: bool, json: bool) -> Result<Step, Failure> {
        let mut all = Step { findings: Vec::new(), users: 0, next: None };
        loop {
            let done = self.step(&Command::StoreCheck { repair, after: all.next }).await?;
            let Step { findings, users, next } = serde_json::from_value(done.result)?;
            if !json {
                findings.iter().for_each(|finding| say(&line(finding)));
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
        match control::ask(&self.settings.data_dir, command).await {
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

    /// The store itself. Where there is none, none is made.
    async fn open(&self) -> Result<Arc<App>, Failure> {
        let mut settings = self.settings.clone();
        settings.store_migrate = false;
        let data_dir = &settings.data_dir;
        if matches!(settings.store, StoreSetting::Embedded) && !data_dir.join("palisade.redb").exists() {
            let place = data_dir.display();
            return Err(Failure::Failed(format!(
                "there is no store in {place}; give the --data-dir that has one"
            )));
        }
        let app = App::start(settings).await?;
        app.backing.await_up().await?;
        app.come_up(Purpose::Operate).await?;
        Ok(app)
    }
}

fn line(finding: &Finding) -> String {
    let Finding { table, id, field, why, state } = finding;
    let state = match state {
        State::Mendable => "--repair mends it",
        State::Mended => "mended",
        State::Stays => "stays",
    };
    format!("{table}  {id}  {field}  {why}  ({state})")
}
