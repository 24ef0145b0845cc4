//! `pillarbox pause|resume`: asks the running relay over HTTP.

use std::net::SocketAddr;

use clap::Args;
use pillarbox_relay::error::{Code, Fault};
use serde_json::Value;

use super::ConfigFile;
use crate::http::{Verb, client};
use crate::report::Failure;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Say what would be asked, and of whom
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    pub(super) fn run(self, verb: Verb) -> Result<(), Failure> {
        let loaded = self.file.load()?;
        let Some(address) = loaded.listen else {
            let fault = Fault::new(Code::ConfigValue, "http.listen is off: the relay cannot be asked");
            return Err(fault.hint("set http: { listen: 127.0.0.1:8686 } and start the relay again").into());
        };
        if self.dry_run {
            eprintln!("would POST http://{address}{}", verb.path());
            return Ok(());
        }
        super::block_on(ask(address, verb))?;
        let pipeline = loaded.config.pipeline.as_str();
        match verb {
            Verb::Pause => eprintln!(
                "pipeline {pipeline} is paused, across restarts too; Postgres keeps WAL until `pillarbox resume`"
            ),
            Verb::Resume => eprintln!("pipeline {pipeline} goes on"),
        }
        Ok(())
    }
}

async fn ask(address: SocketAddr, verb: Verb) -> Result<(), Failure> {
    let answer = client::post(address, verb).await.map_err(|error| {
        let message = format!("http.listen: no relay answers at http://{address}");
        let fault = Fault::new(Code::RelayUnreachable, message)
            .because(error)
            .hint("start it with `pillarbox run`, or name the file it was started with by -c FILE");
        Failure::from(fault)
    })?;
    if answer.status == 200 {
        return Ok(());
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |key: &str| body[key].as_str().map(str::to_owned);
    let code = text("code")
        .and_then(|code| code.strip_prefix("PB-")?.parse().ok())
        .and_then(Code::from_number)
        .unwrap_or(Code::PipelineBusy);
    let message = text("message").unwrap_or_else(|| format!("the relay answered {}", answer.status));
    Err(Fault { code, message, cause: text("cause"), hint: text("hint") }.into())
}
