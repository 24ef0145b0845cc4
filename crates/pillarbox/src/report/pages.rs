//! Every code has a page in `docs/errors/`, under its own title, and no page is without a code.

use std::collections::BTreeSet;
use std::path::PathBuf;

use pillarbox_relay::error::Code;

const SECTIONS: [&str; 3] = ["\n## What Pillarbox does\n", "\n## Repair\n", "\n## Reproduce\n"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors")
}

#[test]
fn every_code_has_its_page() {
    for code in Code::ALL {
        let path = folder().join(format!("{code}.md"));
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(text.lines().next(), Some(format!("# {code}: {}", code.title()).as_str()));
        for section in SECTIONS {
            assert!(text.contains(section), "{code} lacks {section:?}");
        }
        let exit = format!("exits {}.", code.exit() as u8);
        assert!(code.exit() as u8 == 0 || text.replace('\n', " ").contains(&exit), "{code}: {exit}");
    }
}

#[test]
fn every_page_has_its_code() {
    let codes: BTreeSet<String> = Code::ALL.iter().map(|code| format!("{code}.md")).collect();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(codes.contains(&name) || name == "README.md", "{name}");
    }
}
