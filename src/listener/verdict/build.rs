//! Why nothing was activated. Pure.

use super::Verdict;
use crate::listener::output;
use crate::listener::run::Spec;
use crate::protocol::ErrorCode;

pub(super) fn failure(spec: &Spec, code: i32, lines: &[String]) -> Verdict {
    let revision = &spec.revision;
    if let Some(complaint) = output::git_complaint(lines) {
        return if complaint.contains("couldn't find remote ref") || complaint.contains("not our ref") {
            let message = format!("{revision} is no branch, tag or commit that the server of the flake has");
            Verdict::failed(ErrorCode::InvalidRevision, message)
        } else {
            Verdict::failed(ErrorCode::BuildFailed, format!("git: {complaint}"))
        };
    }
    let not_there = |line: &String| line.contains("does not provide attribute") && line.contains("nixosConfigurations");
    if lines.iter().any(not_there) {
        let message = format!("{} is not in nixosConfigurations of the flake at {revision}", spec.configuration());
        return Verdict::failed(ErrorCode::BuildFailed, message);
    }
    let message = match output::essential(lines) {
        Some(line) => line.to_owned(),
        None => format!("nixos-rebuild ended with code {code} and said nothing"),
    };
    Verdict::failed(ErrorCode::BuildFailed, message)
}
