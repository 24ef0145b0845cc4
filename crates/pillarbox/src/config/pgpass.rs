//! libpq's password file: `host:port:database:user:password` a line, `*` for any, `\` before `:` and `\`.
//!
//! As libpq does, it is left alone where others may read it. Never repeats a line.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Longest password file: a few hundred lines; a mistyped path may be a disk.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a password is for.
pub(super) struct Login<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// The password in `file`; none where there is no such file, nobody else may read it, and a line fits.
pub(super) fn look_up(file: &Path, login: &Login<'_>) -> Option<String> {
    let about = std::fs::metadata(file).ok()?;
    let private = about.permissions().mode() & 0o077 == 0;
    if !about.is_file() || !private || about.len() > FILE_BYTES_MAX {
        return None;
    }
    find(&std::fs::read_to_string(file).ok()?, login)
}

/// The first line that fits counts.
fn find(text: &str, login: &Login<'_>) -> Option<String> {
    // A Unix socket goes by the name of this machine.
    let host = if login.host.starts_with('/') { "localhost" } else { login.host };
    let port = login.port.to_string();
    let wanted = [host, &port, login.database, login.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let [fields @ .., password] = &fields[..] else { return None };
        let fits = fields.len() == wanted.len()
            && fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
        (fits && !password.is_empty()).then(|| password.clone())
    })
}

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let taken = match character {
            ':' if fields.len() < 5 => {
                fields.push(String::new());
                continue;
            }
            '\\' => characters.next(),
            other => Some(other),
        };
        if let Some(field) = fields.last_mut() {
            field.extend(taken);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_counts() {
        let login = Login { host: "db", port: 5432, database: "shop", user: "relay" };
        for (text, password) in [
            ("db:5432:shop:relay:one", Some("one")),
            ("*:*:*:relay:two\ndb:5432:shop:relay:three", Some("two")),
            ("# db:5432:shop:relay:no\nother:5432:shop:relay:no\ndb:*:shop:*:four", Some("four")),
            ("db:5432:shop:relay:a\\:b\\\\c", Some("a:b\\c")),
            ("db:5432:shop:relay:with:colons", Some("with:colons")),
            ("db:5433:shop:relay:no", None),
            ("db:5432:shop:relay", None),
            ("db:5432:shop:relay:", None),
            ("", None),
        ] {
            assert_eq!(find(text, &login).as_deref(), password, "{text}");
        }
        let local = Login { host: "/run/postgresql", ..login };
        assert_eq!(find("localhost:5432:shop:relay:five", &local).as_deref(), Some("five"));
    }

    #[test]
    fn a_file_that_others_may_read_is_left_alone() {
        let login = Login { host: "db", port: 5432, database: "shop", user: "relay" };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pgpass");
        std::fs::write(&file, "*:*:*:*:hunter2\n").unwrap();
        for (mode, password) in [(0o600, Some("hunter2")), (0o640, None), (0o604, None)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(look_up(&file, &login).as_deref(), password, "{mode:o}");
        }
        assert_eq!(look_up(&folder.path().join("absent"), &login), None);
        assert_eq!(look_up(folder.path(), &login), None);
    }
}
