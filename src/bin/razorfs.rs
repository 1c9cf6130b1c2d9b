//! razorfs.
fn main() {}
