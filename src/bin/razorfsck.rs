//! razorfsck.
fn main() {}
