//! Data folders: temporary ones that go with the process that made them, even where it was killed; copies.
//!
//! Each holds a file that its maker keeps locked; a later run removes folders whose lock is free. Must never
//! remove a folder that is in use, or that another user made.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::LabError;
use crate::account::{Account, give};

/// What all names begin with.
const PREFIX: &str = "pillarbox-lab-";
/// Locked for as long as the folder is used.
const LOCK: &str = "in-use.lock";

/// A temporary folder; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Temporary {
    dir: TempDir,
    // Released last, by the kernel where we are killed.
    _lock: File,
}

impl Temporary {
    /// Makes a folder that the account servers run under owns, after removing those of killed runs.
    pub(crate) fn new(what: &str, account: Option<Account>) -> Result<Self, LabError> {
        let parent = std::env::temp_dir();
        sweep(&parent, account);
        let dir = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{what}-"))
            // It will hold records and rows; without this the umask decides who reads them.
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&parent)
            .map_err(LabError::io("make a folder in", &parent))?;
        // Locked before it has its name: a sweep must not find it unlocked.
        let early = dir.path().join("early.lock");
        let lock = File::create(&early).map_err(LabError::io("make", &early))?;
        lock.lock().map_err(LabError::io("lock", &early))?;
        fs::rename(&early, dir.path().join(LOCK)).map_err(LabError::io("rename", &early))?;
        give(dir.path(), account)?;
        Ok(Self { dir, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Writes a new file that only the account servers run under can read, from its first byte on.
pub(crate) fn write_secret(path: &Path, text: &str, account: Option<Account>) -> Result<(), LabError> {
    // A killed run may have left one.
    let _ = fs::remove_file(path);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(LabError::io("make", path))?;
    file.write_all(text.as_bytes()).map_err(LabError::io("write", path))?;
    give(path, account)
}

/// Removes folders whose makers are gone. What cannot be removed is left: it is only waste.
fn sweep(parent: &Path, account: Option<Account>) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let ours = |name: &std::ffi::OsStr| name.to_str().is_some_and(|n| n.starts_with(PREFIX));
    for entry in entries.flatten().filter(|e| ours(&e.file_name())) {
        let path: PathBuf = entry.path();
        if made_by_us(&path, account) && abandoned(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// True for a folder (no link) of this user or of the account servers run under.
fn made_by_us(path: &Path, account: Option<Account>) -> bool {
    let us = rustix::process::geteuid().as_raw();
    let owned = |uid: u32| uid == us || account.is_some_and(|a| a.uid == uid);
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir() && owned(m.uid()))
}

/// True if nobody holds the folder's lock. A folder without one is being made.
fn abandoned(path: &Path) -> bool {
    File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
}

/// Copies a folder with owners, modes and times; `cp` knows sparse files and reflinks.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<(), LabError> {
    let output = Command::new("cp")
        .args(["-a", "--reflink=auto", "--no-target-directory", "--"])
        .args([from, to])
        .output()
        .map_err(LabError::io("run", "cp"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::Setup { name: "cp", output: crate::download::last_lines(&output) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_is_closed_to_others() {
        let folder = Temporary::new("test", None).expect("made");
        let mode = fs::metadata(folder.path()).expect("there").mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_secret_is_closed_to_others_even_where_an_open_one_was_left() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("secret");
        fs::write(&path, "left by a killed run").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("opened");
        write_secret(&path, "s3cret", None).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).expect("there"), "s3cret");
    }

    #[test]
    fn only_abandoned_folders_are_swept() {
        let parent = tempfile::tempdir().expect("a folder");
        let make = |name: &str, lock: bool| {
            let dir = parent.path().join(name);
            fs::create_dir(&dir).expect("made");
            if lock { Some(File::create(dir.join(LOCK)).expect("made")) } else { None }
        };
        let held = make("pillarbox-lab-pg-1", true).expect("a lock");
        held.lock().expect("locked");
        make("pillarbox-lab-pg-2", true);
        make("pillarbox-lab-pg-3", false);
        make("other-4", true);
        sweep(parent.path(), None);
        let mut left: Vec<_> =
            fs::read_dir(parent.path()).expect("read").map(|e| e.expect("read").file_name()).collect();
        left.sort();
        assert_eq!(left, ["other-4", "pillarbox-lab-pg-1", "pillarbox-lab-pg-3"]);
    }
}
