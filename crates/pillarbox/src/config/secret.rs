//! References to values outside the file: `${env:NAME}`, `${env:NAME:-default}`, `${file:PATH}`.
//!
//! A reference is a whole scalar, resolved after parsing: a value can never add structure to the
//! file. An error names the variable or the file, never what it holds.

use std::path::{Path, PathBuf};

/// Longest file behind a reference: secrets are short, and a mistyped path may be a disk.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Where references lead: the process environment and the file system, or a test's own.
pub(crate) struct Outside<'a> {
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
    /// Relative paths in the configuration start here: the directory of the file.
    pub(crate) base: PathBuf,
}

/// Resolves `text` if it is a reference; `None` when it is an ordinary value.
pub(crate) fn resolve(text: &str, outside: &Outside<'_>) -> Option<Result<String, String>> {
    let Some(inner) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else {
        let looks_like_one = ["${env:", "${file:"].iter().any(|start| text.contains(start));
        return looks_like_one
            .then(|| Err("a reference must be the whole value; text around it is not allowed".to_owned()));
    };
    Some(match inner.split_once(':') {
        Some(("env", name)) => variable(name, outside),
        Some(("file", path)) if !path.is_empty() => file(&outside.base.join(path)),
        _ => Err("expected ${env:NAME}, ${env:NAME:-default} or ${file:PATH}".to_owned()),
    })
}

fn variable(spec: &str, outside: &Outside<'_>) -> Result<String, String> {
    let (name, default) = match spec.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (spec, None),
    };
    if name.is_empty() {
        return Err("the reference names no environment variable".to_owned());
    }
    // As a shell's `:-`: a variable that is set but empty takes the default too.
    let set = (outside.env)(name).filter(|value| default.is_none() || !value.is_empty());
    set.or_else(|| default.map(str::to_owned))
        .ok_or_else(|| format!("environment variable {name} is not set"))
}

fn file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let size = std::fs::metadata(path).map_err(|error| format!("file {shown}: {error}"))?.len();
    if size > SECRET_FILE_BYTES_MAX {
        return Err(format!("file {shown} has {size} bytes, at most {SECRET_FILE_BYTES_MAX} are allowed"));
    }
    let mut text = std::fs::read_to_string(path).map_err(|error| format!("file {shown}: {error}"))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pw"), "hunter2\n").unwrap();
        std::fs::write(dir.path().join("two"), "a\n\n").unwrap();
        let env = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let outside = Outside { env: &env, base: dir.path().to_owned() };
        let ok = |text: &str| resolve(text, &outside).map(|result| result.unwrap());
        assert_eq!(ok("plain"), None);
        assert_eq!(ok("$ORDINARY"), None);
        assert_eq!(ok("${env:SET}").unwrap(), "value");
        assert_eq!(ok("${env:EMPTY}").unwrap(), "");
        assert_eq!(ok("${env:EMPTY:-d}").unwrap(), "d");
        assert_eq!(ok("${env:NONE:-a:-b}").unwrap(), "a:-b");
        assert_eq!(ok("${env:NONE:-}").unwrap(), "");
        assert_eq!(ok("${file:pw}").unwrap(), "hunter2");
        assert_eq!(ok("${file:two}").unwrap(), "a\n");
        for wrong in ["${env:NONE}", "${file:absent}", "${exec:ls}", "${}", "x${env:SET}", "${env:}"] {
            assert!(resolve(wrong, &outside).unwrap().is_err(), "{wrong}");
        }
    }
}
