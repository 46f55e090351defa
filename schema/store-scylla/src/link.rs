//! A driver session with its execution profiles and prepared statements.

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

/// Limit of the duration of a statement.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit of the time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit that ScyllaDB is given for reading the cluster's metadata. Less than [`CONNECT_TIMEOUT`], because
/// the driver warns at every connection otherwise.
const METADATA_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long a read waits before it is sent to a second node as well.
const SPECULATIVE_READ_DELAY: Duration = Duration::from_millis(100);
/// How often an idle connection is probed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Limit of the answer time of such a probe.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The execution profile of each kind of statement.
pub(crate) struct Profiles {
    pub(crate) reads: ExecutionProfileHandle,
    pub(crate) writes: ExecutionProfileHandle,
    pub(crate) conditional: ExecutionProfileHandle,
}

impl Profiles {
    pub(crate) fn of(config: &Config) -> Self {
        let mut policy = DefaultPolicy::builder();
        // Nodes of other data centres are used too, as a last resort: a quorum of all replicas does not
        // need this data centre.
        policy = match (&config.local_dc, &config.rack) {
            (Some(dc), Some(rack)) => policy.prefer_datacenter_and_rack(dc.clone(), rack.clone()),
            (Some(dc), None) => policy.prefer_datacenter(dc.clone()),
            (None, _) => policy,
        }
        .permit_dc_failover(true);
        let plain = ExecutionProfile::builder()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .consistency(Consistency::Quorum)
            .serial_consistency(Some(SerialConsistency::Serial))
            .load_balancing_policy(policy.build());
        let twice =
            SimpleSpeculativeExecutionPolicy { max_retry_count: 1, retry_interval: SPECULATIVE_READ_DELAY };
        Self {
            reads: plain.clone().speculative_execution_policy(Some(Arc::new(twice))).build().into_handle(),
            // The driver must not retry a conditional write: the store reads its outcome first.
            conditional: plain
                .clone()
                .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
                .build()
                .into_handle(),
            writes: plain.build().into_handle(),
        }
    }
}

/// A driver session and its prepared statements.
pub(crate) struct Link {
    pub(crate) session: Session,
    pub(crate) prepared: Prepared,
}

/// Why there is no session.
pub(crate) enum NoSession {
    /// TLS cannot be configured; a sentence for an operator.
    Tls(String),
    /// The driver could not connect.
    Driver(Box<NewSessionError>),
}

/// Opens a driver session without a keyspace.
pub(crate) async fn connect(config: &Config, profiles: &Profiles) -> Result<Session, NoSession> {
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.hosts)
        .default_execution_profile_handle(profiles.writes.clone())
        .connection_timeout(CONNECT_TIMEOUT)
        .hostname_resolution_timeout(Some(CONNECT_TIMEOUT))
        .metadata_request_serverside_timeout(METADATA_TIMEOUT)
        .metadata_request_clientside_timeout(CONNECT_TIMEOUT)
        .keepalive_interval(KEEPALIVE_INTERVAL)
        .keepalive_timeout(KEEPALIVE_TIMEOUT)
        .tcp_keepalive_interval(KEEPALIVE_INTERVAL)
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
