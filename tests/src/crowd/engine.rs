//! Stands for a media engine where only the proxy's part is looked at: it answers every question at once, and relays nothing.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ng::bencode::Value;
use nix::sys::socket::{setsockopt, sockopt};

/// How soon its end is seen.
const LOOK: Duration = Duration::from_millis(100);
/// Unit: bytes.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A thread that speaks `ng`.
pub struct StandIn {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    offers: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    #[track_caller]
    pub fn start(ip: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).expect("loopback has free ports");
        let address = socket.local_addr().expect("a bound socket has an address");
        socket
            .set_read_timeout(Some(LOOK))
            .expect("a timeout above zero");
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER));
        let stop = Arc::new(AtomicBool::new(false));
        let offers = Arc::new(AtomicU64::new(0));
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&offers));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !told.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let answer = buffer.get(..length).and_then(answer);
                if let Some((answer, offer)) = answer {
                    counted.fetch_add(u64::from(offer), Ordering::Relaxed);
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self {
            address,
            stop,
            offers,
            thread: Some(thread),
        }
    }

    /// Offers that it was asked about.
    pub fn offers(&self) -> u64 {
        self.offers.load(Ordering::Relaxed)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What is answered, and whether it was an offer: the SDP comes back with another address.
fn answer(question: &[u8]) -> Option<(Vec<u8>, bool)> {
    let space = question.iter().position(|byte| *byte == b' ')?;
    let (cookie, body) = question.split_at_checked(space.checked_add(1)?)?;
    let Value::Dictionary(fields) = Value::parse(body).ok()? else {
        return None;
    };
    let text = |name: &[u8]| fields.get(name).and_then(Value::text);
    let mut answer = cookie.to_vec();
    let command = text(b"command")?;
    match (command, text(b"sdp")) {
        (b"ping", _) => answer.extend_from_slice(b"d6:result4:ponge"),
        (b"offer" | b"answer", Some(sdp)) => {
            let sdp = String::from_utf8_lossy(sdp).replace("127.0.0.1", "127.9.9.9");
            answer.extend_from_slice(format!("d6:result2:ok3:sdp{}:{sdp}e", sdp.len()).as_bytes());
        }
        _ => answer.extend_from_slice(b"d6:result2:oke"),
    }
    Some((answer, command == b"offer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_answered() {
        let ping = answer(b"7_1 d7:command4:pinge").expect("an answer");
        assert_eq!(ping, (b"7_1 d6:result4:ponge".to_vec(), false));
        let (offer, counted) =
            answer(b"7_2 d7:command5:offer3:sdp11:c=127.0.0.1e").expect("an answer");
        assert!(counted && offer.ends_with(b"3:sdp11:c=127.9.9.9e"));
        assert_eq!(answer(b"noise"), None);
    }
}
