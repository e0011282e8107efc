//! Collects what `doctor` finds: each thing that it examined, what is wrong with it, and what to do.

use std::fmt::Display;

use miette::Diagnostic;
use serde::Serialize;

use crate::cli::out::wrapped;
use crate::nats_config::{Deviation, Operation};

/// What stands before the next step, and before each line that continues another.
const MARGIN: &str = "           ";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    Note,
    Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// The subject of the finding: `server`, `key`, a host.
    pub(super) about: String,
    pub(super) what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn ok(&mut self, about: impl Display, what: impl Display) {
        self.add(Level::Ok, about, what, None);
    }

    pub(super) fn note(&mut self, about: impl Display, what: impl Display, next: impl Display) {
        self.add(Level::Note, about, what, Some(next.to_string()));
    }

    pub(super) fn problem(&mut self, about: impl Display, what: impl Display, next: impl Display) {
        self.add(Level::Problem, about, what, Some(next.to_string()));
    }

    /// Adds an error of another module, with its help text as the next step.
    pub(super) fn error(&mut self, about: impl Display, error: &dyn Diagnostic) {
        self.add(Level::Problem, about, error, error.help().map(|help| help.to_string()));
    }

    fn add(&mut self, level: Level, about: impl Display, what: impl Display, next: Option<String>) {
        self.0.push(Finding { level, about: about.to_string(), what: what.to_string(), next });
    }

    /// Adds a problem for each way in which the permissions of a key differ from what its holder needs.
    pub(super) fn deviations(&mut self, about: impl Display, whose: &str, deviations: &[Deviation]) {
        const NEXT: &str = "replace its permissions in the server's configuration by those that `homelab-deploy nats-config` \
                            prints, and reload the server: nats-server --signal reload";
        let (lacks, exceeds): (Vec<_>, Vec<_>) =
            deviations.iter().partition(|deviation| matches!(deviation, Deviation::Lacks(_)));
        for (list, may, must) in [(lacks, "may not", "has to"), (exceeds, "may", "must not")] {
            for of in [Operation::Publish, Operation::Subscribe] {
                let permissions =
                    list.iter().map(|(Deviation::Lacks(permission) | Deviation::Exceeds(permission))| permission);
                let subjects: Vec<&str> = permissions
                    .filter(|(operation, _)| *operation == of)
                    .map(|(_, subject)| subject.as_str())
                    .collect();
                if !subjects.is_empty() {
                    let (verb, subjects) = (of.verb(), subjects.join(", "));
                    self.problem(&about, format!("{whose} {may} {verb} to {subjects}, and {must}"), NEXT);
                }
            }
        }
    }

    pub(super) fn worst(&self) -> Level {
        self.0.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    /// Formats all findings for people, each with its next step below it.
    pub(super) fn text(&self, room: usize) -> String {
        let width = self.0.iter().map(|finding| finding.about.chars().count()).max().unwrap_or_default();
        let mut text = String::new();
        for Finding { level, about, what, next } in &self.0 {
            let sign = match level {
                Level::Ok => "✔ ok     ",
                Level::Note => "• note   ",
                Level::Problem => "✖ problem",
            };
            let next = next.iter().map(|next| format!("{MARGIN}{next}"));
            for line in [format!("{sign}  {about:width$}  {what}")].into_iter().chain(next) {
                text.push_str(&wrapped(&line, room, MARGIN));
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_above_what_to_do() {
        let mut findings = Findings::default();
        findings.ok("server", "nats://h:4222 accepts the key");
        assert_eq!(findings.worst(), Level::Ok);
        findings.note("ns1", "it does not answer", "start it");
        let lacks = |subject: &str| Deviation::Lacks((Operation::Publish, subject.to_owned()));
        let exceeds = Deviation::Exceeds((Operation::Subscribe, "deploy.prod.>".to_owned()));
        findings.deviations("key", "this key", &[lacks("a"), exceeds, lacks("b")]);
        assert_eq!(findings.worst(), Level::Problem);
        insta::assert_snapshot!(findings.text(60), @"
        ✔ ok       server  nats://h:4222 accepts the key
        • note     ns1     it does not answer
                   start it
        ✖ problem  key     this key may not publish to a, b, and has
                   to
                   replace its permissions in the server's
                   configuration by those that `homelab-deploy
                   nats-config` prints, and reload the server:
                   nats-server --signal reload
        ✖ problem  key     this key may subscribe to deploy.prod.>,
                   and must not
                   replace its permissions in the server's
                   configuration by those that `homelab-deploy
                   nats-config` prints, and reload the server:
                   nats-server --signal reload
        ");
        insta::assert_snapshot!(serde_json::to_string(&findings.0[1]).unwrap(), @r#"{"level":"note","about":"ns1","what":"it does not answer","next":"start it"}"#);
    }
}
