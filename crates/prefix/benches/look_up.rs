//! Instructions per look-up.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use prefix::{Active, Known, Table, compile};

/// A hundred blocks of a hundred prefixes each, of 3 to 13 digits.
fn table() -> Table<Vec<u8>> {
    let known = Known {
        groups: vec!["a".to_owned(), "b".to_owned()],
        ..Known::default()
    };
    let mut text = "prefix,to\n,a\n".to_owned();
    for block in 0..100_u32 {
        text.push_str(&format!("49{block:02},b\n"));
        (0..100_u32)
            .for_each(|rest| text.push_str(&format!("49{block:02}{rest:02}123456789,a|b\n")));
    }
    let compiled = compile(text.as_bytes(), &known, &["+".to_owned(), "00".to_owned()]);
    Table::open(compiled.expect("a good file").image).expect("a table")
}

#[library_benchmark]
#[bench::whole(table(), b"+4950501234567899")]
#[bench::block(table(), b"+49505012345999")]
#[bench::default(table(), b"+33123456789")]
fn look_up(table: Table<Vec<u8>>, user: &[u8]) -> usize {
    let active = Active::default();
    let number = table.number(black_box(user));
    let rule = table
        .rules(&number, None)
        .find(|rule| rule.when.holds(&active));
    let targets = rule.map(|rule| rule.targets().count());
    // Who drops the table is not measured.
    std::mem::forget(table);
    targets.unwrap_or(0)
}

library_benchmark_group!(name = look_ups, benchmarks = [look_up]);
main!(library_benchmark_groups = look_ups);
