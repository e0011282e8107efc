//! Tests what the server of a repository tells about commits, with and without trouble.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use homelab_deploy::lookup::commit_of;
use homelab_deploy::operator::History;
use homelab_deploy::protocol::{Commit, FlakeUrl};
use tempfile::TempDir;

use crate::support::flake::Flake;
use crate::support::git::{Git, Mood};
use crate::support::wait;

/// A server with a repository of three commits, and a machine without a clone of it.
struct Stage {
    folder: TempDir,
    git: Git,
    commits: [Commit; 3],
}

impl Stage {
    fn set() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let flake = Flake::create(&folder.path().join("flake")).unwrap();
        let commits = ["one", "two", "three"].map(|subject| {
            fs::write(folder.path().join("flake/file"), subject).unwrap();
            flake.commit(subject).unwrap().parse().unwrap()
        });
        let git = Git::serve(folder.path()).unwrap();
        Self { folder, git, commits }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// Returns a history as a command starts with it.
    fn history(&self) -> History {
        let flake = format!("git+{}", self.git.url("flake")).parse().unwrap();
        History::of(Some(&flake), Some(&self.cache()))
    }
}

#[tokio::test]
async fn the_server_knows_subjects_and_ages() {
    let mut stage = Stage::set();
    let [one, two, three] = stage.commits.clone();
    let unknown = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b".parse().unwrap();
    assert_eq!(stage.history().subject(&three).await.as_deref(), Some("three"));
    assert_eq!(stage.history().subject(&unknown).await, None);
    assert_eq!(stage.history().is_ancestor(&one, &unknown).await, None);

    // Each commit alone says nothing about the other.
    let mut history = stage.history();
    assert_eq!(history.subject(&one).await.as_deref(), Some("one"));
    assert_eq!(history.subject(&three).await.as_deref(), Some("three"));
    assert_eq!(history.is_ancestor(&one, &three).await, Some(true));
    assert_eq!(history.is_ancestor(&three, &one).await, Some(false));
    assert_eq!(history.is_ancestor(&one, &two).await, Some(true));

    stage.git.set(Mood::Gone);
    assert_eq!(stage.history().subject(&two).await.as_deref(), Some("two"), "it was told before");
    assert_eq!(stage.history().is_ancestor(&one, &two).await, Some(true));
}

#[tokio::test]
async fn a_folder_that_is_broken_is_made_again() {
    let stage = Stage::set();
    let [one, two, three] = &stage.commits;
    assert_eq!(stage.history().subject(one).await.as_deref(), Some("one"));
    let [kept] = fs::read_dir(stage.cache().join("commits")).unwrap().collect::<Vec<_>>().try_into().unwrap();
    // A power cut leaves such a lock file.
    fs::write(kept.unwrap().path().join("shallow.lock"), "").unwrap();
    assert_eq!(stage.history().subject(two).await, None);
    assert_eq!(stage.history().subject(three).await.as_deref(), Some("three"));
}

#[tokio::test]
async fn a_server_in_trouble_is_waited_for_once_and_briefly() {
    let mut stage = Stage::set();
    let [one, two, _] = stage.commits.clone();
    for mood in [Mood::Hanging, Mood::Distrustful, Mood::Gone] {
        stage.git.set(mood);
        let (began, mut history) = (Instant::now(), stage.history());
        assert_eq!(history.subject(&one).await, None, "{mood:?}");
        assert_eq!(history.is_ancestor(&one, &two).await, None, "{mood:?}");
        assert!(began.elapsed() < Duration::from_secs(8), "{mood:?} took {:?}", began.elapsed());
    }
    let (began, asking) = (Instant::now(), stage.git.url(""));
    wait::until("git is gone", async || Ok((!is_running(&asking)).then_some(()))).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(30), "it gave up by itself");
}

/// Whether a program with this argument runs.
fn is_running(argument: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let said = |process: &Path| fs::read(process.join("cmdline")).unwrap_or_default();
    processes.into_iter().any(|process| String::from_utf8_lossy(&said(&process)).contains(argument))
}

/// Returns the head of the first HTTP request, which names its user. The request is never answered.
fn first_request(socket: TcpListener) -> std::thread::JoinHandle<(String, TcpStream)> {
    std::thread::spawn(move || {
        let (mut stream, _) = socket.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        (String::from_utf8(head).unwrap(), stream)
    })
}

#[tokio::test]
async fn a_password_reaches_the_server_and_no_command_line() {
    let folder = tempfile::tempdir().unwrap();
    for asks_for_history in [true, false] {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = socket.local_addr().unwrap().to_string();
        let request = first_request(socket);
        let flake: FlakeUrl = format!("git+http://bob:s3cr3t@{server}/x").parse().unwrap();
        let commit: Commit = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b".parse().unwrap();
        let cache = folder.path().join("cache");
        let asking = async {
            if asks_for_history {
                History::of(Some(&flake), Some(&cache)).subject(&commit).await;
            } else {
                commit_of(&"main".parse().unwrap(), &flake).await.ok();
            }
        };
        let watching = async {
            wait::until("git asks", async || Ok(request.is_finished().then_some(()))).await.unwrap();
            assert!(is_running(&server), "git is there to be looked at");
            assert!(!is_running("s3cr3t"), "the password is on a command line");
        };
        tokio::select! {
            () = asking => panic!("it was not answered"),
            () = watching => {}
        }
        let (head, _stream) = request.join().unwrap();
        assert!(head.contains("Authorization: Basic Ym9iOnMzY3IzdA=="), "{head}");
    }
    let kept = Command::new("grep").args(["-r", "s3cr3t"]).arg(folder.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "", "the password is in a file");
}
