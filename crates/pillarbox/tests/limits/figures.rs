//! What a case has to say. Must never decide whether it passed.

use std::time::Duration;

/// Whether the cases run in their real size.
pub(crate) fn is_full() -> bool {
    match std::env::var("PILLARBOX_LIMITS").as_deref() {
        Ok("full") => true,
        Ok("small") | Err(_) => false,
        Ok(other) => panic!("PILLARBOX_LIMITS={other} is neither full nor small"),
    }
}

/// The one of two sizes that is asked for.
pub(crate) fn size<T>(small: T, full: T) -> T {
    if is_full() { full } else { small }
}

/// The figures of a case.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    /// Its name: letters and hyphens.
    pub(crate) case: &'static str,
    /// What was done, with sizes.
    pub(crate) what: String,
    /// Events counted at the destination, each once and in order.
    pub(crate) events: u64,
    /// From the end of the load, or of the outage, until all was confirmed to Postgres.
    pub(crate) took: Duration,
    /// Peak resident memory of the relay.
    pub(crate) rss_kib: u64,
    /// The longest time that Postgres waited between two answers of the relay, where the stream went on throughout.
    pub(crate) silence: Option<Duration>,
    /// What else is worth knowing.
    pub(crate) note: String,
}

impl Figures {
    /// Prints them and leaves them, for whoever asked by `PILLARBOX_FIGURES`, in that folder.
    pub(crate) fn tell(&self) {
        let Self { case, what, events, took, rss_kib, silence, note } = self;
        let silence_ms = silence.map(|silence| silence.as_millis());
        println!(
            "{case}: {what}; {events} events, {took:.1?}, peak {:.1} MiB, silent for {silence:.1?} at most; {note}",
            *rss_kib as f64 / 1024.0
        );
        let Some(folder) = std::env::var_os("PILLARBOX_FIGURES") else { return };
        let figures = serde_json::json!({
            "case": case, "full": is_full(), "what": what, "events": events, "seconds": took.as_secs_f64(),
            "rss_kib": rss_kib, "silence_ms": silence_ms.map(|ms| ms as u64), "note": note,
        });
        let file = std::path::Path::new(&folder).join(format!("{case}.json"));
        std::fs::write(file, figures.to_string()).expect("the folder for figures");
    }
}
