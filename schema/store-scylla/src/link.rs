//! One session of the driver, with everything prepared.

use std::{sync::Arc, time::Duration};

use scylla::{
    client::{
        execution_profile::{ExecutionProfile, ExecutionProfileHandle},
        session::Session,
        session_builder::SessionBuilder,
    },
    errors::NewSessionError,
    policies::{
        load_balancing::DefaultPolicy, retry::FallthroughRetryPolicy,
        speculative_execution::SimpleSpeculativeExecutionPolicy,
    },
    statement::{Consistency, SerialConsistency},
};

use crate::{config::Config, statement::Prepared, tls};

/// How long a statement may take.
const REQUEST: Duration = Duration::from_secs(2);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// How long the server itself may take to say who there is; ScyllaDB is told. Less than [`CONNECT`], as
/// the driver wants it: it warns at every connection else.
const METADATA: Duration = Duration::from_millis(1_500);
/// A read that takes longer is asked of another node too.
const SLOW_READ: Duration = Duration::from_millis(100);
/// How often an idle connection is tried, and how long that may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// What statements are run with, by their kind.
pub(crate) struct Profiles {
    pub(crate) reads: ExecutionProfileHandle,
    pub(crate) writes: ExecutionProfileHandle,
    pub(crate) conditional: ExecutionProfileHandle,
}

impl Profiles {
    pub(crate) fn of(config: &Config) -> Self {
        let mut policy = DefaultPolicy::builder();
        // Nodes of other data centres are asked last, but they are: a quorum of all copies does not need
        // this data centre.
        policy = match (&config.local_dc, &config.rack) {
            (Some(dc), Some(rack)) => policy.prefer_datacenter_and_rack(dc.clone(), rack.clone()),
            (Some(dc), None) => policy.prefer_datacenter(dc.clone()),
            (None, _) => policy,
        }
        .permit_dc_failover(true);
        let plain = ExecutionProfile::builder()
            .request_timeout(Some(REQUEST))
            .consistency(Consistency::Quorum)
            .serial_consistency(Some(SerialConsistency::Serial))
            .load_balancing_policy(policy.build());
        let twice = SimpleSpeculativeExecutionPolicy { max_retry_count: 1, retry_interval: SLOW_READ };
        Self {
            reads: plain.clone().speculative_execution_policy(Some(Arc::new(twice))).build().into_handle(),
            // What became of a conditional write is asked, not tried again blindly.
            conditional: plain
                .clone()
                .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
                .build()
                .into_handle(),
            writes: plain.build().into_handle(),
        }
    }
}

/// A session of the driver, with the statements prepared.
pub(crate) struct Link {
    pub(crate) session: Session,
    pub(crate) prepared: Prepared,
}

/// Why there is no session.
pub(crate) enum NoSession {
    /// TLS cannot be set up here.
    Tls(String),
    /// The driver says so.
    Driver(Box<NewSessionError>),
}

/// A session without a keyspace.
pub(crate) async fn connect(config: &Config, profiles: &Profiles) -> Result<Session, NoSession> {
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.hosts)
        .default_execution_profile_handle(profiles.writes.clone())
        .connection_timeout(CONNECT)
        .hostname_resolution_timeout(Some(CONNECT))
        .metadata_request_serverside_timeout(METADATA)
        .metadata_request_clientside_timeout(CONNECT)
        .keepalive_interval(KEEPALIVE.0)
        .keepalive_timeout(KEEPALIVE.1)
        .tcp_keepalive_interval(KEEPALIVE.0)
        .tcp_nodelay(true)
        .schema_agreement_timeout(Duration::from_secs(30))
        .keyspaces_to_fetch([&config.keyspace]);
    if let Some(login) = &config.login {
        builder = builder.user(&login.user, &login.password);
    }
    if let Some(tls) = &config.tls {
        builder = builder.tls_context(Some(tls::client(tls).map_err(NoSession::Tls)?));
    }
    Box::pin(builder.build()).await.map_err(|error| NoSession::Driver(Box::new(error)))
}
