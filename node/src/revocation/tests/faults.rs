//! Stores that fail, lose answers, or wait, as a test asks.

use super::*;

/// The effect of a fault on a call.
pub(super) enum Turn {
    /// The call succeeds.
    Go,
    /// The call fails without an effect; the caller gets an error.
    Fail,
    /// The call takes effect; the caller gets an error.
    Lose,
    /// This number of entries is written; the caller gets an error.
    Tear(usize),
    /// Like `Tear`, with the answer held until it is released.
    TearAndHold(usize, Hold),
    /// The call takes effect when it is released.
    HoldCall(Hold),
    /// The call takes effect at once; its answer is held until it is released.
    HoldAnswer(Hold),
    /// The store reports inconsistent data.
    Contradict,
}

/// Calls that wait until they are released.
#[derive(Clone, Default)]
pub(super) struct Hold(Arc<(watch::Sender<usize>, watch::Sender<bool>)>);

impl Hold {
    pub(super) async fn reached(&self, calls: usize) {
        let mut reached = self.0.0.subscribe();
        timeout(WAIT_MAX, reached.wait_for(|reached| *reached >= calls)).await.unwrap().unwrap();
    }

    pub(super) fn release(&self) {
        self.0.1.send_replace(true);
    }

    async fn pass(&self) {
        self.0.0.send_modify(|reached| *reached += 1);
        self.0.1.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

/// The faults of upcoming calls, and a record of past calls.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) turns: Mutex<HashMap<&'static str, VecDeque<Turn>>>,
    calls: Mutex<HashMap<&'static str, usize>>,
    broken: Mutex<HashSet<&'static str>>,
    broken_rows: Mutex<HashSet<UserId>>,
    broken_logs: Mutex<HashSet<Origin>>,
    /// Logs whose heads are omitted from answers.
    pub(super) hidden: Mutex<HashSet<Origin>>,
    /// Whether an append is split into many writes, entries first.
    pub(super) piecewise: AtomicBool,
    appended: Mutex<Vec<(Vec<Entry>, Vec<Head>)>>,
    /// Heads that would have advanced beyond the entries.
    pub(super) ahead: Mutex<Vec<Head>>,
    /// The users of row calls, in order.
    pub(super) rows_of: Mutex<Vec<UserId>>,
    /// The logs that were read, and after which entry.
    pub(super) read: Mutex<Vec<(Origin, u64)>>,
}

impl Faults {
    pub(super) fn next(&self, method: &'static str, turn: Turn) {
        lock(&self.turns).entry(method).or_default().push_back(turn);
    }

    /// Makes all further calls of this method fail.
    pub(super) fn break_method(&self, method: &'static str) {
        lock(&self.broken).insert(method);
    }

    pub(super) fn break_rows_of(&self, user: UserId) {
        lock(&self.broken_rows).insert(user);
    }

    pub(super) fn break_log(&self, origin: Origin) {
        lock(&self.broken_logs).insert(origin);
    }

    /// Removes all permanent faults.
    pub(super) fn mend(&self) {
        lock(&self.broken).clear();
        lock(&self.broken_rows).clear();
        lock(&self.broken_logs).clear();
        lock(&self.hidden).clear();
    }

    pub(super) fn calls(&self, method: &'static str) -> usize {
        lock(&self.calls).get(method).copied().unwrap_or(0)
    }

    pub(super) fn appended(&self) -> Vec<(Vec<Entry>, Vec<Head>)> {
        lock(&self.appended).clone()
    }

    fn turn(&self, method: &'static str) -> Turn {
        *lock(&self.calls).entry(method).or_default() += 1;
        if lock(&self.broken).contains(method) {
            return Turn::Fail;
        }
        lock(&self.turns).get_mut(method).and_then(VecDeque::pop_front).unwrap_or(Turn::Go)
    }

    /// Runs a call about the rows of a user, with its fault.
    async fn rows<T>(
        &self,
        method: &'static str,
        user: UserId,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let turn = self.turn(method);
        lock(&self.rows_of).push(user);
        if lock(&self.broken_rows).contains(&user) {
            return Err(lost());
        }
        match turn {
            Turn::Go => call.await,
            Turn::Lose => call.await.and(Err(lost())),
            Turn::HoldCall(hold) => {
                hold.pass().await;
                call.await
            }
            Turn::HoldAnswer(hold) => {
                let answer = call.await;
                hold.pass().await;
                answer
            }
            Turn::Contradict => Err(StoreError::Inconsistent("as the test asked".into())),
            Turn::Fail | Turn::Tear(_) | Turn::TearAndHold(..) => Err(lost()),
        }
    }
}

pub(super) fn lost() -> StoreError {
    StoreError::unavailable_because("as the test asked")
}

pub(super) struct Faulty {
    pub(super) inner: Stores,
    pub(super) faults: Arc<Faults>,
}

impl Faulty {
    async fn put(&self, entries: &[Entry], heads: &[Head]) -> Result<()> {
        let ledger = &self.inner.ledger;
        if !self.faults.piecewise.load(Ordering::SeqCst) {
            return ledger.append(entries, heads).await;
        }
        for entry in entries {
            ledger.append(&[*entry], &[]).await?;
        }
        for head in heads {
            if !is_complete(&ledger.entries(head.origin, 0, usize::MAX).await?, head.seq) {
                lock(&self.faults.ahead).push(*head);
            }
            ledger.append(&[], &[*head]).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl LedgerStore for Faulty {
    async fn append(&self, entries: &[Entry], heads: &[Head]) -> Result<()> {
        let turn = self.faults.turn("append");
        lock(&self.faults.appended).push((entries.to_vec(), heads.to_vec()));
        match turn {
            Turn::Go => self.put(entries, heads).await,
            Turn::Fail | Turn::Contradict => Err(lost()),
            Turn::Lose => self.put(entries, heads).await.and(Err(lost())),
            Turn::Tear(most) => self.put(&entries[..most.min(entries.len())], &[]).await.and(Err(lost())),
            Turn::TearAndHold(most, hold) => {
                self.put(&entries[..most.min(entries.len())], &[]).await?;
                hold.pass().await;
                Err(lost())
            }
            Turn::HoldCall(hold) => {
                hold.pass().await;
                self.put(entries, heads).await
            }
            Turn::HoldAnswer(hold) => {
                let answer = self.put(entries, heads).await;
                hold.pass().await;
                answer
            }
        }
    }

    async fn heads(&self) -> Result<Vec<Head>> {
        if matches!(self.faults.turn("heads"), Turn::Fail) {
            return Err(lost());
        }
        let mut heads = self.inner.ledger.heads().await?;
        heads.retain(|head| !lock(&self.faults.hidden).contains(&head.origin));
        Ok(heads)
    }

    async fn entries(&self, origin: Origin, after: u64, limit: usize) -> Result<Vec<Entry>> {
        lock(&self.faults.read).push((origin, after));
        if lock(&self.faults.broken_logs).contains(&origin) {
            return Err(lost());
        }
        self.inner.ledger.entries(origin, after, limit).await
    }
}

macro_rules! behind_faults {
    ($noun:ident: $store:ident { $($verb:ident($($name:ident: $kind:ty),*) of $user:expr => $answer:ty;)* }) => {
        #[async_trait]
        impl $store for Faulty {
            $(async fn $verb(&self, $($name: $kind),*) -> Result<$answer> {
                let user: UserId = $user;
                self.faults.rows(stringify!($verb), user, self.inner.$noun.$verb($($name),*)).await
            })*
        }
    };
}

behind_faults!(sessions: Sessions {
    open(session: &Session, max: usize) of session.user => Vec<SessionId>;
    get(user: UserId, id: SessionId) of user => Option<Session>;
    latest(user: UserId, id: SessionId) of user => Option<Session>;
    rotate(previous: &Session, next: &Session) of next.user => Rotated;
    end(user: UserId, id: SessionId) of user => bool;
    end_older(user: UserId, version: u64) of user => ();
    list(user: UserId, page: PageOf<SessionId>) of user => Page<Session, SessionId>;
    ids(user: UserId) of user => Vec<SessionId>;
});

behind_faults!(users: Users {
    create(user: &User) of user.id => Created;
    get(id: UserId) of id => Option<User>;
    by_email(email: &FoldedEmail) of UserId::from_bytes([0; 16]) => Option<User>;
    replace(next: &User) of next.id => Replaced;
    delete(id: UserId) of id => ();
    list(page: PageOf<UserId>) of UserId::from_bytes([0; 16]) => Page<User, UserId>;
});
