//! One request to the server, and its replies.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use control::stream::{StreamError, read_message, write_message};
use control::{ClientReply, ClientRequest};
use nix::sys::socket::{getsockopt, sockopt};

use super::{FAILED, NO_SERVER};
use crate::run::Orphans;

/// Longest silence of the server. A rolling restart says something at each worker.
const SILENCE_MAX: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
    pub(crate) remedy: String,
}

#[derive(Debug)]
pub(crate) struct Answers {
    stream: UnixStream,
}

impl Answers {
    pub(crate) fn ask(control: &Path, request: &ClientRequest) -> Result<Self, Failure> {
        let mut stream =
            UnixStream::connect(control).map_err(|error| unreachable(control, &error))?;
        stream
            .set_read_timeout(Some(SILENCE_MAX))
            .map_err(|error| broken(&error.into()))?;
        write_message(&mut stream, request).map_err(|error| broken(&error))?;
        Ok(Self { stream })
    }

    /// The process that answers.
    pub(crate) fn server(&self) -> Option<OwnedFd> {
        let peer = getsockopt(&self.stream, sockopt::PeerCredentials).ok()?;
        os::pidfd_open(u32::try_from(peer.pid()).ok()?).ok()
    }

    /// The next reply; `None` once the request is done.
    pub(crate) fn next(&mut self) -> Result<Option<ClientReply>, Failure> {
        match read_message(&mut self.stream) {
            Ok(Some(ClientReply::Done)) => Ok(None),
            Ok(Some(ClientReply::Error { message, remedy })) => Err(Failure {
                code: FAILED,
                message,
                remedy,
            }),
            Ok(Some(reply)) => Ok(Some(reply)),
            Ok(None) => Err(broken(&StreamError::Cut)),
            Err(error) => Err(broken(&error)),
        }
    }
}

/// All replies of a request that a worker answers and that may be repeated: a worker that dies meanwhile is replaced, so
/// ask again.
pub(crate) fn ask_worker(
    control: &Path,
    request: &ClientRequest,
) -> Result<Vec<ClientReply>, Failure> {
    const TRIES: u32 = 5;
    const PAUSE: Duration = Duration::from_millis(50);
    let mut attempt = 1;
    loop {
        let mut replies = Vec::new();
        let mut answers = Answers::ask(control, request)?;
        let failure = loop {
            match answers.next() {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => return Ok(replies),
                Err(failure) => break failure,
            }
        };
        if failure.code != NO_SERVER || attempt == TRIES {
            return Err(failure);
        }
        attempt += 1;
        std::thread::sleep(PAUSE);
    }
}

fn unreachable(control: &Path, error: &io::Error) -> Failure {
    let path = control.display();
    let nobody = matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    );
    if nobody {
        let orphans = crate::run::orphans(control);
        if !orphans.pids.is_empty() {
            return without_supervisor(control, orphans);
        }
    }
    let (message, remedy) = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => (
            format!("no server answers on {path}"),
            "start one with `tandem run`, or name its control socket with --control or TANDEM_CONTROL",
        ),
        io::ErrorKind::PermissionDenied => (
            format!("no permission for the control socket {path}"),
            "only the server's account and root may use it",
        ),
        _ => (format!("cannot reach the server on {path}: {error}"), ""),
    };
    Failure {
        code: NO_SERVER,
        message,
        remedy: remedy.into(),
    }
}

fn without_supervisor(control: &Path, orphans: Orphans) -> Failure {
    let mut message = format!(
        "{} still {} without a supervisor on {}",
        numbered(&orphans.pids),
        if orphans.pids.len() == 1 {
            "serves"
        } else {
            "serve"
        },
        control.display()
    );
    let remedy = match orphans.cut_off {
        None => "run `tandem run` as you started it: it takes them over, and then every command works, `tandem stop` as well".to_owned(),
        Some((file, remedy)) => {
            message.push_str(&format!(", and nobody can take them over: their socket {} was removed", file.display()));
            remedy
        }
    };
    Failure {
        code: NO_SERVER,
        message,
        remedy,
    }
}

/// `workers 7, 8`.
fn numbered(pids: &[u32]) -> String {
    let texts: Vec<String> = pids.iter().map(ToString::to_string).collect();
    format!(
        "{} {}",
        if pids.len() == 1 { "worker" } else { "workers" },
        texts.join(", ")
    )
}

fn broken(error: &StreamError) -> Failure {
    match error {
        StreamError::Codec(error) => Failure {
            code: FAILED,
            message: error.to_string(),
            remedy: "use the `tandem` of the same version as the running server".into(),
        },
        StreamError::Io(error) if error.kind() == io::ErrorKind::WouldBlock => Failure {
            code: FAILED,
            message: format!(
                "the server has said nothing for {} s",
                SILENCE_MAX.as_secs()
            ),
            remedy: "what was asked for may still go on: see `tandem status` and the server's log"
                .into(),
        },
        error => Failure {
            code: NO_SERVER,
            message: format!("the server went away before it had answered: {error}"),
            remedy: "ask again; `tandem status` and the server's log tell more".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn no_server_is_its_own_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let failure = Answers::ask(&dir.path().join("none"), &ClientRequest::Status).unwrap_err();
        assert_eq!(failure.code, NO_SERVER);
    }

    #[test]
    fn workers_without_a_supervisor_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("control");
        let _listener = os::seqpacket_listen(&dir.path().join("control.adopt")).unwrap();
        let failure = Answers::ask(&control, &ClientRequest::Stop).unwrap_err();
        assert_eq!(failure.code, NO_SERVER);
        let me = format!("worker {} still serves", std::process::id());
        assert!(failure.message.starts_with(&me), "{}", failure.message);
        assert!(failure.remedy.contains("`tandem run`"));
    }

    #[test]
    fn a_cut_answer_is_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            for cut in [true, false] {
                let (mut stream, _) = listener.accept().unwrap();
                assert_eq!(
                    read_message(&mut stream).unwrap(),
                    Some(ClientRequest::Status)
                );
                write_message(&mut stream, &ClientReply::Note("x".into())).unwrap();
                if !cut {
                    write_message(&mut stream, &ClientReply::Done).unwrap();
                }
            }
        });
        assert_eq!(
            ask_worker(&path, &ClientRequest::Status).unwrap(),
            [ClientReply::Note("x".into())]
        );
        server.join().unwrap();
    }
}
