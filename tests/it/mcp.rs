//! The tools of assistants: rmcp's own client, in this process and at the other end of a pipe, in both eras of the protocol.

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
