//! Tests the tools of assistants with rmcp's own client, in this process and over a pipe, in both eras of the protocol.

mod approval;
mod audit;
mod client;
mod deploy;
mod hostile;
mod hosts;
mod journeys;
mod lines;
mod manual;
mod plans;
mod robust;
mod rollback;
mod sdks;
mod tools;
mod truth;
