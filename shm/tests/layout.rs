//! Where everything lies. A difference here means that arenas of this release and of the one before are not shared: `ABI_MAJOR` and the changelog say so.

use expect_test::expect_file;
use shm::Layout;

#[test]
fn the_layout_is_the_one_on_file() {
    // Written out, so that no change of a default hides a change of the layout.
    let layout = Layout {
        rx_buffers: 512,
        rx_buffer_bytes: 8192,
        ..Layout::new(256 << 20, 4, 8, 7)
    };
    expect_file!["layout.txt"].assert_eq(&layout.describe().unwrap());
}
