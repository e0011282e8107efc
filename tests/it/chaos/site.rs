//! The lab in which everything breaks. Each host, and all operators together, connect through a proxy of their own.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use homelab_deploy::nats_config::ListenerName;
use homelab_deploy::protocol::HostName;
use rustix::process::{Pid, Signal, kill_process};

use super::schedule::{Member, Schedule};
use crate::generations::{self, OLD};
use crate::support::lab::Lab;
use crate::support::proxy::Proxy;

/// Records the request of a run. Its file is beside the lock of the run, which each process of the run has open.
const BEGIN: &str = r#"
commit=${flake#*rev=}
commit=${commit%%[&#]*}
dir=$(ls -l "/proc/$$/fd" | sed -n 's|.* -> \(.*\)/lock$|\1|p')
id=$(sed -n 's/.*"key":"\([^"]*\)".*/\1/p' "$dir/request.json")
earlier=$(grep -c "^$host begins " "$here/record")
echo "$host begins $id $commit" >>"$here/record"
"#;

/// Installs the run's system, whose activation records that the host rolls back to it.
const END: &str = r#"
root=$here/../$host/root
new=/nix/store/$id
cp -r "$root/nix/store/old" "$root$new"
sed -i "s|store/old|store/$id|" "$root$new/bin/switch-to-configuration"
nix-env --profile "$root/nix/var/nix/profiles/system" --set "$new"
ln -sfn "$new" "$root/run/current-system"
echo "$host did $id $(date +%s%3N)" >>"$here/record"
"#;

/// Adds a generation.
const NIX_ENV: &str = r#"
number=$(ls "${2%/*}" | wc -l)
ln -sfn "$4" "$2-$number-link"
ln -sfn "system-$number-link" "$2"
"#;

pub struct Site {
    pub lab: Lab,
    /// The proxies of the hosts.
    pub links: Vec<Proxy>,
    /// The proxy of the operators.
    pub operators: Proxy,
    hosts: Vec<ListenerName>,
}

impl Site {
    /// Starts a lab with the hosts of this schedule, which all listen.
    pub async fn start(schedule: &Schedule) -> Self {
        let names: Vec<String> = schedule.hosts().map(|(tier, host)| format!("{tier}.{}", host.name)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut lab = Lab::start(crate::program(), &names).await.unwrap();
        let server = lab.server.url().to_owned();
        let mut links = Vec::new();
        for (name, (_, host)) in names.iter().zip(schedule.hosts()) {
            furnish(&lab, host);
            let link = Proxy::start(&server, Duration::ZERO).await.unwrap();
            lab.fleet.reach(&hostname(name), &link.url());
            links.push(link);
        }
        lab.listen_all().await.unwrap();
        let operators = Proxy::start(&server, Duration::ZERO).await.unwrap();
        Self { lab, links, operators, hosts: names.iter().map(|name| name.parse().unwrap()).collect() }
    }

    /// Returns homelab-deploy as an operator with a state folder of this name runs it.
    pub fn operator(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.lab.operator(&self.lab.admin).unwrap();
        command.env("HOMELAB_DEPLOY_NATS_URL", self.operators.url()).args(arguments);
        command.args(["--force", "--allow-downgrade", "--operator", name]);
        command.arg("--state-dir").arg(self.lab.home().join(name));
        command
    }

    /// Starts the listener of a host, replacing one that may run.
    pub fn start_listener(&mut self, host: usize) {
        let name = &self.hosts[host];
        let key = self.lab.key(&name.hostname).unwrap().clone();
        self.lab.fleet.start(name, &key, &[]).unwrap();
    }

    /// Kills the listener of a host.
    pub fn kill_listener(&mut self, host: usize) {
        self.lab.fleet.kill(&self.hosts[host].hostname);
    }

    /// Sends a signal to the listener of a host, if it runs.
    pub fn signal_listener(&mut self, host: usize, signal: Signal) {
        if let Ok(listener) = self.lab.fleet.listener(&self.hosts[host].hostname)
            && listener.status().unwrap().is_none()
        {
            listener.signal(signal).unwrap();
        }
    }

    /// Returns all processes of a host.
    pub fn processes(&self, host: usize) -> Vec<Pid> {
        let home = self.lab.folder().join("hosts").join(self.hosts[host].hostname.as_str());
        let home = format!("HOME={}\0", home.display());
        processes().filter(|pid| seen(*pid, "environ").contains(&home)).collect()
    }

    /// Returns all supervisors.
    pub fn supervisors(&self) -> Vec<Pid> {
        let ours = self.lab.folder().display().to_string();
        let is_ours = |line: &str| line.contains("\0supervise\0") && line.contains(&ours);
        processes().filter(|pid| is_ours(&seen(*pid, "cmdline"))).collect()
    }

    /// Returns the panics in the logs.
    pub fn panics(&self) -> Vec<String> {
        let logs = self.hosts.iter().map(|name| format!("hosts/{}/log", name.hostname));
        let logs = logs.chain(["operator/rollout.log".to_owned()]);
        let texts = logs.map(|log| fs::read_to_string(self.lab.folder().join(log)).unwrap_or_default());
        let lines: Vec<String> = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        lines.into_iter().filter(|line| line.contains("panicked at")).collect()
    }
}

/// Sends a signal to a process that may be gone.
pub fn signal(pid: Pid, signal: Signal) {
    kill_process(pid, signal).ok();
}

/// Gives a host a system to roll back to, and a script for each of its runs.
fn furnish(lab: &Lab, host: &Member) {
    generations::install(lab, &host.name);
    let (root, tools) = (generations::root(lab, &host.name), lab.fleet.rebuild().folder());
    generations::make_program(&tools.join("nix-env"), NIX_ENV);
    let record = tools.join("record");
    let activate = format!(
        "echo '{} returns' >>{}\nln -sfn {OLD} {}/run/current-system",
        host.name,
        record.display(),
        root.display()
    );
    generations::make_program(&root.join("nix/store/old/bin/switch-to-configuration"), &activate);
    let runs = host.runs.iter().enumerate().map(|(index, run)| {
        let end = if run.fails { "echo 'error: no luck' >&2; exit 1" } else { ":" };
        format!("{index}) sleep {}; {end} ;;\n", Duration::from_millis(run.takes).as_secs_f64())
    });
    let order = format!("{BEGIN}case $earlier in\n{}esac\n{END}", runs.collect::<String>());
    lab.fleet.rebuild().on(&host.name.parse().unwrap(), &order).unwrap();
}

fn hostname(name: &str) -> HostName {
    name.parse::<ListenerName>().unwrap().hostname
}

/// Returns the processes of this machine.
fn processes() -> impl Iterator<Item = Pid> {
    let names = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| Pid::from_raw(name.parse().ok()?))
}

/// Reads a file of a process in `/proc`, or returns nothing if the process is gone.
fn seen(pid: Pid, file: &str) -> String {
    let path = Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join(file);
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
