//! Which account servers run under: the caller's own, or an ordinary one where the caller is root
//! (Postgres refuses to run as root, and nothing a test starts should). Must never pick an account that the
//! system does not know: initdb looks its own name up.

use std::os::unix::fs::chown;
use std::path::Path;

use crate::LabError;

/// Accounts tried in turn when the caller is root. `postgres` comes with Debian's packages, `nobody` is on
/// every system.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// An account servers are started under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// User id, never 0.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

/// True if this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The account to drop to, or `None` where the caller is not root and servers run as the caller.
pub fn server_account() -> Result<Option<Account>, LabError> {
    if !is_root() {
        return Ok(None);
    }
    let path = "/etc/passwd";
    let passwd = std::fs::read_to_string(path).map_err(LabError::io("read", path))?;
    match CANDIDATES.iter().find_map(|name| find(&passwd, name)) {
        Some(account) => Ok(Some(account)),
        None => Err(LabError::Option { what: "no account to run servers under (postgres, nobody)".into() }),
    }
}

/// Gives one file or folder to the account servers run under; nothing to do where the caller is not root.
pub fn give(path: &Path, account: Option<Account>) -> Result<(), LabError> {
    match account {
        None => Ok(()),
        Some(a) => chown(path, Some(a.uid), Some(a.gid)).map_err(LabError::io("give away", path)),
    }
}

/// Gives a folder and all in it to the account servers run under. Does not follow links.
pub fn give_tree(path: &Path, account: Option<Account>) -> Result<(), LabError> {
    let Some(a) = account else { return Ok(()) };
    std::os::unix::fs::lchown(path, Some(a.uid), Some(a.gid)).map_err(LabError::io("give away", path))?;
    let kind = std::fs::symlink_metadata(path).map_err(LabError::io("look at", path))?;
    if kind.is_dir() {
        for entry in std::fs::read_dir(path).map_err(LabError::io("list", path))? {
            give_tree(&entry.map_err(LabError::io("list", path))?.path(), account)?;
        }
    }
    Ok(())
}

/// Finds a name in the text of /etc/passwd; root is never an answer.
fn find(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok().filter(|uid| *uid != 0)?;
        Some(Account { uid, gid: fields.next()?.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_account_and_never_root() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\nevil:x:0:7::/:/\n";
        assert_eq!(find(passwd, "nobody"), Some(Account { uid: 65534, gid: 65533 }));
        assert_eq!(find(passwd, "root"), None);
        assert_eq!(find(passwd, "evil"), None);
        assert_eq!(find(passwd, "postgres"), None);
    }
}
