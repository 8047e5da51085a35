//! The database file: private to its owner, served by one process.
//!
//! **Invariants**: a file we create has mode 0600, before its first byte is written (`-wal` and `-shm` take theirs from
//! it); two serving processes on one file are refused. **Must not know** what is in the file.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::store::{StoreError, StoreResult};

/// Opens a file for its owner's eyes only; an existing one keeps its mode.
fn open_private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Creates the database file if there is none.
pub(super) fn create_private(path: &Path) -> StoreResult<()> {
    open_private(path).map_err(|error| refused(path, &error))?;
    Ok(())
}

/// The lock of the serving process: an exclusive lock on `<database>.lock`, which the system gives back when the process
/// ends, however it ends.
#[derive(Debug)]
pub(super) struct ServingLock {
    _file: File,
}

impl ServingLock {
    pub(super) fn take(database: &Path) -> StoreResult<Self> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let file = open_private(&path).map_err(|error| refused(&path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Unavailable(format!(
                "another process serves from {}; several gateways share a PostgreSQL database, not a file",
                database.display()
            ))),
            Err(TryLockError::Error(error)) => Err(refused(&path, &error)),
        }
    }
}

/// What waiting does not mend is told at once.
fn refused(path: &Path, error: &std::io::Error) -> StoreError {
    let told = format!("{}: {error}", path.display());
    match error.kind() {
        ErrorKind::NotFound => StoreError::Driver(format!("{}: there is no such directory", path.display())),
        ErrorKind::PermissionDenied | ErrorKind::NotADirectory => StoreError::Driver(told),
        _ => StoreError::Unavailable(told),
    }
}
