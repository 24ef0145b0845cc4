//! Replays what fuzzing has kept (`fuzz/corpus`): nothing in it panics, and what is sound is understood.
//!
//! Must never need a fuzzer: any compiler runs it.

use std::fs;
use std::path::Path;

type Feed = fn(&[u8]) -> bool;

const TARGETS: [(&str, Feed); 2] =
    [("answer", pillarbox_kafka::fuzz::answer), ("records", pillarbox_kafka::fuzz::records)];

#[test]
fn nothing_in_the_corpora_panics() {
    for (target, feed) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let (mut files, mut sound) = (0, 0);
        for entry in fs::read_dir(&folder).expect("a corpus") {
            let path = entry.expect("a file").path();
            let understood = feed(&fs::read(&path).expect("bytes"));
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            assert!(understood || !name.starts_with("sound"), "{target}/{name} is not understood");
            files += 1;
            sound += u32::from(understood);
        }
        assert!(files > 5 && sound > 0, "{target}: {files} files, {sound} of them sound");
        println!("{target}: {files} files, {sound} of them sound");
    }
}
