//! Certificates and keys from PEM files, read anew when one has changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio_rustls::rustls;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{info, warn};

use super::certificate::expiry;

/// How often it is looked at most whether a file has changed.
const LOOK: Duration = Duration::from_secs(1);

/// Why certificates cannot be used. Reading them again without a change gives the same.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The system does not give the file.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not PEM, or holds no certificate.
    #[error("{}: no certificate in PEM form stands there", .0.display())]
    NoCertificate(PathBuf),
    /// The file is not PEM, or holds no private key.
    #[error("{}: no private key in PEM form stands there (an encrypted one cannot be read)", .0.display())]
    NoKey(PathBuf),
    /// The key is not that of the certificate, or either is of a kind that is not known.
    #[error("{} and {} do not belong together: {source}", cert.display(), key.display())]
    Unfit {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What the library said.
        source: rustls::Error,
    },
    /// The system has no list of authorities.
    #[error("this system has no list of certificate authorities: install ca-certificates, or name a file with ?ca=")]
    NoSystemRoots,
    /// The name is none that a certificate can have.
    #[error("`{0}` is no name that a certificate can have")]
    Name(String),
    /// The library itself.
    #[error(transparent)]
    Library(#[from] rustls::Error),
}

fn open(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|source| FileError::Unreadable { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let none = || FileError::NoCertificate(path.to_owned());
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&open(path)?).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(none)
}

/// A certificate with its chain, and when it ends, in seconds since 1970.
pub(super) fn read_chain(path: &Path) -> Result<(Vec<CertificateDer<'static>>, Option<i64>), FileError> {
    let chain = certificates(path)?;
    let expires = expiry(&chain[0]);
    Ok((chain, expires))
}

pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(&open(path)?).map_err(|_| FileError::NoKey(path.to_owned()))
}

pub(super) fn read_roots(path: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|_| FileError::NoCertificate(path.to_owned()))?;
    }
    Ok(roots)
}

type Made<T> = (T, Option<i64>);

/// What was made of files, made again when one of them has changed. It is looked when somebody asks.
pub(super) struct Reloading<T> {
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<Made<T>, FileError> + Send + Sync>,
    state: Mutex<LoadedFiles<T>>,
}

struct LoadedFiles<T> {
    looked: Instant,
    marks: Vec<Option<Mark>>,
    value: Arc<T>,
    expires: Option<i64>,
}

/// By which one sees that a file has changed: when it was written, and its length.
type Mark = (SystemTime, u64);

fn marks(files: &[PathBuf]) -> Vec<Option<Mark>> {
    let mark = |file: &PathBuf| {
        let there = fs::metadata(file).ok()?; // follows links, as those of mounted secrets, which are exchanged as a whole
        Some((there.modified().ok()?, there.len()))
    };
    files.iter().map(mark).collect()
}

impl<T> Reloading<T> {
    pub(super) fn new(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<Made<T>, FileError> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        let marks = marks(&files);
        let (value, expires) = make()?;
        let state = LoadedFiles { looked: Instant::now(), marks, value: Arc::new(value), expires };
        Ok(Self { files, make: Box::new(make), state: Mutex::new(state) })
    }

    /// What the files say now, or said when they could last be used.
    pub(super) fn get(&self) -> Arc<T> {
        Arc::clone(&self.current().value)
    }

    pub(super) fn expires(&self) -> Option<i64> {
        self.current().expires
    }

    /// Reads the files, changed or not. Holds up nobody who asks meanwhile.
    pub(super) fn read_anew(&self) {
        if !self.files.is_empty() {
            let (marks, made) = (marks(&self.files), (self.make)());
            LoadedFiles::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), marks, made);
        }
    }

    fn current(&self) -> MutexGuard<'_, LoadedFiles<T>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.files.is_empty() && state.looked.elapsed() >= LOOK {
            state.looked = Instant::now();
            let marks = marks(&self.files);
            if marks != state.marks {
                state.take(marks, (self.make)());
            }
        }
        state
    }
}

impl<T> LoadedFiles<T> {
    /// This was read of the files, which had these marks just before.
    fn take(&mut self, marks: Vec<Option<Mark>>, made: Result<Made<T>, FileError>) {
        self.marks = marks; // a bad file is told of once
        match made {
            Ok((value, expires)) => {
                (self.value, self.expires) = (Arc::new(value), expires);
                info!("certificates were read anew; new connections use them");
            }
            Err(error) => warn!("certificates were read anew and cannot be used: {error}; the old ones are kept"),
        }
    }
}
