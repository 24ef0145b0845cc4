//! The `tls` sections: a mode as one word, or a map with files. Relative paths start at the configuration file.
//!
//! Reads the files once to say early what is wrong with them; connections read them again.

use std::path::{Path, PathBuf};

use pillarbox_relay::config::{Identity, Tls};
use pillarbox_relay::error::Code;

use super::problem::{Place, Problem};
use super::reader::{Context, Section, scalar};
use super::tree::{Node, Value};

/// What a `tls` section says.
#[derive(Default)]
pub(super) struct Written {
    /// The word for how much is verified, and where it stands.
    pub(super) mode: Option<(String, Place)>,
    pub(super) ca: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

/// Reads `tls: WORD` or `tls: { mode: WORD, ca: .., cert: .., key: .. }`.
pub(super) fn read(context: &Context<'_>, section: &Section<'_>, node: &Node) -> Option<Written> {
    let option = section.option("tls");
    if let Value::Scalar(_) = node.value {
        let word = scalar(context, &option, node)?;
        return Some(Written { mode: Some((word.text, word.place)), ..Written::default() });
    }
    let section = Section::open(context, &option, node)?;
    let path = |key| section.text(key).map(|path| context.outside.base.join(path.text));
    let written = Written {
        mode: section.text("mode").map(|word| (word.text, word.place)),
        ca: path("ca"),
        certificate: path("cert"),
        key: path("key"),
    };
    section.finish();
    Some(written)
}

/// Both halves of an identity, or none; one half is a problem.
pub(super) fn identity(
    context: &Context<'_>,
    option: &str,
    place: Option<Place>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Option<Identity> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
        (None, None) => None,
        _ => {
            let message = format!("{option}: a client certificate needs both cert and key");
            context.report(Problem::new(Code::ConfigValue, option, message).at(place));
            None
        }
    }
}

/// Reports what is wrong with the files; `None` when something is.
pub(super) fn try_files(context: &Context<'_>, option: &str, place: Option<Place>, tls: &Tls) -> Option<()> {
    let report = |failure| {
        let message = format!("{option}: {failure}");
        let hint = "name PEM files that this user may read; relative paths start at the configuration file";
        context.report(Problem::new(Code::ConfigValue, option, message).at(place).hint(hint));
    };
    tls.client_config().map(drop).map_err(report).ok()
}

/// A path as a file spells it.
pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}
