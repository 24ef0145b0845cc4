//! Where downloaded servers live, and how one gets there: whole or not at all, once for all processes.
//!
//! ```text
//! <cache>/postgres-18.4.0/{bin,lib,share}      <cache>/kafka-4.3.1/libs/*.jar      <cache>/*.lock
//! ```
//! Must never leave a half-written folder under its final name, or use a folder that the account servers run
//! under cannot enter.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::LabError;
use crate::account::is_root;

/// Names another folder for downloads.
pub const CACHE_VARIABLE: &str = "PILLARBOX_LAB_CACHE";

/// What the lab is doing while the caller waits; for a progress line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Another process is fetching the same thing.
    Waiting(String),
    /// Maven fetches this, or finds it in its own store.
    Downloading(String),
    /// An archive is being unpacked.
    Unpacking(String),
    /// A new data folder is being made.
    Preparing(String),
    /// The server process runs, but does not answer yet.
    Starting(String),
    /// The server answers.
    Ready(String),
}

/// A progress callback that says nothing.
pub fn quiet(_: Progress) {}

/// The folder downloads live in, made if need be.
///
/// `$PILLARBOX_LAB_CACHE`, else `$XDG_CACHE_HOME/pillarbox`, else `~/.cache/pillarbox`. Root's home is closed
/// to the account servers run under, so for root the next is `/var/cache/pillarbox`, then
/// `/tmp/pillarbox-cache`.
pub fn dir() -> Result<PathBuf, LabError> {
    if let Some(dir) = std::env::var_os(CACHE_VARIABLE).filter(|d| !d.is_empty()) {
        let dir = PathBuf::from(dir);
        make_open(&dir)?;
        return Ok(dir);
    }
    let mut error = LabError::Option { what: "no folder for downloads: set PILLARBOX_LAB_CACHE".into() };
    for dir in candidates() {
        match make_open(&dir) {
            Ok(()) if reachable_by_others(&dir) => return Ok(dir),
            Ok(()) => {}
            Err(e) => error = e,
        }
    }
    Err(error)
}

/// Folders that may serve, best first. Those below a closed folder are left out before they are made.
fn candidates() -> Vec<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let mut dirs = Vec::new();
    dirs.extend(absolute("XDG_CACHE_HOME").map(|d| d.join("pillarbox")));
    dirs.extend(absolute("HOME").map(|d| d.join(".cache/pillarbox")));
    dirs.push(PathBuf::from("/var/cache/pillarbox"));
    dirs.push(PathBuf::from("/tmp/pillarbox-cache"));
    dirs.retain(|d| reachable_by_others(d));
    dirs
}

/// True if the account servers run under can enter the folder: always where that is the caller's own. Parts
/// that do not exist yet count as enterable.
fn reachable_by_others(dir: &Path) -> bool {
    let open = |part: &Path| fs::metadata(part).map_or(true, |m| m.mode() & 0o001 != 0);
    !is_root() || dir.ancestors().all(open)
}

/// Makes the folder, and opens it for reading by all. A folder that somebody else made is refused: what lies
/// in it will be executed.
fn make_open(dir: &Path) -> Result<(), LabError> {
    fs::create_dir_all(dir).map_err(LabError::io("make", dir))?;
    let owner = fs::metadata(dir).map_err(LabError::io("look at", dir))?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        return Err(LabError::Option { what: format!("{} belongs to another user", dir.display()) });
    }
    fs::set_permissions(dir, Permissions::from_mode(0o755)).map_err(LabError::io("open", dir))
}

/// Returns `<cache>/<name>`, filling it first where it is missing: `fill` gets an empty folder beside it, which
/// takes the name only when `fill` succeeded. Processes that want the same name wait for each other.
pub fn install(
    name: &str,
    progress: &dyn Fn(Progress),
    fill: impl FnOnce(&Path) -> Result<(), LabError>,
) -> Result<PathBuf, LabError> {
    install_in(&dir()?, name, progress, fill)
}

/// The same in a given cache folder.
fn install_in(
    cache: &Path,
    name: &str,
    progress: &dyn Fn(Progress),
    fill: impl FnOnce(&Path) -> Result<(), LabError>,
) -> Result<PathBuf, LabError> {
    let target = cache.join(name);
    if target.is_dir() {
        return Ok(target);
    }
    let lock_path = cache.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).map_err(LabError::io("open", &lock_path))?;
    if lock.try_lock().is_err() {
        progress(Progress::Waiting(name.to_owned()));
        lock.lock().map_err(LabError::io("lock", &lock_path))?;
    }
    if target.is_dir() {
        return Ok(target);
    }
    let temporary = tempfile::Builder::new()
        .prefix(".incoming-")
        .tempdir_in(cache)
        .map_err(LabError::io("make a folder in", cache))?;
    fill(temporary.path())?;
    open_tree(temporary.path())?;
    fs::rename(temporary.path(), &target).map_err(LabError::io("put in place", &target))?;
    Ok(target)
}

/// Lets everybody read a tree, whatever the umask was.
fn open_tree(path: &Path) -> Result<(), LabError> {
    let meta = fs::symlink_metadata(path).map_err(LabError::io("look at", path))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let wanted = if meta.is_dir() { meta.mode() | 0o555 } else { meta.mode() | 0o444 };
    fs::set_permissions(path, Permissions::from_mode(wanted)).map_err(LabError::io("open", path))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path).map_err(LabError::io("list", path))? {
            open_tree(&entry.map_err(LabError::io("list", path))?.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_failed_fill_leaves_nothing_and_can_be_repeated() {
        let cache = tempfile::tempdir().expect("a folder");
        let fail = |dir: &Path| {
            fs::write(dir.join("half"), "x").expect("written");
            Err(LabError::JavaMissing)
        };
        assert!(install_in(cache.path(), "server", &quiet, fail).is_err());
        assert!(!cache.path().join("server").exists());
        let dir = install_in(cache.path(), "server", &quiet, |dir| {
            fs::write(dir.join("whole"), "x").map_err(LabError::io("write", dir))
        });
        let names = fs::read_dir(dir.expect("filled")).expect("read").map(|e| e.expect("read").file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["whole"]);
    }

    #[test]
    fn many_callers_fill_once_and_all_get_it() {
        let cache = tempfile::tempdir().expect("a folder");
        let fills = AtomicU32::new(0);
        let install = || {
            install_in(cache.path(), "server", &quiet, |dir| {
                fills.fetch_add(1, Ordering::Relaxed);
                fs::create_dir(dir.join("bin")).map_err(LabError::io("make", dir))
            })
        };
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..8).map(|_| scope.spawn(install)).collect();
            for caller in callers {
                assert!(caller.join().expect("no panic").expect("filled").join("bin").is_dir());
            }
        });
        assert_eq!(fills.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_account_of_servers_can_enter_the_cache() {
        let closed = tempfile::tempdir().expect("a folder");
        fs::set_permissions(closed.path(), Permissions::from_mode(0o700)).expect("closed");
        assert!(!is_root() || !reachable_by_others(&closed.path().join("pillarbox")));
        assert!(reachable_by_others(Path::new("/var/cache/not-made-yet")));
    }
}
