//! Where every fixed field of every row lies. Workers of this and the previous release share an arena: a field may be added at the end of its header, and nothing else
//! may change without a new version of the row.

use std::fmt::Write;

use expect_test::expect_file;
use tables::row::{Field, Header};
use tables::{balancer, cdr, connection, dialog, kv, media, quarantine, seat, transaction};

fn describe<H: Header>(table: &str, out: &mut String) {
    writeln!(
        out,
        "{table}: version {}, {} bytes",
        H::VERSION,
        size_of::<H>()
    )
    .unwrap();
    let mut end = 0;
    for field in H::FIELDS {
        let Field {
            name, at, bytes, ..
        } = field;
        writeln!(out, "    {at:>3} +{bytes:<3} {name}").unwrap();
        assert_eq!(end, *at, "{table}.{name}: no holes, no overlap");
        end = at + bytes;
    }
    assert_eq!(end, size_of::<H>(), "{table}");
}

#[test]
fn the_rows_are_those_on_file() {
    let mut text = String::new();
    describe::<transaction::TransactionRow>("transaction", &mut text);
    describe::<dialog::DialogRow>("dialog", &mut text);
    describe::<balancer::ResourceRow>("balancer", &mut text);
    describe::<kv::KvRow>("kv", &mut text);
    describe::<connection::ConnectionRow>("connection", &mut text);
    describe::<quarantine::QuarantineRow>("quarantine", &mut text);
    describe::<media::MediaRow>("media", &mut text);
    describe::<seat::SeatRow>("seat", &mut text);
    describe::<cdr::CdrRow>("cdr", &mut text);
    expect_file!["rows.txt"].assert_eq(&text);
}
