//! The tools of assistants: rmcp's own client, in this process and at the other end of a pipe, in both eras of the protocol.

mod approval;
mod audit;
mod beside;
mod client;
mod deploy;
mod hostile;
mod hosts;
mod manual;
mod plans;
mod python;
mod robust;
mod tasks;
mod tools;
