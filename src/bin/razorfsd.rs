//! razorfsd.
fn main() {}
