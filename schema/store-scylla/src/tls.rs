//! TLS to the database, by rustls.
//!
//! The driver connects by address and hands rustls the server's IP address as its name, so a
//! certificate must list that address (`subjectAltName` of type IP). There is no way around the
//! verification.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::config::Tls;

/// Where systems keep the authorities that they trust, in one PEM file.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// What the driver needs. The error is a sentence for an operator.
pub(crate) fn client(tls: &Tls) -> Result<Arc<ClientConfig>, String> {
    let path = match &tls.ca {
        Some(path) => path.clone(),
        None => system().ok_or_else(|| {
            "tls=on, but this system has no list of certificate authorities: give one with tls_ca=".to_owned()
        })?,
    };
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(
            |error| format!("the certificate authorities in {} cannot be read: {error}", path.display()),
        )?;
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(format!("there is no certificate authority in {}", path.display()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS is not available: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn system() -> Option<PathBuf> {
    SYSTEM.iter().map(Path::new).find(|path| path.is_file()).map(Path::to_owned)
}
