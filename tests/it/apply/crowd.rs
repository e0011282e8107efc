//! Simulates many hosts on one connection. Each host answers a request with a known id and does not run it again, as a
//! listener must. All their events are recorded in one order.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::fake;
use crate::support::lab::Lab;
use crate::support::wait;

/// The duration and result of a run.
#[derive(Debug, Clone, Copy)]
pub struct Course {
    pub takes: Duration,
    /// `completed` or `failed`.
    pub status: &'static str,
}

/// An event of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// The host received a request with this id.
    Asked { host: String, id: String },
    /// The host started to run the request.
    Began { host: String },
    /// The host finished the run.
    Ended { host: String },
}

/// Simulated hosts, which run until this is dropped.
pub struct Crowd {
    happened: mpsc::UnboundedReceiver<Happened>,
    story: Vec<Happened>,
    _task: JoinSet<()>,
}

/// The task that plays the hosts.
struct Hosts<C> {
    client: Client,
    course: C,
    happened: mpsc::UnboundedSender<Happened>,
    /// The last status of each run, by the id of its request.
    runs: BTreeMap<String, &'static str>,
    ends: JoinSet<(Value, String, &'static str)>,
}

impl Crowd {
    /// Starts these hosts, each given by its report. `course` returns how the next run on a host goes.
    pub async fn start(lab: &Lab, reports: Vec<Value>, course: impl FnMut(&str) -> Course + Send + 'static) -> Self {
        let client = lab.server.connect(&lab.admin).await.unwrap();
        let (deploys, discover) = subscribe(lab, &client, &reports).await;
        let (sender, happened) = mpsc::unbounded_channel();
        let hosts = Hosts { client, course, happened: sender, runs: BTreeMap::new(), ends: JoinSet::new() };
        let mut task = JoinSet::new();
        task.spawn(hosts.serve(reports, deploys, discover));
        Self { happened, story: Vec::new(), _task: task }
    }

    /// Returns all events so far.
    pub fn story(&mut self) -> &[Happened] {
        while let Ok(happened) = self.happened.try_recv() {
            self.story.push(happened);
        }
        &self.story
    }

    /// Waits for another event.
    pub async fn next(&mut self) {
        let happened = wait::event("something happens to a host", self.happened.recv()).await.unwrap();
        self.story.push(happened.unwrap());
    }

    /// Returns the hosts in the order of their runs, each as often as it ran.
    pub fn ran(&mut self) -> Vec<String> {
        let began =
            |happened: &Happened| if let Happened::Began { host } = happened { Some(host.clone()) } else { None };
        self.story().iter().filter_map(began).collect()
    }

    /// Returns the ids of the requests that each host received, in order and without repetitions.
    pub fn ids(&mut self) -> BTreeMap<String, Vec<String>> {
        let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for happened in self.story() {
            if let Happened::Asked { host, id } = happened
                && !ids.get(host).is_some_and(|known| known.contains(id))
            {
                ids.entry(host.clone()).or_default().push(id.clone());
            }
        }
        ids
    }
}

impl<C: FnMut(&str) -> Course> Hosts<C> {
    async fn serve(mut self, reports: Vec<Value>, mut deploys: SelectAll<Subscriber>, mut discover: Subscriber) {
        loop {
            tokio::select! {
                Some(message) = deploys.next() => self.asked(&message).await,
                Some(ended) = self.ends.join_next() => self.ended(ended.unwrap()).await,
                Some(question) = discover.next() => {
                    let question = fake::read(&question.payload);
                    for report in &reports {
                        let Some(subject) = fake::place(&question, report) else { break };
                        self.client.publish(subject, report.to_string().into()).await.unwrap();
                    }
                }
                else => return,
            }
        }
    }

    async fn asked(&mut self, message: &Message) {
        if message.payload.is_empty() {
            return;
        }
        let request = fake::read(&message.payload);
        let host = message.subject.rsplit('.').next().unwrap().to_owned();
        let id = request["id"].as_str().unwrap().to_owned();
        self.tell(Happened::Asked { host: host.clone(), id: id.clone() });
        if let Some(status) = self.runs.get(&id).copied() {
            return self.say(&request, &host, status).await;
        }
        self.tell(Happened::Began { host: host.clone() });
        self.runs.insert(id, "started");
        let Course { takes, status } = (self.course)(&host);
        self.say(&request, &host, "accepted").await;
        self.say(&request, &host, "started").await;
        self.ends.spawn(async move {
            sleep(takes).await;
            (request, host, status)
        });
    }

    async fn ended(&mut self, (request, host, status): (Value, String, &'static str)) {
        self.runs.insert(request["id"].as_str().unwrap().to_owned(), status);
        self.tell(Happened::Ended { host: host.clone() });
        self.say(&request, &host, status).await;
    }

    async fn say(&mut self, request: &Value, host: &str, status: &str) {
        let (subject, payload) = fake::says(request, host, status);
        self.client.publish(subject, payload.to_string().into()).await.unwrap();
    }

    fn tell(&self, happened: Happened) {
        // The test may have stopped listening.
        self.happened.send(happened).ok();
    }
}

/// Subscribes as the listeners of these hosts do, and waits until the server knows the subscriptions.
async fn subscribe(lab: &Lab, client: &Client, reports: &[Value]) -> (SelectAll<Subscriber>, Subscriber) {
    let mut deploys = Vec::new();
    for report in reports {
        let subject = report["deploy_subjects"][0].as_str().unwrap();
        deploys.push(client.subscribe(subject.to_owned()).await.unwrap());
    }
    (select_all(deploys), fake::subscribe_to_roll_call(lab, client).await)
}
