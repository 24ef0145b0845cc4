//! Feeds `pillarbox_kafka::fuzz::answer`. Must never do more: the corpora are replayed without this.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    pillarbox_kafka::fuzz::answer(bytes);
});
