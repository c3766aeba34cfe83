//! Datagrams on their way: lost, late, doubled, overtaken, cut off.

use std::{collections::HashMap, net::SocketAddr, rc::Rc, time::Duration};

use stdx::{Instant, Rng};

/// A datagram on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Rc<[u8]>,
}

/// Losses in a row between two addresses, at most: a network that lets nothing through for ever is a partition, and said to be one.
const LOST_IN_A_ROW: u8 = 5;

/// How the network behaves. Chances are of a thousand.
#[derive(Clone, Debug)]
pub struct Network {
    pub delay_min: Duration,
    /// Every datagram takes its own time between these, so that they overtake each other.
    pub delay_max: Duration,
    pub loss: u32,
    pub duplicates: u32,
    /// Datagrams that take much longer than the others, and how much.
    pub late: u32,
    pub late_by: Duration,
    /// Addresses that the server's kernel knows no way to, and says so.
    pub nowhere: Vec<SocketAddr>,
    /// Addresses that nothing reaches or leaves.
    pub(crate) cut_off: Vec<SocketAddr>,
    pub(crate) lost: HashMap<(SocketAddr, SocketAddr), u8>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            delay_min: Duration::from_millis(1),
            delay_max: Duration::from_millis(1),
            loss: 0,
            duplicates: 0,
            late: 0,
            late_by: Duration::ZERO,
            nowhere: Vec::new(),
            cut_off: Vec::new(),
            lost: HashMap::new(),
        }
    }
}

impl Network {
    /// No fault from now on; delays stay.
    pub fn heal(&mut self) {
        self.loss = 0;
        self.duplicates = 0;
        self.late = 0;
        self.cut_off.clear();
    }

    /// Cuts an address off, or lets it in again.
    pub fn cut_off(&mut self, address: SocketAddr, off: bool) {
        self.cut_off.retain(|&other| other != address);
        if off {
            self.cut_off.push(address);
        }
    }

    /// When the copies of a datagram arrive; none: it is lost.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        packet: &Packet,
        rng: &mut Rng,
    ) -> [Option<Instant>; 2] {
        if self.cut_off.contains(&packet.from) || self.cut_off.contains(&packet.to) {
            return [None; 2];
        }
        if self.loss > 0 {
            let row = self.lost.entry((packet.from, packet.to)).or_default();
            if *row < LOST_IN_A_ROW && rng.below(1000) < self.loss {
                *row += 1;
                return [None; 2];
            }
            *row = 0;
        }
        let first = now + self.delay(rng);
        let second = (self.duplicates > 0 && rng.below(1000) < self.duplicates)
            .then(|| now + self.delay(rng));
        [Some(first), second]
    }

    fn delay(&self, rng: &mut Rng) -> Duration {
        let span = self.delay_max.saturating_sub(self.delay_min).as_micros();
        let span = u32::try_from(span).unwrap_or(u32::MAX);
        let delay =
            self.delay_min + Duration::from_micros(rng.below(span.saturating_add(1)).into());
        if self.late > 0 && rng.below(1000) < self.late {
            delay + self.late_by * rng.below(1000) / 1000
        } else {
            delay
        }
    }
}
