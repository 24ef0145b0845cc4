//! What `pillarbox.token()` gives: a place in the WAL of one cluster, behind everything that had committed. Pure.

use std::str::FromStr;

use pillarbox_wire::lsn::{Lsn, SystemId, TimelineId};

use crate::error::{Code, Fault};
use crate::position::lineage::SourceFacts;

/// `<system identifier>:<timeline>:<LSN>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    system_id: SystemId,
    timeline: TimelineId,
    lsn: Lsn,
}

/// Whose history a relay reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct History {
    system_id: SystemId,
    timeline: TimelineId,
    /// Ends of former timelines.
    ended: Vec<(TimelineId, Lsn)>,
}

impl From<&SourceFacts> for History {
    fn from(facts: &SourceFacts) -> Self {
        let SourceFacts { system_id, timeline, history, .. } = facts;
        Self { system_id: *system_id, timeline: *timeline, ended: history.clone() }
    }
}

impl FromStr for Token {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        parse(text).ok_or_else(|| {
            Fault::new(Code::BadQuestion, "the token is not one")
                .because(
                    "expected <system identifier>:<timeline>:<LSN>, as in 7234567890123456789:1:16/B374D900",
                )
                .hint("SELECT pillarbox.token(), after COMMIT; percent-encode it in a URL")
        })
    }
}

fn parse(text: &str) -> Option<Token> {
    let mut parts = text.split(':');
    let (system, timeline, lsn) = (parts.next()?, parts.next()?, parts.next()?);
    // SQL has no unsigned numbers.
    let system = system.parse::<u64>().ok().or_else(|| Some(system.parse::<i64>().ok()?.cast_unsigned()))?;
    let token = Token {
        system_id: SystemId(system),
        timeline: TimelineId(timeline.parse().ok()?),
        lsn: lsn.parse().ok()?,
    };
    parts.next().is_none().then_some(token)
}

impl Token {
    /// The LSN that everything is asked up to; `None`: of a timeline that the relay has not come to yet.
    ///
    /// # Errors
    /// Of another cluster, or of the end of a timeline that a failover lost.
    pub(super) fn lsn_in(&self, history: &History) -> Result<Option<Lsn>, Fault> {
        if self.system_id != history.system_id {
            let message = format!(
                "the token is of system {}, this relay reads system {}",
                self.system_id, history.system_id
            );
            return Err(Fault::new(Code::TokenForeign, message)
                .hint("ask the relay of the database that was written to"));
        }
        if self.timeline > history.timeline {
            return Ok(None);
        }
        if self.timeline == history.timeline {
            return Ok(Some(self.lsn));
        }
        match history.ended.iter().find(|(timeline, _)| *timeline == self.timeline) {
            Some((_, end)) if self.lsn <= *end => Ok(Some(self.lsn)),
            end => {
                let end = end.map_or_else(|| "before".to_owned(), |(_, end)| format!("at {end}"));
                let message = format!(
                    "the token is at {} of timeline {}, which a failover ended {end}",
                    self.lsn, self.timeline
                );
                Err(Fault::new(Code::TokenForeign, message)
                    .hint("what was written last before the failover may be lost: look whether it is there"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        History {
            system_id: SystemId(7),
            timeline: TimelineId(3),
            ended: vec![(TimelineId(1), Lsn(0x100)), (TimelineId(2), Lsn(0x200))],
        }
    }

    #[test]
    fn what_is_a_token() {
        let system = SystemId(7_234_567_890_123_456_789);
        let token = Token { system_id: system, timeline: TimelineId(1), lsn: Lsn(0x16_B374_D900) };
        assert_eq!("7234567890123456789:1:16/B374D900".parse(), Ok(token));
        assert_eq!(parse("-1:1:0/1").map(|token| token.system_id), Some(SystemId(u64::MAX)));
        for text in ["", "7", "7:1", "7:1:0", "7:1:0/1:2", "x:1:0/1", "7:-1:0/1", "7:1:0/G", " 7:1:0/1"] {
            let fault = text.parse::<Token>().expect_err(text);
            assert_eq!(fault.code, Code::BadQuestion);
        }
    }

    #[test]
    fn which_history_a_token_is_of() {
        for (text, expected) in [
            ("7:3:0/900", Ok(Some(Lsn(0x900)))),
            ("7:4:0/900", Ok(None)),
            ("7:2:0/200", Ok(Some(Lsn(0x200)))),
            ("7:2:0/201", Err(Code::TokenForeign)),
            ("7:1:0/100", Ok(Some(Lsn(0x100)))),
            ("7:1:0/200", Err(Code::TokenForeign)),
            ("7:0:0/1", Err(Code::TokenForeign)),
            ("8:3:0/1", Err(Code::TokenForeign)),
        ] {
            let token: Token = text.parse().expect("a token");
            assert_eq!(token.lsn_in(&history()).map_err(|fault| fault.code), expected, "{text}");
        }
    }
}
