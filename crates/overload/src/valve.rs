//! How much new work is let in: occupancy control ("OCC").
//!
//! The share is multiplied, window after window, by (wanted occupancy / measured occupancy): it settles where the measured one is
//! the wanted one, whatever a piece of work costs and whatever else runs on the core.

use crate::{ALL, part};

/// The share of new work that is let in.
#[derive(Clone, Debug)]
pub struct Valve {
    /// Wanted occupancy, of [`ALL`].
    target: u32,
    share: u32,
    /// Windows in a row that were taken beyond the target.
    pressed: u32,
}

/// Never less than this is let in, or no measurement would tell that there is room again.
pub(crate) const SHARE_MIN: u32 = ALL / 256;
/// A window more than busy changes nothing by itself: a pause of the machine, a take-over, a burst. So many in a row do.
const PATIENCE: u32 = 40;
/// The same where buffers were too few as well: work is piling up.
const PATIENCE_STARVED: u32 = 4;
/// The share grows by at most a sixteenth a window, and falls by at most a quarter.
const GROWTH_MAX: u32 = ALL + ALL / 16;
const FALL_MAX: u32 = ALL - ALL / 4;
/// What full buffers say beyond "busy": how far the demand is above the capacity is not known, but it is.
const STARVED: u32 = ALL - ALL / 6;

impl Valve {
    /// An open valve that aims at this occupancy, of [`ALL`].
    pub fn new(target: u32) -> Self {
        Self {
            target: target.clamp(ALL / 16, ALL),
            share: ALL,
            pressed: 0,
        }
    }

    /// A window has passed: `busy` of [`ALL`] of it was taken; `starved`: there were times with no buffer left to read into.
    pub fn measure(&mut self, busy: u32, starved: bool) {
        let busy = busy.clamp(1, ALL);
        if self.is_open() {
            let pressed = busy > self.target;
            self.pressed = if pressed { self.pressed + 1 } else { 0 };
            let patience = if starved { PATIENCE_STARVED } else { PATIENCE };
            if self.pressed < patience {
                return;
            }
        }
        let factor = u64::from(self.target) * u64::from(ALL) / u64::from(busy);
        let mut factor = u32::try_from(factor)
            .unwrap_or(u32::MAX)
            .clamp(FALL_MAX, GROWTH_MAX);
        if starved {
            factor = factor.min(STARVED);
        }
        let share = part(self.share.into(), factor.into());
        self.share = u32::try_from(share).unwrap_or(ALL).clamp(SHARE_MIN, ALL);
        if self.is_open() {
            self.pressed = 0;
        }
    }

    /// Not all work is let in yet, however little comes: another holds it back.
    pub fn stay_closed(&mut self) {
        self.share = self.share.min(ALL - 1);
    }

    /// All work is let in.
    pub fn is_open(&self) -> bool {
        self.share == ALL
    }

    /// The share that is let in, of [`ALL`].
    pub fn share(&self) -> u32 {
        self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slot that can do 100 pieces a window, and is offered so many; returns the share after so many windows.
    fn run(valve: &mut Valve, offered: u32, windows: u32) -> u32 {
        for _ in 0..windows {
            let taken = u64::from(offered) * u64::from(valve.share()) / u64::from(ALL);
            let busy = u32::try_from(taken * u64::from(ALL) / 100).unwrap_or(u32::MAX);
            valve.measure(busy.min(ALL), busy > ALL);
        }
        valve.share()
    }

    #[test]
    fn settles_a_little_below_the_capacity() {
        for offered in [110, 150, 300, 1000] {
            let mut valve = Valve::new(ALL / 100 * 95);
            let share = run(&mut valve, offered, 200);
            let taken = offered * share / ALL;
            assert!((88..=96).contains(&taken), "{taken} of {offered}");
        }
    }

    #[test]
    fn opens_again_within_some_seconds() {
        let mut valve = Valve::new(ALL / 100 * 95);
        run(&mut valve, 100_000, 400);
        assert_eq!(valve.share(), SHARE_MIN);
        assert_eq!(run(&mut valve, 50, 100), ALL);
    }

    #[test]
    fn a_burst_is_no_overload() {
        let mut valve = Valve::new(ALL / 100 * 95);
        for _ in 0..PATIENCE_STARVED - 1 {
            valve.measure(ALL, true);
        }
        valve.measure(ALL / 2, false);
        for _ in 0..PATIENCE - 1 {
            valve.measure(ALL, false);
        }
        valve.measure(ALL / 2, false);
        assert!(valve.is_open());
    }
}
