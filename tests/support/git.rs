//! Serves repositories and caches over http, and simulates failures of the server.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use miette::{IntoDiagnostic, Result};

/// How the server treats requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It responds to them.
    Well,
    /// It accepts them and never responds.
    Hanging,
    /// It requires a login.
    Distrustful,
    /// It responds to the user bob with the password s3cret.
    Guarded,
    /// The server stops for good.
    Gone,
}

/// A server that stops when dropped.
#[derive(Debug)]
pub struct Git {
    address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    accepting: Option<JoinHandle<()>>,
}

impl Git {
    /// Serves the repositories in `root`, and the files in its folder `cache`.
    pub fn serve(root: &Path) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).into_diagnostic()?;
        let address = listener.local_addr().into_diagnostic()?;
        let mood = Arc::new(Mutex::new(Mood::Well));
        let (root, moods) = (root.to_owned(), mood.clone());
        // A thread, since a test may block while a host fetches.
        let accepting = thread::spawn(move || accept(&listener, &root, &moods));
        Ok(Self { address, mood, accepting: Some(accepting) })
    }

    /// Returns the URL of a repository, given its path in the root.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Changes how the server treats requests from now on.
    pub fn set(&mut self, mood: Mood) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
        if mood == Mood::Gone
            && let Some(accepting) = self.accepting.take()
        {
            // The thread checks its mood after it has accepted a connection.
            TcpStream::connect(self.address).ok();
            accepting.join().ok();
        }
    }
}

impl Drop for Git {
    fn drop(&mut self) {
        self.set(Mood::Gone);
    }
}

fn accept(listener: &TcpListener, root: &Path, moods: &Mutex<Mood>) {
    for stream in listener.incoming().flatten() {
        let mood = *moods.lock().unwrap_or_else(PoisonError::into_inner);
        if mood == Mood::Gone {
            return;
        }
        let root: PathBuf = root.to_owned();
        // The thread ends when its client does, at the latest.
        thread::spawn(move || answer(stream, &root, mood));
    }
}

/// Responds to the one request of a connection.
fn answer(mut stream: TcpStream, root: &Path, mood: Mood) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let is_bob = header(&head, "authorization") == "Basic Ym9iOnMzY3JldA==";
    match mood {
        Mood::Hanging => reader.read_to_end(&mut Vec::new()).map(drop),
        Mood::Distrustful | Mood::Guarded if !(mood == Mood::Guarded && is_bob) => stream.write_all(
            b"HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\n\r\n",
        ),
        _ => {
            let mut body = vec![0; header(&head, "content-length").parse().unwrap_or(0)];
            reader.read_exact(&mut body)?;
            stream.write_all(&http_backend(root, &head, &body)?)
        }
    }
}

fn header<'a>(head: &'a [String], name: &str) -> &'a str {
    let pairs = head.iter().filter_map(|line| line.split_once(':'));
    pairs
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .next()
        .unwrap_or_default()
}

/// Responds with a file, such as those of a Nix cache.
fn file(path: &Path) -> Vec<u8> {
    match fs::read(path) {
        Ok(content) => {
            [format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", content.len()).as_bytes(), &content].concat()
        }
        Err(_) => b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
    }
}

/// Runs `git http-backend` for a request and returns its response.
fn http_backend(root: &Path, head: &[String], body: &[u8]) -> io::Result<Vec<u8>> {
    let mut request = head.first().map_or("", String::as_str).split(' ');
    let (method, target) = (request.next().unwrap_or_default(), request.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(cached) = path.strip_prefix("/cache/") {
        return Ok(file(&root.join("cache").join(cached)));
    }
    let mut git = Command::new("git")
        .args(["-c", "safe.directory=*", "-c", "uploadpack.allowReachableSHA1InWant=true"])
        .args(["-c", "uploadpack.allowFilter=true", "http-backend"])
        .env("GIT_PROJECT_ROOT", root)
        .envs([("GIT_HTTP_EXPORT_ALL", "1"), ("REMOTE_ADDR", "127.0.0.1")])
        .envs([("REQUEST_METHOD", method), ("PATH_INFO", path), ("QUERY_STRING", query)])
        .env("CONTENT_TYPE", header(head, "content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header(head, "content-encoding"))
        .env("GIT_PROTOCOL", header(head, "git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = git.stdin.take() {
        input.write_all(body)?;
    }
    let output = git.wait_with_output()?.stdout;
    // A status other than 200 comes as a header.
    let status = output.strip_prefix(b"Status: ".as_slice());
    let start = if status.is_some() { "HTTP/1.0 " } else { "HTTP/1.0 200 OK\r\n" };
    Ok([start.as_bytes(), status.unwrap_or(&output)].concat())
}
