//! Bytes for people.

pub(crate) fn size(bytes: u64) -> String {
    for (unit, name) in [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit {
            let tenths = (u128::from(bytes) * 10 / u128::from(unit)) as u64;
            return if tenths.is_multiple_of(10) || tenths >= 1000 {
                format!("{}{name}", tenths / 10)
            } else {
                format!("{}.{}{name}", tenths / 10, tenths % 10)
            };
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (5, "5B"),
            (2048, "2KiB"),
            (256 << 20, "256MiB"),
            (1_610_612_736, "1.5GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
