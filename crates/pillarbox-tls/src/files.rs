//! Certificates and keys from PEM files, and from the platform.
//!
//! An error names the file and never what is in it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::failure::Failure;

/// Longest PEM file: the bundle of a whole platform has a few hundred KiB, and a mistyped path may be a disk.
const FILE_BYTES_MAX: u64 = 8 << 20;

pub(crate) fn unusable(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::File { path: path.display().to_string(), why: why.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let size = std::fs::metadata(path).map_err(|error| unusable(path, error))?.len();
    if size > FILE_BYTES_MAX {
        return Err(unusable(path, format!("it has {size} bytes, at most {FILE_BYTES_MAX} are read")));
    }
    std::fs::read(path).map_err(|error| unusable(path, error))
}

/// All certificates of a file, at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let pem = read(path)?;
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match list {
        Ok(list) if list.is_empty() => Err(unusable(path, "it holds no certificate in PEM form")),
        Ok(list) => Ok(list),
        Err(_) => Err(unusable(path, "it is not valid PEM")),
    }
}

/// The authorities of a file.
pub(crate) fn roots(path: &Path) -> Result<Arc<RootCertStore>, Failure> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|_| unusable(path, "one of its certificates cannot be understood"))?;
    }
    Ok(Arc::new(store))
}

/// The first private key of a file.
pub(crate) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Failure> {
    let pem = read(path)?;
    if pem.windows(9).any(|window| window == b"ENCRYPTED") {
        return Err(unusable(path, "the key has a passphrase; keep one without, readable by the relay only"));
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| unusable(path, "it holds no private key in PEM form"))
}

/// The authorities of the operating system, or of `SSL_CERT_FILE`. Those that cannot be understood are left out.
pub(crate) fn platform_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(store)
    };
    Arc::clone(ROOTS.get_or_init(load))
}
