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

/// Paths of the PEM file with the certificate authorities that a system trusts.
const SYSTEM_CA_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Bytes of a file of certificate authorities at most; those of systems have some 200 KiB.
const CA_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The TLS configuration for the driver.
///
/// # Errors
/// A sentence for an operator.
pub(crate) fn client(tls: &Tls) -> Result<Arc<ClientConfig>, String> {
    let path = match &tls.ca {
        Some(path) => path.clone(),
        None => system_ca_file().ok_or_else(|| {
            "tls=on, but this system has no list of certificate authorities: give one with tls_ca=".to_owned()
        })?,
    };
    let unreadable =
        |why: String| format!("the certificate authorities in {} cannot be read: {why}", path.display());
    let found = path.metadata().map_err(|error| unreadable(error.to_string()))?;
    // A pipe or a device may never end.
    if !found.is_file() {
        return Err(unreadable("it is no regular file".into()));
    }
    if found.len() > CA_FILE_BYTES_MAX {
        return Err(unreadable(format!("it has more than {CA_FILE_BYTES_MAX} bytes")));
    }
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|error| unreadable(error.to_string()))?;
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

fn system_ca_file() -> Option<PathBuf> {
    SYSTEM_CA_FILES.iter().map(Path::new).find(|path| path.is_file()).map(Path::to_owned)
}
