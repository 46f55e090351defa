//! The user actor: one change of a user at a time, in the order of the requests.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use schema::UserId;

pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) enum UserMessage {
    /// Runs the work after the user's earlier changes. The work holds its own reply, and with it the
    /// admission.
    Do(UserId, Work),
    /// The user's change under way has ended.
    Done(UserId),
}

#[derive(Clone)]
pub(super) struct UserActor;

impl Actor for UserActor {
    type Msg = UserMessage;
    /// Users with a change under way, and the work that waits behind it. Bounded by admission.
    type State = HashMap<UserId, VecDeque<Work>>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        Ok(HashMap::new())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: UserMessage,
        busy: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            UserMessage::Do(user, work) => match busy.get_mut(&user) {
                Some(waiting) => waiting.push_back(work),
                None => {
                    busy.insert(user, VecDeque::new());
                    run(myself, user, work);
                }
            },
            UserMessage::Done(user) => match busy.get_mut(&user).and_then(VecDeque::pop_front) {
                Some(work) => run(myself, user, work),
                None => drop(busy.remove(&user)),
            },
        }
        Ok(())
    }
}

fn run(myself: ActorRef<UserMessage>, user: UserId, work: Work) {
    tokio::spawn(async move {
        // A panic ends the inner task only, so the user's next change still runs.
        if let Err(error) = tokio::spawn(work).await {
            tracing::error!(%user, %error, "change of a user ended without a result");
        }
        let _ = myself.send_message(UserMessage::Done(user));
    });
}
