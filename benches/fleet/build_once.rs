//! Compares the cost of a change if each host evaluates and builds its own system with that of building all systems
//! once. Uses a real Nix with a store for each host. The nixpkgs is that of the tests, so only the ratio matters.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use miette::{IntoDiagnostic, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

const HOSTS: usize = 20;

/// The configuration of Nix: isolated, with no other cache than this benchmark's.
const SETTINGS: &str = "experimental-features = nix-command flakes
sandbox = false
build-users-group =
substituters =
flake-registry =
";

/// Runs a command with the folder mounted as /nix.
const WITH_STORE: &str = r#"mkdir -p /nix && mount --bind "$0" /nix && exec "$@""#;

const FLAKE: &str = r#"{ outputs = { self }: let
  system = "x86_64-linux";
  inherit (import ./nixpkgs { root = "/packages"; }) lib;
  listener = { enable = true; tier = "prod"; natsUrl = "nats://n"; nkeyFile = "/k"; flakeUrl = "git+https://h/x"; };
  host = hostName: let
    evaluated = lib.nixosSystem { inherit system; modules = [
      (import ./nixos/module.nix { ${system}.default = { type = "derivation"; outPath = "/program"; }; })
      { networking = { inherit hostName; }; services.homelab-deploy = { inherit listener; }; }
    ]; };
  in derivation {
    name = "nixos-system-${hostName}";
    inherit system;
    builder = "/bin/sh";
    units = builtins.toJSON (builtins.mapAttrs (_: unit: unit.text) evaluated.config.systemd.units);
    change = builtins.readFile ./change;
    args = [ "-c" "echo \"$units$change\" > $out" ];
  };
in { nixosConfigurations = builtins.listToAttrs (builtins.genList (number: let name = "h${toString number}"; in {
  inherit name; value.config.system.build.toplevel = host name;
}) 20); }; }"#;

/// The wall-clock time, and the time on all processors together.
#[derive(Clone, Copy, Default)]
struct Took {
    time: Duration,
    cpu: Duration,
}

/// The folder with the flake, its commits and the stores.
struct Site {
    nix: PathBuf,
    folder: TempDir,
}

/// Formats the comparison, or that it was skipped because Nix cannot have a store here.
pub fn compare() -> Result<String> {
    let nix = std::env::var_os("NIX").filter(|nix| !nix.is_empty()).map_or_else(|| PathBuf::from("nix"), PathBuf::from);
    let runs = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|it| it.success())
    };
    if !runs(Command::new(&nix).arg("--version")) || !runs(Command::new("unshare").args(["--mount", "true"])) {
        return Ok("SKIPPED building once: it takes a nix, by the variable NIX or on PATH, and root".to_owned());
    }
    let site = Site { nix, folder: tempfile::tempdir().into_diagnostic()? };
    let [old, new] = [site.commit("old")?, site.commit("new")?];
    let hosts: Vec<String> = (0..HOSTS).map(|number| format!("h{number}")).collect();

    let evaluate = |host: &String, commit: &str| {
        let installable = format!("{}#nixosConfigurations.{host}.config.system.build.toplevel", site.flake(commit));
        site.nix(host, &["build", "--no-link", &installable])
    };
    hosts.iter().try_for_each(|host| evaluate(host, &old).map(drop))?;
    let each = hosts.iter().map(|host| evaluate(host, &new)).collect::<Result<Vec<_>>>()?;

    site.build(&hosts, &old)?;
    let built = site.build(&hosts, &new)?;
    let map = fs::read(site.at("systems.json")).into_diagnostic()?;
    let map: serde_json::Value = serde_json::from_slice(&map).into_diagnostic()?;
    let cache = format!("file://{}", site.at("cache").display());
    let fetch = |host: &String| {
        let system = map.pointer(&format!("/systems/{host}")).and_then(|system| system.as_str()).unwrap_or_default();
        // Fetches into a store that has not built the system.
        site.nix(&format!("{host}-fetching"), &["copy", "--no-check-sigs", "--from", &cache, system])
    };
    let fetched = hosts.iter().map(fetch).collect::<Result<Vec<_>>>()?;
    Ok(table(&each, built, &fetched))
}

impl Site {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn flake(&self, commit: &str) -> String {
        format!("git+file://{}?rev={commit}", self.at("flake").display())
    }

    /// Commits the flake with this change and returns the commit.
    fn commit(&self, change: &str) -> Result<String> {
        let flake = self.at("flake");
        if !flake.exists() {
            fs::create_dir(&flake).into_diagnostic()?;
            fs::write(flake.join("flake.nix"), FLAKE).into_diagnostic()?;
            for (from, to) in [("tests/nixpkgs", "nixpkgs"), ("nixos", "nixos")] {
                done(Command::new("cp").arg("-R").arg(Path::new(ROOT).join(from)).arg(flake.join(to)))?;
            }
            done(Command::new("git").args(["init", "--quiet"]).arg(&flake))?;
        }
        fs::write(flake.join("change"), change).into_diagnostic()?;
        let git = || {
            let mut git = Command::new("git");
            git.arg("-C").arg(&flake).args(["-c", "user.name=nobody", "-c", "user.email=nobody@example.com"]);
            git
        };
        done(git().args(["add", "--all"]))?;
        done(git().args(["commit", "--quiet", "--message", change]))?;
        let head = git().args(["rev-parse", "HEAD"]).output().into_diagnostic()?.stdout;
        Ok(String::from_utf8_lossy(&head).trim().to_owned())
    }

    /// Builds the systems of all hosts at a commit, as an operator does, and copies them to the cache.
    fn build(&self, hosts: &[String], commit: &str) -> Result<Took> {
        let (flake, cache) =
            (format!("git+file://{}", self.at("flake").display()), format!("file://{}", self.at("cache").display()));
        let mut build = self.command("builder", Path::new(env!("CARGO_BIN_EXE_homelab-deploy")))?;
        build.arg("build").args(hosts).args(["--revision", commit, "--flake", &flake, "--copy-to", &cache, "--out"]);
        measure(build.arg(self.at("systems.json")))
    }

    fn nix(&self, host: &str, arguments: &[&str]) -> Result<Took> {
        measure(self.command(host, &self.nix)?.args(arguments))
    }

    /// Creates a command on a simulated machine with its own store and home.
    fn command(&self, machine: &str, program: &Path) -> Result<Command> {
        let (store, home) = (self.at(machine).join("nix"), self.at(machine).join("home"));
        [&store, &home].into_iter().try_for_each(fs::create_dir_all).into_diagnostic()?;
        let folder = self.nix.parent().unwrap_or(Path::new("")).as_os_str().to_owned();
        let path = [folder, OsString::from(":"), std::env::var_os("PATH").unwrap_or_default()]
            .into_iter()
            .collect::<OsString>();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", WITH_STORE]).arg(store).arg(program);
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", home)
            .env("NIX_CONFIG", SETTINGS)
            .current_dir(self.folder.path());
        Ok(command)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // The files of a store are read-only and could not be removed otherwise.
        Command::new("chmod").args(["-R", "u+w"]).arg(self.folder.path()).status().ok();
    }
}

fn table(each: &[Took], built: Took, fetched: &[Took]) -> String {
    let cpu = |hosts: &[Took]| hosts.iter().map(|took| took.cpu).sum::<Duration>();
    let longest = |hosts: &[Took]| hosts.iter().map(|took| took.time).max().unwrap_or_default().as_secs_f64();
    let (each_cpu, once_cpu) = (cpu(each).as_secs_f64(), (built.cpu + cpu(fetched)).as_secs_f64());
    format!(
        "a change of {HOSTS} hosts             CPU of all   time\n\
         evaluated by each              {each_cpu:>8.2} s   {:.2} s on the slowest host\n\
         built once and fetched         {once_cpu:>8.2} s   {:.2} s to build and copy, {:.2} s on the slowest host\n\
         built once: CPU                {:>8.2} of what evaluating on each takes",
        longest(each),
        built.time.as_secs_f64(),
        longest(fetched),
        once_cpu / each_cpu,
    )
}

fn measure(command: &mut Command) -> Result<Took> {
    let cpu = || -> Result<i64> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).into_diagnostic()?;
        Ok((usage.user_time() + usage.system_time()).num_microseconds())
    };
    let (before, began) = (cpu()?, Instant::now());
    done(command)?;
    let spent = u64::try_from(cpu()? - before).into_diagnostic()?;
    Ok(Took { time: began.elapsed(), cpu: Duration::from_micros(spent) })
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().into_diagnostic()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
