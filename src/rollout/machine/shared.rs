//! Handles hosts without a subject of their own. Hosts of a wave that share a subject are sent one request together,
//! and each responds for itself.

use std::sync::Arc;
use std::time::Duration;

use super::Machine;
use crate::protocol::{Response, Sender};
use crate::rollout::Effect;
use crate::rollout::summary::HostState;

impl Machine {
    /// Sends one request to all hosts of the wave on the subject of `index`, for which the window has room.
    pub(super) fn send_together(&mut self, now: Duration, index: usize) {
        let Some(subject) = self.resolved_host(index).shared_subject.clone() else { return };
        let together = self.reached_with(index);
        let spent = together.iter().map(|index| self.host(*index).used_ids).max().unwrap_or_default();
        let request = self.rollout.ids.together(&subject, spent + 1);
        let dispatch = self.dispatch(now, index, request.clone());
        for host in together {
            if self.host(host).state == HostState::Pending {
                self.is_sent(now, host, request.clone());
            }
        }
        self.effects.push_back(Effect::Send(dispatch));
    }

    /// Returns the hosts of the wave that a first request to this one reaches.
    pub(super) fn reached_with(&self, index: usize) -> Vec<usize> {
        let Some(subject) = &self.resolved_host(index).shared_subject else { return vec![index] };
        self.range().filter(|other| self.resolved_host(*other).shared_subject.as_ref() == Some(subject)).collect()
    }

    /// Whether a request may be repeated: every listener on it must support ids. The first host in flight asks for all.
    pub(super) fn may_be_asked(&self, index: usize) -> bool {
        let sharing = self.all_sharing(index);
        let in_flight = sharing.iter().find(|index| self.contact(**index).flight().is_some());
        sharing.len() == 1
            || (in_flight == Some(&index) && sharing.iter().all(|index| self.contact(*index).supports_ids))
    }

    /// Whether a further request would also reach a host on the same subject that is already final.
    pub(super) fn would_reach_others(&self, index: usize) -> bool {
        self.reached_with(index).into_iter().any(|other| matches!(self.host(other).state, HostState::Final(_)))
    }

    /// Returns the hosts that were sent the same request as this one.
    pub(super) fn all_sharing(&self, index: usize) -> Vec<usize> {
        if self.resolved_host(index).shared_subject.is_none() {
            return vec![index];
        }
        let request = self.host(index).request.as_ref();
        (0..self.contacts.len()).filter(|other| self.host(*other).request.as_ref() == request).collect()
    }

    /// Returns the host that sent a response, among those that were sent the same request as this one.
    pub(super) fn one_of_those_sharing(&self, index: usize, from: &Sender) -> usize {
        let is_it = |index: &usize| {
            let host = self.resolved_host(*index);
            host.tier == from.tier && host.hostname == from.host
        };
        if is_it(&index) { index } else { self.all_sharing(index).into_iter().find(is_it).unwrap_or(index) }
    }

    /// Handles a response whose subject names no host: it counts for a host that shares a subject and has no ids.
    pub(super) fn respond_in_old_form(&mut self, now: Duration, response: Arc<Response>) {
        let is_excused = |index: &usize| {
            let (host, contact) = (self.resolved_host(*index), self.contact(*index));
            host.shared_subject.is_some() && !contact.supports_ids && host.hostname == response.hostname
        };
        let Some(index) = (0..self.contacts.len()).find(is_excused).filter(|_| response.id.is_none()) else { return };
        let from = Sender { tier: self.resolved_host(index).tier, host: response.hostname.clone() };
        if let Some(request) = self.host(index).request.clone() {
            self.respond(now, &from, &request, response);
        }
    }
}
