//! baresip without sound hardware: a configuration directory of its own, commands over its TCP control
//! port, events read back from it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::machine::{eventually, free_port, need};

pub struct Baresip {
    child: Child,
    dir: tempfile::TempDir,
    control: TcpStream,
    pending: Vec<u8>,
    pub user: String,
}

const MODULES: [&str; 4] = [
    "/usr/lib/baresip/modules",
    "/usr/lib/x86_64-linux-gnu/baresip/modules",
    "/usr/lib/aarch64-linux-gnu/baresip/modules",
    "/usr/local/lib/baresip/modules",
];

impl Baresip {
    /// A phone of `user` in `domain` that sends everything through `server` and registers at once.
    #[track_caller]
    pub fn start(
        ip: Ipv4Addr,
        server: SocketAddr,
        user: &str,
        domain: &str,
        account: &str,
    ) -> Self {
        need("baresip");
        let dir = tempfile::Builder::new()
            .prefix("tandem-baresip-")
            .tempdir()
            .expect("a temporary directory");
        let (sip, control) = (free_port(ip), free_port(ip));
        let modules = MODULES
            .iter()
            .find(|m| Path::new(m).is_dir())
            .expect("baresip brings its modules");
        let config = format!(
            "sip_listen {ip}:{sip}\nmodule_path {modules}\nnet_interface {ip}\n\
             module g711.so\nmodule aufile.so\n\
             module_app account.so\nmodule_app contact.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n\
             audio_player aufile,out.wav\naudio_source aufile,in.wav\naudio_alert aufile,alert.wav\n\
             ctrl_tcp_listen {ip}:{control}\nring_aufile none\n"
        );
        let account =
            format!("<sip:{user}@{domain}>;outbound=\"sip:{server}\";regint=60{account}\n");
        std::fs::write(dir.path().join("config"), config).expect("a file");
        std::fs::write(dir.path().join("accounts"), account).expect("a file");
        std::fs::write(dir.path().join("contacts"), "").expect("a file");
        std::fs::write(dir.path().join("in.wav"), silence()).expect("a file");
        let log = std::fs::File::create(dir.path().join("log")).expect("a log file");
        let errors = log.try_clone().expect("a second descriptor");
        let mut child = Command::new("baresip")
            .arg("-f")
            .arg(dir.path())
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("baresip can be started");
        let start = Instant::now();
        let control = loop {
            if let Ok(stream) = TcpStream::connect((ip, control)) {
                break stream;
            }
            if start.elapsed() > Duration::from_secs(10) {
                let _ = child.kill();
                let _ = child.wait();
                let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
                panic!("baresip does not answer:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        control
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a timeout above zero");
        Self {
            child,
            dir,
            control,
            pending: Vec::new(),
            user: user.to_owned(),
        }
    }

    /// Sends a command, such as `dial` with `sip:bob@example.test`, `accept`, `hangup`, `uareg`.
    pub fn command(&mut self, command: &str, parameter: &str) {
        let text = json!({"command": command, "params": parameter}).to_string();
        let framed = format!("{}:{text},", text.len());
        self.control
            .write_all(framed.as_bytes())
            .expect("baresip takes commands");
    }

    /// Waits for an event of that type (`REGISTER_OK`, `CALL_INCOMING`, `CALL_ESTABLISHED`, `CALL_CLOSED`).
    #[track_caller]
    pub fn expect_event(&mut self, wanted: &str) -> Value {
        let mut seen = Vec::new();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(15) {
            let mut buffer = [0; 4096];
            if let Ok(n) = self.control.read(&mut buffer) {
                self.pending
                    .extend_from_slice(buffer.get(..n).unwrap_or_default());
            }
            while let Some(text) = take_netstring(&mut self.pending) {
                let value: Value = serde_json::from_slice(&text).unwrap_or(Value::Null);
                if value["type"] == wanted {
                    return value;
                }
                seen.push(value);
            }
        }
        panic!("{}: no {wanted}; came: {seen:?}\n{}", self.user, self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Ends it politely: it removes its registration.
    pub fn quit(mut self) {
        self.command("quit", "");
        eventually("baresip's end", Duration::from_secs(15), || {
            self.child.try_wait().expect("our own child").map(drop)
        });
    }
}

impl Drop for Baresip {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ten seconds of silence: 8 kHz, one channel, 16 bit.
fn silence() -> Vec<u8> {
    const BYTES: u32 = 160_000;
    let mut wav = Vec::new();
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(BYTES + 36).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt ");
    for (value, bytes) in [
        (16_u32, 4),
        (1, 2),
        (1, 2),
        (8_000, 4),
        (16_000, 4),
        (2, 2),
        (16, 2),
    ] {
        wav.extend(value.to_le_bytes().into_iter().take(bytes));
    }
    wav.extend_from_slice(b"data");
    wav.extend_from_slice(&BYTES.to_le_bytes());
    wav.resize(wav.len() + BYTES as usize, 0);
    wav
}

/// Takes one whole `LENGTH:BYTES,` off the front.
fn take_netstring(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let colon = bytes.iter().position(|b| *b == b':')?;
    let length: usize = std::str::from_utf8(bytes.get(..colon)?)
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let text = bytes.get(colon + 1..colon + 1 + length)?.to_vec();
    bytes.get(colon + 1 + length)?;
    bytes.drain(..colon + 2 + length);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netstrings_whole_and_in_part() {
        let mut bytes = b"2:{},3:abc,4:ab".to_vec();
        assert_eq!(take_netstring(&mut bytes).as_deref(), Some(&b"{}"[..]));
        assert_eq!(take_netstring(&mut bytes).as_deref(), Some(&b"abc"[..]));
        assert_eq!(take_netstring(&mut bytes), None);
        assert_eq!(bytes, b"4:ab");
    }
}
