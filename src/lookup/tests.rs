//! Tests lookups with the real git, in a temporary repository.

use super::testing::{git, repository};
use super::*;
use crate::testing::make_program;

async fn lookup(asked: &str, flake: &FlakeUrl) -> Result<Commit, LookupError> {
    commit_of(&asked.parse().unwrap(), flake).await
}

#[tokio::test]
async fn branches_and_tags_become_commits() {
    let (folder, flake) = repository();
    let head = git(folder.path(), &["rev-parse", "main"]);
    assert_eq!(lookup("main", &flake).await.unwrap().as_str(), head);
    // An annotated tag is an object; the lookup returns its commit.
    let tagged = git(folder.path(), &["rev-parse", "v1^{commit}"]);
    assert_eq!(lookup("v1", &flake).await.unwrap().as_str(), tagged);
}

#[tokio::test]
async fn a_branch_comes_before_a_tag_of_its_name() {
    let (folder, flake) = repository();
    git(folder.path(), &["branch", "v1"]);
    let branch = git(folder.path(), &["rev-parse", "refs/heads/v1"]);
    assert_eq!(lookup("v1", &flake).await.unwrap().as_str(), branch);
}

#[tokio::test]
async fn a_commit_needs_no_lookup() {
    let commit = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";
    let nowhere = "git+file:///nowhere".parse().unwrap();
    assert_eq!(lookup(commit, &nowhere).await.unwrap().as_str(), commit);
}

#[tokio::test]
async fn what_went_wrong_is_told_apart() {
    let (folder, flake) = repository();
    for (asked, next) in [
        ("nothere", "its branches and tags are main, v1"),
        ("mian", "did you mean \"main\"?"),
        ("refs/tags/v1", "did you mean \"v1\"? Give a branch the name that it has in the repository"),
        ("abcdef1", "no branch, tag, clone or earlier rollout has a commit that begins like this: give all 40 digits"),
    ] {
        match lookup(asked, &flake).await {
            Err(LookupError::NoSuchRef { help, .. }) => assert_eq!(help.as_deref(), Some(next)),
            other => panic!("{other:?}"),
        }
    }

    drop(folder);
    let error = lookup("main", &flake).await.unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("cannot look up \"main\": fatal: '"), "the cause comes first: {said}");
    assert!(said.contains("does not appear to be a git repository (`git ls-remote"), "{said}");
}

#[test]
fn what_nix_tells_is_compared_with_what_was_asked() {
    let about = |ref_: &str, rest: &str| format!(r#"{{"original":{{"ref":"{ref_}","type":"github"}}{rest}}}"#);
    let told = |metadata: String| commit_in_metadata(metadata.as_bytes(), &"main".parse().unwrap());
    let commit = "8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b";
    let revision = format!(r#","revision":"{commit}""#);
    assert_eq!(told(about("main", &revision)).unwrap().as_str(), commit);
    assert_eq!(told(about("other", &revision)).unwrap_err(), "its answer is about another ref");
    assert_eq!(told(about("main", "")).unwrap_err(), "its answer names no revision");
    assert_eq!(told("warning".to_owned()).unwrap_err(), "its answer is no JSON");
}

/// Creates a git that records its command line and environment, and answers.
fn recording_git(folder: &std::path::Path) -> std::path::PathBuf {
    let program = folder.join("git");
    let script = "tr '\\0' '\\n' <\"/proc/$$/cmdline\" >\"${0%/*}/cmdline\"\n\
                  env >\"${0%/*}/environment\"\n\
                  printf '8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b8c1f0e2b\\trefs/heads/main\\n'\n";
    make_program(&program, script);
    program
}

#[tokio::test]
async fn the_password_of_a_repository_is_on_no_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::at("https://user:token@git.example/x");
    let mut git = Command::new(recording_git(folder.path()));
    git.args(["ls-remote", "--", &remote.url]);
    remote.configure_git(git.as_std_mut());
    let (_, shown) = run(git, &"main".parse().unwrap()).await.unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(shown.ends_with("ls-remote -- https://git.example/x"), "{shown}");
    assert!(read("cmdline").ends_with("ls-remote\n--\nhttps://git.example/x\n"), "{}", read("cmdline"));
    let environment = read("environment");
    assert!(environment.contains("=Authorization: Basic dXNlcjp0b2tlbg==\n"), "{environment}");
    assert!(environment.contains("=http.https://git.example/x.extraHeader\n"));
    assert!(environment.contains("\nLC_ALL=C.UTF-8\n") && !environment.contains("\nLANGUAGE="));
}

#[tokio::test]
async fn where_a_password_would_be_on_a_command_line_nothing_is_looked_up() {
    let flake = "hg+https://user:token@h.example/x".parse().unwrap();
    let error = lookup("main", &flake).await.unwrap_err();
    assert!(error.to_string().contains("user name and password"), "{error}");
    assert!(!format!("{error} {error:?}").contains("token"), "{error:?}");
}

fn remote(url: &str) -> (String, String) {
    let Remote { url, settings } = Remote::at(url);
    let settings: Vec<String> = settings.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    (url, settings.concat())
}

#[test]
fn a_password_is_no_part_of_the_url() {
    let (url, setting) = remote("https://user:to%3Aken@git.example/x/y");
    assert_eq!(url, "https://git.example/x/y");
    let encoded = setting.strip_prefix("http.https://git.example/x/y.extraHeader=Authorization: Basic ").unwrap();
    assert_eq!(BASE64.decode(encoded.as_bytes()).unwrap(), b"user:to:ken");
    let shown = format!("{:?}", Remote::at("https://user:token@git.example/x"));
    assert_eq!(shown, "Remote(https://git.example/x)");
}

#[test]
fn a_user_name_alone_is_for_the_credential_helpers() {
    let (url, setting) = remote("http://bob@git.example/x");
    assert_eq!(
        (url.as_str(), setting.as_str()),
        ("http://git.example/x", "credential.http://git.example/x.username=bob")
    );
    assert_eq!(remote("ssh://git:secret@h/x"), ("ssh://git@h/x".to_owned(), String::new()));
    assert_eq!(remote("git://bob:secret@h/x"), ("git://h/x".to_owned(), String::new()));
    assert_eq!(remote("https://h/x@y"), ("https://h/x@y".to_owned(), String::new()));
    assert_eq!(remote("file:///srv/x"), ("file:///srv/x".to_owned(), String::new()));
}
