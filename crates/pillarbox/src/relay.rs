//! A pipeline with its HTTP interface, as `run` and `dev` start it.
//!
//! ```text
//! http handlers -> requests (bounded) -> verbs task -> pipeline
//!               <- status (watch)     <-------------- pipeline
//! ```
//! All tasks of the binary are spawned here; none of them outlives the runtime, and the failure of
//! one never touches the pipeline. Never decides when to stop: whoever started it does.

use std::sync::Arc;

use pillarbox_relay::error::Fault;
use pillarbox_relay::pipeline::status::{State, Status};
use pillarbox_relay::pipeline::{self, Controls, Ended, Handle, Options};
use tokio::sync::{mpsc, watch};

use crate::config::Loaded;
use crate::http::{self, Request, Shared, Verb, metrics};

/// A running relay.
pub(crate) struct Relay {
    handle: Handle,
}

impl Relay {
    /// Opens the port, then starts the pipeline.
    ///
    /// # Errors
    /// The port cannot be had; then nothing was started.
    pub(crate) async fn start(loaded: Loaded, options: Options) -> Result<Self, Fault> {
        let listener = match loaded.listen {
            Some(address) => Some(http::bind(address).await?),
            None => None,
        };
        let metrics = metrics::install()?;
        let handle = pipeline::start(loaded.config, options);
        let (requests, incoming) = mpsc::channel(http::REQUESTS_MAX);
        // Ends when the interface is gone and its last request was answered.
        tokio::spawn(verbs(incoming, handle.controls()));
        // Runs as long as the runtime.
        tokio::spawn(upkeep(metrics.clone()));
        if let Some(listener) = listener {
            let desk = http::events::Desk::new(handle.arrivals());
            let shared = Shared { status: handle.status(), requests, metrics, desk };
            // Its failure leaves the pipeline running, unseen.
            tokio::spawn(async move {
                if let Err(error) = http::serve(listener, shared).await {
                    tracing::error!(%error, "the HTTP interface has ended; the pipeline goes on");
                }
            });
        }
        Ok(Self { handle })
    }

    /// The status, as it changes.
    pub(crate) fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.handle.status()
    }

    /// Its state, as it changes.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.handle.state()
    }

    /// Tells the pipeline to drain and end.
    pub(crate) fn stop(&self) {
        self.handle.stop();
    }

    /// Waits until the pipeline has ended.
    pub(crate) async fn ended(self) -> Ended {
        self.handle.join().await
    }
}

async fn verbs(mut incoming: mpsc::Receiver<Request>, controls: Controls) {
    while let Some(Request { verb, done }) = incoming.recv().await {
        let outcome = match verb {
            Verb::Pause => controls.pause().await,
            Verb::Resume => controls.resume().await,
        };
        // Whoever asked may have gone.
        let _ = done.send(outcome);
    }
}

async fn upkeep(metrics: metrics::Scrape) {
    let mut tick = tokio::time::interval(metrics::UPKEEP_INTERVAL);
    loop {
        tick.tick().await;
        metrics.upkeep();
    }
}
